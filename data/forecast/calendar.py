"""Grids of time: steps, stamps, calendar features and the seasons to try. Light: numpy alone, but for time zones.

Stamps are int64 nanoseconds since 1970 (UTC) or, where the step is an integer, plain step numbers.
"""

import re
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from jaxtyping import Float32, Int

from data.errors import ConfigError
from data.extras import require

SECOND = 1_000_000_000
MINUTE, HOUR, DAY, WEEK = 60 * SECOND, 3600 * SECOND, 86_400 * SECOND, 7 * 86_400 * SECOND
UNITS = {"ns": 1, "us": 1000, "ms": 1_000_000, "s": SECOND, "min": MINUTE, "h": HOUR, "D": DAY}
"""Steps of a fixed length by their pandas name, ns, shortest first."""
MONTHS = {"MS": 1, "ME": 1, "QS": 3, "QE": 3, "YS": 12, "YE": 12}
"""Steps of whole months by their pandas name; those in E have every stamp on the last day of its month."""
_OLD = {"H": "h", "T": "min", "S": "s", "L": "ms", "U": "us", "N": "ns", "M": "ME", "Q": "QE", "A": "YE", "Y": "YE",
        "d": "D", "AS": "YS", "w": "W", "AE": "YE", "m": "min"}  # fmt: skip
_ANCHORED = re.compile(r"-(JAN|FEB|MAR|APR|MAY|JUN|JUL|AUG|SEP|OCT|NOV|DEC|MON|TUE|WED|THU|FRI|SAT|SUN)$")


@dataclass(frozen=True)
class Step:
    """What lies between two stamps of a grid."""

    kind: Literal["fixed", "months", "business", "integer"]
    size: int
    """ns; months; working days (1); or integer steps."""
    month_end: bool = False

    def __str__(self) -> str:
        """The step as a pandas frequency, or an integer."""
        if self.kind == "integer":
            return str(self.size)
        if self.kind == "business":
            return "B"
        if self.kind == "months":
            months, letter = next(
                (m, unit) for m, unit in ((12, "Y"), (3, "Q"), (1, "M")) if self.size % m == 0 and self.size >= m
            )
            return f"{'' if self.size == months else self.size // months}{letter}{'E' if self.month_end else 'S'}"
        unit = next(name for name in reversed(UNITS) if self.size % UNITS[name] == 0)
        return f"{'' if self.size == UNITS[unit] else self.size // UNITS[unit]}{unit}"

    @property
    def nanoseconds(self) -> int:
        """About how long it is; 0 for an integer step."""
        lengths = {"fixed": self.size, "months": self.size * 30 * DAY, "business": DAY, "integer": 0}
        return lengths[self.kind]

    @property
    def local(self) -> bool:
        """Whether the grid follows the local calendar: a day may have 23 or 25 hours."""
        return self.kind in ("months", "business") or (self.kind == "fixed" and self.size % DAY == 0)


def parse_step(text: str) -> Step:
    """A step from a pandas frequency ("h", "15min", "D", "W", "MS", "B"; the names of older versions too), "integer",
    or a whole number.

    Raises:
        ConfigError: not understood.
    """
    if text == "integer":
        return Step("integer", 1)
    found = re.fullmatch(r"(\d*) *([A-Za-z]*)", _ANCHORED.sub("", text.strip()))
    count = int(found[1] or 1) if found else 0
    if found and found[0] and count:
        unit = _OLD.get(found[2], found[2])
        if not unit:
            return Step("integer", count)
        if unit in UNITS:
            return Step("fixed", count * UNITS[unit])
        if unit == "W":
            return Step("fixed", count * WEEK)
        if unit in MONTHS:
            return Step("months", count * MONTHS[unit], month_end=unit.endswith("E"))
        if unit == "B" and count == 1:
            return Step("business", 1)
    raise ConfigError(f"step: expected a frequency of pandas (h, 15min, D, W, MS, B, ...) or 'integer', got {text!r}.")


