"""A table as it was read into series on regular grids, with the account of what was done. Imported late (pandas)."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float64, Int

from data.errors import PenstockError
from data.extras import require
from data.forecast.calendar import local_clock, parse_step
from data.forecast.columns import ColumnsConfig, Reading
from data.forecast.grid import Gridded, Rows, to_grid
from data.forecast.leaks import find_leaks
from data.forecast.roles import Roles, find_roles
from data.forecast.stamps import NO_STAMP, Stamps, in_zone
from data.forecast.time_columns import check_named, find_series, find_stamps

CHANGING = ("target", "observed", "known")
MANY_MERGED = 0.05
"""Share of the rows merged on the grid beyond which the table is called irregular."""
ARRAYS = {"target": "targets", "observed": "observed", "known": "known", "static": "static"}
"""Name of the array (data.forecast.kinds) and of the list of columns, by role."""


@dataclass(frozen=True)
class Table:
    """Series of one table."""

    ids: tuple[str, ...]
    reading: Reading
    columns: dict[str, list[str]]
    """Names of the columns of each array."""
    refused: dict[str, str]
    """Reason by series."""
    _gridded: Gridded
    _last: Int[np.ndarray, " series"]
    """Steps up to the last target, of every series; 0 where it has none."""
    _kept: Int[np.ndarray, " kept"]
    _static: Float64[np.ndarray, "series column"] | None

    def series(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """(id, arrays of FORECAST_SERIES) of each series that can be used."""
        counts = [len(self.columns[ARRAYS[role]]) for role in CHANGING]
        edges = np.cumsum([0, *counts])
        gridded = self._gridded
        for item_id, k in zip(self.ids, self._kept, strict=True):
            rows = slice(gridded.first[k], gridded.stop[k])
            position, values = gridded.position[rows], gridded.rows.values[rows]
            ends = {"target": self._last[k], "observed": self._last[k], "known": max(position[-1] + 1, self._last[k])}
            arrays: dict[str, Any] = {"start": np.int64(gridded.start[k])}
            for n, role in enumerate(CHANGING):
                if counts[n]:
                    inside = position < ends[role]
                    array = np.full((int(ends[role]), counts[n]), np.nan)
                    array[position[inside]] = values[inside, edges[n] : edges[n + 1]]
                    arrays[ARRAYS[role]] = array
            if self._static is not None:
                arrays["static"] = self._static[k]
            yield item_id, arrays


def read_series(frame: Any, name: str, config: ColumnsConfig) -> Table:
    """The series of a table (pandas frame) that is called `name`.

    Raises:
        PenstockError: whatever in the table leaves no sensible way to read it; says which column and row.
    """
    check_named(frame, config)
    rows = len(frame)
    frame, stamps, time_columns = _with_stamps(frame, config)
    series, labels, id_columns = find_series(frame, stamps, config, [column.name for column in time_columns])
    if config.zone is not None:
        stamps = in_zone(stamps, config.zone, series)
    shown = stamps.values
    if not stamps.integer:
        shown = local_clock(shown.view("datetime64[ns]"), stamps.zone).view(np.int64)
    roles = find_roles(frame, config, [*time_columns, *id_columns], shown, series, stamps.integer)
    warnings = [*stamps.warnings, *roles.warnings, *find_leaks(roles, config)]
    matrices = {role: roles.matrix(role) for role in CHANGING}
    values = np.concatenate([matrix for matrix in matrices.values() if matrix is not None], axis=1)
    sorted_rows = Rows(series, stamps.values, values)
    gridded = to_grid(sorted_rows, config.step, stamps.integer, stamps.zone, config.duplicates)
    static, numbers = _static(roles, series), np.unique(series)
    targets = len(roles.values["target"])
    last, reasons = _last_targets(gridded, targets)
    ids = labels or [name]
    refused = {ids[numbers[k]]: reason for k, reason in reasons.items()}
    kept = np.array([k for k in range(len(numbers)) if k not in reasons], np.int64)
    if not len(kept):
        raise PenstockError(f"{name}: no series can be used; the first, {next(iter(refused))}: {reasons[0]}")
    names = {ARRAYS[role]: list(roles.values[role]) for role in ARRAYS}
    reading = _reading(name, rows, rows - len(frame), stamps, roles, gridded, last, kept, ids, warnings, len(refused))
    return Table(tuple(ids[numbers[k]] for k in kept), reading, names, refused, gridded, last, kept, static)


def _with_stamps(frame: Any, config: ColumnsConfig) -> tuple[Any, Stamps, list[Any]]:
    """The rows that have a stamp, their stamps, and the columns they are from."""
    stamps, columns = find_stamps(frame, config)
    if config.step is not None and parse_step(config.step).kind == "integer" and not stamps.integer:
        # What looks like Unix seconds is a count where the user says so.
        column = frame[columns[0].name]
        if require("pandas", "forecast").api.types.is_integer_dtype(column.dtype):
            stamps = Stamps(column.to_numpy(np.int64), True, "", f"plain step numbers in '{column.name}'")
    there = stamps.values != NO_STAMP
    if not there.any():
        raise PenstockError(f"column '{columns[0].name}' holds no stamp at all.")
    if there.all():
        return frame, stamps, columns
    found = Stamps(stamps.values[there], stamps.integer, stamps.zone, stamps.how, stamps.warnings, stamps.naive)
    return frame[there], found, columns


def _static(roles: Roles, series: Int[np.ndarray, " row"]) -> Float64[np.ndarray, "series column"] | None:
    """One row per series: the first value that is not missing."""
    matrix = roles.matrix("static")
    if matrix is None:
        return None
    found = np.full((len(np.unique(series)), matrix.shape[1]), np.nan)
    number = np.unique(series, return_inverse=True)[1]
    for k in range(matrix.shape[1]):
        there = np.flatnonzero(np.isfinite(matrix[:, k]))[::-1]
        found[number[there], k] = matrix[there, k]
    return found


def _last_targets(gridded: Gridded, targets: int) -> tuple[Int[np.ndarray, " series"], dict[int, str]]:
    """Steps of each series up to its last target value, and the reasons of series without any."""
    there = np.isfinite(gridded.rows.values[:, :targets]).any(axis=1)
    ends = np.where(there, gridded.position + 1, 0)
    last = np.maximum.reduceat(ends, gridded.first)
    return last, {int(k): "no target value at all." for k in np.flatnonzero(last == 0)}


def _reading(
    name: str, rows: int, undated: int, stamps: Stamps, roles: Roles, gridded: Gridded,
    last: Int[np.ndarray, " series"], kept: Int[np.ndarray, " kept"], ids: list[str], warnings: list[str], refused: int,
) -> Reading:  # fmt: skip
    starts, ends = gridded.start[kept], _end_stamps(gridded, last)[kept]
    done, targets = gridded.treatment, list(roles.values["target"])
    cut = int((gridded.position[gridded.stop - 1] + 1 - last)[kept].sum()) if not roles.values["known"] else 0
    if cut:
        warnings = [
            *warnings,
            f"{cut:,} steps after the last target value hold nothing that is used; forecasts begin there.",
        ]
    warnings = [*warnings, *_early(targets, gridded, last, kept)]
    if done.merged > MANY_MERGED * len(gridded.position):
        warnings = [
            *warnings,
            f"the stamps are irregular: {done.merged:,} rows share a step of {gridded.step} with another one. Name the "
            "step that values are wanted for (step) if their mean is not what is meant.",
        ]
    ahead = _reach(roles, gridded, last, kept)
    short = [column for column, steps in ahead.items() if steps <= 0]
    if short:
        warnings = [
            *warnings,
            f"{', '.join(short[:8])} {'ends' if len(short) == 1 else 'end'} with the target: past forecasts can use "
            "what is known ahead, the next one needs rows with its values and an empty target.",
        ]
    return Reading(
        source=name,
        rows=rows,
        columns=tuple(roles.columns),
        stamps=stamps.how,
        zone=stamps.zone,
        step=str(gridded.step),
        step_reason=gridded.step_reason,
        first=_shown(starts.min(), stamps),
        last=_shown(ends.max(), stamps),
        series=len(kept),
        shortest=int(last[kept].min()),
        longest=int(last[kept].max()),
        steps=int(last[kept].sum()),
        **_gaps(gridded, last, kept, len(targets)),
        missing_codes=roles.missing_codes,
        unsorted=done.unsorted,
        equal_rows=done.equal_rows,
        conflicting_rows=done.conflicting_rows,
        duplicates=done.duplicates,
        moved=done.moved,
        moved_most=done.moved_most,
        merged=done.merged,
        undated=undated,
        ahead=ahead,
        constant=_constant(targets, gridded, kept, ids),
        refused=refused,
        warnings=tuple(warnings),
    )


def _early(
    targets: list[str], gridded: Gridded, last: Int[np.ndarray, " series"], kept: Int[np.ndarray, " kept"]
) -> list[str]:
    """A warning where some targets end before others in every series: the others may be meant as known ahead."""
    short = {}
    for k, name in enumerate(targets):
        ends = np.where(np.isfinite(gridded.rows.values[:, k]), gridded.position + 1, 0)
        steps = (last - np.maximum.reduceat(ends, gridded.first))[kept]
        if steps.min() > 0:
            short[name] = int(steps.min())
    if not short:
        return []
    listed = ", ".join(f"{name} (by {steps:,} steps)" for name, steps in list(short.items())[:8])
    return [
        f"targets that end before the others: {listed}. If what goes on is known ahead, name the target (target), "
        "and the other columns are read as known."
    ]


def _end_stamps(gridded: Gridded, last: Int[np.ndarray, " series"]) -> Int[np.ndarray, " series"]:
    """Stamp of the last step with a target; for steps of the calendar as the table has it."""
    if gridded.step.kind == "integer" or not gridded.step.local:
        return gridded.start + (last - 1) * gridded.step.size
    ends = np.where(gridded.position + 1 == np.repeat(last, gridded.stop - gridded.first), gridded.rows.stamp, NO_STAMP)
    found: np.ndarray = np.maximum.reduceat(ends, gridded.first)
    return found


def _shown(stamp: np.int64, stamps: Stamps) -> str:
    if stamps.integer:
        return str(int(stamp))
    shown = local_clock(np.array([stamp], "datetime64[ns]"), stamps.zone)[0]
    return str(shown.astype("datetime64[s]")).replace("T", " ")


def _gaps(
    gridded: Gridded, last: Int[np.ndarray, " series"], kept: Int[np.ndarray, " kept"], targets: int
) -> dict[str, int]:
    lengths = gridded.stop - gridded.first
    use = np.isin(np.arange(len(last)), kept)
    inside = (gridded.position < np.repeat(last, lengths)) & np.repeat(use, lengths)
    present = int(inside.sum())
    skipped = np.append(0, np.diff(gridded.position) - 1)
    skipped[gridded.first] = 0
    measured = np.isfinite(gridded.rows.values[inside, :targets]).sum()
    steps = int(last[kept].sum())
    return {
        "gap_steps": steps - present,
        "longest_gap": int(skipped[inside].max()) if present else 0,
        "missing_values": int(steps * targets - measured),
    }


def _reach(
    roles: Roles, gridded: Gridded, last: Int[np.ndarray, " series"], kept: Int[np.ndarray, " kept"]
) -> dict[str, int]:
    first = len(roles.values["target"]) + len(roles.values["observed"])
    reach: dict[str, int] = {}
    for k, name in enumerate(roles.values["known"]):
        ends = np.where(np.isfinite(gridded.rows.values[:, first + k]), gridded.position + 1, 0)
        reach[name] = int((np.maximum.reduceat(ends, gridded.first) - last)[kept].min())
    return reach


def _constant(targets: list[str], gridded: Gridded, kept: Int[np.ndarray, " kept"], ids: list[str]) -> tuple[str, ...]:
    values = gridded.rows.values[:, : len(targets)]
    low = np.minimum.reduceat(np.where(np.isnan(values), np.inf, values), gridded.first, axis=0)
    high = np.maximum.reduceat(np.where(np.isnan(values), -np.inf, values), gridded.first, axis=0)
    rows = [(kept[k], n) for k, n in np.argwhere(low[kept] == high[kept])]
    series = gridded.rows.series[gridded.first]
    return tuple(targets[n] if len(ids) == 1 else f"{targets[n]} of {ids[series[k]]}" for k, n in rows)
