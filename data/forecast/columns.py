"""What the user says about the columns of a table, and what each of them turned out to be."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Literal

from data.errors import ConfigError
from data.forecast.calendar import parse_step

Duplicates = Literal["auto", "mean", "sum", "first", "last", "refuse"]
Role = Literal["time", "clock", "id", "target", "known", "observed", "static", "ignored", "dropped"]


@dataclass(frozen=True, kw_only=True)
class ColumnsConfig:
    """Which column is what, and how stamps are read. What is None is found from the table, and reported."""

    time: str | None = None
    """Column of the stamps: dates, Unix seconds or milliseconds, or plain step numbers."""
    clock: str | None = None
    """Column with the time of day ('18:00:00') or the hour (0 to 24), where `time` holds the date only."""
    id: tuple[str, ...] | None = None
    """Columns that tell the series of a long table apart; () for a table of one series."""
    target: tuple[str, ...] | None = None
    """What is to be forecast."""
    known: tuple[str, ...] | None = None
    """Covariates that are known ahead of time: prices set in advance, holidays, forecasts of others."""
    observed: tuple[str, ...] | None = None
    """Covariates that are known up to now only."""
    static: tuple[str, ...] | None = None
    """What does not change along a series."""
    ignore: tuple[str, ...] = ()
    step: str | None = None
    """Step of the grid: a frequency as pandas writes it (h, 15min, D, W, MS, B), or 'integer'."""
    zone: str | None = None
    """Time zone of stamps that come without one, or to show stamps in that have one: 'Europe/Vienna', 'UTC'."""
    day_first: bool | None = None
    """Whether 10/03/2004 is the 10th of March."""
    missing: tuple[float, ...] | None = None
    """Numbers that stand for a missing value, such as -200; None looks for the usual ones, () takes none."""
    duplicates: Duplicates = "auto"
    """What becomes of rows that have the same stamp and other values. Equal rows are always merged. 'auto' takes their
    mean where that concerns at most 5 % of the rows, and refuses the table otherwise."""

    def __post_init__(self) -> None:
        if self.step is not None:
            parse_step(self.step)
        if self.clock is not None and self.time is None:
            raise ConfigError("clock is the time of day beside a date: say the column of the date too (time).")
        named: dict[str, str] = {}
        roles = ("time", "clock", "id", "target", "known", "observed", "static", "ignore")
        for role in roles:
            value = getattr(self, role)
            for name in (value,) if isinstance(value, str) else value or ():
                if name in named:
                    raise ConfigError(
                        f"column '{name}' is given as {named[name]} and as {role}; a column has one role."
                    )
                named[name] = role

    def named(self) -> dict[str, str]:
        """Role by column, of the columns that have been given one."""
        roles = ("time", "clock", "id", "target", "known", "observed", "static", "ignore")
        given = {role: getattr(self, role) for role in roles}
        return {
            name: role
            for role, value in given.items()
            for name in ((value,) if isinstance(value, str) else value or ())
        }


@dataclass(frozen=True)
class Column:
    """What a column of the table was taken for."""

    name: str
    role: Role
    reason: str
    missing: int = 0
    """Cells without a value, of the table's rows."""


