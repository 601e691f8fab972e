"""The leak test: whatever comes after an origin is overwritten with rubbish, and no bit of the forecast may change.

A model, scaler, interval or choice that looks ahead is found however little it gains by it. What is allowed to see
the future, covariates known ahead, stays as it is.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int

from data.errors import PenstockError
from data.forecast.garbage import Garbage
from data.forecast.series_store import Series

Arrays = Mapping[str, np.ndarray]
ForecastAt = Callable[[Series, np.ndarray, np.ndarray], Arrays]
"""All that is said of windows (items, origins), read from the series alone: forecast, quantiles, ...; rows first."""
Fit = Callable[[Series], Arrays]
"""All that is fitted or chosen: scaler, weights, season, look-back, the batches of a training."""

MOST_FAILURES = 20
"""Listed of each kind; one is enough to fail."""


@dataclass(frozen=True)
class LeakReport:
    """What the leak test found."""

    checked: int
    """Origins, and fits, that were compared."""
    failures: tuple[str, ...]

    @property
    def passed(self) -> bool:
        return not self.failures

    def __add__(self, other: "LeakReport") -> "LeakReport":
        return LeakReport(self.checked + other.checked, self.failures + other.failures)


def check_forecasts(
    forecast_at: ForecastAt,
    store: Series,
    items: Int[np.ndarray, " row"],
    origins: Int[np.ndarray, " row"],
    *,
    offsets: Int[np.ndarray, " item"] | None = None,
    seed: int = 0,
) -> LeakReport:
    """Forecasts of each origin, with all series as they are and with rubbish in all of them from that moment on.

    `offsets` is the number of row 0 of each series on a time axis that all share, for series that do not start at the
    same moment: then a forecast may not use later values of another series either. Origins of one moment are forecast
    together, in the same batch both times.

    Raises:
        PenstockError: no origins, or an array without one row per window.
    """
    if not len(items) or len(items) != len(origins):
        raise PenstockError(f"leak test: expected origins to test, got {len(items)} items, {len(origins)} origins.")
    starts = np.zeros(len(store.ids), np.int64) if offsets is None else np.asarray(offsets, np.int64)
    moments = np.asarray(origins) + starts[items]
    failures: list[str] = []
    for moment in np.unique(moments).tolist():
        rows = np.flatnonzero(moments == moment)
        asked = items[rows], origins[rows]
        spoiled = Garbage(store, np.clip(moment - starts, 0, store.lengths), seed + moment)
        clean = forecast_at(store, *asked)
        for name, array in clean.items():
            if len(array) != len(rows):
                raise PenstockError(f"leak test: expected {len(rows)} rows of '{name}', got {len(array)}.")
        if len(failures) < MOST_FAILURES:
            places = [f"origin {origin} of series '{store.ids[item]}'" for item, origin in zip(*asked, strict=True)]
            failures += _unlike(clean, forecast_at(store, *asked), places, store, "was forecast twice")
        if len(failures) < MOST_FAILURES:
            failures += _unlike(clean, forecast_at(spoiled, *asked), places, store, "had all after it overwritten")
    return LeakReport(len(items), tuple(failures[:MOST_FAILURES]))


def check_fit(fit: Fit, store: Series, ends: Int[np.ndarray, " item"], *, seed: int = 0) -> LeakReport:
    """Everything fitted or chosen, on the series as they are and with rubbish from row `ends[item]` on."""
    clean = fit(store)
    place = ["the fit"]
    failures = _unlike(_as_rows(clean), _as_rows(fit(store)), place, store, "was made twice")
    if not failures:
        spoiled = fit(Garbage(store, np.asarray(ends, np.int64), seed))
        failures = _unlike(_as_rows(clean), _as_rows(spoiled), place, store, "had all after its data's end overwritten")
    return LeakReport(1, tuple(failures[:MOST_FAILURES]))


def _as_rows(arrays: Arrays) -> dict[str, np.ndarray]:
    return {name: np.asarray(array)[None] for name, array in arrays.items()}


def _unlike(clean: Arrays, other: Arrays, places: list[str], store: Series, event: str) -> list[str]:
    """The first difference of each array and row, in words."""
    if set(clean) != set(other):
        return [f"{places[0]}: it {event}, and came with {sorted(other)} instead of {sorted(clean)}"]
    messages = []
    for name, before in clean.items():
        after = np.asarray(other[name])
        if before.shape != after.shape or before.dtype != after.dtype:
            messages.append(
                f"{places[0]}: it {event}, and '{name}' became {after.dtype} {after.shape} from {before.dtype} "
                f"{before.shape}"
            )
            continue
        unlike = _bits_differ(before, after)
        messages += [
            _difference(before[row], after[row], unlike[row], f"{places[row]}: it {event}", name, store)
            for row in np.flatnonzero(unlike.reshape(len(unlike), -1).any(axis=1)).tolist()
        ]
    return messages


def _difference(before: np.ndarray, after: np.ndarray, unlike: np.ndarray, head: str, name: str, store: Series) -> str:
    """Where two arrays first differ, and by how much; axis 1 of forecasts is the target."""
    at = tuple(int(i) for i in np.argwhere(unlike)[0])
    place = f"{name}[{', '.join(map(str, at))}]" if at else name
    targets = store.columns["targets"]
    if len(at) >= 2 and before.shape[1] == len(targets):
        place += f" (step {at[0]}, target '{targets[at[1]]}')"
    old, new = before[at], after[at]
    by = "" if before.dtype.kind not in "fiu" else f", by {float(new) - float(old):g}"
    return f"{head}, and {place} went from {old} to {new}{by}; {int(unlike.sum())} of {unlike.size} numbers differ"


def _bits_differ(before: np.ndarray, after: np.ndarray) -> np.ndarray:
    """True where two numbers are not the same bits; all NaN are alike, -0.0 and 0.0 are not."""
    if before.dtype.kind != "f":
        return before != after
    unlike = np.not_equal(before, after) | (np.signbit(before) != np.signbit(after))
    return unlike & ~(np.isnan(before) & np.isnan(after))
