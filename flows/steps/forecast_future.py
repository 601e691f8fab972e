"""The forecast of what nobody knows yet, with intervals from the backtest's errors."""

import json
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from configs.forecast import ForecastConfig
from data.errors import PenstockError
from data.forecast.scaling import Scaler
from data.forecast.time_split import Spans
from data.forecast.windows import Windows
from flows.run import Run, write_json
from flows.steps.forecast_backtest import before, known_errors
from flows.steps.forecast_models import Candidate, candidates
from flows.steps.forecast_pictures import as_page, forecast_figures
from flows.steps.forecast_results import ENSEMBLE, read_evaluation, stored_ensemble
from flows.steps.forecast_ridge import REGRESSIONS, fitted_ridge
from flows.steps.forecast_workbench import Choice, Rows, Workbench, future_rows, window_shape, workbench
from flows.tracking import tracked
from modules.forecast.conformal import TrailingConformal

FUTURE = "forecast.npz"
SHOWN = 8
"""Forecasts sent to W&B."""


@dataclass(frozen=True)
class Future:
    """Forecasts in the units of the data."""

    ids: tuple[str, ...]
    """Series of each row."""
    items: np.ndarray
    origins: np.ndarray
    """Row of each series that the forecast begins with."""
    quantiles: np.ndarray
    """[row, horizon, target, level]"""
    levels: tuple[float, ...]
    model: str


def sample(run: Run) -> None:
    """Forecast every series from its end on: samples/forecast.npz."""
    config: ForecastConfig = run.config
    evaluation = read_evaluation(run)
    name = evaluation["chosen"] if config.sample.model == "auto" else config.sample.model
    bench = workbench(run)
    rows, earlier = future_rows(bench)
    _say_earlier(bench, earlier)
    known = candidates(run, bench)
    point = _points(run, bench, rows, name, evaluation, known)
    history = before(known_errors(run, bench, name), rows)
    unknown = np.full(point.shape, np.nan, np.float32)
    levels = config.intervals.quantiles
    conformal = TrailingConformal(window=config.intervals.window)
    found = conformal.forecast(history, bench.backtest(rows, point, unknown), levels)
    scaled = found.quantiles
    if config.intervals.method == "head" and name in known and known[name].head.kind != "point":
        scaled = known[name].own_quantiles(known[name].raw(bench, rows), levels)
    quantiles = bench.scaler.undo(rows.items, scaled)
    np.savez_compressed(
        run.samples / FUTURE, items=rows.items, origins=rows.origins, quantiles=quantiles, levels=np.array(levels)
    )
    facts: dict[str, Any] = {"model": name, "earlier": earlier, "sources": found.shares}
    write_json(run.samples / "forecast.json", facts)
    print(f"forecast of {len(rows)} series, {bench.shape.horizon} steps, by {name}", flush=True)
    with tracked(run, "sample") as tracker:
        tracker.log_pictures({"forecast": lambda: as_page(forecast_figures(bench, read_future(run), SHOWN))})


def read_future(run: Run) -> Future:
    """What `sample` wrote."""
    facts = json.loads((run.samples / "forecast.json").read_text())
    with np.load(run.samples / FUTURE) as stored:
        arrays = {name: stored[name] for name in stored.files}
    ids = workbench(run).store.ids
    return Future(
        ids=tuple(ids[item] for item in arrays["items"]),
        items=arrays["items"],
        origins=arrays["origins"],
        quantiles=arrays["quantiles"],
        levels=tuple(arrays["levels"].tolist()),
        model=facts["model"],
    )


def _points(
    run: Run, bench: Workbench, rows: Rows, name: str, evaluation: dict[str, Any], known: dict[str, Candidate]
) -> np.ndarray:
    """Point forecasts in the units of the run's scaler."""
    if name == ENSEMBLE:
        ensemble = stored_ensemble(evaluation, bench.shape.horizon)
        return ensemble.apply({member: _member(run, bench, rows, member, known) for member in ensemble.names})
    if name not in known:
        listed = ", ".join([*known, ENSEMBLE])
        raise PenstockError(f"sample.model: this run has no model '{name}'; it has {listed}, and auto.")
    return _member(run, bench, rows, name, known)


def _member(run: Run, bench: Workbench, rows: Rows, name: str, known: dict[str, Candidate]) -> np.ndarray:
    if name in REGRESSIONS and run.config.sample.refit:
        whole = _on_everything(run, bench)
        refit = Candidate(name, fitted_ridge(run.config, Choice.of_run(run), whole, name), known[name].head)
        in_data = whole.scaler.undo(rows.items, refit.points(whole, rows))
        return bench.scaler.apply("targets", rows.items, in_data).astype(np.float32)
    return known[name].points(bench, rows)


def _on_everything(run: Run, bench: Workbench) -> Workbench:
    """A workbench whose training part is all that is known."""
    store, choice = bench.store, Choice.of_run(run)
    ends = np.where(bench.split.test_ends > 0, store.lengths, 0)
    scaler = Scaler.fit(store, ends, per_series=run.config.scale_per_series)
    windows = Windows(store, choice.look_back, choice.horizon, scaler)
    stop = np.where(ends > 0, np.maximum(ends - choice.horizon + 1, bench.split.train.first), bench.split.train.first)
    split = replace(bench.split, train=Spans(bench.split.train.first, stop), train_ends=ends)
    return Workbench(store, split, scaler, windows, window_shape(windows, choice.season))


def _say_earlier(bench: Workbench, earlier: dict[str, int]) -> None:
    if not earlier:
        return
    name, steps = max(earlier.items(), key=lambda pair: pair[1])
    columns = ", ".join(bench.store.columns["known"])
    print(
        f"{columns}: known for fewer than {bench.shape.horizon} steps ahead, so {len(earlier)} of "
        f"{len(bench.store.ids)} forecasts begin before the end of the data ({name}: {steps} steps). Add rows with "
        "their coming values, and an empty target, to forecast from the end.",
        flush=True,
    )
