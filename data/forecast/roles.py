"""What each column of a table is to a forecast: target, known ahead, observed, static. Imported late (pandas)."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

import numpy as np
from jaxtyping import Bool, Float64, Int

from data.errors import PenstockError
from data.extras import require
from data.forecast.calendar import DAY, HOUR
from data.forecast.columns import Column, ColumnsConfig, Role
from data.forecast.reading import FILE_COLUMN, numbers, texts

MOST_VALUES = 24
"""Of a column of words: each value becomes a column of zeros and ones."""
CODES = (-200.0, -99.0, -99.9, -99.99, -999.0, -999.9, -9999.0, -32768.0, -99999.0, 999.0, 9999.0, 99999.0, 999999.0)
"""Numbers that files use for a missing value."""
_TARGET_NAME = re.compile(r"^(target|y|value|values|cnt|count|sales|unit_?sales|demand|quantity|qty)$", re.IGNORECASE)
_AHEAD_NAME = re.compile(
    r"fo(re|e)cast|day.?ahead|planned|scheduled|holiday|weekend|work(ing)?_?day|promo|campaign|budget", re.IGNORECASE
)
CALENDAR = "a function of the calendar"
_YEAR_NAME = re.compile(r"^(yr|year|jahr)s?$", re.IGNORECASE)
_COUNTER_NAME = re.compile(r"^(instant|index|row|rows|id|no|nr|number|record|unnamed: \d+|level_0)$", re.IGNORECASE)

Kind = Literal["number", "text", "mixed"]


@dataclass
class Content:
    """What a column of the table holds."""

    name: str
    kind: Kind
    values: Float64[np.ndarray, " row"]
    """NaN where missing, or where a word stands."""
    words: Any = None
    """Texts (None where missing), for a column of words."""
    missing: Mapping[str, int] = field(default_factory=dict)
    """Cells by the word that stood for a missing value."""
    wrong: int = -1
    """First row of the table that holds a word among numbers."""
    wrong_word: str = ""
    flags: bool = False
    """Whether its numbers are yes and no."""

    @property
    def absent(self) -> Bool[np.ndarray, " row"]:
        if self.kind == "text":
            return np.array([word is None for word in self.words])
        return np.isnan(self.values)

    @cached_property
    def codes(self) -> np.ndarray:
        """A number for each different value, negative where missing; asked for once values are final."""
        found: np.ndarray = require("pandas", "forecast").factorize(self.words if self.kind == "text" else self.values)[
            0
        ]
        return found


def content_of(column: Any) -> Content:
    """Numbers, words, or numbers with words among them."""
    name = str(column.name)
    values, missing, wrong = numbers(column)
    infinite = np.isinf(values)
    if infinite.any():
        values = np.where(infinite, np.nan, values)
        missing = {**missing, "inf": int(infinite.sum())}
    if wrong < 0:
        flags = column.dtype.kind == "b" or bool(
            np.isfinite(values).any() and column.dtype.kind == "O" and _flags(column)
        )
        return Content(name, "number", values, missing=missing, flags=flags)
    counts = column.value_counts()
    if len(counts) <= MOST_VALUES and counts.min() > 1:
        return Content(name, "text", values, words=texts(column))  # codes such as 0, a, b
    filled = int(column.notna().sum()) - sum(missing.values())
    if np.isfinite(values).sum() >= 0.5 * max(filled, 1):
        return Content(
            name, "mixed", values, missing=missing, wrong=int(column.index[wrong]), wrong_word=str(column.iloc[wrong])
        )
    return Content(name, "text", values, words=texts(column))


def _flags(column: Any) -> bool:
    return all(str(value).lower() in ("true", "false") for value in column.dropna().unique()[:3])


@dataclass
class Roles:
    """Columns by what they are to a forecast, as arrays of all rows."""

    columns: list[Column] = field(default_factory=list)
    values: dict[str, dict[str, Float64[np.ndarray, " row"]]] = field(
        default_factory=lambda: {role: {} for role in ("target", "known", "observed", "static")}
    )
    """By role and name, words as columns of zeros and ones (`column=value`)."""
    missing_codes: dict[str, int] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)

    def matrix(self, role: str) -> Float64[np.ndarray, "row column"] | None:
        columns = list(self.values[role].values())
        return np.stack(columns, axis=1) if columns else None


def find_roles(
    frame: Any,
    config: ColumnsConfig,
    taken: list[Column],
    stamp: Int[np.ndarray, " row"],
    series: Int[np.ndarray, " row"],
    integer: bool,
) -> Roles:
    """Give every column that is neither time nor id a role.

    Args:
        frame: the table.
        config: what the user named.
        taken: columns of time and ids.
        stamp: of each row, on the clock that it is shown on.
        series: number of the series of each row.
        integer: whether stamps are step numbers.

    Raises:
        PenstockError: no target, words in a target, a target without any value, or a known column that gives the target
            away.
    """
    roles = Roles(columns=list(taken))
    done = {column.name for column in taken}
    contents: dict[str, Content] = {}
    for name in frame.columns:
        if name in done or name == FILE_COLUMN:
            continue
        if name in config.ignore:
            roles.columns.append(Column(name, "ignored", "named"))
        else:
            contents[name] = content_of(frame[name])
    contents = _without_useless(contents, config, roles)
    _refuse_mixed(contents)
    _mark_missing(contents, config, roles)
    planned = _Planner(config, contents, stamp, series, integer).plan()
    for name, (role, reason) in planned.items():
        _add(roles, contents[name], role, reason, name in config.named(), series)
    if not roles.values["target"]:
        left = [f"{c.name} ({c.role}: {c.reason})" for c in roles.columns]
        raise PenstockError(
            f"no column of numbers is left to forecast: {', '.join(left[:20])}. Name the target (target)."
        )
    for column in [c for c in roles.columns if c.role in ("target", "known", "observed", "static")]:
        for word, count in contents[column.name].missing.items():
            key = f"'{word}'"
            roles.missing_codes[key] = roles.missing_codes.get(key, 0) + count
    order = {name: k for k, name in enumerate(frame.columns)}
    roles.columns.sort(key=lambda column: order.get(column.name, -1))
    return roles


def _without_useless(contents: dict[str, Content], config: ColumnsConfig, roles: Roles) -> dict[str, Content]:
    """Drop columns without any value, and counters of rows."""
    named = config.named()
    kept: dict[str, Content] = {}
    for name, content in contents.items():
        if content.absent.all():
            if named.get(name) == "target":
                raise PenstockError(
                    f"the target '{name}' holds no value at all: {len(content.values):,} rows are empty."
                )
            roles.columns.append(Column(name, "dropped", "all of it is missing", len(content.values)))
        elif name not in named and _counts_rows(content):
            roles.columns.append(Column(name, "dropped", "it counts the rows"))
        else:
            kept[name] = content
    return kept


def _counts_rows(content: Content) -> bool:
    if content.kind != "number" or not _COUNTER_NAME.match(content.name) or len(content.values) < 3:
        return False
    return bool((np.diff(content.values) == 1).all())


def _refuse_mixed(contents: Mapping[str, Content]) -> None:
    for content in contents.values():
        if content.kind == "mixed":
            raise PenstockError(_wrong_word(content))


def _wrong_word(content: Content) -> str:
    return (
        f"column '{content.name}' holds numbers and words: row {content.wrong + 1} of the table says "
        f"{content.wrong_word!r}. Correct the cell or leave it empty (NA, ? and - count as empty too), or leave the "
        "column out (ignore)."
    )


def _mark_missing(contents: Mapping[str, Content], config: ColumnsConfig, roles: Roles) -> None:
    """Make NaN of the numbers that stand for a missing value."""
    columns = [content for content in contents.values() if content.kind == "number"]
    given = config.missing is not None
    for code in config.missing if config.missing is not None else CODES:
        affected = [c for c in columns if (c.values == code).any() and (given or _beyond(c.values, code) is not None)]
        if not given and not any(_beyond(c.values, code) for c in affected):
            continue
        cells = 0
        for content in affected:
            hit = content.values == code
            if hit.sum() == np.isfinite(content.values).sum():
                continue
            content.values = np.where(hit, np.nan, content.values)
            cells += int(hit.sum())
        if cells:
            roles.missing_codes[f"{code:g}"] = cells
            if not given:
                roles.warnings.append(
                    f"{cells:,} cells hold {code:g}, which lies far from all other values: they were taken as missing. "
                    "Say which numbers mean missing (missing), or that none does, to read it in another way."
                )


def _beyond(values: Float64[np.ndarray, " row"], code: float) -> bool | None:
    """Whether `code` comes often and lies far beyond all other values; None where it is not the outermost value."""
    found = values[np.isfinite(values)]
    others = found[found != code]
    if len(others) < 3:
        return None
    low, high = others.min(), others.max()
    if low < code < high or (code > 0) != (code > high):
        return None
    away = (low - code) if code < low else (code - high)
    return bool(len(found) - len(others) >= 3 and away > 3 * max(high - low, 1e-12))


class _Planner:
    """Role and reason of every column."""

    def __init__(
        self,
        config: ColumnsConfig,
        contents: Mapping[str, Content],
        stamp: Int[np.ndarray, " row"],
        series: Int[np.ndarray, " row"],
        integer: bool,
    ) -> None:
        self.config, self.contents, self.series, self.integer, self.stamp = config, contents, series, integer, stamp
        self.named = config.named()
        self.several = len(series) > 0 and bool((series != series[0]).any())

    def plan(self) -> dict[str, tuple[Role, str]]:
        plan: dict[str, tuple[Role, str]] = {
            name: (self.named[name], "named")  # type: ignore[misc]  # time, ids and ignored columns are not here
            for name in self.contents
            if name in self.named
        }
        free = [name for name in self.contents if name not in plan]
        ahead: dict[str, str] = {}
        beyond: set[str] = set()
        if self.config.static is None and self.several:
            for name in [name for name in free if name not in (self.config.target or ()) and self._is_static(name)]:
                plan[name] = ("static", "one value per series")
                free.remove(name)
        if self.config.known is None:
            ahead = {name: reason for name in free if (reason := self._ahead_by_itself(name))}
        numeric = [name for name in free if self.contents[name].kind == "number" and not self.contents[name].flags]
        targets, reason = self._targets([name for name in numeric if name not in ahead], bool(ahead))
        if self.config.known is None:
            late = [name for name in free if name not in targets and name not in ahead]
            ahead |= dict.fromkeys(self._beyond_target(late, targets), "it has values after the last target")
            beyond = set(self._beyond_target(list(ahead), targets))
        for name in free:
            if name in targets:
                plan[name] = ("target", reason)
            elif ahead.get(name) == CALENDAR and name not in beyond:
                plan[name] = ("dropped", f"{CALENDAR}, which every forecast knows")
            elif name in ahead:
                plan[name] = ("known", ahead[name])
            elif self.config.observed is None:
                plan[name] = ("observed", "a column beside the target")
            else:
                plan[name] = ("ignored", "not named")
        return {name: plan[name] for name in self.contents}

    def _targets(self, numeric: list[str], ahead: bool) -> tuple[list[str], str]:
        if self.config.target is not None:
            return list(self.config.target), "named"
        called = [name for name in numeric if _TARGET_NAME.match(name)]
        if not called and ahead:
            called = [name for name in numeric if name == "OT"]
        if called:
            return called[:1], "found by its name"
        return numeric, "every column of numbers" if len(numeric) > 1 else "the column of numbers"

    def _is_static(self, name: str) -> bool:
        codes = self.contents[name].codes
        order = np.argsort(self.series, kind="stable")
        same = np.diff(self.series[order]) == 0
        return bool((np.diff(codes[order])[same] == 0).all()) and bool((codes != codes[0]).any())

    def _ahead_by_itself(self, name: str) -> str:
        """Why a column is known ahead by its name or since it repeats the calendar; '' where it is not."""
        if _TARGET_NAME.match(name):
            return ""
        if _AHEAD_NAME.search(name):
            return "its name says that it is known ahead"
        return CALENDAR if not self.integer and self._is_calendar(name) else ""

    def _is_calendar(self, name: str) -> bool:
        content = self.contents[name]
        codes = content.codes
        if codes.min() < 0 or not 1 < codes.max() + 1 <= 60:
            return False
        if content.kind == "number" and (content.values != np.floor(content.values)).any():
            return False
        days = np.floor_divide(self.stamp, DAY)
        span = int(days.max() - days.min())
        dates = days.astype("datetime64[D]")
        months = dates.astype("datetime64[M]")
        years = dates.astype("datetime64[Y]").astype(np.int64)
        month = months.astype(np.int64) % 12
        day = (dates - months.astype("datetime64[D]")).astype(np.int64)
        hour = np.floor_divide(self.stamp, HOUR) % 24
        keys = [(3, hour), (21, (days + 3) % 7), (90, day), (540, month), (540, month * 31 + day)]
        if _YEAR_NAME.match(name):
            keys.append((365, years - years.min()))
        return any(span >= least and _decides(key, codes) for least, key in keys)

    def _beyond_target(self, names: list[str], targets: list[str]) -> list[str]:
        """Columns that have values in rows after the last target value of their series."""
        if not names or not targets:
            return []
        measured = np.any([~self.contents[name].absent for name in targets if name in self.contents], axis=0)
        last = np.full(int(self.series.max()) + 1, np.iinfo(np.int64).min)
        np.maximum.at(last, self.series[measured], self.stamp[measured])
        later = self.stamp > last[self.series]
        if not later.any():
            return []
        return [name for name in names if not self.contents[name].absent[later].all()]


def _decides(key: Int[np.ndarray, " row"], codes: Int[np.ndarray, " row"]) -> bool:
    """Whether the key of a row decides its code, and keys come again."""
    first = np.full(int(key.max()) + 1, -1)
    first[key[::-1]] = codes[::-1]
    return bool((first[key] == codes).all()) and len(np.unique(key)) * 2 <= len(key)


def _add(roles: Roles, content: Content, role: Role, reason: str, named: bool, series: np.ndarray) -> None:
    """Put a column's values under its role, words as zeros and ones."""
    name, absent_rows = content.name, content.absent
    absent = int(absent_rows.sum())
    if role in ("ignored", "dropped"):
        roles.columns.append(Column(name, role, reason, absent))
        return
    if role == "target" and content.kind != "number":
        words = np.isnan(content.values) & ~absent_rows
        row = int(np.argmax(words if words.any() else ~absent_rows))
        raise PenstockError(
            f"the target '{name}' holds words: row {row + 1} says {content.words[row]!r}, expected a number. Correct "
            "the column or name another target."
        )
    codes = content.codes
    if role in ("known", "observed") and not named and (codes == codes[0]).all():
        roles.columns.append(Column(name, "dropped", "it never changes", absent))
        return
    if role == "static":
        _check_static(content, codes, series)
    if content.kind == "number":
        roles.values[role][name] = content.values
        roles.columns.append(Column(name, role, reason, absent))
        return
    values = sorted({word for word in content.words if word is not None})
    if len(values) > MOST_VALUES:
        if named:
            raise PenstockError(
                f"column '{name}' holds {len(values):,} different words; at most {MOST_VALUES} can be used as a "
                "covariate. Group them, or leave the column out (ignore)."
            )
        roles.columns.append(Column(name, "dropped", f"{len(values):,} different words", absent))
        return
    for value in values:
        roles.values[role][f"{name}={value}"] = np.where(content.absent, np.nan, content.words == value).astype(float)
    roles.columns.append(Column(name, role, reason, absent))


def _check_static(content: Content, codes: np.ndarray, series: np.ndarray) -> None:
    order = np.argsort(series, kind="stable")
    order = order[codes[order] >= 0]
    changed = (np.diff(codes[order]) != 0) & (np.diff(series[order]) == 0)
    if changed.any():
        row = int(order[1:][np.argmax(changed)])
        raise PenstockError(
            f"static: column '{content.name}' changes within a series, first in row {row + 1} of the table. A static "
            "column has one value per series; name it as observed or known."
        )
