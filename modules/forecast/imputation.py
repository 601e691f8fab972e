"""Gaps inside windows: the fillings that need no learning, and those of a trained forecaster."""

from collections.abc import Callable, Mapping

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from data.batch import WindowBatch
from modules.forecast.interface import Forecaster

Fill = Callable[[WindowBatch], Float[Tensor, "batch step target"]]
"""From a window, whose `past_mask` says what was measured, to a value for each of its steps."""


def window_mean(window: WindowBatch) -> Float[Tensor, "batch step target"]:
    """The mean of what was measured of each column; 0 where nothing was."""
    values, seen = window.past, _seen(window)
    mean = values.masked_fill(~seen, 0.0).sum(dim=1, keepdim=True) / seen.sum(dim=1, keepdim=True).clamp(min=1)
    return mean.expand_as(values)


def interpolation(window: WindowBatch) -> Float[Tensor, "batch step target"]:
    """Straight lines between measured neighbours, level beyond the first and the last; 0 where nothing was measured."""
    values, seen = window.past, _seen(window)
    steps = torch.arange(values.shape[1], device=values.device)[None, :, None].expand_as(values)
    before = torch.where(seen, steps, -1).cummax(dim=1).values
    after = torch.where(seen, steps, values.shape[1]).flip(1).cummin(dim=1).values.flip(1)
    last = values.shape[1] - 1
    left, right = values.gather(1, before.clamp(min=0)), values.gather(1, after.clamp(max=last))
    share = (steps - before) / (after - before).clamp(min=1)
    line = left + share * (right - left)
    line = torch.where(before < 0, right, torch.where(after > last, left, line))
    return torch.where(seen.any(dim=1, keepdim=True), line, torch.zeros_like(line))


def network_fill(network: Forecaster) -> Fill:
    """The middle of what a forecaster says that was trained to give hidden steps back."""

    def fill(window: WindowBatch) -> Tensor:
        with torch.inference_mode():
            return network.head.point(network(window))

    return fill


FLOORS: Mapping[str, Fill] = {"window_mean": window_mean, "interpolation": interpolation}


def _seen(window: WindowBatch) -> Bool[Tensor, "batch step target"]:
    return torch.ones_like(window.past, dtype=torch.bool) if window.past_mask is None else window.past_mask
