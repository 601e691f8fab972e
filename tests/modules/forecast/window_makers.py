"""Windows and networks that the tests of several forecasters share."""

from dataclasses import replace

import torch
from torch import Tensor, nn

from data.batch import WindowBatch
from modules.forecast.interface import Forecaster, WindowShape


def window_of(shape: WindowShape, batch: int = 3, seed: int = 1) -> WindowBatch:
    """Windows with all columns of `shape`, everything measured."""
    generator = torch.Generator().manual_seed(seed)
    both = shape.look_back + shape.horizon

    def normal(*size: int) -> Tensor:
        return torch.randn(batch, *size, generator=generator)

    return WindowBatch(
        ids=(),
        seeds=torch.zeros(batch, dtype=torch.int64),
        past=normal(shape.look_back, shape.targets).cumsum(dim=1) * 0.3,
        observed=normal(shape.look_back, shape.observed) if shape.observed else None,
        known=normal(both, shape.known) if shape.known else None,
        calendar=normal(both, shape.calendar).clamp(-0.5, 0.5) if shape.calendar else None,
        static=normal(shape.static) if shape.static else None,
    )


def with_gaps(window: WindowBatch, seed: int = 2) -> WindowBatch:
    """A third of all values not measured, and one target, one observed and one known column not at all."""
    generator = torch.Generator().manual_seed(seed)

    def mask(values: Tensor | None) -> Tensor | None:
        if values is None:
            return None
        measured = torch.rand(values.shape, generator=generator) > 1 / 3
        measured[0, :, 0] = False
        return measured

    return replace(
        window,
        past_mask=mask(window.past),
        observed_mask=mask(window.observed),
        known_mask=mask(window.known),
    )


def behind_the_masks(window: WindowBatch, value: float) -> WindowBatch:
    """The same windows with another value where nothing was measured."""

    def filled(values: Tensor | None, mask: Tensor | None) -> Tensor | None:
        return values if values is None or mask is None else values.masked_fill(~mask, value)

    past = filled(window.past, window.past_mask)
    assert past is not None
    return replace(
        window,
        past=past,
        observed=filled(window.observed, window.observed_mask),
        known=filled(window.known, window.known_mask),
    )


def scrambled(network: Forecaster) -> Forecaster:
    """Weights that are no special case, in evaluation mode."""
    generator = torch.Generator().manual_seed(4)
    for parameter in network.parameters():
        nn.init.normal_(parameter, std=0.2, generator=generator)
    return network.eval()
