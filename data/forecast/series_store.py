"""Prepared time series, read by item, role and row numbers from a memory map."""

import json
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Literal, Protocol

import numpy as np
from jaxtyping import Float, Int

from data.errors import SchemaError
from data.forecast.kinds import FORECAST_SERIES
from data.mapped import MappedColumns
from data.store import Reader

Role = Literal["targets", "observed", "known"]
ROLES: tuple[Role, ...] = ("targets", "observed", "known")


class Series(Protocol):
    """Time series by number: what windows are cut from."""

    @property
    def ids(self) -> Sequence[str]: ...

    @property
    def lengths(self) -> Int[np.ndarray, " item"]:
        """Rows of the targets."""

    @property
    def ahead(self) -> Int[np.ndarray, " item"]:
        """Rows of the covariates that are known ahead: at least `lengths`."""

    @property
    def starts(self) -> Int[np.ndarray, " item"]:
        """Stamp of row 0: nanoseconds since 1970 (UTC), or the first integer step."""

    @property
    def static(self) -> Float[np.ndarray, "item static"] | None: ...

    @property
    def columns(self) -> Mapping[str, tuple[str, ...]]:
        """Names of the columns of `targets`, `observed`, `known` and `static`."""

    @property
    def step(self) -> str:
        """Step of the grid as a pandas frequency, or an integer."""

    @property
    def zone(self) -> str: ...

    @property
    def gaps(self) -> bool:
        """Whether any value is missing."""

    @property
    def fingerprint(self) -> str: ...

    def read(self, item: int, role: Role, first: int, stop: int) -> Float[np.ndarray, "row column"]:
        """Rows [first, stop) of a series, NaN where missing; `first` may be negative and `stop` beyond the end."""

    def cut(
        self,
        role: Role,
        items: Int[np.ndarray, " window"],
        firsts: Int[np.ndarray, " window"],
        out: Float[np.ndarray, "window row column"],
    ) -> bool:
        """Fill `out` with as many rows as it holds, from row `firsts[k]` of series `items[k]` on, NaN where missing.

        Answers whether all rows lie within their series.
        """


class SeriesStore:
    """The series of a file of kind `forecast-series`; safe to pickle and to fork.

    Reading a window costs a copy of it, whatever the length and number of the series. What stays in memory are a few
    integers per series and the static columns.

    Raises:
        SchemaError: not such a file, or its column names do not fit its arrays.
    """

    def __init__(self, path: Path) -> None:
        self.reader = Reader(path, FORECAST_SERIES)
        attributes = self.reader.attributes
        self.step = str(attributes["step"])
        self.zone = str(attributes["zone"])
        self.gaps = bool(attributes["gaps"])
        self._mapped: dict[str, MappedColumns] = {
            role: MappedColumns(self.reader, role) for role in ROLES if role in self.reader.names
        }
        self.static: Float[np.ndarray, "item static"] | None = None
        if "static" in self.reader.names:
            self.static = self.reader.column("static")
        self.starts: Int[np.ndarray, " item"] = self.reader.column("start")
        self.columns = self._columns(json.loads(str(attributes["columns"])))
        self._bases = {role: self.reader.rows(role)[:, 0] for role in self._mapped}
        self._counts = {role: np.diff(self.reader.rows(role), axis=1)[:, 0] for role in self._mapped}
        self.reader.close()

    @property
    def ids(self) -> tuple[str, ...]:
        return self.reader.ids

    @property
    def fingerprint(self) -> str:
        return self.reader.fingerprint

    @property
    def lengths(self) -> Int[np.ndarray, " item"]:
        return self._counts["targets"]

    @cached_property
    def ahead(self) -> Int[np.ndarray, " item"]:
        return self._counts.get("known", self.lengths)

    def __len__(self) -> int:
        return len(self.ids)

    def _columns(self, named: Mapping[str, Sequence[str]]) -> dict[str, tuple[str, ...]]:
        widths = {role: mapped.columns for role, mapped in self._mapped.items()}
        widths["static"] = 0 if self.static is None else self.static.shape[1]
        columns = {role: tuple(named.get(role, ())) for role in (*ROLES, "static")}
        for role, names in columns.items():
            if len(names) != widths.get(role, 0):
                raise SchemaError(
                    f"{self.reader.path}: expected {widths.get(role, 0)} names of {role} columns, got {len(names)}: "
                    f"{', '.join(names)}. Prepare the data again."
                )
        return columns

    def read(self, item: int, role: Role, first: int, stop: int) -> Float[np.ndarray, "row column"]:
        """Rows [first, stop) of a series, NaN where missing; `first` may be negative and `stop` beyond the end."""
        out = np.empty((1, max(stop - first, 0), len(self.columns[role])))
        self.cut(role, np.array([item]), np.array([first]), out)
        return out[0]

    def cut(
        self,
        role: Role,
        items: Int[np.ndarray, " window"],
        firsts: Int[np.ndarray, " window"],
        out: Float[np.ndarray, "window row column"],
    ) -> bool:
        """Fill `out` (contiguous) with rows of several series: see `Series.cut`."""
        steps, columns = out.shape[1:]
        if not out.size:
            return True
        mapped, row_bytes = self._mapped[role], 8 * columns
        target = out.data.cast("B")
        whole = True
        rows = zip(firsts.tolist(), self._bases[role][items].tolist(), self._counts[role][items].tolist(), strict=True)
        for k, (first, base, count) in enumerate(rows):
            low, high = first, first + steps
            if low < 0 or high > count:
                whole = False
                low, high = max(low, 0), min(high, count)
                out[k] = np.nan
                if low >= high:
                    continue
            mapped.copy(base + low, base + high, target, (k * steps + low - first) * row_bytes)
        return whole

    def verify(self) -> None:
        """Read everything and compare with the fingerprint in the file; windows are cut without looking at checksums.

        Raises:
            SchemaError: damaged or changed content.
        """
        self.reader.verify()
        self.reader.close()
