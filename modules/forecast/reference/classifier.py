"""The Flowformer classifier as its authors' repository stores it."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from modules.forecast.classifier import ClassifierConfig, waves
from modules.forecast.encoder import ACTIVATIONS
from modules.forecast.reference.layout import LAYER_PARTS, Settings, State, contiguous, count, linear, shape_of

LAYER = "encoder.attn_layers.{}"
PROJECTIONS = ("query", "key", "value")
POSITIONS = "pos_enc.pe"


def recognises(state: Mapping[str, Tensor]) -> bool:
    """Does this state dict, by its keys, hold a Flowformer classifier?"""
    return all(key in state for key in ("project_inp.weight", POSITIONS, "output_layer.weight"))


def rename(state: Mapping[str, Tensor]) -> State:
    """Weights, or their gradients, under our names; without fixed positions, which we make ourselves."""
    found = linear(state, "project_inp", "embedding") | linear(state, "output_layer", "output")
    found |= linear(state, "encoder.norm", "norm")
    if POSITIONS in state and not _fixed(state[POSITIONS]):
        found["positions"] = state[POSITIONS][:, 0]
    for n in range(count(state, LAYER + ".norm1.weight")):
        theirs, ours = LAYER.format(n), f"blocks.{n}"
        for part in PROJECTIONS:
            found |= linear(state, f"{theirs}.attention.{part}_projection", f"{ours}.attention.{part}")
        found |= linear(state, f"{theirs}.attention.out_projection", f"{ours}.attention.output")
        for part, our_part in LAYER_PARTS.items():
            found |= linear(state, f"{theirs}.{part}", f"{ours}.{our_part}")
    return found


def convert(state: Mapping[str, Tensor], settings: Mapping[str, Any]) -> tuple[ClassifierConfig, dict[str, Tensor]]:
    """Our configuration and weights. The weights tell all sizes but `n_heads`; the attention is not masked."""
    known = Settings(settings)
    width, features = shape_of(state, "project_inp.weight", 2)
    length = shape_of(state, POSITIONS, 3)[0]
    config = ClassifierConfig(
        features=known.agreed("feat_dim", features),
        length=known.agreed("max_len", length),
        classes=known.agreed("num_classes", shape_of(state, "output_layer.weight", 2)[0]),
        width=known.agreed("d_model", width),
        layers=known.agreed("num_layers", count(state, LAYER + ".norm1.weight")),
        heads=known.integer("n_heads"),
        feed_forward=known.agreed("d_ff", shape_of(state, f"{LAYER.format(0)}.conv1.weight", 3)[0]),
        dropout=known.number("dropout", 0.1),
        positions="fixed" if _fixed(state[POSITIONS]) else "learned",
        activation="relu" if known.one_of("activation", "gelu", ACTIVATIONS) == "relu" else "gelu",
        mask_attention=False,
    )
    return config, contiguous(rename(state))


def _fixed(positions: Tensor) -> bool:
    """Are these [step, 1, width] sines and cosines?"""
    length, _, width = positions.shape
    return width % 2 == 0 and torch.allclose(positions[:, 0].float(), waves(length, width), atol=1e-5)
