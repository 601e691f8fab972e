"""Dates, clocks and step numbers into stamps, and the step that lies between them. Imported late (pandas)."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Int

from data.errors import PenstockError
from data.extras import require
from data.forecast.calendar import DAY, HOUR, MINUTE, SECOND, UNITS, WEEK, Step, local_clock, utc
from data.forecast.reading import MISSING_WORDS, texts

NO_STAMP = np.iinfo(np.int64).min
"""What stands where a row has no stamp (as in pandas)."""
FAR = 253_402_300_800
"""The year 10000 in Unix seconds."""
_OFFSET = re.compile(r"\d[\d:.,]*\s*(Z|UTC|GMT|[+-]\d{2}:?\d{2}|[+-]\d{2})$", re.IGNORECASE)
_CLOCK = re.compile(r"(\d{1,2})[:.h](\d{2})(?:[:.](\d{2})(?:[.,]\d+)?)?\s*([AaPp]\.?[Mm]\.?)?$")
_UNIX = (("seconds", 1e8, SECOND), ("milliseconds", 1e11, 1_000_000), ("microseconds", 1e14, 1000),
         ("nanoseconds", 1e17, 1))  # fmt: skip


@dataclass(frozen=True)
class Stamps:
    """The stamps of a table's rows."""

    values: Int[np.ndarray, " row"]
    """ns since 1970 in UTC, or step numbers; NO_STAMP where a row has none."""
    integer: bool
    """Whether they are plain step numbers."""
    zone: str
    """Time zone to show them in; '' where they came without one."""
    how: str
    """How they were read, in words."""
    warnings: tuple[str, ...] = ()
    naive: bool = False
    """Whether `values` are clock readings of an unknown zone: `in_zone` moves them to UTC."""


def parse_stamps(column: Any, day_first: bool | None = None) -> Stamps:
    """A column of dates, Unix times or step numbers (pandas Series) as stamps.

    Raises:
        PenstockError: a cell that is none of these, a mixture of stamps with and without a time zone, or dates outside
            the years 1678 to 2261.
    """
    pandas = require("pandas", "forecast")
    kind = pandas.api.types
    if kind.is_datetime64_any_dtype(column.dtype):
        zone = getattr(column.dt, "tz", None)
        naive = column.dt.tz_convert("UTC").dt.tz_localize(None) if zone is not None else column
        return Stamps(_nanoseconds(naive, column.name), False, str(zone or ""), "dates", naive=zone is None)
    if kind.is_numeric_dtype(column.dtype) and not kind.is_bool_dtype(column.dtype):
        return _parse_numbers(column)
    if any(isinstance(value, str) for value in column.dropna().head(20)):
        return _parse_texts(column, day_first)
    dates = pandas.to_datetime(column, errors="coerce")  # dates as Parquet has them
    _refuse_unread(column, np.asarray(dates.isna()) & np.asarray(column.notna()))
    return Stamps(_nanoseconds(dates, column.name), False, "", "dates", naive=True)


def _nanoseconds(dates: Any, name: Any) -> Int[np.ndarray, " row"]:
    pandas = require("pandas", "forecast")
    try:
        values = dates.astype("datetime64[ns]")
    except (pandas.errors.OutOfBoundsDatetime, OverflowError) as error:
        raise PenstockError(
            f"column '{name}' holds dates before 1678 or after 2261, which cannot be counted in nanoseconds: "
            f"from {dates.min()} to {dates.max()}. Correct them, or number the steps with integers instead."
        ) from error
    return np.asarray(values.to_numpy().view(np.int64))


def _parse_numbers(column: Any) -> Stamps:
    raw = column.to_numpy(dtype=np.float64, na_value=np.nan)
    there = np.isfinite(raw)
    if not there.any():
        raise PenstockError(f"column '{column.name}' holds no stamp at all.")
    low, high = raw[there].min(), raw[there].max()
    whole = bool((raw[there] == np.floor(raw[there])).all())
    # Integers as such: nanoseconds do not fit a float.
    exact = column.to_numpy(dtype=np.int64) if there.all() and column.dtype.kind in "iu" else None
    for word, smallest, factor in _UNIX:
        if smallest <= low and high < FAR * SECOND / factor and not (word == "seconds" and high > 4e9):
            times = np.full(len(raw), NO_STAMP)
            times[there] = exact * factor if exact is not None else np.round(raw[there] * factor).astype(np.int64)
            return Stamps(times, False, "UTC", f"Unix {word}")
    dates = _compact_dates(column, raw, there) if whole else None
    if dates is not None:
        return dates
    if not whole:
        raise PenstockError(
            f"column '{column.name}' holds fractions such as {raw[there][np.argmax(raw[there] % 1 > 0)]:g}: expected "
            "dates, Unix seconds, or whole step numbers as stamps."
        )
    values = np.full(len(raw), NO_STAMP)
    values[there] = exact if exact is not None else raw[there].astype(np.int64)
    return Stamps(values, True, "", f"plain step numbers in '{column.name}'")


