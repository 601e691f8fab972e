"""Sampling with a network that predicts the end of the path rather than the velocity.

The flow is dx/dt = k(t) log_x(x̂(x, t)): at every moment towards the predicted end, at a rate k under which the share
r(t) = exp(-∫k) of the way remains while the prediction does not change. Then x moves along one geodesic, by exactly
1 - r(t') / r(t) of it, so a step has no error but that of a changing prediction, and can never overshoot. (Euler's
step k·dt moves beyond the prediction as soon as k·dt > 1.)
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal, Protocol, runtime_checkable

import torch
from torch import Tensor

from data.errors import ConfigError, PenstockError
from modules.geometry.manifold import Manifold, Point

Prediction = Callable[[Point, float], Point]
"""x̂(x, t): the end of the path that leads through `x` at time t, of every sample, at one common time."""

Method = Literal["first", "two-call", "multistep"]

METHODS: tuple[Method, ...] = ("first", "two-call", "multistep")


@runtime_checkable
class Schedule(Protocol):
    """How fast the state follows the prediction."""

    def fraction(self, t: float, t_next: float) -> Tensor:
        """Share of the way to the prediction that is covered from `t` to `t_next`; one value, or one per component of
        a tangent."""
        ...


@dataclass(frozen=True)
class LinearSchedule:
    """r(t) = 1 - t: the rate with which a straight path is passed, k = 1 / (1 - t)."""

    def fraction(self, t: float, t_next: float) -> Tensor:
        return torch.tensor(1.0 if t_next >= 1.0 else (t_next - t) / (1.0 - t), dtype=torch.float64)


@dataclass(frozen=True)
class ExponentialSchedule:
    """r(t) = exp(-rate t): a constant rate, which settles most of the way early."""

    rate: float = 10.0

    def __post_init__(self) -> None:
        if not (self.rate > 0 and math.isfinite(self.rate)):
            raise ConfigError(f"the rate of an exponential schedule must be positive and finite, got {self.rate}.")

    def fraction(self, t: float, t_next: float) -> Tensor:
        return torch.tensor(-math.expm1(-self.rate * (t_next - t)), dtype=torch.float64)


@dataclass(frozen=True)
class ProductSchedule:
    """One schedule for each run of tangent components, in their order: `parts` of (schedule, number of components)."""

    parts: tuple[tuple[Schedule, int], ...]

    def fraction(self, t: float, t_next: float) -> Tensor:
        return torch.cat([schedule.fraction(t, t_next).expand(size) for schedule, size in self.parts])


@dataclass(frozen=True)
class Denoised:
    """One call of the network: the state it was shown at `time`, and the end that it predicted."""

    time: float
    state: Point
    prediction: Point


def denoise(
    predict: Prediction,
    on: Manifold,
    x0: Point,
    times: Sequence[float],
    schedule: Schedule,
    *,
    method: Method = "first",
    project: Callable[[Point, float], Point] | None = None,
) -> Iterator[Denoised]:
    """Every call of the network from (times[0], x0) to the one at times[-1], lazily; the last prediction is the sample.

    Methods, all exact while the prediction stands still, in steps h of -log r:

    - `first`: one call per step; order 1.
    - `two-call`: exponential Runge-Kutta of order 2 (ETD2RK, Cox & Matthews 2002, eq. 22) in the tangent space at the
      step's start: a second call at its end gives the drift of the prediction.
    - `multistep`: the drift is taken from the call before (as in DPM-Solver++ 2M, Lu et al. 2022): order 2 from the
      second step on with one call per step; its first step, and a step that ends at the prediction, are of order 1.

    Args:
        project: applied to every state that a step leads to, at its time; keeps it on a constraint.

    Raises:
        ConfigError: unknown method.
        PenstockError: times that are not increasing in [0, 1].
    """
    if method not in METHODS:
        raise ConfigError(f"unknown sampling method '{method}'; available: {', '.join(METHODS)}.")
    if not len(times) or any(not a < b for a, b in pairwise(times)) or not (times[0] >= 0 and times[-1] <= 1):
        raise PenstockError(f"sampling needs increasing times in [0, 1], at least one, got {list(times)}.")
    keep = project or (lambda x, t: x)
    x, before = x0, None
    for t, t_next in pairwise(times):
        predicted = predict(x, t)
        yield Denoised(t, x, predicted)
        share = schedule.fraction(t, t_next).to(x)
        towards = on.log(x, predicted)
        move = share * towards
        if method == "two-call":
            end = keep(on.exp(x, move), t_next)
            there = predict(end, t_next)
            yield Denoised(t_next, end, there)
            move = move + drift_share(share) * (on.log(x, there) - towards)
        elif method == "multistep" and before is not None:
            # Drift per unit of -log r in the last step, times this step: shares of 1 have no such length.
            stretch = _length(share) / _length(before[1])
            usable = torch.isfinite(stretch) & (share < 1)
            drift = torch.where(usable, stretch, 0.0) * (towards - on.log(x, before[0]))
            move = move + drift_share(share) * drift
        before = (predicted, share)
        x = keep(on.exp(x, move), t_next)
    yield Denoised(times[-1], x, predict(x, times[-1]))


def drift_share(share: Tensor) -> Tensor:
    """φ = 1 - f / h with h = -log(1 - f): the share of the prediction's drift over a step that the state takes on.

    It goes as h / 2 for small steps, where the series is used, and is 1 for a step that ends at the prediction.
    """
    h = _length(share)
    small = h < 1e-2
    safe = torch.where(small, 1.0, h)
    exact = 1.0 - torch.where(small, 0.0, share) / safe
    return torch.where(small, h * (0.5 - h * (1 / 6 - h / 24)), exact)


def _length(share: Tensor) -> Tensor:
    """h = -log r(t') / r(t) of a step that covers `share` of the way; infinite where it covers all."""
    return -torch.log1p(-share.clamp(max=1.0))
