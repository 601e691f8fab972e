"""How good forecasts, quantiles and intervals are, over everything that was measured.

Arrays are [row, horizon, target]; NaN in the truth is left out. Sums run over blocks of rows in double precision, so
memory stays small next to the arrays. There is no sMAPE: it is undefined where truth and forecast are zero, punishes
forecasts above the truth less than those below it, and depends on where a series' zero lies, so that scaled and
unscaled data give different rankings; MASE serves its purpose.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property, partial

import numpy as np
from jaxtyping import Float, Int
from numpy.typing import ArrayLike

from data.errors import PenstockError

_BLOCK = 1_000_000
"""Numbers that are scored at a time; bounds the memory, not the result."""
TOLERANCE = 0.03
"""Difference of nominal and actual coverage above which a report warns."""


@dataclass(frozen=True)
class Sums:
    """A loss added up over rows, and how many numbers went into it: averages in any direction."""

    total: Float[np.ndarray, "horizon target"]
    count: Int[np.ndarray, "horizon target"]

    @property
    def mean(self) -> float:
        """Over all; NaN where nothing was measured."""
        return _ratio(self.total.sum(), self.count.sum()).item()

    @property
    def by_horizon(self) -> Float[np.ndarray, " horizon"]:
        return _ratio(self.total.sum(axis=1), self.count.sum(axis=1))

    @property
    def by_target(self) -> Float[np.ndarray, " target"]:
        return _ratio(self.total.sum(axis=0), self.count.sum(axis=0))


@dataclass(frozen=True)
class PointScores:
    """Errors of point forecasts."""

    square: Sums
    absolute: Sums
    scaled: Sums | None
    """Absolute errors over the scale of their series and target; without those whose scale is zero or unknown."""

    @property
    def mse(self) -> float:
        return self.square.mean

    @property
    def rmse(self) -> float:
        return float(np.sqrt(self.square.mean))

    @property
    def mae(self) -> float:
        return self.absolute.mean

    @property
    def mase(self) -> float | None:
        """Mean absolute scaled error (Hyndman and Koehler 2006); None where no scales were given."""
        return None if self.scaled is None else self.scaled.mean

    @property
    def count(self) -> int:
        """Numbers that were measured and forecast."""
        return int(self.square.count.sum())


def point_scores(
    forecast: Float[np.ndarray, "row horizon target"],
    truth: Float[np.ndarray, "row horizon target"],
    items: Int[np.ndarray, " row"] | None = None,
    scales: Float[np.ndarray, "item target"] | None = None,
) -> PointScores:
    """Errors of `forecast`; with `items` and `scales` (see `seasonal_scale`) also scaled.

    Raises:
        PenstockError: a forecast is not a number where the truth is measured.
    """
    _check_finite(forecast, truth, "forecast")
    absolute = summed(truth, lambda rows: np.abs(_difference(forecast, truth, rows)))
    square = summed(truth, lambda rows: _difference(forecast, truth, rows) ** 2)
    if items is None or scales is None:
        return PointScores(square, absolute, None)
    divisor = np.where(scales > 0, scales, np.nan)
    scaled = summed(truth, lambda rows: np.abs(_difference(forecast, truth, rows)) / divisor[items[rows]][:, None])
    return PointScores(square, absolute, scaled)


def seasonal_scale(values: Float[np.ndarray, "step target"], season: int) -> Float[np.ndarray, " target"]:
    """Mean absolute error of the seasonal naive forecast within the training part of one series; NaN where unknown."""
    change = np.abs(values[season:] - values[:-season]) if len(values) > season else values[:0]
    return _ratio(np.nansum(change, axis=0), (~np.isnan(change)).sum(axis=0))


def skill(score: float, floor: float) -> float:
    """1 - score / floor: the share of the floor's error that is gone; NaN where the floor is without error."""
    return 1 - score / floor if floor > 0 else float("nan")


def window_errors(
    forecast: Float[np.ndarray, "row horizon target"],
    truth: Float[np.ndarray, "row horizon target"],
    power: int = 2,
) -> tuple[Float[np.ndarray, " row"], Int[np.ndarray, " row"]]:
    """Mean of |truth - forecast|^power of each window, NaN where nothing was measured; and the numbers behind it."""
    mean, count = np.empty(len(truth)), np.empty(len(truth), np.int64)
    for rows in _blocks(truth.shape):
        loss = np.abs(_difference(forecast, truth, rows)) ** power
        measured = ~np.isnan(loss)
        count[rows] = measured.sum(axis=(1, 2))
        mean[rows] = _ratio(np.where(measured, loss, 0.0).sum(axis=(1, 2)), count[rows])
    return mean, count


