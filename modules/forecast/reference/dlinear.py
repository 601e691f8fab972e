"""DLinear as Time-Series-Library and LTSF-Linear store it."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from modules.forecast.interface import WindowShape
from modules.forecast.linear import DLinearConfig
from modules.forecast.reference.layout import Settings, State, contiguous
from modules.forecast.reference.linear_maps import has_time_linear, is_individual, sizes, time_linear

REST, TREND = "Linear_Seasonal", "Linear_Trend"


def recognises(state: Mapping[str, Tensor]) -> bool:
    """Does this state dict, by its keys, hold a DLinear?"""
    return has_time_linear(state, REST) and has_time_linear(state, TREND)


def rename(state: Mapping[str, Tensor]) -> State:
    """Weights, or their gradients, under our names."""
    return time_linear(state, REST, "rest") | time_linear(state, TREND, "trend")


def convert(
    state: Mapping[str, Tensor], settings: Mapping[str, Any]
) -> tuple[DLinearConfig, WindowShape, dict[str, Tensor]]:
    """Our configuration, shape and weights.

    The weights do not tell `moving_avg` (LTSF-Linear has no such argument and takes 25), nor `enc_in` where shared.
    """
    known = Settings(settings)
    config = DLinearConfig(individual=is_individual(state, REST), kernel=known.integer("moving_avg", 25))
    return config, sizes(state, REST, known, "enc_in"), contiguous(rename(state))
