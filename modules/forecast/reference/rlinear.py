"""RLinear as RTSF stores it."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from modules.forecast.interface import WindowShape
from modules.forecast.linear import RLinearConfig
from modules.forecast.reference.layout import Settings, State, contiguous
from modules.forecast.reference.linear_maps import has_time_linear, is_individual, sizes, time_linear

LINEAR = "Linear"
AFFINE = "rev.affine_"


def recognises(state: Mapping[str, Tensor]) -> bool:
    """Does this state dict, by its keys, hold an RLinear with its normalisation?"""
    return has_time_linear(state, LINEAR) and f"{AFFINE}weight" in state


def rename(state: Mapping[str, Tensor]) -> State:
    """Weights, or their gradients, under our names."""
    affine = {f"affine.{part}": state[key] for part in ("weight", "bias") if (key := f"{AFFINE}{part}") in state}
    return time_linear(state, LINEAR, "linear") | affine


def convert(
    state: Mapping[str, Tensor], settings: Mapping[str, Any]
) -> tuple[RLinearConfig, WindowShape, dict[str, Tensor]]:
    """Our configuration, shape and weights; without normalisation shared weights do not tell `channel`."""
    known = Settings(settings)
    config = RLinearConfig(
        individual=is_individual(state, LINEAR),
        normalise=f"{AFFINE}weight" in state,
        dropout=known.number("drop", 0.0),
    )
    targets = len(state[f"{AFFINE}weight"]) if config.normalise else None
    return config, sizes(state, LINEAR, known, "channel", targets), contiguous(rename(state))
