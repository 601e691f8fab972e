"""SparseTSF (Lin et al. 2024): one small map from past to future periods, the same for every phase.

Suffixes: B windows, N targets, T periods, W phases of a period, O outputs.
"""

from dataclasses import dataclass
from typing import Literal

from jaxtyping import Float
from torch import Tensor, nn

from data.batch import WindowBatch
from data.errors import ConfigError
from modules.forecast.covariates import covariate_path
from modules.forecast.heads import Head
from modules.forecast.interface import Forecaster, WindowShape
from modules.forecast.normalisation import window_statistics


@dataclass(frozen=True, kw_only=True)
class SparseTSFConfig:
    """SparseTSF, linear or MLP."""

    network: Literal["linear", "mlp"] = "linear"
    """What maps periods seen to periods ahead."""
    width: int = 128
    """Of the hidden layer of `mlp`."""
    period: int | None = None
    """Steps of a period; None takes the season of the data."""

    def __post_init__(self) -> None:
        for name in ("width", "period"):
            if (value := getattr(self, name)) is not None and value < 1:
                raise ConfigError(f"{name} must be at least 1, got {value}.")

    def build(self, shape: WindowShape, head: Head) -> "SparseTSF":
        return SparseTSF(self, shape, head)


class SparseTSF(Forecaster):
    """The past less its mean is smoothed over one period, cut into phases, and each phase forecast by the same map.

    Of a look-back that is no multiple of the period, the newest whole periods are mapped (all of it is smoothed); of a
    horizon that is none, the forecast is cut. The published code refuses both.
    """

    def __init__(self, config: SparseTSFConfig, shape: WindowShape, head: Head) -> None:
        super().__init__(shape, head)
        self.period = config.period or shape.season
        self.periods_seen = shape.look_back // self.period
        if not self.periods_seen:
            raise ConfigError(
                f"SparseTSF needs a look-back of one period at least, got {shape.look_back} steps of {self.period}; "
                f"take a longer look-back or a shorter period."
            )
        periods_ahead = -(-shape.horizon // self.period)
        reach = self.period // 2
        self.smooth = nn.Conv1d(1, 1, 1 + 2 * reach, padding=reach, bias=False)
        self.network: nn.Module
        if config.network == "linear":
            self.network = nn.Linear(self.periods_seen, periods_ahead * head.outputs, bias=False)
        else:
            self.network = nn.Sequential(
                nn.Linear(self.periods_seen, config.width),
                nn.ReLU(),
                nn.Linear(config.width, periods_ahead * head.outputs),
            )
        self.covariates = covariate_path(shape, head)

    def forward(self, window: WindowBatch) -> Float[Tensor, "batch horizon target output"]:
        statistics = window_statistics(window.past, window.past_mask, scaled=False)
        past_BNL = statistics.normalise(window.past, window.past_mask).mT
        rows = past_BNL.reshape(-1, 1, past_BNL.shape[-1])
        smoothed_BNL = (self.smooth(rows) + rows).view(past_BNL.shape)
        newest = smoothed_BNL[..., -self.periods_seen * self.period :]
        phases_BNWT = newest.unflatten(-1, (self.periods_seen, self.period)).mT
        ahead_BNWTO = self.network(phases_BNWT).unflatten(-1, (-1, self.head.outputs))
        raw_BPNO = ahead_BNWTO.permute(0, 3, 2, 1, 4).flatten(1, 2)[:, : self.shape.horizon]
        if self.covariates is not None:
            raw_BPNO = raw_BPNO + self.covariates(window, statistics)
        return self.head.finish(raw_BPNO, statistics)