def _compact_dates(column: Any, raw: np.ndarray, there: np.ndarray) -> Stamps | None:
    """Integers such as 20130131, 201301 or (in a column that is called a year) 2013 as dates."""
    low, high = raw[there].min(), raw[there].max()
    named_year = "year" in str(column.name).lower()
    limits = {"YYYYMMDD": (1.7e7, 2.2e7), "YYYYMM": (1.7e5, 2.2e5), "YYYY": (1700, 2200) if named_year else (1, 0)}
    for form, (smallest, largest) in limits.items():
        if not smallest <= low <= high <= largest:
            continue
        factor = {"YYYYMMDD": 1, "YYYYMM": 100, "YYYY": 10000}[form]
        number = np.where(there, raw, low).astype(np.int64) * factor
        year, month, day = number // 10000, np.maximum(number // 100 % 100, 1), np.maximum(number % 100, 1)
        if month.max() > 12 or (form == "YYYYMM" and (raw[there] % 100 == 0).any()):
            continue
        months = ((year - 1970) * 12 + month - 1).astype("datetime64[M]")
        dates = months.astype("datetime64[D]") + (day - 1)
        if (dates.astype("datetime64[M]") != months).any():
            continue
        return Stamps(np.where(there, dates.astype(np.int64) * DAY, NO_STAMP), False, "", f"numbers {form}", naive=True)
    return None


def _parse_texts(column: Any, day_first: bool | None) -> Stamps:
    pandas = require("pandas", "forecast")
    codes, values = pandas.factorize(column)
    words = np.array([str(value).strip() for value in values], dtype=object)
    empty = np.array([word.lower() in MISSING_WORDS for word in words], bool)
    offsets = [match[1].upper() if (match := _OFFSET.search(word)) and ":" in word else "" for word in words]
    zoned = np.array([bool(offset) for offset in offsets], bool)
    if zoned.any() and not (zoned | empty).all():
        odd = words[np.argmax(~zoned & ~empty)]
        raise PenstockError(
            f"column '{column.name}' mixes stamps with a time zone ({words[np.argmax(zoned)]}) and without ({odd}). "
            "Write all of them with their offset, or all without."
        )
    dates, how = parse_words(pandas.Series(words[~empty], dtype=object), bool(zoned.any()), day_first)
    unread = np.zeros(len(words), bool)
    unread[~empty] = np.asarray(dates.isna())
    _refuse_unread(column, np.append(unread, False)[codes])
    stamps = np.full(len(words) + 1, NO_STAMP)
    stamps[:-1][~empty] = _nanoseconds(dates, column.name)
    warnings: tuple[str, ...] = ()
    zone = ""
    if zoned.any():
        distinct = sorted(set(offsets) - {""})
        zone = "UTC" if len(distinct) > 1 or distinct[0] in ("Z", "UTC", "GMT") else _fixed_zone(distinct[0])
        if len(distinct) > 1:
            warnings = (
                f"the stamps of '{column.name}' have {len(distinct)} offsets from UTC ({', '.join(distinct[:4])}): all "
                "were moved to UTC. Give the time zone they are from to show them in it.",
            )
    return Stamps(stamps[codes], False, zone, how, warnings, naive=not zoned.any())


def _fixed_zone(offset: str) -> str:
    digits = offset.replace(":", "").ljust(5, "0")
    return "UTC" if digits[1:] == "0000" else f"{digits[:3]}:{digits[3:]}"


def _refuse_unread(column: Any, unread: Bool[np.ndarray, " row"]) -> None:
    if unread.any():
        row = int(np.argmax(unread))
        raise PenstockError(
            f"column '{column.name}', row {row + 1}: expected a date (from 1678 to 2261), got {column.iloc[row]!r} "
            f"({int(unread.sum()):,} such cells). Correct them, or name another column of stamps (time)."
        )


