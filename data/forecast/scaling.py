"""Mean and spread of each column, from training rows alone; saved with the model and undone after it."""

import operator
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import reduce
from typing import Any, Self

import numpy as np
from jaxtyping import Float, Int

from data.errors import CheckpointError, PenstockError
from data.forecast.series_store import ROLES, Role, Series

BLOCK = 1 << 15
"""Values read at a time: memory does not grow with the series."""


@dataclass(frozen=True)
class Scale:
    """Mean and population standard deviation of some columns, one row for all series or one for each."""

    mean: Float[np.ndarray, "series column"]
    std: Float[np.ndarray, "series column"]
    """1 where it would be 0, or nothing was measured."""

    def rows(self, items: Int[np.ndarray, " window"]) -> tuple[np.ndarray, np.ndarray]:
        """Mean and standard deviation of each window's series [window or 1, column]."""
        if len(self.mean) == 1:
            return self.mean, self.std
        return self.mean[items], self.std[items]


@dataclass(frozen=True)
class Scaler:
    """Standardises targets and covariates. Calendar features stay as they are."""

    scales: Mapping[str, Scale]
    """By role: targets, observed, known; static columns are standardised over the series."""
    ids: tuple[str, ...] | None = None
    """The series, where each has a scale of its own; None where all share one."""
    constant: tuple[str, ...] = ()
    """Columns that did not change in the training rows, as `role/column` or `series: role/column`."""

    @classmethod
    def fit(cls, store: Series, ends: Int[np.ndarray, " item"], *, per_series: bool = False) -> Self:
        """From rows before `ends[item]` alone; what is missing does not count.

        Raises:
            PenstockError: an infinite value.
        """
        scales: dict[str, Scale] = {}
        constant: list[str] = []
        rows = len(store.ids) if per_series else 1
        for role in ROLES:
            names = store.columns[role]
            if not names:
                continue
            parts: Iterator[_Moments] = (_of_series(store, role, item, int(end)) for item, end in enumerate(ends))
            if not per_series:
                parts = iter([reduce(operator.add, parts)])
            scale = Scale(np.empty((rows, len(names))), np.empty((rows, len(names))))
            for item, part in enumerate(parts):
                scale.mean[item], scale.std[item] = part.mean, part.std()
                prefix = f"{store.ids[item]}: " if per_series else ""
                constant += [f"{prefix}{role}/{name}" for name in part.constant(names)]
            scales[role] = scale
        if store.static is not None and store.columns["static"]:
            part = _moments(store.static)
            constant += [f"static/{name}" for name in part.constant(store.columns["static"])]
            scales["static"] = Scale(part.mean[None], part.std()[None])
        for scaled, scale in scales.items():
            if not (np.isfinite(scale.mean).all() and np.isfinite(scale.std).all()):
                raise PenstockError(
                    f"{scaled}: expected finite numbers in the training rows, got infinite ones (or some above 1e150). "
                    "Mark what is not known as missing and prepare the data again."
                )
        return cls(scales, tuple(store.ids) if per_series else None, tuple(constant))

    def for_series(self, ids: Sequence[str]) -> Self:
        """The scaler of a store that holds these series, in this order.

        Raises:
            PenstockError: a series that the scaler was not fitted on.
        """
        if self.ids is None or tuple(ids) == self.ids:
            return self
        places = {name: k for k, name in enumerate(self.ids)}
        unknown = [name for name in ids if name not in places]
        if unknown:
            raise PenstockError(
                f"series {', '.join(unknown[:5])} {'and others ' if len(unknown) > 5 else ''}have no scale: each was "
                "scaled by itself, and these were not trained on. Train with them, or with one scale for all."
            )
        order = np.array([places[name] for name in ids], dtype=np.int64)
        scales = {
            role: scale if role == "static" else Scale(scale.mean[order], scale.std[order])
            for role, scale in self.scales.items()
        }
        return replace(self, scales=scales, ids=tuple(ids))

    def apply(self, role: str, items: Int[np.ndarray, " window"], values: np.ndarray) -> np.ndarray:
        """`values` [window, step, column] in units of the scaler, in their own type."""
        mean, std = self.scales[role].rows(items)
        return ((values - mean[:, None]) / std[:, None]).astype(values.dtype)

    def undo(self, items: Int[np.ndarray, " window"], values: np.ndarray, role: str = "targets") -> np.ndarray:
        """`values` [window, step, column, ...] back in units of the data, float64."""
        mean, std = self.scales[role].rows(items)
        shape = (len(mean), 1, mean.shape[1], *(1,) * (values.ndim - 3))
        return values * std.reshape(shape) + mean.reshape(shape)

    def to_plain(self) -> dict[str, Any]:
        """For JSON, without loss."""
        scales = {role: {"mean": s.mean.tolist(), "std": s.std.tolist()} for role, s in self.scales.items()}
        return {"scales": scales, "ids": None if self.ids is None else list(self.ids), "constant": list(self.constant)}

    @classmethod
    def from_plain(cls, plain: Mapping[str, Any]) -> Self:
        """From `to_plain`.

        Raises:
            CheckpointError: not what `to_plain` gives.
        """
        try:
            ids = None if plain["ids"] is None else tuple(map(str, plain["ids"]))
            scales = {
                str(role): Scale(np.array(part["mean"], np.float64), np.array(part["std"], np.float64))
                for role, part in plain["scales"].items()
            }
            constant = tuple(map(str, plain["constant"]))
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise CheckpointError(
                f"scaler: expected scales, ids and constant columns, got something else ({error!r}). Export the model "
                "again."
            ) from error
        for role, scale in scales.items():
            rows = 1 if ids is None or role == "static" else len(ids)
            shapes = (scale.mean.shape, scale.std.shape)
            if scale.mean.ndim != 2 or shapes != (shapes[0],) * 2 or len(scale.mean) != rows or (scale.std <= 0).any():
                raise CheckpointError(
                    f"scaler of {role}: expected {rows} rows of means and of positive standard deviations, got shapes "
                    f"{shapes[0]} and {shapes[1]}. Export the model again."
                )
        return cls(scales, ids, constant)


