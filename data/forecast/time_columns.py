"""Which columns of a table hold its stamps, and which tell its series apart. Imported late (pandas)."""

import difflib
import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from jaxtyping import Int

from data.errors import ConfigError, PenstockError
from data.extras import require
from data.forecast.calendar import DAY, HOUR, MINUTE
from data.forecast.columns import Column, ColumnsConfig
from data.forecast.reading import FILE_COLUMN
from data.forecast.stamps import NO_STAMP, Stamps, parse_clock, parse_stamps, parse_words

_TIME_NAME = re.compile(
    r"^(ds|dt|dteday|index|stamp)$|date|time|stamp|period|^(day|week|month|quarter|year)s?$", re.IGNORECASE
)
_STEP_NAME = re.compile(
    r"^(t|ds|step|time|time_?(idx|index|step)|step_?(no|number)|period|timestamp|tick)$", re.IGNORECASE
)
_DATE_NUMBER = re.compile(r"date|time|stamp|unix|epoch|^(ds|dt|t|month|year|period)$", re.IGNORECASE)
_HOUR_NAME = re.compile(r"^(hr|hrs|hour|hours|stunde|heure|hora|uhrzeit|hour_?of_?day)$", re.IGNORECASE)
_ID_NAME = re.compile(
    r"(^|[_ ])(id|ids|key|item|sku|store|shop|series|sensor|station|site|product|article|customer|client|meter"
    r"|household|region|country|city|state|dept|department|family|ticker|symbol|asset|unit|device|node|channel"
    r"|location|plant)([_ ]|$)|id$|_no$|^(name|code|group|zone)$",
    re.IGNORECASE,
)
_STRICT_ID = re.compile(r"^(id|ids|unique_?id|item_?id|series_?id|series|ts_?id|item|series_?name)$", re.IGNORECASE)
FEW_REPEATS = 0.05
"""Share of rows with a stamp that came before, below which a table counts as one series with duplicates."""
MOST_CANDIDATES = 12


def check_named(frame: Any, config: ColumnsConfig) -> None:
    """Raises ConfigError where a column is named that the table does not have."""
    for name, role in config.named().items():
        if name not in frame.columns:
            near = difflib.get_close_matches(name, list(frame.columns), 1, 0.5)
            hint = f" Did you mean '{near[0]}'?" if near else ""
            raise ConfigError(
                f"{role}: the table has no column '{name}'; it has {', '.join(map(str, frame.columns[:30]))}.{hint}"
            )


def find_stamps(frame: Any, config: ColumnsConfig) -> tuple[Stamps, list[Column]]:
    """The stamp of each row, and the columns that it was read from.

    Raises:
        PenstockError: no column can be read as stamps, or a cell of the one named cannot.
    """
    named = config.named()
    if config.time is None:
        free = [name for name in frame.columns if name not in named and name != FILE_COLUMN]
        time = _find_time(frame, free)
        if time is None:
            return _from_parts(frame, free)
        reason = "found: its cells are stamps"
    else:
        time, reason = config.time, "named"
    found = parse_stamps(frame[time], config.day_first)
    columns = [Column(time, "time", reason, int((found.values == NO_STAMP).sum()))]
    clock = config.clock or _find_clock(frame, found, [n for n in frame.columns if n not in named and n != time])
    if clock is None:
        return found, columns
    after = parse_clock(frame[clock])
    if after is None or found.integer:
        raise PenstockError(
            f"clock: expected times of day (18:00:00) or hours from 0 to 24 in every row of '{clock}', beside a column "
            f"of dates, got for example {frame[clock].iloc[0]!r}."
        )
    together = replace(
        found,
        values=np.where(found.values == NO_STAMP, NO_STAMP, found.values + after),
        how=f"{found.how} in '{time}' and the time of day in '{clock}'",
    )
    return together, [*columns, Column(clock, "clock", "named" if config.clock else "found: the time of day", 0)]


def _find_time(frame: Any, free: Sequence[str]) -> str | None:
    kind = require("pandas", "forecast").api.types
    rated: list[tuple[int, int, str]] = []
    for place, name in enumerate(free):
        column = frame[name]
        called = bool(_TIME_NAME.search(name)) or name.startswith("Unnamed: ")
        if kind.is_datetime64_any_dtype(column.dtype):
            rated.append((0 if called else 1, place, name))
        elif kind.is_numeric_dtype(column.dtype):
            # Separate columns of year and month are put together, not taken for stamps one by one.
            part = name.lower() in ("year", "month") and {"year", "month"} <= {other.lower() for other in free}
            if not part and _are_steps(column, name):
                rated.append((4, place, name))
        elif _are_dates(column):
            rated.append((2 if called else 3, place, name))
    return min(rated)[2] if rated else None


