"""Forecasts as long tables: one row for each series, origin, step ahead and target."""

import numpy as np

from data.forecast.calendar import stamps
from data.forecast.series_store import Series

Columns = dict[str, np.ndarray]


def step_stamps(store: Series, items: np.ndarray, steps: np.ndarray) -> np.ndarray:
    """The stamp of each step of each series: datetime64[ns], or integers where steps are plain numbers."""
    found: np.ndarray | None = None
    for item in np.unique(items):
        where = items == item
        first, last = int(steps[where].min()), int(steps[where].max()) + 1
        grid = stamps(int(store.starts[item]), store.step, first, last, store.zone)
        found = np.empty(len(items), grid.dtype) if found is None else found
        found[where] = grid[steps[where] - first]
    assert found is not None
    return found


def long_columns(store: Series, items: np.ndarray, origins: np.ndarray, horizon: int) -> Columns:
    """Series, origin, stamp, step ahead and target of every number of [row, horizon, target], in this order."""
    targets = store.columns["targets"]
    each = horizon * len(targets)
    steps = np.tile(np.repeat(np.arange(horizon), len(targets)), len(items))
    names = np.array(store.ids, dtype=object)[items]
    series = np.repeat(items, each)
    return {
        "id": np.repeat(names, each),
        "origin": np.repeat(step_stamps(store, items, origins), each),
        "time": step_stamps(store, series, np.repeat(origins, each) + steps),
        "step": steps + 1,
        "target": np.tile(np.array(targets, dtype=object), len(items) * horizon),
    }
