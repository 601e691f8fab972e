"""The closed-form regression of a run: compared on validation windows, fitted on training windows."""

import numpy as np
import torch
from torch import Tensor

from configs.forecast import ForecastConfig
from flows.models import load_model
from flows.run import Run
from flows.steps.forecast_workbench import Choice, Workbench
from modules.forecast.heads import Head
from modules.forecast.ridge import Ridge, RidgeChoice, RidgeConfig, choose_ridge, choose_ridge_on_series

RIDGE = "ridge"
MOST_VALUES = 20_000_000
"""Above so many values series are not summed up whole."""


def compared(bench: Workbench, config: ForecastConfig) -> RidgeChoice:
    """Offsets and penalties compared on the validation windows."""
    penalties, whole = config.choose.penalties, whole_series(bench, config)
    if whole is not None:
        return choose_ridge_on_series(*whole, bench.shape, penalties=penalties)[1]
    train = bench.rows("train", config.choose.windows)
    validation = bench.rows("validation", config.choose.windows)
    return choose_ridge(
        lambda: bench.batches(train), lambda: bench.batches(validation), bench.shape, penalties=penalties
    )[1]


def fitted_ridge(config: ForecastConfig, choice: Choice, bench: Workbench) -> Ridge:
    """The regression that was chosen, fitted on the training windows of `bench`."""
    chosen = RidgeConfig(offset=choice.offset, penalty=choice.penalty)  # type: ignore[arg-type]
    ridge = chosen.build(bench.shape, Head())
    whole = whole_series(bench, config)
    if whole is not None:
        ridge.fit_series(whole[0])
    else:
        ridge.fit(bench.batches(bench.rows("train", config.choose.windows)))
    return ridge


def ridge_of(run: Run, bench: Workbench, fold: int = 0) -> Ridge:
    """The regression of a run: the stored one, or for a later fold one that is fitted on all before it."""
    if fold:
        return fitted_ridge(run.config, Choice.of_run(run), bench)
    network = load_model(run.model(RIDGE)).network
    assert isinstance(network, Ridge)
    return network


def whole_series(bench: Workbench, config: ForecastConfig) -> tuple[list[Tensor], list[Tensor]] | None:
    """The scaled training and validation series, where every window of them counts and nothing is missing in them.

    Sums over such series cost a fraction of those over their windows. None where they cannot be taken.
    """
    store, shape, split = bench.store, bench.shape, bench.split
    reach = split.train.first >= shape.look_back
    if store.gaps or shape.observed or shape.known or shape.static or not reach.all():
        return None
    if int(store.lengths.sum()) * shape.targets > MOST_VALUES:
        return None
    parts: tuple[list[Tensor], list[Tensor]] = ([], [])
    for item in range(len(store.ids)):
        ends = int(split.train_ends[item]), int(split.validation_ends[item])
        if not ends[0]:
            continue
        for part, (first, stop) in zip(parts, ((0, ends[0]), (ends[0] - shape.look_back, ends[1])), strict=True):
            values = store.read(item, "targets", first, stop)
            part.append(torch.from_numpy(bench.scaler.apply("targets", np.array([item]), values[None])[0]))
    return parts