def parse_words(words: Any, zoned: bool, day_first: bool | None) -> tuple[Any, str]:
    """Texts as dates (NaT where none fits), and how they were read."""
    pandas = require("pandas", "forecast")
    if words.str.fullmatch(r"\d{4}[- ]?Q[1-4]").all():
        quarters = pandas.PeriodIndex(words.str.replace(r"[- ]", "", regex=True), freq="Q")
        return quarters.to_timestamp().to_series(index=words.index), "quarters"
    tidy = words.str.replace(r"\s*(UTC|GMT)$", "Z", regex=True) if zoned else words

    def tried(form: str, those: Any) -> Any:
        found = pandas.to_datetime(those, format=form, errors="coerce", utc=zoned)
        return found.dt.tz_localize(None) if zoned else found

    iso = tried("ISO8601", tidy)
    if not iso.isna().any():
        return iso, "ISO dates with their offset from UTC" if zoned else "ISO dates"
    best, how, left = iso, "ISO dates", int(iso.isna().sum())
    sample = tidy.iloc[np.unique(np.linspace(0, len(tidy) - 1, 50).astype(int))]
    fits: list[tuple[Any, str]] = []
    for date in _date_forms(str(tidy.iloc[0]), day_first):
        forms = [f"{date}{clock}{'%z' if zoned else ''}" for clock in _CLOCKS]
        if not any(tried(form, sample).notna().any() for form in forms):
            continue
        # Some programs leave the clock out at midnight, so one column may need more than one form.
        found = tried(forms[0], tidy)
        for form in forms[1:]:
            if found.isna().any():
                found = found.fillna(tried(form, tidy))
        count = int(found.isna().sum())
        if not count:
            fits.append((found, date))
        elif count < left:
            best, how, left = found, f"dates written {date}", count
    if not fits:
        return best, how
    found, date = min(fits, key=lambda fit: _roughness(fit[0]))
    sure = len(fits) == 1 or day_first is not None
    return found, f"dates written {date}" + (
        "" if sure else " (the order of day and month that gives the evenest steps)"
    )


_CLOCKS = ("", " %H:%M", " %H:%M:%S", " %H:%M:%S.%f", "T%H:%M:%S", " %I:%M %p", " %I:%M:%S %p", " %H.%M", " %H", ":%H")


def _date_forms(first: str, day_first: bool | None) -> Iterator[str]:
    """Ways to read the date that `first` begins with."""
    mark = re.match(r"\d{1,4}([-/. ])", first)
    between = mark[1] if mark else "-"
    pairs = {True: ["%d{0}%m"], False: ["%m{0}%d"], None: ["%m{0}%d", "%d{0}%m"]}[day_first]
    if between == ".":
        pairs = pairs[::-1]
    for year in ("%Y", "%y"):
        yield from (f"{pair}{{0}}{year}".format(between) for pair in pairs)
    yield from (f"%Y{between}%m{between}%d", f"%Y{between}%d{between}%m", "%Y%m%d")
    yield from (form.format(between) for form in ("%d{0}%b{0}%Y", "%d{0}%b{0}%y", "%d{0}%B{0}%Y", "%b{0}%Y", "%m{0}%Y"))
    yield from ("%b %d, %Y", "%B %d, %Y", "%b %d %Y", "%d %b %Y", "%b %Y", "%B %Y", "%b-%y", "%b-%Y", "%a %b %d %Y")


def _roughness(dates: Any) -> tuple[int, int]:
    """How uneven the steps of dates are in their order in the table: kinds of steps, and steps backwards."""
    steps = np.diff(dates.to_numpy().astype("datetime64[s]").astype(np.int64))
    return len(np.unique(steps)), int((steps < 0).sum())


def parse_clock(column: Any) -> Int[np.ndarray, " row"] | None:
    """A column of clock times ('18:00:00', '6:30 pm') or hours (0 to 24) as ns after midnight; None where it is not."""
    kind = require("pandas", "forecast").api.types
    if kind.is_numeric_dtype(column.dtype) and not kind.is_bool_dtype(column.dtype):
        hours = column.to_numpy(dtype=np.float64, na_value=np.nan)
        if np.isfinite(hours).all() and hours.min() >= 0 and hours.max() <= 24 and (hours == np.floor(hours)).all():
            return hours.astype(np.int64) * HOUR
        return None
    words = texts(column)
    lookup: dict[Any, int] = {}
    for word in set(words.tolist()):
        match = _CLOCK.match(word) if word is not None else None
        if match is None or int(match[1]) > 24 or int(match[2]) > 59:
            return None
        hour = int(match[1]) % 12 + 12 * (match[4][0] in "pP") if match[4] else int(match[1])
        lookup[word] = hour * HOUR + int(match[2]) * MINUTE + int(match[3] or 0) * SECOND
    return np.array([lookup[word] for word in words], np.int64)


