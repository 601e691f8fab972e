"""The leak test of a run: its own choice, fits, models and intervals, with garbage where nobody may look."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from configs.forecast import ForecastConfig
from data.errors import PenstockError
from data.forecast.series_store import Series
from data.forecast.windows import Windows, grid_positions
from flows.run import Run
from flows.steps.forecast_choose import decided
from flows.steps.forecast_leaks import Arrays, LeakReport, check_fit, check_forecasts
from flows.steps.forecast_models import Candidate, candidates
from flows.steps.forecast_ridge import fitted_ridge
from flows.steps.forecast_workbench import Choice, Rows, Workbench, make_workbench
from modules.forecast.conformal import TrailingConformal

TRAINING_WINDOWS = 512
"""Windows of the training part whose content is compared."""


def check_leaks(run: Run, bench: Workbench, name: str) -> dict[str, Any]:
    """Overwrite everything after origins of the test part, and after the ends of what is fitted on, and compare bits.

    `name` is the model whose intervals are checked; the forecasts of all are.

    Raises:
        PenstockError: something changed; the message names the first difference.
    """
    config: ForecastConfig = run.config
    choice, models = Choice.of_run(run), candidates(run, bench)
    rows = _tested(bench, config.evaluate.leak_origins)

    def forecast_at(store: Series, items: np.ndarray, origins: np.ndarray) -> Arrays:
        return _said(config, bench, models, name, store, Rows(items, origins, len(items)))

    offsets = grid_positions(bench.store)[0]
    report = check_forecasts(forecast_at, bench.store, rows.items, rows.origins, offsets=offsets, seed=config.seed)
    report += check_fit(
        lambda store: _chosen(store, config), bench.store, bench.split.validation_ends, seed=config.seed
    )
    report += check_fit(
        lambda store: _fitted(store, config, choice), bench.store, bench.split.train_ends, seed=config.seed
    )
    if not report.passed:
        raise PenstockError(f"leak test: {len(report.failures)} of the comparisons differ. {report.failures[0]}")
    print(f"leak test: {report.checked} origins and fits, not a bit changed", flush=True)
    return _plain(report)


def _plain(report: LeakReport) -> dict[str, Any]:
    return {"passed": report.passed, "checked": report.checked, "failures": list(report.failures)}


def _tested(bench: Workbench, count: int) -> Rows:
    """Some origins of the test part, spread evenly."""
    rows = bench.rows("test")
    chosen = np.unique(np.linspace(0, len(rows) - 1, count).round().astype(int))
    return Rows(rows.items[chosen], rows.origins[chosen], rows.of)


def _said(
    config: ForecastConfig, bench: Workbench, models: Mapping[str, Candidate], name: str, store: Series, rows: Rows
) -> Arrays:
    """All that is said of some windows: every model's answer, and quantiles from the errors that were known."""
    own = Workbench(store, bench.split, bench.scaler, _windows(bench, store), bench.shape)
    said = {key: model.raw(own, rows) for key, model in models.items()}
    member = models.get(name, models["ridge"])
    history = _earlier(own, rows, config.intervals.window)
    conformal = TrailingConformal(window=config.intervals.window)
    point = own.backtest(rows, member.points(own, rows))
    known = own.backtest(history, member.points(own, history))
    found = conformal.intervals(known, point, config.intervals.quantiles)
    return said | {"quantiles": found.quantiles}


def _windows(bench: Workbench, store: Series) -> Windows:
    return Windows(store, bench.shape.look_back, bench.shape.horizon, bench.scaler)


def _earlier(bench: Workbench, rows: Rows, window: int) -> Rows:
    """Origins before those of `rows`, of the same series, from which errors may be taken."""
    items, origins = [], []
    for item, origin in zip(rows.items.tolist(), rows.origins.tolist(), strict=True):
        first = max(int(bench.split.validation.first[item]), origin - window - bench.shape.horizon)
        origins.append(np.arange(first, origin))
        items.append(np.full(len(origins[-1]), item))
    return Rows(np.concatenate(items), np.concatenate(origins), 0)


def _chosen(store: Series, config: ForecastConfig) -> Arrays:
    """Season, look-back and regressions, and every error that they were chosen by."""
    choice, tried = decided(store, config)
    return {
        "choice": np.array([choice.horizon, choice.look_back, choice.season]),
        "regressions": np.array([str(choice.regressions)], dtype=object),
        "errors": np.array([trial["error"] for trial in tried]),
    }


def _fitted(store: Series, config: ForecastConfig, choice: Choice) -> Arrays:
    """The scaler, the ridge regression, and what networks are trained on."""
    bench = make_workbench(store, config, choice)
    weights = {name: fitted_ridge(config, choice, bench, name).weight.numpy() for name in choice.regressions}
    batch = next(bench.batches(bench.rows("train", TRAINING_WINDOWS), TRAINING_WINDOWS))
    fields = {name: value for name, value in vars(batch).items() if isinstance(value, torch.Tensor)}
    return {
        **{f"scaler {role}": np.stack([scale.mean, scale.std]) for role, scale in bench.scaler.scales.items()},
        **weights,
        **{f"training {name}": value.numpy() for name, value in fields.items()},
    }