def stamps(start_ns: int, step: str | Step, first: int, stop: int, zone: str = "") -> np.ndarray:
    """Stamps first … stop - 1 of the grid that begins at `start_ns`: datetime64[ns] in UTC, or int64 step numbers.

    Where `zone` is given, steps of days, working days and months follow its clock.
    """
    grid = parse_step(step) if isinstance(step, str) else step
    number = np.arange(first, stop, dtype=np.int64)
    if grid.kind == "integer":
        return start_ns + number * grid.size
    if not (zone and grid.local):
        return _along(np.int64(start_ns), grid, number).view("datetime64[ns]")
    start = local_clock(np.array([start_ns], "datetime64[ns]"), zone).view(np.int64)[0]
    return utc(_along(start, grid, number).view("datetime64[ns]"), zone)


def _along(start: np.int64, grid: Step, number: Int[np.ndarray, " step"]) -> Int[np.ndarray, " step"]:
    """ns of the stamps `number` steps after `start`, on the clock that `start` is read from."""
    if grid.kind == "fixed":
        return start + number * grid.size
    day, clock = np.divmod(start, np.int64(DAY))
    if grid.kind == "business":
        dates = np.busday_offset(day.astype("datetime64[D]"), number, roll="forward")
    else:
        date = day.astype("datetime64[D]")
        month = date.astype("datetime64[M]")
        wanted = 31 if grid.month_end else int((date - month.astype("datetime64[D]")).astype(np.int64)) + 1
        months = month + number * grid.size
        length = ((months + 1).astype("datetime64[D]") - months.astype("datetime64[D]")).astype(np.int64)
        dates = months.astype("datetime64[D]") + (np.minimum(wanted, length) - 1)
    return dates.astype(np.int64) * DAY + clock


