"""Linear forecasters: NLinear and DLinear (Zeng et al. 2023), RLinear (Li et al. 2023).

Suffixes: B windows, L steps seen, P steps ahead, N targets, O outputs.
"""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from data.batch import WindowBatch
from data.errors import ConfigError
from modules.forecast.covariates import covariate_path
from modules.forecast.heads import Head
from modules.forecast.interface import Forecaster, WindowShape
from modules.forecast.moving_average import check_kernel, moving_average_matrix
from modules.forecast.normalisation import WindowStatistics, window_statistics
from modules.forecast.window_affine import WindowAffine


@dataclass(frozen=True, kw_only=True)
class NLinearConfig:
    """NLinear: one linear map of the past less its newest value."""

    individual: bool = False
    """Whether each target has its own map."""

    def build(self, shape: WindowShape, head: Head) -> "NLinear":
        return NLinear(self, shape, head)


@dataclass(frozen=True, kw_only=True)
class DLinearConfig:
    """DLinear: one linear map of the trend, one of the rest."""

    individual: bool = False
    """Whether each target has its own maps."""
    kernel: int = 25
    """Steps of the moving average that is the trend."""

    def __post_init__(self) -> None:
        check_kernel(self.kernel)

    def build(self, shape: WindowShape, head: Head) -> "DLinear":
        return DLinear(self, shape, head)


@dataclass(frozen=True, kw_only=True)
class RLinearConfig:
    """RLinear: one linear map of the past in each window's own units."""

    individual: bool = False
    """Whether each target has its own map."""
    normalise: bool = True
    """Whether windows are shifted and scaled to mean 0 and variance 1, with a learned affine map per target (RevIN)."""
    dropout: float = 0.0
    """Of the normalised past."""

    def __post_init__(self) -> None:
        if not 0.0 <= self.dropout < 1.0:
            raise ConfigError(f"dropout must be in [0, 1), got {self.dropout}.")

    def build(self, shape: WindowShape, head: Head) -> "RLinear":
        return RLinear(self, shape, head)


class TimeLinear(nn.Module):
    """A linear map from steps seen to steps ahead, shared by the targets or one for each."""

    def __init__(self, shape: WindowShape, outputs: int, *, individual: bool) -> None:
        super().__init__()
        self.horizon = shape.horizon
        rows = (*((shape.targets,) if individual else ()), shape.horizon * outputs)
        bound = 1.0 / math.sqrt(shape.look_back)
        self.weight = nn.Parameter(torch.empty(*rows, shape.look_back).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.empty(rows).uniform_(-bound, bound))

    def forward(self, past: Float[Tensor, "batch step target"]) -> Float[Tensor, "batch horizon target output"]:
        return time_linear(past, self.weight, self.bias, self.horizon)


def time_linear(
    past: Float[Tensor, "batch step target"],
    weight: Float[Tensor, "*target ahead step"],
    bias: Float[Tensor, "*target ahead"],
    horizon: int,
) -> Float[Tensor, "batch horizon target output"]:
    """`weight` @ `past` + `bias` for each target, split into the horizon and its outputs."""
    batch, _, targets = past.shape
    if weight.dim() == 2:
        ahead_BNA = nn.functional.linear(past.mT, weight, bias)
    else:
        ahead_BNA = torch.baddbmm(bias[:, None], past.permute(2, 0, 1), weight.mT).transpose(0, 1)
    return ahead_BNA.reshape(batch, targets, horizon, -1).transpose(1, 2)


class NLinear(Forecaster):
    """y = W (x - newest) + b + newest."""

    def __init__(self, config: NLinearConfig, shape: WindowShape, head: Head) -> None:
        super().__init__(shape, head)
        self.linear = TimeLinear(shape, head.outputs, individual=config.individual)
        self.covariates = covariate_path(shape, head)

    def forward(self, window: WindowBatch) -> Float[Tensor, "batch horizon target output"]:
        statistics = window_statistics(window.past, window.past_mask, centre="last", scaled=False)
        raw_BPNO = self.linear(statistics.normalise(window.past, window.past_mask))
        if self.covariates is not None:
            raw_BPNO = raw_BPNO + self.covariates(window, statistics)
        return self.head.finish(raw_BPNO, statistics)


class DLinear(Forecaster):
    """y = W_trend M x + W_rest (x - M x) + b, M the moving average. Gaps count as the window's mean.

    M is linear too, so y = (W_rest + (W_trend - W_rest) M) x + b: M meets the weights and not the data where the
    weights have fewer rows, which saves half of the work in a batch of 32 windows.
    """

    smoothing: Tensor

    def __init__(self, config: DLinearConfig, shape: WindowShape, head: Head) -> None:
        super().__init__(shape, head)
        self.rest = TimeLinear(shape, head.outputs, individual=config.individual)
        self.trend = TimeLinear(shape, head.outputs, individual=config.individual)
        for part in (self.rest, self.trend):
            nn.init.constant_(part.weight, 1.0 / shape.look_back)
        matrix = moving_average_matrix(shape.look_back, config.kernel)
        self.register_buffer("smoothing", matrix, persistent=False)
        self.covariates = covariate_path(shape, head)

    def forward(self, window: WindowBatch) -> Float[Tensor, "batch horizon target output"]:
        past_BLN = window.past
        if window.past_mask is not None:
            mean = window_statistics(past_BLN, window.past_mask, scaled=False).centre
            past_BLN = torch.where(window.past_mask, past_BLN, mean)
        rest, trend = self.rest, self.trend
        rows_of_data = past_BLN.shape[0] * past_BLN.shape[2]
        if rest.weight[..., 0].numel() <= rows_of_data:
            weight = rest.weight + (trend.weight - rest.weight) @ self.smoothing
            raw_BPNO = time_linear(past_BLN, weight, rest.bias + trend.bias, self.shape.horizon)
        else:
            smooth_BLN = self.smoothing @ past_BLN
            raw_BPNO = rest(past_BLN - smooth_BLN) + trend(smooth_BLN)
        if self.covariates is not None:
            raw_BPNO = raw_BPNO + self.covariates(window, None)
        return self.head.finish(raw_BPNO)


class RLinear(Forecaster):
    """A linear map between reversible instance normalisations (RevIN, Kim et al. 2022)."""

    def __init__(self, config: RLinearConfig, shape: WindowShape, head: Head) -> None:
        super().__init__(shape, head)
        self.linear = TimeLinear(shape, head.outputs, individual=config.individual)
        self.affine = WindowAffine(shape.targets) if config.normalise else None
        self.dropout = nn.Dropout(config.dropout)
        self.covariates = covariate_path(shape, head)

    def forward(self, window: WindowBatch) -> Float[Tensor, "batch horizon target output"]:
        statistics: WindowStatistics | None = None
        past_BLN, mask = window.past, window.past_mask
        if self.affine is not None:
            statistics = window_statistics(past_BLN, mask)
            past_BLN = self.affine(statistics.normalise(past_BLN, mask))
        elif mask is not None:
            past_BLN = past_BLN.masked_fill(~mask, 0.0)
        raw_BPNO = self.linear(self.dropout(past_BLN))
        if self.affine is not None:
            raw_BPNO = self.affine.undo(raw_BPNO, self.head)
        if self.covariates is not None:
            raw_BPNO = raw_BPNO + self.covariates(window, statistics)
        return self.head.finish(raw_BPNO, statistics)