@dataclass(frozen=True)
class _Moments:
    """Number, mean and sum of squared deviations of each column [column]; least and largest value."""

    count: np.ndarray
    mean: np.ndarray
    squares: np.ndarray
    low: np.ndarray
    high: np.ndarray

    def __add__(self, other: "_Moments") -> "_Moments":
        """Of both samples together (Chan, Golub and LeVeque 1979)."""
        count = self.count + other.count
        share = other.count / np.maximum(count, 1)
        with np.errstate(over="ignore", invalid="ignore"):  # infinite values are refused by name, later
            gap = other.mean - self.mean
            squares = self.squares + other.squares + gap**2 * self.count * share
        return _Moments(
            count,
            self.mean + gap * share,
            squares,
            np.minimum(self.low, other.low),
            np.maximum(self.high, other.high),
        )

    def std(self) -> np.ndarray:
        """Of the population; 1 where it would be 0."""
        found = np.sqrt(self.squares / np.maximum(self.count, 1))
        return np.where((self.low >= self.high) | (found == 0), 1.0, found)

    def constant(self, names: Sequence[str]) -> list[str]:
        """The columns in which no two values differ, or nothing was measured."""
        return [name for name, one in zip(names, self.low >= self.high, strict=True) if one]


def _moments(values: Float[np.ndarray, "row column"]) -> _Moments:
    measured = ~np.isnan(values)
    count = measured.sum(axis=0)
    with np.errstate(over="ignore", invalid="ignore"):
        mean = np.where(measured, values, 0.0).sum(axis=0) / np.maximum(count, 1)
        squares = np.square(np.where(measured, values - mean, 0.0)).sum(axis=0)
    low = np.where(measured, values, np.inf).min(axis=0, initial=np.inf)
    high = np.where(measured, values, -np.inf).max(axis=0, initial=-np.inf)
    return _Moments(count, mean, squares, low, high)


def _of_series(store: Series, role: Role, item: int, end: int) -> _Moments:
    width = len(store.columns[role])
    rows = max(BLOCK // width, 1)
    found = _moments(np.empty((0, width)))
    for first in range(0, end, rows):
        found = found + _moments(store.read(item, role, first, min(first + rows, end)))
    return found