@dataclass(frozen=True, kw_only=True)
class Reading:
    """How a table was read and what was done to it; the file itself is never changed."""

    source: str
    rows: int
    """Of the table."""
    columns: tuple[Column, ...]
    stamps: str
    """How stamps were read, in words."""
    zone: str
    step: str
    step_reason: str
    first: str
    """Stamp of the first row of all series."""
    last: str
    """Last stamp with a target, of all series."""
    series: int
    shortest: int
    """Steps of the shortest series."""
    longest: int
    steps: int
    """Of all series together, gaps included."""
    gap_steps: int = 0
    """Steps of the grid that no row of the table is for."""
    longest_gap: int = 0
    missing_values: int = 0
    """Target values that are missing, those of absent rows included."""
    missing_codes: Mapping[str, int] = field(default_factory=dict)
    """Cells by the number or word that stood for a missing value."""
    unsorted: bool = False
    equal_rows: int = 0
    """Rows left out since they repeat another."""
    conflicting_rows: int = 0
    """Rows that share their stamp with another row of other values."""
    duplicates: str = ""
    """What became of them."""
    moved: int = 0
    """Rows whose stamp was moved to the grid."""
    moved_most: str = ""
    """The largest move."""
    merged: int = 0
    """Rows that fell on the same stamp only when moved, and were averaged."""
    undated: int = 0
    """Rows left out since they have no stamp."""
    ahead: Mapping[str, int] = field(default_factory=dict)
    """Steps that each known column reaches beyond the last target, in the series where it is shortest."""
    constant: tuple[str, ...] = ()
    """Targets that never change, with their series."""
    refused: int = 0
    """Series that cannot be used."""
    warnings: tuple[str, ...] = ()

    def names(self, role: Role) -> tuple[str, ...]:
        """The columns of a role, in the order of the table."""
        return tuple(column.name for column in self.columns if column.role == role)

    def to_json(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> "Reading":
        """The reading that `to_json` gave."""
        known = {f.name for f in fields(cls)}
        values: dict[str, Any] = {name: value for name, value in stored.items() if name in known}
        values["columns"] = tuple(Column(**column) for column in values["columns"])
        values |= {name: tuple(values[name]) for name in ("constant", "warnings") if name in values}
        return cls(**values)

    def summary(self) -> list[str]:
        """Short sentences for the user, the general first."""
        where = f" in {self.zone}" if self.zone else ""
        length = f"{self.shortest:,}" if self.shortest == self.longest else f"{self.shortest:,} to {self.longest:,}"
        lines = [
            f"{self.source}: {self.rows:,} rows read as {self.series:,} series of {length} steps of {self.step} "
            f"({self.step_reason}), {self.first} to {self.last}{where}.",
            f"Stamps: {self.stamps}.",
        ]
        lines += [text for role in ("id", "target", "known", "observed", "static") if (text := self._listed(role))]
        lines += [text for role in ("ignored", "dropped") if (text := self._listed(role))]
        lines += self._treatments()
        return lines + [f"Warning: {text}" for text in self.warnings]

    def _listed(self, role: Any) -> str:
        reasons: dict[str, list[str]] = {}
        for column in self.columns:
            if column.role == role:
                reasons.setdefault(column.reason, []).append(column.name)
        words = {"id": "Series by", "target": "Targets", "known": "Known ahead", "observed": "Known up to now",
                 "static": "Static"}  # fmt: skip
        parts = [f"{_some(names)} ({reason})" for reason, names in reasons.items()]
        return f"{words.get(role, 'Left out')}: {'; '.join(parts)}." if parts else ""

    def _treatments(self) -> list[str]:
        lines = []
        if self.unsorted:
            lines.append("Rows were not in the order of time; they were sorted.")
        if self.equal_rows:
            lines.append(f"Duplicates: {self.equal_rows:,} rows repeat another one and were left out.")
        if self.conflicting_rows:
            lines.append(
                f"Duplicates: {self.conflicting_rows:,} rows share their stamp with a row of other values; "
                f"{self.duplicates}."
            )
        if self.undated:
            lines.append(f"{self.undated:,} rows have no stamp and were left out.")
        if self.moved:
            merged = f"; {self.merged:,} fell together and were averaged" if self.merged else ""
            lines.append(
                f"Irregular stamps: {self.moved:,} rows moved to the grid, by {self.moved_most} at most{merged}."
            )
        if self.gap_steps:
            lines.append(
                f"Gaps: {self.gap_steps:,} of {self.steps:,} steps have no row, {self.longest_gap:,} in a row at most; "
                "they are kept as missing, nothing is filled in."
            )
        if self.missing_values:
            lines.append(f"{self.missing_values:,} target values are missing (rows that are absent included).")
        if self.missing_codes:
            codes = ", ".join(f"{code} ({count:,} cells)" for code, count in self.missing_codes.items())
            lines.append(f"Taken as missing: {codes}.")
        if self.ahead:
            reach = ", ".join(f"{name} {steps:,}" for name, steps in list(self.ahead.items())[:8])
            lines.append(f"Steps known beyond the last target: {reach}{' ...' if len(self.ahead) > 8 else ''}.")
        if self.constant:
            lines.append(f"Constant: {_some(list(self.constant))}; the forecast of a constant says nothing.")
        if self.refused:
            lines.append(f"{self.refused:,} series cannot be used (see refused.csv).")
        return lines


def _some(names: list[str]) -> str:
    return ", ".join(names[:12]) + (f" and {len(names) - 12:,} more" if len(names) > 12 else "")
