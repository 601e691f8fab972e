"""CycleNet (Lin et al. 2024): a learned cycle is taken from the past, and the cycle ahead added to the forecast.

Suffixes: B windows, L steps seen, P steps ahead, N targets, O outputs.
"""

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from data.batch import WindowBatch
from data.errors import ConfigError
from modules.forecast.covariates import covariate_path
from modules.forecast.heads import Head
from modules.forecast.interface import Forecaster, WindowShape
from modules.forecast.linear import TimeLinear
from modules.forecast.normalisation import WindowStatistics, window_statistics


@dataclass(frozen=True, kw_only=True)
class CycleNetConfig:
    """CycleNet, linear or MLP."""

    network: Literal["linear", "mlp"] = "linear"
    """What forecasts the rest: a linear map of time, or one hidden layer."""
    width: int = 512
    """Of the hidden layer of `mlp`."""
    cycle: int | None = None
    """Steps of the cycle; None takes the season of the data. 168 for hourly consumption, which has weeks."""
    normalise: bool = True
    """Whether windows are shifted and scaled to mean 0 and (unbiased) variance 1."""

    def __post_init__(self) -> None:
        for name in ("width", "cycle"):
            if (value := getattr(self, name)) is not None and value < 1:
                raise ConfigError(f"{name} must be at least 1, got {value}.")

    def build(self, shape: WindowShape, head: Head) -> "CycleNet":
        return CycleNet(self, shape, head)


class TimeMLP(nn.Module):
    """Steps seen → hidden → steps ahead, shared by the targets."""

    def __init__(self, seen: int, width: int, horizon: int, outputs: int) -> None:
        super().__init__()
        self.hidden = nn.Linear(seen, width)
        self.output = nn.Linear(width, horizon * outputs)
        self.horizon = horizon

    def forward(self, past: Float[Tensor, "batch step target"]) -> Float[Tensor, "batch horizon target output"]:
        ahead_BNA = self.output(F.relu(self.hidden(past.mT)))
        return ahead_BNA.unflatten(-1, (self.horizon, -1)).transpose(1, 2)


class CycleNet(Forecaster):
    """y = f(x - cycle seen) + cycle ahead, in the window's units; the cycle starts from zero.

    The phase is the position of a window on the time grid, so windows need one.
    """

    def __init__(self, config: CycleNetConfig, shape: WindowShape, head: Head) -> None:
        super().__init__(shape, head)
        self.normalise = config.normalise
        self.cycle = nn.Parameter(torch.zeros(config.cycle or shape.season, shape.targets))
        self.network: nn.Module
        if config.network == "linear":
            self.network = TimeLinear(shape, head.outputs, individual=False)
        else:
            self.network = TimeMLP(shape.look_back, config.width, shape.horizon, head.outputs)
        self.covariates = covariate_path(shape, head)

    def forward(self, window: WindowBatch) -> Float[Tensor, "batch horizon target output"]:
        statistics: WindowStatistics | None = None
        past_BLN, mask = window.past, window.past_mask
        if self.normalise:
            statistics = window_statistics(past_BLN, mask, unbiased=True)
            past_BLN = statistics.normalise(past_BLN)
        cycle_seen, cycle_ahead = self._cycles(window)
        past_BLN = past_BLN - cycle_seen
        if mask is not None:
            past_BLN = past_BLN.masked_fill(~mask, 0.0)
        raw_BPNO = self.network(past_BLN) + self._located(cycle_ahead)
        if self.covariates is not None:
            raw_BPNO = raw_BPNO + self.covariates(window, statistics)
        return self.head.finish(raw_BPNO, statistics)

    def _cycles(self, window: WindowBatch) -> tuple[Tensor, Tensor]:
        """The cycle over the look-back and over the horizon of each window."""
        if window.position is None:
            raise ConfigError("CycleNet needs the position of each window on the time grid, the windows have none.")
        steps = torch.arange(self.shape.look_back + self.shape.horizon, device=window.past.device)
        cycle = self.cycle[(window.position[:, None] + steps) % len(self.cycle)]
        return cycle[:, : self.shape.look_back], cycle[:, self.shape.look_back :]

    def _located(self, cycle_BPN: Tensor) -> Tensor:
        """The cycle for each output that is a place and not a width: all points and quantiles, or the first."""
        if self.head.kind in ("point", "quantile"):
            return cycle_BPN[..., None]
        return F.pad(cycle_BPN[..., None], (0, self.head.outputs - 1))