def in_zone(stamps: Stamps, zone: str, series: Int[np.ndarray, " row"]) -> Stamps:
    """Stamps without a zone as those of `zone` (moved to UTC), others to be shown in it.

    An hour that comes twice when clocks go back is told apart by its order within each series.

    Raises:
        PenstockError: an unknown time zone.
    """
    pandas = require("pandas", "forecast")
    try:
        pandas.Timestamp(0, tz=zone)
    except (KeyError, ValueError, OSError) as error:
        raise PenstockError(f"zone: expected a time zone such as 'Europe/Vienna' or 'UTC', got {zone!r}.") from error
    if stamps.integer or not stamps.naive:
        return Stamps(stamps.values, stamps.integer, "" if stamps.integer else zone, stamps.how, stamps.warnings)
    there = stamps.values != NO_STAMP
    clock = pandas.Series(stamps.values[there].view("datetime64[ns]"))
    again = pandas.DataFrame({"series": series[there], "clock": clock}).duplicated().to_numpy()
    index = pandas.DatetimeIndex(clock).tz_localize(zone, ambiguous=~again, nonexistent="shift_forward")
    values = np.full(len(there), NO_STAMP)
    values[there] = index.tz_convert("UTC").tz_localize(None).values.astype("datetime64[ns]").view(np.int64)
    return Stamps(values, False, zone, f"{stamps.how}, taken as local time", stamps.warnings)


def on_clock(values: Int[np.ndarray, " row"], step: Step, zone: str, *, back: bool = False) -> Int[np.ndarray, " row"]:
    """Stamps (UTC) on the clock that the grid follows, or `back`: local for steps of days and months in a zone."""
    if not zone or step.kind == "integer" or not step.local:
        return values
    moved = utc(values.view("datetime64[ns]"), zone) if back else local_clock(values.view("datetime64[ns]"), zone)
    return moved.view(np.int64)


def infer_step(
    values: Int[np.ndarray, " row"], series: Int[np.ndarray, " row"], integer: bool, zone: str
) -> tuple[Step, str]:
    """The step of stamps sorted by series and time, and the reason in words.

    Raises:
        PenstockError: no series has two different stamps.
    """
    if zone and not integer:
        # A day of 23 hours is a day: calendar steps show on the local clock, others on both.
        local = local_clock(values.view("datetime64[ns]"), zone).view(np.int64)
        step, reason = infer_step(local, series, False, "")
        if step.local:
            return step, reason
    steps = np.diff(values)[np.diff(series) == 0]
    steps = steps[steps > 0]
    if not len(steps):
        raise PenstockError(
            "no series has two different stamps, so there is no step to find: a series needs more rows."
        )
    distinct, counts = np.unique(steps, return_counts=True)
    usual, share = int(distinct[np.argmax(counts)]), float(counts.max() / len(steps))
    if integer:
        return Step("integer", usual), _share(share)
    calendar = _calendar_step(values, series, distinct)
    if calendar is not None:
        return calendar
    if share < 0.2:
        usual = _round_step(float(np.median(steps)))
        return Step("fixed", usual), "irregular stamps: the round step nearest to their median distance"
    return Step("fixed", usual), _share(share)


def _share(share: float) -> str:
    return "all distances" if share == 1 else f"the distance of {share * 100:.3g} % of the rows"


def _calendar_step(
    values: Int[np.ndarray, " row"], series: Int[np.ndarray, " row"], distinct: Int[np.ndarray, " kind"]
) -> tuple[Step, str] | None:
    """Months (with their quarters and years) or working days, where the stamps show them."""
    days = np.floor_divide(values, DAY).astype("datetime64[D]")
    if distinct.min() >= 28 * DAY - HOUR:
        months = days.astype("datetime64[M]")
        day = (days - months.astype("datetime64[D]")).astype(np.int64) + 1
        last = (months + 1).astype("datetime64[D]") - 1 == days
        same = bool((day == day.max()).all()) or bool(((day == day.max()) | last).all())
        if bool(last.all()) or same:
            counts = np.diff(months.astype(np.int64))[np.diff(series) == 0]
            counts = counts[counts > 0]
            size = int(np.bincount(counts).argmax())
            end = bool(last.all()) and not bool((day == day[0]).all() and day[0] <= 28)
            word = {1: "month", 3: "quarter", 12: "year"}.get(size, f"{size} months")
            return Step("months", size, month_end=end), f"the {'last' if end else 'same'} day of every {word}"
        return None
    weekday = (days.astype(np.int64) + 3) % 7
    if distinct.min() == DAY and (distinct % DAY == 0).all() and len(np.unique(days)) >= 10 and weekday.max() < 5:
        return Step("business", 1), "working days"
    return None


def _round_step(length: float) -> int:
    """The round step (of a clock or calendar) that is nearest to a length, by their ratio."""
    fine = [count * UNITS[unit] for unit in ("ns", "us", "ms") for count in (1, 2, 5, 10, 20, 50, 100, 200, 500)]
    sixty = [count * unit for unit in (SECOND, MINUTE) for count in (1, 2, 5, 10, 15, 20, 30)]
    rounds = np.array([*fine, *sixty, *(count * HOUR for count in (1, 2, 3, 4, 6, 8, 12)), DAY, WEEK])
    return int(rounds[np.argmin(np.abs(np.log(rounds / length)))])
