"""Series whose later values are rubbish: a forecast that changes with them has looked ahead."""

from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float, Int

from data.forecast.permutation import mixed
from data.forecast.series_store import Role, Series

SPOILED: tuple[Role, ...] = ("targets", "observed")
KINDS = np.array([np.nan, np.inf, -np.inf, 1e30, -1e30, 1e12, -1e12, 0.0])


class Garbage:
    """`store` with rubbish in all targets and observed covariates from row `ends[item]` on.

    Numbers of very different size, infinities and NaN, a function of (seed, series, row, column) alone. Covariates that
    are known ahead stay as they are, as do lengths and the word on gaps: an honest reader sees no difference.
    """

    def __init__(self, store: Series, ends: Int[np.ndarray, " item"], seed: int) -> None:
        self._store = store
        self._ends = np.asarray(ends, np.int64)
        self._seed = seed

    @property
    def ids(self) -> Sequence[str]:
        return self._store.ids

    @property
    def lengths(self) -> Int[np.ndarray, " item"]:
        return self._store.lengths

    @property
    def ahead(self) -> Int[np.ndarray, " item"]:
        return self._store.ahead

    @property
    def starts(self) -> Int[np.ndarray, " item"]:
        return self._store.starts

    @property
    def static(self) -> Float[np.ndarray, "item static"] | None:
        return self._store.static

    @property
    def columns(self) -> Mapping[str, tuple[str, ...]]:
        return self._store.columns

    @property
    def step(self) -> str:
        return self._store.step

    @property
    def zone(self) -> str:
        return self._store.zone

    @property
    def gaps(self) -> bool:
        return self._store.gaps

    @property
    def fingerprint(self) -> str:
        return f"{self._store.fingerprint} spoiled with {self._seed}"

    def read(self, item: int, role: Role, first: int, stop: int) -> Float[np.ndarray, "row column"]:
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
        whole = self._store.cut(role, items, firsts, out)
        if role in SPOILED:
            rows = firsts[:, None] + np.arange(out.shape[1])
            late = (rows >= self._ends[items][:, None]) & (rows < self.lengths[items][:, None])
            window, step = np.nonzero(late)
            places = mixed(self._seed, SPOILED.index(role), items[window], rows[window, step])
            column = np.arange(out.shape[2], dtype=np.uint64)
            draws = mixed(places[:, None], column)
            # A little of the draw itself, so that no spoiled number is by chance the true one.
            out[window, step] = KINDS[draws % np.uint64(len(KINDS))] + 2.0 + (draws >> np.uint64(40)) / 1e6
        return whole