def positions(
    stamp: Int[np.ndarray, " row"], start: Int[np.ndarray, " row"], step: Step
) -> tuple[Int[np.ndarray, " row"], Int[np.ndarray, " row"]]:
    """Number of the nearest stamp of the grid that begins at `start`, and how far off each row lies (ns, or integers).

    `stamp` and `start` are on the clock that the grid follows (`Step.local`).
    """
    if step.kind in ("fixed", "integer"):
        number = np.floor_divide(stamp - start + step.size // 2, step.size)
        return number, stamp - start - number * step.size
    days, first = (np.floor_divide(value, DAY).astype("datetime64[D]") for value in (stamp, start))
    clock = (stamp - np.floor_divide(stamp, DAY) * DAY) - (start - np.floor_divide(start, DAY) * DAY)
    if step.kind == "business":
        on = np.busday_offset(days, 0, roll="backward")
        return np.busday_count(first, on), (days - on).astype(np.int64) * DAY + clock
    months = days.astype("datetime64[M]").astype(np.int64) - first.astype("datetime64[M]").astype(np.int64)
    number = np.floor_divide(months + step.size // 2, step.size)
    near = first.astype("datetime64[M]") + number * step.size
    length = ((near + 1).astype("datetime64[D]") - near.astype("datetime64[D]")).astype(np.int64)
    day = (first - first.astype("datetime64[M]").astype("datetime64[D]")).astype(np.int64) + 1
    on = near.astype("datetime64[D]") + (np.minimum(31 if step.month_end else day, length) - 1)
    return number, (days - on).astype(np.int64) * DAY + clock


def floored(stamp: Int[np.ndarray, " row"], step: Step) -> Int[np.ndarray, " row"]:
    """The last stamp at or before each that is a whole step of clock and calendar (weeks begin on Monday); for steps
    that end with the month, the end of the step that each lies in."""
    if step.kind in ("fixed", "integer"):
        monday = 4 * DAY if step.kind == "fixed" and step.size % WEEK == 0 else 0
        return stamp - (stamp - monday) % step.size
    days = np.floor_divide(stamp, DAY).astype("datetime64[D]")
    if step.kind == "business":
        return np.busday_offset(days, 0, roll="backward").astype(np.int64) * DAY
    month = days.astype("datetime64[M]").astype(np.int64)
    month -= month % step.size
    if step.month_end:
        return ((month + step.size).astype("datetime64[M]").astype("datetime64[D]").astype(np.int64) - 1) * DAY
    return month.astype("datetime64[M]").astype("datetime64[D]").astype(np.int64) * DAY


def local_clock(stamp: np.ndarray, zone: str) -> np.ndarray:
    """What the clocks of `zone` show (datetime64[ns]) at stamps in UTC; the same stamps for zone ''."""
    if not zone:
        return stamp
    index: Any = require("pandas", "forecast").DatetimeIndex(stamp).tz_localize("UTC").tz_convert(zone)
    return np.asarray(index.tz_localize(None).values.astype("datetime64[ns]"))


def utc(stamp: np.ndarray, zone: str) -> np.ndarray:
    """UTC (datetime64[ns]) of what the clocks of `zone` show: an hour that comes twice is the first one, an hour that
    is left out moves to the one after it."""
    pandas = require("pandas", "forecast")
    first = np.ones(len(stamp), bool)
    index = pandas.DatetimeIndex(stamp).tz_localize(zone, ambiguous=first, nonexistent="shift_forward")
    return np.asarray(index.tz_convert("UTC").tz_localize(None).values.astype("datetime64[ns]"))


def calendar_names(step: str | Step) -> tuple[str, ...]:
    """Names of the calendar features for this step, in the order of `calendar_features`."""
    grid = parse_step(step) if isinstance(step, str) else step
    if grid.kind == "integer":
        return ()
    if grid.kind == "months":
        return ("month",) if grid.size < 12 else ()
    clock = [(MINUTE, "second"), (HOUR, "minute"), (DAY, "hour")] if grid.kind == "fixed" else []
    names = [name for above, name in clock if grid.size % above]
    return (*names, "weekday", "day", "day of year")


def calendar_features(stamp: np.ndarray, step: str | Step, zone: str = "") -> Float32[np.ndarray, "step feature"]:
    """Where each stamp (datetime64[ns], UTC; int64 for an integer step) lies in its minute, hour, day, week, month and
    year, as far as the step lets them change: each from -0.5 to 0.5.

    For an hourly step they are the four features of the long-horizon benchmarks: hour / 23, weekday / 6 (Monday is 0),
    (day - 1) / 30 and (day of year - 1) / 365, less a half.
    """
    names = calendar_names(step)
    found = np.empty((len(stamp), len(names)), np.float32)
    if not names:
        return found
    clock = local_clock(stamp.astype("datetime64[ns]"), zone)
    nanoseconds = clock.view(np.int64)
    days = clock.astype("datetime64[D]")
    fields: dict[str, Any] = {
        "second": lambda: nanoseconds % MINUTE / SECOND / 59,
        "minute": lambda: nanoseconds % HOUR // MINUTE / 59,
        "hour": lambda: nanoseconds % DAY // HOUR / 23,
        "weekday": lambda: (days.astype(np.int64) + 3) % 7 / 6,  # 1970 began on a Thursday
        "day": lambda: (days - days.astype("datetime64[M]")).astype(np.int64) / 30,
        "day of year": lambda: (days - days.astype("datetime64[Y]")).astype(np.int64) / 365,
        "month": lambda: days.astype("datetime64[M]").astype(np.int64) % 12 / 11,
    }
    for k, name in enumerate(names):
        found[:, k] = np.minimum(fields[name](), 1) - 0.5
    return found


def seasons(step: str | Step) -> tuple[int, ...]:
    """Lengths of seasons that are worth a try, in steps, shortest first: of the hour (for steps up to five minutes),
    the day, the week and the year; none for integer steps."""
    grid = parse_step(step) if isinstance(step, str) else step
    if grid.kind == "business":
        return (5, 260)
    if grid.kind == "months":
        return (12 // grid.size,) if grid.size < 12 and 12 % grid.size == 0 else ()
    if grid.kind == "integer":
        return ()
    if grid.size == WEEK:
        return (52,)
    if grid.size % DAY == 0:
        periods = [WEEK, 365 * DAY]
    else:
        periods = [MINUTE] * (grid.size < MINUTE) + [HOUR] * (grid.size <= HOUR // 12) + [DAY, WEEK]
    return tuple(period // grid.size for period in periods if period % grid.size == 0 and period >= 2 * grid.size)
