"""xPatch: an exponential average for the trend, convolved patches for the rest (Stitsyuk and Choi, AAAI 2025).

Suffixes: X windows of one target each, L look-back, K patches, D features of a patch, P steps ahead, O outputs.
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
from modules.forecast.normalisation import WindowStatistics, window_statistics
from modules.forecast.window_affine import WindowAffine
from modules.layers.batch_norm import BatchNorm1d

Smoothing = Literal["exponential", "double", "none"]


@dataclass(frozen=True, kw_only=True)
class XPatchConfig:
    """Options; the defaults are the published ones."""

    patch: int = 16
    stride: int = 8
    pad: bool = True
    """The last value is repeated for one stride, so that the newest steps start a patch too."""
    smoothing: Smoothing = "exponential"
    """What the trend is: an exponential average, a double one (Holt's, with a slope), or the window itself."""
    level: float = 0.3
    """Weight of the newest value in the average."""
    slope: float = 0.3
    """Of `double`: weight of the newest slope."""
    normalise: bool = True
    """Window statistics and a learned affine map."""

    def __post_init__(self) -> None:
        if self.patch < 1 or self.stride < 1:
            raise ConfigError(f"patch and stride must be at least 1, got {self.patch} and {self.stride}.")
        if self.smoothing not in ("exponential", "double", "none"):
            raise ConfigError(f"unknown smoothing '{self.smoothing}'; available: exponential, double, none.")
        for name in ("level", "slope"):
            if not 0 < getattr(self, name) <= 1:
                raise ConfigError(f"{name} must lie in (0, 1], got {getattr(self, name)}.")

    def build(self, shape: WindowShape, head: Head) -> "XPatch":
        return XPatch(self, shape, head)


def smoothing_matrix(length: int, kind: Smoothing, level: float, slope: float) -> Float[Tensor, "length length"]:
    """Row t holds the weights of all steps in the smoothed value at t; float64.

    The averages are linear: their recursions run once, on the unit vectors, and every window costs one product.
    Exponential: s₀ = x₀, sₜ = a xₜ + (1 - a) sₜ₋₁. Double: s₀ = x₀, b₀ = x₁ - x₀, sₜ = a xₜ + (1 - a)(sₜ₋₁ + bₜ₋₁),
    bₜ = c (sₜ - sₜ₋₁) + (1 - c) bₜ₋₁.
    """
    x = torch.eye(length, dtype=torch.float64)
    if kind == "none":
        return x
    rows = [x[0]]
    rise = x[1] - x[0] if kind == "double" and length > 1 else torch.zeros(length, dtype=torch.float64)
    for t in range(1, length):
        rows.append(level * x[t] + (1 - level) * (rows[-1] + rise))
        if kind == "double":
            rise = slope * (rows[-1] - rows[-2]) + (1 - slope) * rise
    return torch.stack(rows)


class PatchStream(nn.Module):
    """Patches embedded, convolved each on its own and then with each other (section 3.3, non-linear stream)."""

    def __init__(self, config: XPatchConfig, shape: WindowShape) -> None:
        super().__init__()
        self.patch, self.stride = config.patch, config.stride
        self.padding = config.stride if config.pad else 0
        if shape.look_back + self.padding < config.patch:
            raise ConfigError(
                f"patch: expected at most {shape.look_back + self.padding} steps with this look-back, "
                f"got {config.patch}."
            )
        patches = (shape.look_back + self.padding - config.patch) // config.stride + 1
        hidden = config.patch**2
        self.embed = nn.Linear(config.patch, hidden)
        self.embed_norm = BatchNorm1d(patches)
        # One convolution per patch, kernel and stride a patch long: `patch` numbers per patch come out.
        self.depthwise = nn.Conv1d(patches, patches, config.patch, config.patch, groups=patches)
        self.depthwise_norm = BatchNorm1d(patches)
        self.residual = nn.Linear(hidden, config.patch)
        self.pointwise = nn.Linear(patches, patches)
        self.pointwise_norm = BatchNorm1d(patches)
        self.expand = nn.Linear(patches * config.patch, 2 * shape.horizon)
        self.contract = nn.Linear(2 * shape.horizon, shape.horizon)

    def forward(self, rest: Float[Tensor, "stream step"]) -> Float[Tensor, "stream horizon"]:
        padded = torch.cat([rest, rest[:, -1:].expand(-1, self.padding)], dim=1)
        patches_XKp = padded.unfold(-1, self.patch, self.stride)
        embedded_XKD = self.embed_norm(F.gelu(self.embed(patches_XKp)))
        convolved = self.depthwise_norm(F.gelu(self.depthwise(embedded_XKD)))
        convolved = convolved + self.residual(embedded_XKD)
        convolved = self.pointwise(convolved.transpose(1, 2)).transpose(1, 2)
        flat = self.pointwise_norm(F.gelu(convolved)).flatten(1)
        return self.contract(F.gelu(self.expand(flat)))


class TrendStream(nn.Module):
    """Linear layers, each but the last halved by average pooling and normalised (section 3.3, linear stream)."""

    def __init__(self, shape: WindowShape) -> None:
        super().__init__()
        horizon = shape.horizon
        self.first = nn.Linear(shape.look_back, 4 * horizon)
        self.first_norm = nn.LayerNorm(2 * horizon)
        self.second = nn.Linear(2 * horizon, horizon)
        self.second_norm = nn.LayerNorm(horizon // 2)
        self.third = nn.Linear(horizon // 2, horizon)

    def forward(self, trend: Float[Tensor, "stream step"]) -> Float[Tensor, "stream horizon"]:
        hidden = self.first_norm(F.avg_pool1d(self.first(trend), 2))
        hidden = self.second_norm(F.avg_pool1d(self.second(hidden), 2))
        return self.third(hidden)


class XPatch(Forecaster):
    """Both streams on every target alone, put together by one linear layer."""

    def __init__(self, config: XPatchConfig, shape: WindowShape, head: Head) -> None:
        super().__init__(shape, head)
        if shape.horizon < 2:
            raise ConfigError("xPatch halves its horizon twice and needs at least 2 steps ahead, got 1.")
        self.config = config
        self.affine = WindowAffine(shape.targets) if config.normalise else None
        self.patches = PatchStream(config, shape)
        self.trend = TrendStream(shape)
        self.output = nn.Linear(2 * shape.horizon, shape.horizon * head.outputs)
        self.covariates = covariate_path(shape, head)
        smoothing = smoothing_matrix(shape.look_back, config.smoothing, config.level, config.slope)
        # Follows from the configuration, so it is no part of the weights.
        self.register_buffer("smoothing", smoothing.float(), persistent=False)

    def forward(self, window: WindowBatch) -> Float[Tensor, "batch horizon target output"]:
        statistics: WindowStatistics | None = None
        past = window.past
        if self.affine is not None:
            statistics = window_statistics(past, window.past_mask)
            past = self.affine(statistics.normalise(past, window.past_mask))
        elif window.past_mask is not None:
            past = past.masked_fill(~window.past_mask, 0.0)
        each_XL = past.transpose(1, 2).flatten(0, 1)
        trend, rest = each_XL, each_XL
        if self.config.smoothing != "none":
            trend = each_XL @ self.get_buffer("smoothing").T
            rest = each_XL - trend
        joined = torch.cat([self.patches(rest), self.trend(trend)], dim=1)
        raw = self.output(joined).view(len(past), self.shape.targets, self.shape.horizon, -1).transpose(1, 2)
        if self.affine is not None:
            raw = self.affine.undo(raw, self.head)
        if self.covariates is not None:
            raw = raw + self.covariates(window, statistics)
        return self.head.finish(raw, statistics)
