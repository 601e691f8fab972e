"""Forecasts, the backtest, the scores and anomalies as tables for other programs."""

from typing import Any

import numpy as np

from configs.forecast import ForecastConfig
from data.export.forecast import quantile_name, write_table
from data.forecast.series_store import Series
from flows.run import Run
from flows.steps.forecast_future import read_future
from flows.steps.forecast_results import StoredBacktest, read_backtest, read_evaluation
from flows.steps.forecast_tables import Columns, long_columns, step_stamps
from flows.steps.forecast_workbench import Workbench, workbench
from modules.forecast.anomalies import Findings, find_anomalies, nearest_verdicts
from modules.forecast.backtest import Backtest
from modules.forecast.conformal import TrailingConformal


def export(run: Run) -> None:
    """Write forecast, backtest, scores and anomalies into exports/, in every format asked for."""
    config: ForecastConfig = run.config
    bench, stored = workbench(run), read_backtest(run)
    findings = anomalies(config, stored)
    tables = {
        "forecast": _future(run, bench.store),
        "scores": _scores(run),
        "anomalies": _anomalies(bench.store, findings),
    }
    for name, columns in tables.items():
        for ending in config.export.formats:
            write_table(columns, run.exports / f"{name}.{ending}", zone=bench.store.zone)
    # Some hundred thousand rows and more: nobody wants them as text.
    write_table(_backtest(bench, stored), run.exports / "backtest.parquet", zone=bench.store.zone)
    print(f"{', '.join([*tables, 'backtest'])}: {run.exports}", flush=True)


def anomalies(config: ForecastConfig, stored: StoredBacktest) -> Findings:
    """A verdict on every value of the test part, by the newest forecast of it."""
    stride = int(np.median(np.diff(stored.test.origins))) if len(stored.test) > 1 else 1
    near = slice(0, max(1, stride))
    history, tested = (
        Backtest(
            items=part.items,
            origins=part.origins,
            forecast=part.forecast[:, near],
            truth=part.truth[:, near],
            clock=part.clock,
        )
        for part in (stored.validation, stored.test)
    )
    conformal = TrailingConformal(window=config.intervals.window)
    return nearest_verdicts(tested, find_anomalies(history, tested, config.evaluate.anomaly_rate, conformal))


def _future(run: Run, store: Series) -> Columns:
    future = read_future(run)
    columns = long_columns(store, future.items, future.origins, future.quantiles.shape[1])
    middle = future.levels.index(0.5)
    columns["forecast"] = future.quantiles[..., middle].reshape(-1)
    for place, level in enumerate(future.levels):
        columns[quantile_name(level)] = future.quantiles[..., place].reshape(-1)
    return columns


def _backtest(bench: Workbench, stored: StoredBacktest) -> Columns:
    """Truth, forecast and quantiles of every test window, in the units of the data."""
    test = stored.test
    columns = long_columns(bench.store, test.items, test.origins, test.forecast.shape[1])

    def in_data(values: np.ndarray) -> np.ndarray:
        return bench.scaler.undo(test.items, values).astype(np.float32)

    columns["truth"] = in_data(test.truth).reshape(-1)
    columns["forecast"] = in_data(test.forecast).reshape(-1)
    quantiles = in_data(stored.quantiles)
    for place, level in enumerate(stored.levels):
        columns[quantile_name(level)] = quantiles[..., place].reshape(-1)
    return columns


def _scores(run: Run) -> Columns:
    """Mean square error of every model at every step ahead, scaled."""
    models: dict[str, Any] = read_evaluation(run)["models"]
    horizon = len(next(iter(models.values()))["per_horizon_mse"])
    return {
        "model": np.repeat(np.array(list(models), dtype=object), horizon),
        "step": np.tile(np.arange(1, horizon + 1), len(models)),
        "mse": np.array([value for model in models.values() for value in model["per_horizon_mse"]], dtype=float),
    }


def _anomalies(store: Series, findings: Findings) -> Columns:
    return {
        "id": np.array(store.ids, dtype=object)[findings.items],
        "time": step_stamps(store, findings.items, findings.steps),
        "target": np.array(store.columns["targets"], dtype=object)[findings.targets],
        "score": findings.scores,
        "p_value": findings.p_values,
        "flagged": findings.flagged,
    }
