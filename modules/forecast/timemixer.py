"""TimeMixer: seasons mixed from fine to coarse time scales, trends from coarse to fine (Wang et al., ICLR 2024).

Suffixes: B windows, N targets, L steps of a scale, D width, P steps ahead, O outputs; X is B·N where every target is a
window of its own, else B.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
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
from modules.forecast.moving_average import check_kernel, moving_average_matrix
from modules.forecast.normalisation import WindowStatistics, window_statistics
from modules.forecast.window_affine import WindowAffine


@dataclass(frozen=True, kw_only=True)
class TimeMixerConfig:
    """Sizes and options; the defaults are those of the published runs on ETT."""

    width: int = 16
    feed_forward: int = 32
    layers: int = 2
    scales: int = 4
    """Time scales, the window itself included."""
    factor: int = 2
    """Steps of a scale that make one step of the next."""
    pooling: Literal["mean", "max"] = "mean"
    """What a coarse step is of the fine ones."""
    moving_average: int = 25
    """Steps, odd, of the moving average that separates trend from season."""
    channel_independent: bool = True
    """Every target is a window of its own; otherwise all targets share one stream."""
    normalise: bool = True
    """Window statistics and a learned affine map at every scale."""
    dropout: float = 0.1

    def __post_init__(self) -> None:
        for name in ("width", "feed_forward", "layers", "scales"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} must be at least 1, got {getattr(self, name)}.")
        if self.factor < 2:
            raise ConfigError(f"factor must be at least 2, got {self.factor}.")
        check_kernel(self.moving_average)
        if self.pooling not in ("mean", "max"):
            raise ConfigError(f"unknown pooling '{self.pooling}'; available: mean, max.")
        if not 0 <= self.dropout < 1:
            raise ConfigError(f"dropout is a share in [0, 1), got {self.dropout}.")

    def lengths(self, look_back: int) -> list[int]:
        """Steps of each scale, fine to coarse."""
        found = [look_back // self.factor**k for k in range(self.scales)]
        if found[-1] < 1:
            raise ConfigError(
                f"{self.scales} scales with factor {self.factor} need a look-back of at least "
                f"{self.factor ** (self.scales - 1)} steps, got {look_back}; take fewer scales or look further back."
            )
        return found

    def build(self, shape: WindowShape, head: Head) -> "TimeMixer":
        return TimeMixer(self, shape, head)


class ScaleMixing(nn.Module):
    """Each scale gets what two linear layers along time make of the one before it."""

    def __init__(self, lengths: Sequence[int]) -> None:
        super().__init__()
        self.steps = nn.ModuleList(
            nn.Sequential(nn.Linear(given, wanted), nn.GELU(), nn.Linear(wanted, wanted))
            for given, wanted in pairwise(lengths)
        )

    def forward(self, scales_XDL: list[Tensor]) -> list[Tensor]:
        """Scales in the order of `lengths`, time last."""
        mixed = scales_XDL[:1]
        for step, scale in zip(self.steps, scales_XDL[1:], strict=True):
            mixed.append(scale + step(mixed[-1]))
        return mixed


def _feed_forward(width: int, hidden: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, width))


class MixingBlock(nn.Module):
    """Past-decomposable mixing (section 3.2): season and trend of every scale, each mixed its own way, put together."""

    def __init__(self, config: TimeMixerConfig, lengths: Sequence[int]) -> None:
        super().__init__()
        self.season_mixing = ScaleMixing(lengths)
        self.trend_mixing = ScaleMixing(lengths[::-1])
        # Where targets share a stream each part passes the layers before the mixing, without a residual path.
        self.before = None if config.channel_independent else _feed_forward(config.width, config.feed_forward)
        self.after = _feed_forward(config.width, config.feed_forward) if config.channel_independent else None

    def forward(self, scales_XLD: list[Tensor], averages: list[Tensor]) -> list[Tensor]:
        seasons, trends = [], []
        for scale, average in zip(scales_XLD, averages, strict=True):
            trend = average @ scale
            season = scale - trend
            if self.before is not None:
                season, trend = self.before(season), self.before(trend)
            seasons.append(season.transpose(1, 2))
            trends.append(trend.transpose(1, 2))
        seasons = self.season_mixing(seasons)
        trends = self.trend_mixing(trends[::-1])[::-1]
        mixed = [(season + trend).transpose(1, 2) for season, trend in zip(seasons, trends, strict=True)]
        if self.after is None:
            return mixed
        return [scale + self.after(part) for scale, part in zip(scales_XLD, mixed, strict=True)]


class TrendPath(nn.Module):
    """What each scale's trend adds to the forecast where targets share one stream: two linear maps along time."""

    def __init__(self, lengths: Sequence[int], horizon: int, outputs: int) -> None:
        super().__init__()
        self.outputs = outputs
        self.inner = nn.ModuleList(nn.Linear(length, length) for length in lengths)
        self.outer = nn.ModuleList(nn.Linear(length, horizon * outputs) for length in lengths)

    def forward(self, trends_BLN: list[Tensor]) -> Float[Tensor, "batch horizon target output"]:
        parts = zip(self.inner, self.outer, trends_BLN, strict=True)
        added = torch.stack([outer(inner(trend.transpose(1, 2))) for inner, outer, trend in parts]).sum(dim=0)
        return added.unflatten(-1, (-1, self.outputs)).transpose(1, 2)


