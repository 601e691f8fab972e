"""Rows of a table onto the regular grid of each series: sorted, merged, moved, with gaps left open."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float64, Int

from data.errors import PenstockError
from data.forecast.calendar import DAY, HOUR, MINUTE, SECOND, Step, floored, parse_step, positions
from data.forecast.columns import Duplicates
from data.forecast.stamps import infer_step, on_clock

FEW_CONFLICTS = 0.05
"""Share of the rows that may contradict another one before a table is refused."""
MOST_EMPTY = 50
"""Steps of the grid per row of the table: beyond that, the step is not that of the table."""

Matrix = Float64[np.ndarray, "row column"]


@dataclass
class Rows:
    """Rows sorted by series and time."""

    series: Int[np.ndarray, " row"]
    stamp: Int[np.ndarray, " row"]
    """ns (UTC) or step numbers."""
    values: Matrix
    """All columns side by side."""


@dataclass(frozen=True)
class Treatment:
    """What was done to the rows; names as in Reading."""

    unsorted: bool = False
    equal_rows: int = 0
    conflicting_rows: int = 0
    duplicates: str = ""
    moved: int = 0
    moved_most: str = ""
    merged: int = 0


@dataclass(frozen=True)
class Gridded:
    """Rows on their grids: at most one per series and step."""

    rows: Rows
    position: Int[np.ndarray, " row"]
    """Step of the grid, 0 for the first row of its series."""
    first: Int[np.ndarray, " series"]
    """First row of each series that has rows, in the order of their numbers."""
    start: Int[np.ndarray, " series"]
    """Stamp of step 0: ns (UTC) or step number."""
    step: Step
    step_reason: str
    treatment: Treatment

    @property
    def stop(self) -> Int[np.ndarray, " series"]:
        """Row after the last one of each series."""
        return np.append(self.first[1:], len(self.position))


def to_grid(
    rows: Rows, step: str | None, integer: bool, zone: str, duplicates: Duplicates, *, equal_first: bool = True
) -> Gridded:
    """Sort rows, merge those of one stamp, find the step, and put every row on the nearest stamp of its grid.

    Args:
        rows: in any order; every row has a stamp.
        step: of the grid; None finds it.
        integer: whether stamps are step numbers.
        zone: whose clock days and months follow; '' for UTC.
        duplicates: see ColumnsConfig.
        equal_first: whether rows that are equal in all columns are merged without a word on their values.

    Raises:
        PenstockError: duplicates that are refused, no step, or a step that leaves nearly all of the grid empty.
    """
    rows, unsorted = _sorted(rows)
    rows, equal, conflicting = _without_equal(rows) if equal_first else (rows, 0, 0)
    said = ""
    if conflicting:
        how, said = _treat(duplicates, conflicting, len(rows.stamp), zone)
        rows = _merged(rows, how)
    rows, found, reason = _stepped(rows, step, integer, zone, duplicates)
    clock = on_clock(rows.stamp, found, zone)
    first = _firsts(rows.series)
    lengths = np.diff(np.append(first, len(clock)))
    anchor = np.repeat(_anchors(clock, rows.series, first, found), lengths)
    position, off = positions(clock, anchor, found)
    start = position[first]
    moved = int((off != 0).sum())
    most = _duration(int(np.abs(off).max()), integer) if moved else ""
    position = position - np.repeat(start, lengths)
    merged = 0
    same = _same(rows.series, position)
    if same.any():
        merged = int((same | np.roll(same, -1)).sum()) if len(same) else 0
        kept = np.flatnonzero(~same)
        rows = _merged(Rows(rows.series, position, rows.values), "mean", rows.stamp)
        position, first = position[kept], _firsts(rows.series)
    _refuse_empty(position, first, found)
    starts = _start_stamps(anchor[np.cumsum(lengths) - 1], start, found, zone)
    treatment = Treatment(unsorted, equal, conflicting, said, moved, most, merged)
    return Gridded(rows, position, first, starts, found, reason, treatment)


def _stepped(rows: Rows, step: str | None, integer: bool, zone: str, duplicates: Duplicates) -> tuple[Rows, Step, str]:
    """The step, its reason, and the rows: gathered where the named step is much longer than that of the table.

    Raises:
        PenstockError: no step, or one that does not go with the stamps.
    """
    if step is None:
        return rows, *infer_step(rows.stamp, rows.series, integer, zone)
    found = parse_step(step)
    if (found.kind == "integer") != integer:
        raise PenstockError(
            f"step {found} does not go with stamps that are {'step numbers' if integer else 'dates'}: name another."
        )
    own = infer_step(rows.stamp, rows.series, integer, zone)[0] if len(rows.stamp) > 1 else found
    size, fine = (found.size, own.size) if integer else (found.nanoseconds, own.nanoseconds)
    if 2 * fine > size or found.kind == "business":
        return rows, found, "named"
    begun = on_clock(floored(on_clock(rows.stamp, found, zone), found), found, zone, back=True)
    how = "mean" if duplicates in ("auto", "refuse") else duplicates
    gathered = _merged(Rows(rows.series, begun, rows.values), how)
    return gathered, found, f"named; each step is the {how} of the rows within it, which come every {own}"


def _sorted(rows: Rows) -> tuple[Rows, bool]:
    """By series and time, equal ones in the order of the table; and whether time ran backwards within a series."""
    series, stamp = np.diff(rows.series), np.diff(rows.stamp)
    if ((series > 0) | ((series == 0) & (stamp >= 0))).all():
        return rows, False
    order = np.argsort(rows.series, kind="stable")
    backwards = bool(((np.diff(rows.stamp[order]) < 0) & (np.diff(rows.series[order]) == 0)).any())
    order = np.lexsort((rows.stamp, rows.series))
    return Rows(rows.series[order], rows.stamp[order], rows.values[order]), backwards


def _same(series: Int[np.ndarray, " row"], stamp: Int[np.ndarray, " row"]) -> Bool[np.ndarray, " row"]:
    """Whether a row has series and stamp of the one before it."""
    return np.append(False, (np.diff(series) == 0) & (np.diff(stamp) == 0))[: len(series)]


def _firsts(series: Int[np.ndarray, " row"]) -> Int[np.ndarray, " series"]:
    return np.flatnonzero(np.append(True, np.diff(series) != 0)[: len(series)])


def _without_equal(rows: Rows) -> tuple[Rows, int, int]:
    """Rows less those that repeat another of their stamp; how many those were, and how many others share a stamp."""
    same = _same(rows.series, rows.stamp)
    if not same.any():
        return rows, 0, 0
    shared = np.flatnonzero(same | np.append(same[1:], False))
    # The few rows in question, ordered by their values, so that equal ones are neighbours.
    values = rows.values[shared]
    group = np.cumsum(~same)[shared]
    order = np.lexsort((*np.nan_to_num(values.T, nan=np.inf), group))
    ordered = values[order]
    equal = (ordered[1:] == ordered[:-1]) | (np.isnan(ordered[1:]) & np.isnan(ordered[:-1]))
    repeats = np.append(False, equal.all(axis=1) & (np.diff(group[order]) == 0))
    keep = np.ones(len(same), bool)
    keep[shared[order[repeats]]] = False
    rows = Rows(rows.series[keep], rows.stamp[keep], rows.values[keep])
    same = _same(rows.series, rows.stamp)
    return rows, int(repeats.sum()), int((same | np.append(same[1:], False)[: len(same)]).sum())


def _treat(duplicates: Duplicates, conflicting: int, count: int, zone: str) -> tuple[str, str]:
    """What to do with rows that contradict each other, and its words.

    Raises:
        PenstockError: refused.
    """
    if duplicates == "refuse" or (duplicates == "auto" and conflicting > max(FEW_CONFLICTS * count, 2)):
        hint = "" if zone else "; stamps in local time repeat an hour when clocks go back: name the time zone (zone)"
        raise PenstockError(
            f"{conflicting:,} of {count:,} rows share their stamp with a row of other values. If the table holds "
            "several series, name the column that tells them apart (id); else say what to take of duplicates: mean, "
            f"sum, first or last{hint}."
        )
    how = "mean" if duplicates == "auto" else duplicates
    return how, f"the {how} of each stamp was taken"


def _merged(rows: Rows, how: str, stamp: Int[np.ndarray, " row"] | None = None) -> Rows:
    """One row for each series and stamp: the mean, the sum, the first or the last. `stamp` goes along (its first)."""
    starts = np.flatnonzero(~_same(rows.series, rows.stamp))
    stamp = rows.stamp if stamp is None else stamp
    if how in ("first", "last"):
        taken = starts if how == "first" else np.append(starts[1:], len(rows.stamp)) - 1
        return Rows(rows.series[starts], stamp[starts], rows.values[taken])
    there = np.isfinite(rows.values)
    total = np.add.reduceat(np.where(there, rows.values, 0.0), starts, axis=0)
    count = np.add.reduceat(there.astype(np.int64), starts, axis=0)
    values = np.where(count > 0, total if how == "sum" else total / np.maximum(count, 1), np.nan)
    return Rows(rows.series[starts], stamp[starts], values)


def _anchors(
    clock: Int[np.ndarray, " row"], series: Int[np.ndarray, " row"], first: Int[np.ndarray, " series"], step: Step
) -> Int[np.ndarray, " series"]:
    """A stamp of each series' grid: where most of its rows lie, or a whole step of the clock where they agree on
    nothing."""
    if step.kind not in ("fixed", "integer"):
        return clock[first]
    phase = clock % step.size
    lengths = np.diff(np.append(first, len(clock)))
    if (phase == np.repeat(phase[first], lengths)).all():
        return clock[first]
    order = np.lexsort((phase, series))
    runs = np.flatnonzero(np.append(True, (np.diff(series[order]) != 0) | (np.diff(phase[order]) != 0)))
    counts = np.diff(np.append(runs, len(order)))
    owner = np.searchsorted(first, order[runs], side="right") - 1
    best = np.lexsort((counts, owner))
    best = best[np.append(np.diff(owner[best]) != 0, True)]
    usual = np.where(2 * counts[best] >= lengths, phase[order[runs[best]]], 0)
    # The nearest grid stamp to the first row, so that no position is negative.
    return clock[first] - (clock[first] - usual + step.size // 2) % step.size + step.size // 2


def _start_stamps(
    anchor: Int[np.ndarray, " series"], number: Int[np.ndarray, " series"], step: Step, zone: str
) -> Int[np.ndarray, " series"]:
    """Stamps (UTC, or step numbers) `number` steps after the anchors."""
    if step.kind in ("fixed", "integer"):
        return on_clock(anchor + number * step.size, step, zone, back=True)
    return on_clock(anchor, step, zone, back=True)  # their anchor is the first row, of number 0


def _refuse_empty(position: Int[np.ndarray, " row"], first: Int[np.ndarray, " series"], step: Step) -> None:
    cells = int((position[np.append(first[1:], len(position)) - 1] + 1).sum())
    if cells > MOST_EMPTY * len(position) and cells > 100_000:
        raise PenstockError(
            f"a grid of step {step} would have {cells:,} steps for the table's {len(position):,} rows: the stamps are "
            "not those of a regular series. Name a longer step (step), or the column of the series (id)."
        )


def _duration(size: int, integer: bool) -> str:
    if integer:
        return f"{size:,} steps"
    unit, length = next(((u, n) for u, n in _UNITS.items() if size >= n), ("ns", 1))
    return f"{size / length:.3g} {unit}"


_UNITS: Mapping[str, int] = {"days": DAY, "h": HOUR, "min": MINUTE, "s": SECOND, "ms": 1_000_000}