def _are_dates(column: Any) -> bool:
    """Whether a sample of a column's texts (or objects) can be read as dates."""
    pandas = require("pandas", "forecast")
    sample = column.dropna().drop_duplicates().head(50)
    if not len(sample):
        return False
    if not all(isinstance(value, str) for value in sample):
        return all(hasattr(value, "isoformat") and hasattr(value, "year") for value in sample)
    words = sample.astype(object).str.strip()
    digits = words.str.count(r"\d").min()
    if digits < 3 and not words.str.contains(r"[A-Za-z]{3}").all():
        return False
    zoned = bool(words.str.contains(r":\d\d.*(?:Z|[+-]\d\d:?\d\d)$").any())
    read, _ = parse_words(pandas.Series(words.to_numpy(), dtype=object), zoned, None)
    return bool(read.notna().mean() >= 0.7)


def _are_steps(column: Any, name: str) -> bool:
    """Whether a column of numbers can be stamps: by its name, and whole numbers that do not repeat all the time."""
    values = column.to_numpy(dtype=np.float64, na_value=np.nan)
    if not (_STEP_NAME.match(name) or _DATE_NUMBER.search(name)) or not np.isfinite(values).any():
        return False
    try:
        found = parse_stamps(column)
    except PenstockError:
        return False
    return bool(not found.integer or (_STEP_NAME.match(name) and len(np.unique(found.values)) > 2))


def _find_clock(frame: Any, stamps: Stamps, free: Sequence[str]) -> str | None:
    """The column with the time of day, where dates alone repeat."""
    there = stamps.values[stamps.values != NO_STAMP]
    if stamps.integer or (there % DAY).any() or len(np.unique(there)) == len(there):
        return None
    kind = require("pandas", "forecast").api.types
    for name in free:
        column = frame[name]
        number = kind.is_numeric_dtype(column.dtype)
        if (not number or _HOUR_NAME.match(name)) and (after := parse_clock(column)) is not None and after.any():
            return name
    return None


def _from_parts(frame: Any, free: Sequence[str]) -> tuple[Stamps, list[Column]]:
    """Stamps from separate columns of year, month, day, hour and minute.

    Raises:
        PenstockError: there are none.
    """
    pandas = require("pandas", "forecast")
    small = {name.lower(): name for name in free}
    parts = [part for part in ("year", "month", "day", "hour", "minute") if part in small]
    if parts[:2] == ["year", "month"]:
        table = pandas.DataFrame({part: frame[small[part]] for part in parts})
        if "day" not in parts:
            table, parts = table[["year", "month"]].assign(day=1), ["year", "month"]
        days = pandas.to_datetime(table[["year", "month", "day"]], errors="coerce")
        if days.notna().mean() > 0.9:
            values = np.where(days.isna(), NO_STAMP, days.astype("datetime64[ns]").to_numpy().view(np.int64))
            for part, length in (("hour", HOUR), ("minute", MINUTE)):
                if part in parts:
                    values = np.where(days.isna(), NO_STAMP, values + table[part].fillna(0).to_numpy(np.int64) * length)
            names = [small[part] for part in parts]
            found = Stamps(values, False, "", f"the columns {', '.join(names)}", naive=True)
            return found, [Column(name, "time", "found: part of the date") for name in names]
    cells = ", ".join(f"{name} ({frame[name].iloc[0]})" for name in list(frame.columns)[:12])
    raise PenstockError(
        f"no column of the table can be read as stamps. Its columns with their first cells: {cells}. "
        "Name the column of dates, Unix seconds or step numbers (time)."
    )


def find_series(
    frame: Any, stamps: Stamps, config: ColumnsConfig, taken: Sequence[str]
) -> tuple[Int[np.ndarray, " row"], list[str], list[Column]]:
    """Number of the series of each row, the name of each series, and the columns that tell them apart.

    Raises:
        PenstockError: stamps repeat, and no column tells why.
    """
    files = [FILE_COLUMN] if FILE_COLUMN in frame.columns else []
    if config.id is not None:
        names, reason = [*files, *config.id], "named"
    else:
        named = config.named()
        free = [n for n in frame.columns if n not in named and n not in taken and n != FILE_COLUMN]
        names, reason = (
            [*files, *_find_id(frame, stamps.values, free, files, config)],
            "found: tells rows of one stamp apart",
        )
    if not names:
        return np.zeros(len(frame), np.int64), [], []
    codes, labels = _grouped(frame, names)
    columns = [Column(n, "id", "file" if n == FILE_COLUMN else reason, int(frame[n].isna().sum())) for n in names]
    return codes, labels, columns