@dataclass(frozen=True)
class QuantileScores:
    """How good quantiles are; losses in the unit of the truth."""

    levels: tuple[float, ...]
    losses: tuple[Sums, ...]
    """Pinball loss of each level."""

    @property
    def pinball(self) -> Float[np.ndarray, " level"]:
        return np.array([loss.mean for loss in self.losses])

    @property
    def crps(self) -> float:
        """Continuous ranked probability score: twice the integral of the pinball loss over the levels (Laio and Tamea
        2007), each level standing for those that lie nearest to it. Too small where the levels leave out the tails."""
        return float(2 * self._weights @ self.pinball)

    @cached_property
    def _weights(self) -> np.ndarray:
        middles = np.add(self.levels[1:], self.levels[:-1]) / 2
        return np.diff([0.0, *middles, 1.0])


def quantile_scores(
    quantiles: Float[np.ndarray, "row horizon target level"],
    levels: tuple[float, ...],
    truth: Float[np.ndarray, "row horizon target"],
) -> QuantileScores:
    """Pinball losses max(q (y - f), (q - 1)(y - f)) at rising `levels` (Koenker and Bassett 1978)."""

    def loss(i: int, rows: slice) -> np.ndarray:
        above = -_difference(quantiles[..., i], truth, rows)
        return np.maximum(levels[i] * above, (levels[i] - 1) * above)

    return QuantileScores(levels, tuple(summed(truth, partial(loss, i)) for i in range(len(levels))))


@dataclass(frozen=True)
class IntervalScores:
    """Nominal against actual coverage, and what it costs in width."""

    nominal: float
    covered: Sums
    widths: Sums
    penalised: Sums

    @property
    def coverage(self) -> float:
        return self.covered.mean

    @property
    def width(self) -> float:
        """Mean width; infinite where an interval is."""
        return self.widths.mean

    @property
    def winkler(self) -> float:
        """Interval score (Winkler 1972; Gneiting and Raftery 2007): width plus 2 / (1 - nominal) times the miss."""
        return self.penalised.mean

    @property
    def is_off(self) -> bool:
        """Whether the coverage misses the nominal one by more than `TOLERANCE`."""
        return not abs(self.coverage - self.nominal) <= TOLERANCE


def interval_scores(
    low: Float[np.ndarray, "row horizon target"],
    high: Float[np.ndarray, "row horizon target"],
    truth: Float[np.ndarray, "row horizon target"],
    nominal: float,
) -> IntervalScores:
    """Coverage, width and interval score of [low, high] where the truth was measured."""

    def parts(rows: slice) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        bottom, top = (end[rows].astype(np.float64) for end in (low, high))
        return bottom, top, truth[rows].astype(np.float64)

    def inside(rows: slice) -> np.ndarray:
        bottom, top, value = parts(rows)
        return np.where(np.isnan(value), np.nan, (value >= bottom) & (value <= top))

    def width(rows: slice) -> np.ndarray:
        bottom, top, value = parts(rows)
        return np.where(np.isnan(value), np.nan, top - bottom)

    def score(rows: slice) -> np.ndarray:
        bottom, top, value = parts(rows)
        missed = np.maximum(bottom - value, 0) + np.maximum(value - top, 0)
        return top - bottom + 2 / (1 - nominal) * missed

    return IntervalScores(nominal, summed(truth, inside), summed(truth, width), summed(truth, score))


def summed(truth: Float[np.ndarray, "row horizon target"], loss: Callable[[slice], np.ndarray]) -> Sums:
    """`loss(rows)` [row, horizon, target] added up over blocks of rows, NaN left out."""
    total = np.zeros(truth.shape[1:])
    count = np.zeros(truth.shape[1:], np.int64)
    for rows in _blocks(truth.shape):
        values = loss(rows)
        measured = ~np.isnan(values)
        count += measured.sum(axis=0)
        total += np.where(measured, values, 0.0).sum(axis=0)
    return Sums(total, count)


def _blocks(shape: tuple[int, ...]) -> Iterator[slice]:
    step = max(_BLOCK // max(int(np.prod(shape[1:])), 1), 1)
    return (slice(start, start + step) for start in range(0, shape[0], step))


def _difference(forecast: np.ndarray, truth: np.ndarray, rows: slice) -> np.ndarray:
    return forecast[rows].astype(np.float64) - truth[rows]


def _ratio(total: ArrayLike, count: ArrayLike) -> np.ndarray:
    total, count = np.asarray(total, np.float64), np.asarray(count)
    return np.divide(total, count, out=np.full(total.shape, np.nan), where=count > 0)


def _check_finite(forecast: np.ndarray, truth: np.ndarray, name: str) -> None:
    """A forecast of NaN must not pass for a truth that was not measured."""
    for rows in _blocks(truth.shape):
        if (~np.isfinite(forecast[rows]) & ~np.isnan(truth[rows])).any():
            raise PenstockError(
                f"scores: the {name} holds values that are not finite where the truth is measured; look for windows "
                "without any measured input, or for a training that diverged."
            )
