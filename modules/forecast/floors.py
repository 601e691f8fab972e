"""Forecasts that need no training: what every model has to beat."""

import torch
from jaxtyping import Float
from torch import Tensor

from data.batch import WindowBatch
from data.errors import ConfigError
from modules.forecast.heads import Head
from modules.forecast.interface import Forecaster, WindowShape
from modules.forecast.normalisation import window_statistics


class Floor(Forecaster):
    """A point forecast without parameters."""

    def __init__(self, shape: WindowShape, head: Head) -> None:
        super().__init__(shape, head)
        if head.kind != "point":
            raise ConfigError(
                f"{type(self).__name__} forecasts points only, got head.kind {head.kind}; "
                f"put intervals around it by conformal prediction."
            )


class LastValue(Floor):
    """The newest measured value of each target; 0 where nothing was measured."""

    def forward(self, window: WindowBatch) -> Float[Tensor, "batch horizon target 1"]:
        newest = window_statistics(window.past, window.past_mask, centre="last", scaled=False).centre
        return newest.expand(-1, self.shape.horizon, -1)[..., None]


class WindowMean(Floor):
    """The mean of what was measured in the look-back; 0 where nothing was."""

    def forward(self, window: WindowBatch) -> Float[Tensor, "batch horizon target 1"]:
        mean = window_statistics(window.past, window.past_mask, scaled=False).centre
        return mean.expand(-1, self.shape.horizon, -1)[..., None]


class SeasonalNaive(Floor):
    """The newest measured value of the same phase of the season; where there is none, the mean of the look-back."""

    def __init__(self, shape: WindowShape, head: Head) -> None:
        super().__init__(shape, head)
        if shape.season > shape.look_back:
            raise ConfigError(
                f"a seasonal forecast needs a look-back of one season at least, got {shape.look_back} steps of "
                f"{shape.season}; take a longer look-back or a shorter season."
            )

    def forward(self, window: WindowBatch) -> Float[Tensor, "batch horizon target 1"]:
        season = self.shape.season
        if window.past_mask is None:
            last = window.past[:, -season:]
        else:
            last = newest_of_phase(window.past, window.past_mask, season)
        steps = torch.arange(self.shape.horizon, device=last.device) % season
        return last[:, steps, :, None]


def newest_of_phase(values: Tensor, mask: Tensor, season: int) -> Float[Tensor, "batch season target"]:
    """For each phase the newest measured value [batch, season, target], in the order of the last `season` steps.

    Phases without any are the mean of the window.
    """
    missing_steps = -values.shape[1] % season
    if missing_steps:
        values = torch.cat([values.new_zeros(len(values), missing_steps, values.shape[2]), values], dim=1)
        mask = torch.cat([mask.new_zeros(len(mask), missing_steps, mask.shape[2]), mask], dim=1)
    by_phase, seen = values.unflatten(1, (-1, season)), mask.unflatten(1, (-1, season))
    mean = window_statistics(values, mask, scaled=False).centre
    round_ = torch.arange(by_phase.shape[1], device=values.device)[:, None, None]
    newest = torch.where(seen, round_, -1).amax(dim=1, keepdim=True)
    found = by_phase.gather(1, newest.clamp(min=0))[:, 0]
    return torch.where(newest[:, 0] >= 0, found, mean)
