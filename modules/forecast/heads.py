"""What a forecast consists of: one number, quantiles, or a distribution's parameters; and how wrong it is.

Suffixes: B windows, P steps ahead, N targets, O outputs.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from data.errors import ConfigError
from modules.forecast.normalisation import WindowStatistics

DEFAULT_LEVELS = (0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95)
SMALLEST_SCALE = 1e-4
LEAST_FREEDOM = 2.0
"""Student's t has a variance above two degrees of freedom only."""

PointLoss = Literal["mse", "mae", "huber", "arctan_mae"]


@dataclass(frozen=True, kw_only=True)
class Head:
    """The kind of forecast. Networks put out `outputs` raw numbers per step and target and hand them to `finish`."""

    kind: Literal["point", "quantile", "normal", "student"] = "point"
    levels: tuple[float, ...] = DEFAULT_LEVELS
    """Of `quantile`, rising."""
    loss: PointLoss = "mse"
    """Of `point`; `arctan_mae` weighs near steps more (xPatch, Stitsyuk and Choi 2025)."""

    def __post_init__(self) -> None:
        rising = all(low < high for low, high in zip(self.levels, self.levels[1:], strict=False))
        if not self.levels or not rising or self.levels[0] <= 0 or self.levels[-1] >= 1:
            raise ConfigError(f"levels: expected rising numbers between 0 and 1, got {list(self.levels)}.")

    @property
    def outputs(self) -> int:
        """Numbers per step and target."""
        return {"point": 1, "quantile": len(self.levels), "normal": 2, "student": 3}[self.kind]

    @cached_property
    def _is_affine(self) -> bool:
        return self.kind in ("point", "quantile")

    def finish(
        self, raw: Float[Tensor, "batch horizon target output"], statistics: WindowStatistics | None = None
    ) -> Float[Tensor, "batch horizon target output"]:
        """The forecast from a network's raw numbers, out of the window's own units.

        Points and quantiles as they are; of a distribution location, scale (positive), degrees of freedom (above 2).
        """
        if not self._is_affine:
            spread = F.softplus(raw[..., 1:2]) + SMALLEST_SCALE
            parts = [raw[..., :1], spread]
            if self.kind == "student":
                parts.append(F.softplus(raw[..., 2:]) + LEAST_FREEDOM)
            raw = torch.cat(parts, dim=-1)
        if statistics is None:
            return raw
        centre = statistics.centre[..., None]
        scale = None if statistics.scale is None else statistics.scale[..., None]
        if self._is_affine:
            return raw + centre if scale is None else raw * scale + centre
        if scale is None:
            return torch.cat([raw[..., :1] + centre, raw[..., 1:]], dim=-1)
        return torch.cat([raw[..., :1] * scale + centre, raw[..., 1:2] * scale, raw[..., 2:]], dim=-1)

    def point(self, forecast: Float[Tensor, "batch horizon target output"]) -> Float[Tensor, "batch horizon target"]:
        """The middle of the forecast: the number, the median, the location."""
        if self.kind != "quantile":
            return forecast[..., 0]
        return self.quantiles(forecast, (0.5,))[..., 0]

    def quantiles(
        self, forecast: Float[Tensor, "batch horizon target output"], levels: tuple[float, ...]
    ) -> Float[Tensor, "batch horizon target level"]:
        """Quantiles at `levels`, not crossing; between the head's own levels by straight lines, beyond them its last.

        Raises:
            ConfigError: of a point forecast, which has none: put intervals around it by conformal prediction.
        """
        if self.kind == "point":
            raise ConfigError("a point forecast has no quantiles; take head.kind quantile, normal or student.")
        if self.kind == "quantile":
            ordered = forecast.sort(dim=-1).values
            own = torch.tensor(self.levels, dtype=forecast.dtype, device=forecast.device)
            wanted = torch.tensor(levels, dtype=forecast.dtype, device=forecast.device).clamp(own[0], own[-1])
            above = torch.searchsorted(own, wanted).clamp(1, max(len(self.levels) - 1, 1))
            if len(self.levels) == 1:
                return ordered.expand(*ordered.shape[:-1], len(levels))
            share = (wanted - own[above - 1]) / (own[above] - own[above - 1])
            return ordered[..., above - 1].lerp(ordered[..., above], share)
        location, scale = forecast[..., :1], forecast[..., 1:2]
        probability = torch.tensor(levels, dtype=torch.float64)
        if self.kind == "normal":
            return location + scale * torch.special.ndtri(probability).to(forecast)
        return location + scale * _student_quantile(probability, forecast[..., 2:])

    def error(
        self,
        forecast: Float[Tensor, "batch horizon target output"],
        future: Float[Tensor, "batch horizon target"],
        mask: Bool[Tensor, "batch horizon target"] | None = None,
    ) -> Float[Tensor, ""]:
        """The training loss, averaged over what was measured; 0 where nothing was."""
        if self.kind == "point" and self.loss == "mse" and mask is None:
            # One kernel each way, and a view that costs nothing backwards: a tenth of a linear model's step.
            return F.mse_loss(forecast.squeeze(-1), future)
        losses = self._losses(forecast, future)
        if self.kind == "point" and self.loss == "arctan_mae":
            steps = torch.arange(1, losses.shape[1] + 1, dtype=losses.dtype, device=losses.device)
            losses = losses * (torch.pi / 4 + 1 - torch.atan(steps))[:, None]
        if mask is None:
            return losses.mean()
        return losses.masked_fill(~mask, 0.0).sum() / mask.sum().clamp(min=1)

    def _losses(self, forecast: Tensor, future: Tensor) -> Tensor:
        if self.kind == "point":
            return POINT_LOSSES[self.loss](forecast[..., 0], future)
        if self.kind == "quantile":
            levels = torch.tensor(self.levels, dtype=forecast.dtype, device=forecast.device)
            missed = future[..., None] - forecast
            return 2 * torch.maximum(levels * missed, (levels - 1) * missed).mean(dim=-1)
        distribution: torch.distributions.Distribution
        if self.kind == "normal":
            distribution = torch.distributions.Normal(forecast[..., 0], forecast[..., 1], validate_args=False)
        else:
            distribution = torch.distributions.StudentT(
                forecast[..., 2], forecast[..., 0], forecast[..., 1], validate_args=False
            )
        return -distribution.log_prob(future)


def _huber(forecast: Tensor, future: Tensor) -> Tensor:
    return F.huber_loss(forecast, future, reduction="none")


def _absolute(forecast: Tensor, future: Tensor) -> Tensor:
    return (forecast - future).abs()


def _square(forecast: Tensor, future: Tensor) -> Tensor:
    return (forecast - future).square()


POINT_LOSSES = {"mse": _square, "mae": _absolute, "huber": _huber, "arctan_mae": _absolute}


def _student_quantile(probability: Tensor, freedom: Tensor) -> Tensor:
    """Quantiles of Student's t; scipy's, since torch has none."""
    from scipy.special import stdtrit

    found = stdtrit(freedom.detach().cpu().double().numpy(), probability.numpy())
    return torch.from_numpy(found).to(freedom)
