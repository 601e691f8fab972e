"""What every step after the choice works with: the series, their splits, their scale, and windows cut from them."""

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from configs.forecast import ForecastConfig
from data.batch import WindowBatch
from data.forecast.scaling import Scaler
from data.forecast.series_store import Series, SeriesStore
from data.forecast.time_split import Spans, TimeSplit, WindowIndex, spans
from data.forecast.windows import Windows, grid_positions
from flows.run import Run
from modules.forecast.backtest import Backtest
from modules.forecast.interface import WindowShape

BATCH = 256
"""Windows that are forecast or fitted on at once."""


@dataclass(frozen=True)
class Choice:
    """What was decided on the validation part before any training."""

    horizon: int
    look_back: int
    season: int
    regressions: dict[str, dict[str, Any]]
    """Settings of each closed-form regression."""
    table: list[dict[str, Any]]
    """What was tried, with its validation error."""

    @classmethod
    def of_run(cls, run: Run) -> "Choice":
        """As the step `choose` left it."""
        return cls(**json.loads((run.path / "choice.json").read_text()))


@dataclass(frozen=True)
class Rows:
    """Windows by series and origin, in this order."""

    items: np.ndarray
    origins: np.ndarray
    of: int
    """Windows that there are; more than these where only some are taken."""

    def __len__(self) -> int:
        return len(self.items)


@dataclass(frozen=True)
class Workbench:
    """One fold: where its data ends, its scale, and its windows."""

    store: Series
    split: TimeSplit
    scaler: Scaler
    windows: Windows
    shape: WindowShape

    @cached_property
    def windows_without_calendar(self) -> Windows:
        """For models that read no features of the time stamps; cheaper to cut."""
        return Windows(self.store, self.shape.look_back, self.shape.horizon, self.scaler, calendar=False)

    def rows(self, split: str, most: int | None = None) -> Rows:
        """The windows of a split, all of them or, evenly spread over time, at most about `most`."""
        return rows_of(self.split[split], most)

    def batches(self, rows: Rows, size: int = BATCH) -> Iterator[WindowBatch]:
        """The windows of `rows`, in their order."""
        for first in range(0, len(rows), size):
            part = slice(first, first + size)
            yield self.windows.cut(rows.items[part], rows.origins[part])

    def truth(self, rows: Rows) -> np.ndarray:
        """What came [row, horizon, target], scaled; NaN where it was not measured."""
        shape = (len(rows), self.shape.horizon, self.shape.targets)
        found = np.empty(shape)
        for item in np.unique(rows.items):
            where = np.flatnonzero(rows.items == item)
            found[where] = self._ahead(int(item), rows.origins[where])
        return self.scaler.apply("targets", rows.items, found).astype(np.float32)

    def _ahead(self, item: int, origins: np.ndarray) -> np.ndarray:
        first, last = int(origins.min()), int(origins.max()) + self.shape.horizon
        values = self.store.read(item, "targets", first, last)
        steps = (origins - first)[:, None] + np.arange(self.shape.horizon)
        return values[steps]

    def backtest(self, rows: Rows, forecast: np.ndarray, truth: np.ndarray | None = None) -> Backtest:
        """Point forecasts [row, horizon, target] with what came of them."""
        clock = grid_positions(self.store)[0][rows.items] + rows.origins
        came = self.truth(rows) if truth is None else truth
        return Backtest(items=rows.items, origins=rows.origins, forecast=forecast, truth=came, clock=clock)


def rows_of(windows: Spans, most: int | None = None) -> Rows:
    """The windows of some spans; above `most` every n-th origin of each series."""
    total = len(windows)
    stride = 1 if most is None else max(1, -(-total // most))
    index = WindowIndex(windows, stride)
    items, origins = index.locate(np.arange(len(index)))
    return Rows(items, origins, total)


def future_rows(bench: Workbench) -> tuple[Rows, dict[str, int]]:
    """One window per series at its end, and by how many steps some had to begin earlier.

    Where covariates that are known ahead do not reach over the horizon, the forecast begins as much earlier: its last
    step is the last one that they cover.
    """
    store, horizon = bench.store, bench.shape.horizon
    kept = np.setdiff1d(np.arange(len(store.ids)), list(bench.split.refused))
    origins = store.lengths[kept].astype(np.int64)
    earlier: dict[str, int] = {}
    if bench.shape.known:
        covered = np.minimum(origins, store.ahead[kept] - horizon)
        earlier = {store.ids[item]: int(n) for item, n in zip(kept, origins - covered, strict=True) if n > 0}
        origins = covered
    return Rows(kept, origins, len(kept)), earlier


def make_workbench(store: Series, config: ForecastConfig, choice: Choice, fold: int = 0) -> Workbench:
    """The workbench of one fold of the backtest; fold 0 is the one that networks are trained on."""
    split = fold_split(spans(store.lengths, choice.look_back, choice.horizon, config.split), fold, config)
    scaler = Scaler.fit(store, split.train_ends, per_series=config.scale_per_series)
    windows = Windows(store, choice.look_back, choice.horizon, scaler)
    return Workbench(store, split, scaler, windows, window_shape(windows, choice.season))


def workbench(run: Run, fold: int = 0) -> Workbench:
    """The workbench of a run whose season and look-back are chosen."""
    return make_workbench(SeriesStore(run.data_file), run.config, Choice.of_run(run), fold)


def window_shape(windows: Windows, season: int) -> WindowShape:
    """The shape that forecasters of these windows are built for."""
    return WindowShape(look_back=windows.look_back, horizon=windows.horizon, season=season, **windows.counts)


def fold_split(split: TimeSplit, fold: int, config: ForecastConfig) -> TimeSplit:
    """The split of one of several folds: its part of the test origins, and all that lies before to fit on.

    The validation rows keep their number and move along with the beginning of the test part.
    """
    folds = config.evaluate.folds
    if folds == 1:
        return split
    origins = np.maximum(split.test.stop - split.test.first, 0)
    begin, end = origins * fold // folds, origins * (fold + 1) // folds
    return replace(
        split,
        train=Spans(split.train.first, np.where(origins > 0, split.train.stop + begin, split.train.stop)),
        validation=Spans(split.validation.first + begin, split.validation.stop + begin),
        test=Spans(split.test.first + begin, split.test.first + end),
        train_ends=split.train_ends + begin,
        validation_ends=split.validation_ends + begin,
    )
