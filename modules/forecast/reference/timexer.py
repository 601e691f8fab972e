"""TimeXer as Time-Series-Library and its authors store it."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from modules.forecast.encoder import ACTIVATIONS
from modules.forecast.interface import WindowShape
from modules.forecast.reference.layout import (
    Settings,
    State,
    contiguous,
    count,
    flattened_head,
    linear,
    shape_of,
    stacked,
)
from modules.forecast.timexer import TimeXerConfig

TOKEN = "en_embedding.glb_token"
PATCHES = "en_embedding.value_embedding"
EXOGENOUS = "ex_embedding.value_embedding"
LAYER = "encoder.layers.{}"
HEAD = "head.linear"
LAYER_PARTS = {
    "self_attention.out_projection": "attention.output",
    "cross_attention.query_projection": "cross_attention.query",
    "cross_attention.out_projection": "cross_attention.output",
    "conv1": "feed_forward.expand",
    "conv2": "feed_forward.contract",
    "norm1": "attention_norm",
    "norm2": "cross_norm",
    "norm3": "feed_forward_norm",
}


def recognises(state: Mapping[str, Tensor]) -> bool:
    """Does this state dict, by its keys, hold a TimeXer?"""
    return all(key in state for key in (TOKEN, f"{PATCHES}.weight", f"{EXOGENOUS}.weight"))


def rename(state: Mapping[str, Tensor]) -> State:
    """Weights, or their gradients, under our names; the table of positions is a formula and stays behind."""
    found = linear(state, PATCHES, "embedding") | linear(state, EXOGENOUS, "exogenous")
    found |= linear(state, "encoder.norm", "norm")
    found["global_token"] = state[TOKEN][0, :, 0]
    for n in range(count(state, LAYER + ".norm1.weight")):
        theirs, ours = LAYER.format(n), f"layers.{n}"
        projections = {part: f"{theirs}.self_attention.{part}_projection" for part in ("query", "key", "value")}
        found |= stacked(state, list(projections.values()), f"{ours}.attention.query_key_value")
        context = [f"{theirs}.cross_attention.{part}_projection" for part in ("key", "value")]
        found |= stacked(state, context, f"{ours}.cross_attention.key_value")
        for part, our_part in LAYER_PARTS.items():
            found |= linear(state, f"{theirs}.{part}", f"{ours}.{our_part}")
    width = state[TOKEN].shape[-1]
    found["projection.linear.weight"] = flattened_head(state[f"{HEAD}.weight"], width)
    found["projection.linear.bias"] = state[f"{HEAD}.bias"]
    return found


def convert(
    state: Mapping[str, Tensor], settings: Mapping[str, Any]
) -> tuple[TimeXerConfig, WindowShape, dict[str, Tensor]]:
    """Our configuration, shape and weights. The weights tell all sizes but `n_heads`, and `enc_in` of features MS.

    Of features MS the last column is the target, the others are observed covariates.
    """
    known = Settings(settings)
    multiple = known.text("features", "M") == "M"
    _, targets, _, width = shape_of(state, TOKEN, 4)
    look_back = known.agreed("seq_len", shape_of(state, f"{EXOGENOUS}.weight", 2)[1])
    dropout = known.number("dropout", 0.1)
    config = TimeXerConfig(
        patch=known.agreed("patch_len", shape_of(state, f"{PATCHES}.weight", 2)[1]),
        drop_newest=True,
        width=known.agreed("d_model", width),
        heads=known.integer("n_heads"),
        layers=known.agreed("e_layers", count(state, LAYER + ".norm1.weight")),
        feed_forward=known.agreed("d_ff", shape_of(state, f"{LAYER.format(0)}.conv1.weight", 3)[0]),
        dropout=dropout,
        head_dropout=dropout,
        activation="relu" if known.one_of("activation", "gelu", ACTIVATIONS) == "relu" else "gelu",
        normalise=bool(known.integer("use_norm", 1)),
        exogenous_targets=multiple,
    )
    shape = WindowShape(
        look_back=look_back,
        horizon=known.agreed("pred_len", shape_of(state, f"{HEAD}.weight", 2)[0]),
        targets=known.agreed("enc_in", targets) if multiple else targets,
        observed=0 if multiple else known.integer("enc_in") - 1,
        calendar=known.calendar(),
    )
    return config, shape, contiguous(rename(state))
