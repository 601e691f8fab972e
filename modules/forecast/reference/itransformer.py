"""iTransformer and iFlowformer as Time-Series-Library and their authors store them."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from modules.forecast.encoder import ACTIVATIONS
from modules.forecast.interface import WindowShape
from modules.forecast.itransformer import ITransformerConfig
from modules.forecast.reference.layout import (
    Settings,
    State,
    contiguous,
    count,
    encoder_layer,
    linear,
    shape_of,
)

LAYER = "encoder.attn_layers.{}"
EMBEDDING = "enc_embedding.value_embedding"
HEADS = ("projection", "projector")
"""The library's name of the last layer, and the authors'."""


def recognises(state: Mapping[str, Tensor]) -> bool:
    """Does this state dict, by its keys, hold an iTransformer?"""
    return (
        f"{EMBEDDING}.weight" in state
        and state[f"{EMBEDDING}.weight"].ndim == 2
        and any(f"{head}.weight" in state for head in HEADS)
        and f"{LAYER.format(0)}.attention.query_projection.weight" in state
    )


def rename(state: Mapping[str, Tensor]) -> State:
    """Weights, or their gradients, under our names."""
    found = linear(state, EMBEDDING, "embedding") | linear(state, "encoder.norm", "norm")
    for head in HEADS:
        found |= linear(state, head, "projection")
    for n in range(count(state, LAYER + ".norm1.weight")):
        found |= encoder_layer(state, LAYER.format(n), f"layers.{n}")
    return found


def convert(
    state: Mapping[str, Tensor], settings: Mapping[str, Any]
) -> tuple[ITransformerConfig, WindowShape, dict[str, Tensor]]:
    """Our configuration, shape and weights.

    The weights tell all sizes but `enc_in` and `n_heads`; flow attention shows in the name of the `model` alone.
    """
    known = Settings(settings)
    width, look_back = shape_of(state, f"{EMBEDDING}.weight", 2)
    head = next(name for name in HEADS if f"{name}.weight" in state)
    config = ITransformerConfig(
        width=known.agreed("d_model", width),
        heads=known.integer("n_heads"),
        layers=known.agreed("e_layers", count(state, LAYER + ".norm1.weight")),
        feed_forward=known.agreed("d_ff", shape_of(state, f"{LAYER.format(0)}.conv1.weight", 3)[0]),
        dropout=known.number("dropout", 0.1),
        attention="flow" if "flow" in known.text("model", "iTransformer").lower() else "softmax",
        activation="relu" if known.one_of("activation", "gelu", ACTIVATIONS) == "relu" else "gelu",
        normalise=bool(known.integer("use_norm", 1)),
    )
    shape = WindowShape(
        look_back=known.agreed("seq_len", look_back),
        horizon=known.agreed("pred_len", shape_of(state, f"{head}.weight", 2)[0]),
        targets=known.integer("enc_in"),
        calendar=known.calendar(),
    )
    return config, shape, contiguous(rename(state))