def _grouped(frame: Any, names: Sequence[str]) -> tuple[Int[np.ndarray, " row"], list[str]]:
    """Number of each row's combination of values in order of their appearance, and its name "a/b"."""
    pandas = require("pandas", "forecast")
    code = np.zeros(len(frame), np.int64)
    for name in names:
        own, values = pandas.factorize(frame[name], use_na_sentinel=False)
        code = pandas.factorize(code * len(values) + own)[0].astype(np.int64)
    firsts = np.unique(code, return_index=True)[1]
    rows = frame[list(names)].iloc[firsts].astype(object)
    return code, ["/".join(_label(value) for value in row) for row in rows.itertuples(index=False)]


def _label(value: Any) -> str:
    missing = value is None or value != value
    return (
        "(none)" if missing else str(int(value) if isinstance(value, float) and value.is_integer() else value).strip()
    )


def _find_id(
    frame: Any, stamp: np.ndarray, free: Sequence[str], files: Sequence[str], config: ColumnsConfig
) -> list[str]:
    pandas = require("pandas", "forecast")
    rows = len(frame)
    when = pandas.factorize(stamp)[0].astype(np.int64)
    base = _grouped(frame, files)[0] if files else np.zeros(rows, np.int64)

    def distinct(code: np.ndarray) -> int:
        return len(pandas.unique(code * (int(when.max()) + 1) + when))

    repeats = 1 - distinct(base) / rows
    candidates: dict[str, np.ndarray] = {}
    rated = sorted(
        (rate, place, n) for place, n in enumerate(free) if (rate := _id_rate(frame[n], n, repeats)) is not None
    )
    for _, _, name in rated[:MOST_CANDIDATES]:
        code = pandas.factorize(frame[name], use_na_sentinel=False)[0].astype(np.int64)
        if int(code.max()) + 1 <= rows / 2:
            candidates[name] = code
    if repeats <= FEW_REPEATS:
        # Stamps hardly repeat: one series, unless a column says by its name that it is a series' name.
        return [n for n, code in candidates.items() if _STRICT_ID.match(n) and code.max() < rows / 8][:1]
    enough = rows * (1 - 0.02 * repeats)
    for name, code in candidates.items():
        if distinct(_joined(base, code)) >= enough:
            return [name]
    chosen: list[str] = []
    joined, reached = base, distinct(base)
    while candidates and reached < enough and len(chosen) < 4:
        counts = {name: distinct(_joined(joined, code)) for name, code in candidates.items()}
        best = max(counts, key=lambda name: counts[name])
        if counts[best] <= reached:
            break
        joined, reached = _joined(joined, candidates.pop(best)), counts[best]
        chosen.append(best)
    # Rows that repeat whole are no sign of more series.
    if reached >= enough or reached >= (1 - FEW_REPEATS) * int((~frame.duplicated()).sum()):
        return chosen
    if config.duplicates != "auto":
        return []
    raise PenstockError(
        f"{100 * repeats:.3g} % of the rows have a stamp that came before, and no column tells them apart. In a table "
        "of several series, name the column of the series (id); in a table of one, the rows are duplicates that "
        "contradict each other: correct them, or give id as empty and say what to do with duplicates."
    )


def _joined(a: Int[np.ndarray, " row"], b: Int[np.ndarray, " row"]) -> Int[np.ndarray, " row"]:
    codes: np.ndarray = require("pandas", "forecast").factorize(a * (int(b.max()) + 1) + b)[0].astype(np.int64)
    return codes


def _id_rate(column: Any, name: str, repeats: float) -> int | None:
    """How likely a column names series, the lower the more; None where it cannot."""
    kind = require("pandas", "forecast").api.types
    called = bool(_ID_NAME.search(name))
    if kind.is_float_dtype(column.dtype) or kind.is_datetime64_any_dtype(column.dtype):
        return None
    if kind.is_bool_dtype(column.dtype):
        return 4
    if kind.is_integer_dtype(column.dtype):
        counts = column.value_counts()
        even = len(counts) > 1 and counts.min() >= 0.3 * counts.max() and counts.min() >= 3
        return 0 if called else (3 if even and repeats >= 0.4 else None)
    return 1 if called else 2
