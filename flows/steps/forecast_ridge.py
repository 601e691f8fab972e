"""The closed-form regressions of a run: compared on validation windows, fitted on training windows."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from configs.forecast import ForecastConfig
from data.forecast.windows import grid_positions
from flows.models import load_model
from flows.run import Run
from flows.steps.forecast_workbench import Choice, Workbench
from modules.forecast.heads import Head
from modules.forecast.ridge import Ridge, RidgeConfig, RidgeTrial, choose_ridge, choose_ridge_on_series

RIDGE, CYCLE_RIDGE = "ridge", "cycle_ridge"
REGRESSIONS = {RIDGE: False, CYCLE_RIDGE: True}
"""Name → whether the mean season of the training part is taken away first."""
MOST_VALUES = 20_000_000
"""Above so many values series are not summed up whole."""
COMPARED = 1500
"""Most windows of each part on which regressions are compared, where they must be cut out one by one."""


@dataclass(frozen=True)
class WholeSeries:
    """Scaled series in which nothing is missing, and the positions of their first rows on the time grid."""

    train: list[Tensor]
    validation: list[Tensor]
    positions: tuple[list[int], list[int]]


def compared(bench: Workbench, config: ForecastConfig) -> tuple[RidgeTrial, ...]:
    """Offsets, penalties and cycle with their error on the validation windows."""
    penalties, cycles = config.choose.penalties, [False, True] if bench.shape.season > 1 else [False]
    whole = whole_series(bench, config)
    if whole is not None:
        return choose_ridge_on_series(
            whole.train, whole.validation, bench.shape, penalties=penalties, cycles=cycles, positions=whole.positions
        )[1].table
    most = None if config.choose.windows is None else min(COMPARED, config.choose.windows)
    train, validation = (list(bench.batches(bench.rows(split, most))) for split in ("train", "validation"))
    return choose_ridge(lambda: train, lambda: validation, bench.shape, penalties=penalties, cycles=cycles)[1].table


def best_trials(table: Sequence[RidgeTrial]) -> dict[str, RidgeTrial]:
    """The regression of least validation error, without and with a cycle; the better one first."""
    found: dict[str, RidgeTrial] = {}
    for name, cycle in REGRESSIONS.items():
        trials = [trial for trial in table if trial.cycle == cycle]
        if trials:
            found[name] = min(trials, key=lambda trial: trial.error)
    return dict(sorted(found.items(), key=lambda pair: pair[1].error))


def fitted_ridge(config: ForecastConfig, choice: Choice, bench: Workbench, name: str) -> Ridge:
    """One of the regressions that were chosen, fitted on the training windows of `bench`."""
    ridge = RidgeConfig(**choice.regressions[name]).build(bench.shape, Head())
    whole = whole_series(bench, config)
    if whole is not None:
        ridge.fit_series(whole.train, whole.positions[0])
    else:
        ridge.fit(list(bench.batches(bench.rows("train", config.choose.windows))))
    return ridge


def ridge_of(run: Run, bench: Workbench, name: str, fold: int = 0) -> Ridge:
    """A regression of a run: the stored one, or for a later fold one that is fitted on all before it."""
    if fold:
        return fitted_ridge(run.config, Choice.of_run(run), bench, name)
    network = load_model(run.model(name)).network
    assert isinstance(network, Ridge)
    return network


def whole_series(bench: Workbench, config: ForecastConfig) -> WholeSeries | None:
    """The scaled training and validation series, where every window of them counts and nothing is missing in them.

    Sums over such series cost a fraction of those over their windows. None where they cannot be taken.
    """
    store, shape, split = bench.store, bench.shape, bench.split
    reach = split.train.first >= shape.look_back
    if store.gaps or shape.observed or shape.known or shape.static or not reach.all():
        return None
    if int(store.lengths.sum()) * shape.targets > MOST_VALUES:
        return None
    found = WholeSeries([], [], ([], []))
    starts = grid_positions(store)[0]
    for item in range(len(store.ids)):
        ends = int(split.train_ends[item]), int(split.validation_ends[item])
        if not ends[0]:
            continue
        spans = ((0, ends[0]), (ends[0] - shape.look_back, ends[1]))
        for part, positions, (first, stop) in zip((found.train, found.validation), found.positions, spans, strict=True):
            values = store.read(item, "targets", first, stop)
            part.append(torch.from_numpy(bench.scaler.apply("targets", np.array([item]), values[None])[0]))
            positions.append(int(starts[item]) + first)
    return found
