"""NLinear as LTSF-Linear stores it."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from modules.forecast.interface import WindowShape
from modules.forecast.linear import NLinearConfig
from modules.forecast.reference.layout import Settings, State, contiguous
from modules.forecast.reference.linear_maps import has_time_linear, is_individual, sizes, time_linear

LINEAR = "Linear"


def recognises(state: Mapping[str, Tensor]) -> bool:
    """Does this state dict, by its keys, hold an NLinear? An RLinear without normalisation has the same keys."""
    return has_time_linear(state, LINEAR) and all(key.startswith(f"{LINEAR}.") for key in state)


def rename(state: Mapping[str, Tensor]) -> State:
    """Weights, or their gradients, under our names."""
    return time_linear(state, LINEAR, "linear")


def convert(
    state: Mapping[str, Tensor], settings: Mapping[str, Any]
) -> tuple[NLinearConfig, WindowShape, dict[str, Tensor]]:
    """Our configuration, shape and weights; shared weights do not tell `enc_in`."""
    known = Settings(settings)
    config = NLinearConfig(individual=is_individual(state, LINEAR))
    return config, sizes(state, LINEAR, known, "enc_in"), contiguous(rename(state))
