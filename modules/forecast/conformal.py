"""Intervals around point forecasts from the errors that the same model made before.

Split conformal prediction (Vovk et al. 2005; Lei et al. 2018) takes the quantiles of the errors on a validation block.
Series drift, so its coverage does too. The trailing form takes, for each origin, the last errors that are known at it,
those whose target lies before the origin, step by step and target by target; it starts from the validation errors.
Errors come in calm and restless times: each is divided by a power of the level of the errors just before it (locally
weighted conformal prediction, Lei et al. 2018, section 5.2, with the level taken from time instead of the inputs).
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

import numpy as np
from jaxtyping import Float, Int

from data.errors import ConfigError, PenstockError
from modules.forecast.backtest import Backtest
from modules.forecast.trailing import compressed, trailing_quantile

SOURCES = ("own", "pooled", "largest", "none")
"""Where a window's interval comes from: errors of its own series; of all series, scaled; the largest error known, since
there were too few for a quantile; or nowhere: no error is known yet, and the interval is infinite."""
OWN, POOLED, LARGEST, NONE = range(4)
SMALLEST_LEVEL = 0.1
"""Recent level of the errors, at least, over the mean of all before."""
STRETCH = 10
"""Times `memory`: steps that are summed up in one go."""
_BLOCK = 4_000_000
"""Errors that are looked at together; bounds the memory, not the result."""


@dataclass(frozen=True)
class Intervals:
    """Quantiles around a backtest's forecasts."""

    levels: tuple[float, ...]
    quantiles: Float[np.ndarray, "row horizon target level"]
    source: Int[np.ndarray, "row horizon target"]
    """Position in `SOURCES`; the largest of all levels where they differ."""

    @cached_property
    def shares(self) -> Mapping[str, float]:
        """Share of the forecasts that each source gave the interval for."""
        counts = np.bincount(self.source.reshape(-1), minlength=len(SOURCES))
        return dict(zip(SOURCES, (counts / max(self.source.size, 1)).tolist(), strict=True))

    def band(self, nominal: float) -> tuple[Float[np.ndarray, "row horizon target"], ...]:
        """Lower and upper end of the central interval of `nominal` coverage.

        Raises:
            ConfigError: the quantiles at its two ends are not among the levels.
        """
        ends = [(1 - nominal) / 2, (1 + nominal) / 2]
        found = [next((i for i, level in enumerate(self.levels) if abs(level - end) < 1e-9), None) for end in ends]
        if None in found:
            raise ConfigError(
                f"an interval of {nominal:.0%} needs the quantiles {ends[0]:g} and {ends[1]:g}; there are "
                f"{list(self.levels)}."
            )
        return tuple(self.quantiles[..., i] for i in found)


@dataclass(frozen=True)
class Calibration:
    """The errors that the intervals of some forecasts rest on."""

    errors: Float[np.ndarray, "known horizon target"]
    """In the order in which they become known, over their level; NaN where nothing was measured."""
    stops: Int[np.ndarray, "horizon row"]
    """How many of them are known at each forecast."""
    scale: Float[np.ndarray, "row target"]
    """What they are multiplied by there."""