class TimeMixer(Forecaster):
    """Forecasts of all scales, added up (section 3.3). The calendar's features join the embedding of the values."""

    def __init__(self, config: TimeMixerConfig, shape: WindowShape, head: Head) -> None:
        super().__init__(shape, head)
        self.config = config
        self.takes_calendar = shape.calendar > 0
        lengths = config.lengths(shape.look_back)
        columns = 1 if config.channel_independent else shape.targets
        self.lengths = lengths
        self.embedding = nn.Linear(3 * columns, config.width, bias=False)
        self.calendar = nn.Linear(shape.calendar, config.width, bias=False) if shape.calendar else None
        self.dropout = nn.Dropout(config.dropout)
        self.blocks = nn.ModuleList(MixingBlock(config, lengths) for _ in range(config.layers))
        self.affines = nn.ModuleList(WindowAffine(shape.targets) for _ in lengths if config.normalise)
        self.predictors = nn.ModuleList(nn.Linear(length, shape.horizon) for length in lengths)
        self.projection = nn.Linear(config.width, columns * head.outputs)
        self.trends = None if config.channel_independent else TrendPath(lengths, shape.horizon, head.outputs)
        self.covariates = covariate_path(shape, head)
        for k, length in enumerate(lengths):
            # Follows from the configuration, so it is no part of the weights.
            self.register_buffer(f"average_{k}", moving_average_matrix(length, config.moving_average), persistent=False)

    def forward(self, window: WindowBatch) -> Float[Tensor, "batch horizon target output"]:
        scales, statistics = self._normalised_scales(window)
        averages = [self.get_buffer(f"average_{k}") for k in range(len(scales))]
        trends: list[Tensor] = []
        if self.config.channel_independent:
            streams = [scale.transpose(1, 2).flatten(0, 1)[..., None] for scale in scales]
        else:
            trends = [average @ scale for average, scale in zip(averages, scales, strict=True)]
            streams = [scale - trend for scale, trend in zip(scales, trends, strict=True)]
        hidden = [self._embed(stream, window, self.config.factor**k) for k, stream in enumerate(streams)]
        for block in self.blocks:
            hidden = block(hidden, averages)
        raw = self._predict(hidden)
        if self.trends is not None:
            raw = raw + self.trends(trends)
        if self.config.normalise:
            finest = self.affines[0]
            assert isinstance(finest, WindowAffine)
            raw = finest.undo(raw, self.head)
        if self.covariates is not None:
            raw = raw + self.covariates(window, statistics)
        return self.head.finish(raw, statistics)

    def _normalised_scales(self, window: WindowBatch) -> tuple[list[Tensor], WindowStatistics | None]:
        """The window at every scale [B, L, N], each in its own units, and the statistics of the first."""
        values, mask = window.past, window.past_mask
        scales, first = [], None
        for k in range(self.config.scales):
            if k:
                values, mask = self._coarser(values, mask)
            if not self.config.normalise:
                scales.append(values if mask is None else values.masked_fill(~mask, 0.0))
                continue
            statistics = window_statistics(values, mask)
            scales.append(self.affines[k](statistics.normalise(values, mask)))
            first = first or statistics
        return scales, first

    def _coarser(self, values: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Mean or maximum of what was measured in each stretch of `factor` steps."""
        count = values.shape[1] // self.config.factor
        cut_BLfN = values[:, : count * self.config.factor].unflatten(1, (count, self.config.factor))
        if mask is None:
            return (cut_BLfN.mean(dim=2) if self.config.pooling == "mean" else cut_BLfN.amax(dim=2)), None
        known = mask[:, : count * self.config.factor].unflatten(1, (count, self.config.factor))
        found = known.any(dim=2)
        if self.config.pooling == "mean":
            pooled = cut_BLfN.masked_fill(~known, 0.0).sum(dim=2) / known.sum(dim=2).clamp(min=1)
        else:
            pooled = cut_BLfN.masked_fill(~known, -torch.inf).amax(dim=2).masked_fill(~found, 0.0)
        return pooled, found

    def _embed(self, stream_XLC: Tensor, window: WindowBatch, stride: int) -> Float[Tensor, "stream step width"]:
        """Each step with its two neighbours, the ends being neighbours too, and its calendar."""
        # A linear map of shifted copies: the convolution of width 3 that it equals is several times slower on a CPU.
        around = torch.cat([stream_XLC.roll(1, dims=1), stream_XLC, stream_XLC.roll(-1, dims=1)], dim=-1)
        hidden = self.embedding(around)
        if self.calendar is not None and window.calendar is not None:
            marks = self.calendar(window.calendar[:, : self.shape.look_back : stride][:, : stream_XLC.shape[1]])
            hidden = hidden + marks.repeat_interleave(len(stream_XLC) // len(marks), dim=0)
        return self.dropout(hidden)

    def _predict(self, hidden_XLD: list[Tensor]) -> Float[Tensor, "batch horizon target output"]:
        """The sum of the scales' forecasts."""
        parts = [predict(h.transpose(1, 2)) for predict, h in zip(self.predictors, hidden_XLD, strict=True)]
        total_XPD = torch.stack(parts).sum(dim=0).transpose(1, 2)
        # Every scale is projected by the same map: the sum is projected once, and its bias counts for each.
        raw = F.linear(total_XPD, self.projection.weight, len(parts) * self.projection.bias)
        targets, outputs = self.shape.targets, self.head.outputs
        if self.config.channel_independent:
            return raw.unflatten(0, (-1, targets)).transpose(1, 2)
        return raw.unflatten(-1, (targets, outputs))
