"""Each window in its own units, as far as it was measured (RevIN, Kim et al. 2022, and its simpler relatives)."""

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

EPS = 1e-5

Centre = Literal["mean", "last", "none"]


@dataclass(frozen=True)
class WindowStatistics:
    """Centre and scale of each window and column."""

    centre: Float[Tensor, "batch 1 column"]
    scale: Float[Tensor, "batch 1 column"] | None = None
    """None where windows are shifted only."""

    def normalise(
        self, values: Float[Tensor, "batch step column"], mask: Bool[Tensor, "batch step column"] | None = None
    ) -> Float[Tensor, "batch step column"]:
        """The values in the window's units; 0, its centre, where not measured."""
        values = values - self.centre
        if self.scale is not None:
            values = values / self.scale
        return values if mask is None else values.masked_fill(~mask, 0.0)


def window_statistics(
    values: Float[Tensor, "batch step column"],
    mask: Bool[Tensor, "batch step column"] | None = None,
    *,
    centre: Centre = "mean",
    scaled: bool = True,
    unbiased: bool = False,
) -> WindowStatistics:
    """Centre and scale of what was measured in each window; 0 and 1 where nothing was.

    `last` is the newest measured value. The scale is sqrt(variance + 1e-5), differentiable; the centre is not. The
    variance is that of the population, or the `unbiased` one.
    """
    if mask is None:
        mean = values.mean(dim=1, keepdim=True).detach()
        count: Tensor | int = values.shape[1]
        squares = (values - mean).square().sum(dim=1, keepdim=True) if scaled else None
    else:
        count = mask.sum(dim=1, keepdim=True)
        mean = (values.masked_fill(~mask, 0.0).sum(dim=1, keepdim=True) / count.clamp(min=1)).detach()
        squares = (values - mean).masked_fill(~mask, 0.0).square().sum(dim=1, keepdim=True) if scaled else None
    scale = None
    if squares is not None:
        divisor = count - 1 if unbiased else count
        divisor = divisor.clamp(min=1) if isinstance(divisor, Tensor) else max(divisor, 1)
        scale = (squares / divisor + EPS).sqrt()
        if isinstance(count, Tensor):
            scale = torch.where(count > 0, scale, torch.ones_like(scale))
    if centre == "mean":
        return WindowStatistics(mean, scale)
    if centre == "none":
        return WindowStatistics(torch.zeros_like(mean), scale)
    return WindowStatistics(_newest(values, mask).detach(), scale)


def _newest(values: Tensor, mask: Tensor | None) -> Tensor:
    """The newest measured value of each window and column [batch, 1, column]; 0 where there is none."""
    if mask is None:
        return values[:, -1:]
    steps = torch.arange(values.shape[1], device=values.device)[None, :, None]
    newest = torch.where(mask, steps, -1).amax(dim=1, keepdim=True)
    found = values.gather(1, newest.clamp(min=0))
    return torch.where(newest >= 0, found, torch.zeros_like(found))