@dataclass(frozen=True, kw_only=True)
class TrailingConformal:
    """Conformal intervals from the last errors known at each origin."""

    window: int = 1000
    """Errors that count, per series, step and target: as many steps back where every step is an origin, else more."""
    least: int = 20
    """With fewer of its own a series takes the errors of all series, scaled."""
    pool: int = 10_000
    """Errors of all series that count then."""
    symmetric: bool = True
    """Quantiles of the absolute error, alike on both sides; else those of the signed error, which need more errors."""
    memory: int = 24
    """Steps over which the recent level of the errors is averaged, with exponential weights."""
    locality: float = 0.5
    """Power of that level that the width follows; 0: the level is not looked at."""

    def __post_init__(self) -> None:
        if self.memory < 1 or not 0 <= self.locality <= 1:
            raise ConfigError(
                f"conformal: expected memory >= 1 and 0 <= locality <= 1, got {self.memory} and {self.locality}."
            )
        if not 1 <= self.least <= self.window:
            raise ConfigError(f"conformal: expected 1 <= least <= window, got {self.least} and {self.window}.")
        if self.pool < self.least:
            raise ConfigError(f"conformal: pool must be at least `least` ({self.least}), got {self.pool}.")

    def intervals(
        self,
        history: Backtest | None,
        backtest: Backtest,
        levels: tuple[float, ...],
        scales: Float[np.ndarray, "item target"] | None = None,
    ) -> Intervals:
        """Quantiles of each forecast of `backtest`, from earlier forecasts in it and in `history`.

        `history` are the validation block's forecasts, made without its truth. `scales` is a typical error of each
        item and target, from the training part, that makes series comparable; None takes the mean absolute error in
        `history`. Cost: one sliding filter per level over all columns, whatever the stride of the origins.

        Raises:
            PenstockError: a window is in both, or they have other steps or targets.
        """
        _check_levels(levels)
        known = backtest if history is None else joined(history, backtest)
        quantiles = np.empty((*backtest.forecast.shape, len(levels)), backtest.forecast.dtype)
        source = np.empty(backtest.forecast.shape, np.int8)
        for rows, found in self.calibrations(known, backtest):
            quantiles[rows], source[rows] = self._around(backtest.forecast[rows], found, levels, self.window)
        few = np.flatnonzero((source >= LARGEST).any(axis=(1, 2)))
        if len(few) and len(np.unique(known.items)) > 1:
            scales = error_scales(known, backtest) if scales is None else scales
            pooled, origin = self._pooled(known, backtest, few, levels, scales)
            lacking = (source[few] >= LARGEST) & (origin < NONE)
            quantiles[few] = np.where(lacking[..., None], pooled, quantiles[few])
            source[few] = np.where(lacking, origin, source[few])
        return Intervals(levels, quantiles, source)

    def forecast(
        self,
        history: Backtest,
        point: Backtest,
        levels: tuple[float, ...],
        scales: Float[np.ndarray, "item target"] | None = None,
    ) -> Intervals:
        """Quantiles of forecasts whose truth nobody knows yet (NaN in `point`), from the errors of `history`."""
        return self.intervals(history, point, levels, scales)

    def calibrations(self, known: Backtest, backtest: Backtest) -> Iterator[tuple[slice, Calibration]]:
        """For each series in `backtest` its rows there and its errors in `known`, which holds those rows too."""
        of_item = dict(known.groups())
        for item, rows in backtest.groups():
            at = of_item[item]
            origins, asked = known.origins[at], backtest.origins[rows]
            level = self._level(known.residuals[at], origins, int(asked[0]))
            errors = known.residuals[at] / level[:, None]
            stops = _known_before(origins, asked, errors.shape[1])
            yield rows, Calibration(errors, stops, level[np.searchsorted(origins, asked)])

    def _around(
        self, forecast: np.ndarray, found: Calibration, levels: tuple[float, ...], window: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """Quantiles [row, horizon, target, level] of the forecasts and their source."""
        errors = found.errors
        rows, horizon, targets = forecast.shape
        quantiles = np.empty((rows, horizon, targets, len(levels)), forecast.dtype)
        source = np.empty(forecast.shape, np.int8)
        steps = max(_BLOCK // max(len(errors) * targets, 1), 1)
        for first in range(0, horizon, steps):
            part = slice(first, min(first + steps, horizon))
            columns = np.ascontiguousarray(errors[:, part].reshape(len(errors), -1).T, np.float64)
            if self.symmetric:
                np.abs(columns, out=columns)
            values, seen = compressed(columns)
            stops = np.repeat(found.stops[part], targets, axis=0)
            known = np.take_along_axis(seen, stops, axis=1)
            largest = _largest_known(columns, stops)
            chosen = np.where(known >= self.least, OWN, np.where(known > 0, LARGEST, NONE))
            for i, level in enumerate(levels):
                offset = self._offset(values, known, level, window)
                lacking = ((known < self.least) & (level != 0.5)) | np.isinf(offset)
                chosen = np.maximum(chosen, np.where(lacking & (known > 0), LARGEST, OWN))
                offset = np.where(lacking, largest if level > 0.5 else -largest, offset)
                shaped = offset.T.reshape(rows, part.stop - first, targets) * found.scale[:, None]
                quantiles[:, part, :, i] = forecast[:, part] + shaped
            source[:, part] = chosen.T.reshape(rows, part.stop - first, targets)
        return quantiles, source

    def _offset(self, values: np.ndarray, known: np.ndarray, level: float, window: int) -> np.ndarray:
        """What to add to the forecast for its quantile at `level`."""
        if not self.symmetric:
            return trailing_quantile(values, known, level, window)
        if level == 0.5:
            return np.zeros(known.shape)
        width = trailing_quantile(values, known, abs(2 * level - 1), window, upper=True)
        return np.sign(level - 0.5) * width

    def _pooled(
        self, known: Backtest, backtest: Backtest, rows: np.ndarray, levels: tuple[float, ...], scales: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Quantiles of `rows` of the backtest and their source, from the scaled errors of all series."""
        order = np.argsort(known.times, kind="stable")
        errors = (known.residuals / scales[known.items][:, None])[order]
        stops = _known_before(known.times[order], backtest.times[rows], errors.shape[1])
        found = Calibration(errors, stops, scales[backtest.items[rows]])
        quantiles, source = self._around(backtest.forecast[rows], found, levels, self.pool)
        return quantiles, np.where(source == OWN, POOLED, source).astype(np.int8)

    def _level(self, errors: np.ndarray, origins: np.ndarray, start: int) -> np.ndarray:
        """Level of the errors known at each origin of one series, to the power of `locality` [row, target].

        The absolute errors of each target step, over their mean at the same horizon before `start`, averaged over all
        forecasts of that step; then over time with weights falling by 1/e in `memory` steps. Never below a tenth of
        the mean of all steps so far: a series that stood still for a while gets no interval of width zero. Before the
        first error is known the first level after it stands in; nothing is judged by it earlier.
        """
        rows, horizon, targets = errors.shape
        if self.locality == 0:
            return np.ones((rows, targets))
        absolute = np.abs(errors.astype(np.float64))
        steps = origins[:, None] - origins[0] + np.arange(horizon)
        typical = _typical(np.where((steps < start - origins[0])[..., None], absolute, np.nan))
        levels = np.empty((rows, targets))
        for target in range(targets):
            part = absolute[..., target] / typical[:, target]
            measured = ~np.isnan(part)
            count = np.bincount(steps[measured], minlength=int(steps.max()) + 1)
            total = np.bincount(steps[measured], part[measured], minlength=len(count))
            levels[:, target] = _recent(total / np.maximum(count, 1), count > 0, self.memory)[origins - origins[0]]
        return levels**self.locality


def split_conformal(
    history: Backtest, backtest: Backtest, levels: tuple[float, ...], symmetric: bool = True
) -> Intervals:
    """Plain split conformal intervals: one width per item, step and target, from all errors of `history`.

    Raises:
        PenstockError: a series without errors in `history`.
    """
    _check_levels(levels)
    of_item = dict(history.groups())
    fixed = TrailingConformal(window=max(len(history), 1), least=1, pool=max(len(history), 1), symmetric=symmetric)
    quantiles = np.empty((*backtest.forecast.shape, len(levels)), backtest.forecast.dtype)
    source = np.empty(backtest.forecast.shape, np.int8)
    for item, rows in backtest.groups():
        if item not in of_item:
            raise PenstockError(f"split conformal: series {item} has no validation forecasts to take errors from.")
        errors = history.residuals[of_item[item]]
        stops = np.full((errors.shape[1], 1), len(errors))
        found = Calibration(errors, stops, np.ones((1, errors.shape[2])))
        zero = np.zeros_like(backtest.forecast[rows][:1])
        offset, source[rows] = fixed._around(zero, found, levels, fixed.window)
        quantiles[rows] = backtest.forecast[rows][..., None] + offset
    return Intervals(levels, quantiles, source)


def joined(history: Backtest, backtest: Backtest) -> Backtest:
    """Both in one, rows by item and origin.

    Raises:
        PenstockError: a window is in both, or they have other steps or targets, or one of them has no clock.
    """
    if history.forecast.shape[1:] != backtest.forecast.shape[1:]:
        raise PenstockError(
            f"conformal: expected the same horizon and targets, got {history.forecast.shape[1:]} in the history and "
            f"{backtest.forecast.shape[1:]} in the backtest."
        )
    if (history.clock is None) != (backtest.clock is None):
        raise PenstockError("conformal: history and backtest must both have a clock, or neither.")
    items = np.concatenate([history.items, backtest.items])
    origins = np.concatenate([history.origins, backtest.origins])
    order = np.lexsort((origins, items))
    return Backtest(
        items=items[order],
        origins=origins[order],
        forecast=np.concatenate([history.forecast, backtest.forecast])[order],
        truth=np.concatenate([history.truth, backtest.truth])[order],
        clock=None if history.clock is None else np.concatenate([history.times, backtest.times])[order],
    )


def error_scales(known: Backtest, backtest: Backtest) -> Float[np.ndarray, "item target"]:
    """Mean absolute error of each item and target over what was known before the item's first origin in `backtest`;
    where there is none the median of the other items, or 1."""
    count = int(max(known.items.max(), backtest.items.max())) + 1
    targets = known.forecast.shape[2]
    scales = np.full((count, targets), np.nan)
    first = {item: int(backtest.origins[rows.start]) for item, rows in backtest.groups()}
    for item, rows in known.groups():
        steps = known.origins[rows, None] + np.arange(known.forecast.shape[1])
        before = steps < first.get(item, np.iinfo(np.int64).max)
        errors = np.where(before[..., None], np.abs(known.residuals[rows]), np.nan).reshape(-1, targets)
        measured = ~np.isnan(errors)
        with np.errstate(invalid="ignore"):
            scales[item] = np.where(measured, errors, 0).sum(axis=0) / measured.sum(axis=0)
    scales[scales == 0] = np.nan
    for target in range(targets):
        column = scales[:, target]
        found = column[~np.isnan(column)]
        column[np.isnan(column)] = np.median(found) if len(found) else 1.0
    return scales


def _typical(absolute: np.ndarray) -> np.ndarray:
    """Mean absolute error [row, horizon, target] -> [horizon, target]; 1 for a target that has steps without any."""
    measured = ~np.isnan(absolute)
    mean = np.where(measured, absolute, 0.0).sum(axis=0) / np.maximum(measured.sum(axis=0), 1)
    return np.where((mean > 0).all(axis=0), mean, 1.0)


def _recent(values: np.ndarray, measured: np.ndarray, memory: int) -> np.ndarray:
    """Weighted mean of the measured values before each step; see `_level`."""
    values = np.where(measured, values, 0.0)
    weights = _decayed(measured.astype(float), memory)
    recent = _decayed(values, memory) / np.maximum(weights, np.finfo(float).tiny)
    before = np.cumsum(measured) - measured
    # A running sum less the value itself would not do: rounding lets a large value, not known yet, through.
    mean = np.concatenate([[0.0], np.cumsum(values)[:-1]]) / np.maximum(before, 1)
    level = np.maximum(recent, SMALLEST_LEVEL * mean)
    level[level <= 0] = 1.0
    first = int(np.argmax(before > 0))
    level[:first] = level[first]
    return level


def _decayed(values: np.ndarray, memory: int) -> np.ndarray:
    """Sum of the values before each step, each times exp(-age / memory), by running sums over stretches so short that
    exp(length / memory) stays far from overflow and from the precision of the numbers."""
    sums = np.zeros(len(values) + 1)
    stretch = STRETCH * memory
    for start in range(0, len(values), stretch):
        part = values[start : start + stretch]
        growth = np.exp(np.arange(1, len(part) + 1) / memory)
        sums[start + 1 : start + 1 + len(part)] = (sums[start] + np.cumsum(part * growth)) / growth
    return sums[:-1]


def _check_levels(levels: tuple[float, ...]) -> None:
    rising = all(low < high for low, high in pairwise(levels))
    if not levels or not rising or levels[0] <= 0 or levels[-1] >= 1:
        raise ConfigError(f"levels: expected rising numbers between 0 and 1, got {list(levels)}.")


def _known_before(known: np.ndarray, origins: np.ndarray, horizon: int) -> np.ndarray:
    """How many of the forecasts at `known` (rising) have a target before each origin, for each step [horizon, row]."""
    return np.searchsorted(known, origins - np.arange(horizon)[:, None], side="left")


def _largest_known(errors: np.ndarray, stops: np.ndarray) -> np.ndarray:
    """Largest absolute value among the first `stop` of each column; inf where there is none."""
    largest = np.maximum.accumulate(np.nan_to_num(np.abs(errors), nan=-np.inf, posinf=np.inf), axis=1)
    found = np.take_along_axis(largest, np.maximum(stops - 1, 0), axis=1)
    return np.where((stops > 0) & (found >= 0), found, np.inf)
