"""PatchTST as Time-Series-Library stores it."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from modules.forecast.encoder import ACTIVATIONS
from modules.forecast.interface import WindowShape
from modules.forecast.patchtst_tslib import TSLibPatchTSTConfig
from modules.forecast.reference.layout import (
    Settings,
    State,
    contiguous,
    count,
    encoder_layer,
    flattened_head,
    linear,
    shape_of,
    stride_of,
)

EMBEDDING = "patch_embedding.value_embedding"
LAYER = "encoder.attn_layers.{}"
BATCH_NORM = "encoder.norm.1"
HEAD = "head.linear"


def recognises(state: Mapping[str, Tensor]) -> bool:
    """Does this state dict, by its keys, hold the library's PatchTST?"""
    keys = (f"{EMBEDDING}.weight", f"{BATCH_NORM}.running_mean", f"{HEAD}.weight")
    return all(key in state for key in keys)


def rename(state: Mapping[str, Tensor]) -> State:
    """Weights, or their gradients, under our names; the table of positions is a formula and stays behind."""
    found = linear(state, EMBEDDING, "embedding")
    for n in range(count(state, LAYER + ".norm1.weight")):
        found |= encoder_layer(state, LAYER.format(n), f"layers.{n}")
    found |= {f"norm{key.removeprefix(BATCH_NORM)}": state[key] for key in state if key.startswith(BATCH_NORM)}
    width = shape_of(state, f"{EMBEDDING}.weight", 2)[0]
    found["projection.linear.weight"] = flattened_head(state[f"{HEAD}.weight"], width)
    found["projection.linear.bias"] = state[f"{HEAD}.bias"]
    return found


def convert(
    state: Mapping[str, Tensor], settings: Mapping[str, Any]
) -> tuple[TSLibPatchTSTConfig, WindowShape, dict[str, Tensor]]:
    """Our configuration, shape and weights. The weights do not tell `seq_len`, `enc_in` and `n_heads`.

    The library hands `patch_len` and `stride` to this network as 16 and 8, whatever its arguments say, so both come
    from the weights.
    """
    known = Settings(settings)
    width, patch = shape_of(state, f"{EMBEDDING}.weight", 2)
    horizon, features = shape_of(state, f"{HEAD}.weight", 2)
    look_back = known.integer("seq_len")
    dropout = known.number("dropout", 0.1)
    config = TSLibPatchTSTConfig(
        patch=patch,
        stride=stride_of(known, look_back=look_back, patch=patch, tokens=features // width, repeats=True),
        width=known.agreed("d_model", width),
        heads=known.integer("n_heads"),
        layers=known.agreed("e_layers", count(state, LAYER + ".norm1.weight")),
        feed_forward=known.agreed("d_ff", shape_of(state, f"{LAYER.format(0)}.conv1.weight", 3)[0]),
        dropout=dropout,
        head_dropout=dropout,
        activation="relu" if known.one_of("activation", "gelu", ACTIVATIONS) == "relu" else "gelu",
    )
    shape = WindowShape(look_back=look_back, horizon=known.agreed("pred_len", horizon), targets=known.integer("enc_in"))
    return config, shape, contiguous(rename(state))
