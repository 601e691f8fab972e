"""Season, look-back and a first forecast, decided on the validation part with closed-form models alone."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from functools import partial
from typing import Any

import numpy as np

from configs.forecast import ForecastConfig
from configs.load import to_plain
from data.errors import ConfigError
from data.export.forecast import write_table
from data.forecast.calendar import seasons
from data.forecast.series_store import Series, SeriesStore
from data.forecast.time_split import spans
from data.model_folder import write_model
from flows.run import Run, write_json
from flows.steps.forecast_ridge import best_trials, compared, fitted_ridge
from flows.steps.forecast_tables import long_columns
from flows.steps.forecast_train import add_seconds
from flows.steps.forecast_workbench import Choice, Workbench, future_rows, make_workbench
from modules.forecast.backtest import forecast_all
from modules.forecast.floors import SeasonalNaive
from modules.forecast.heads import Head
from modules.forecast.network import ForecastNetwork
from modules.forecast.ridge import Ridge

DEFAULT_HORIZON = 24
LONGEST_LOOK_BACK = 512
"""Of those that are tried unasked: a ridge regression costs the square of it."""
SCANNED = 20
"""Series whose autocorrelation is looked at."""
AS_GOOD = 1.01
"""Errors of two seasons that differ by less are alike."""
SCORED = 1000
"""Most validation windows on which seasons are compared."""


def choose(run: Run) -> None:
    """Write choice.json and the fitted ridge regression, and forecast with it."""
    began = time.process_time()
    config: ForecastConfig = run.config
    store = SeriesStore(run.data_file)
    choice, tried = decided(store, config)
    bench = make_workbench(store, config, choice)
    fitted = {name: fitted_ridge(config, choice, bench, name) for name in choice.regressions}
    for name, ridge in fitted.items():
        network = ForecastNetwork(shape=bench.shape, model=ridge.config)
        described = {"domain": run.domain_name, "stage": name, "network": to_plain(network)}
        write_model(run.model(name), ridge, described, run.provenance() | {"run": run.name, "stage": name})
    write_json(run.path / "scaler.json", bench.scaler.to_plain())
    write_json(run.path / "choice.json", asdict(replace(choice, table=tried)))
    for item, reason in list(bench.split.refused.items())[:20]:
        print(f"  left out {store.ids[item]}: {reason}", flush=True)
    _first_forecast(run, bench, fitted)
    seconds = time.process_time() - began
    for name in choice.regressions:
        add_seconds(run, name, seconds)
    print(
        f"season {choice.season}, look-back {choice.look_back}, horizon {choice.horizon} steps (validation); "
        f"first forecast, by {next(iter(fitted)).replace('_', ' ')}, after {seconds:.1f} CPU s: first_forecast.csv",
        flush=True,
    )


def _first_forecast(run: Run, bench: Workbench, fitted: Mapping[str, Ridge]) -> None:
    """What the regression of least validation error says, before anything is trained: first_forecast.csv."""
    ridge = next(iter(fitted.values()))
    rows, _ = future_rows(bench)
    forecast = forecast_all(ridge, partial(bench.windows.cut, future=False), rows.items, rows.origins)[..., 0]
    columns = long_columns(bench.store, rows.items, rows.origins, bench.shape.horizon)
    columns["forecast"] = bench.scaler.undo(rows.items, forecast).reshape(-1)
    write_table(columns, run.path / "first_forecast.csv", zone=bench.store.zone)


def decided(store: Series, config: ForecastConfig) -> tuple[Choice, list[dict[str, Any]]]:
    """The choice, and what was tried on the way with its validation error.

    Only rows before the end of the validation part are read.

    Raises:
        ConfigError: the series are too short for the horizon.
    """
    shortest = int(np.median(store.lengths))
    season, tried = _season(store, config, shortest)
    natural = min(seasons(store.step), default=season if season > 1 else DEFAULT_HORIZON)
    horizon = config.horizon or min(natural, max(1, shortest // 20))
    if horizon >= shortest:
        raise ConfigError(f"horizon {horizon}: the median series has {shortest} steps. Take a shorter --horizon.")
    best: tuple[float, Choice] | None = None
    for look_back in _look_backs(config, horizon, season, shortest):
        plain = Choice(horizon, look_back, season, {}, [])
        found = compared(make_workbench(store, config, plain), config)
        tried += [{"look_back": look_back, "season": season, **asdict(trial)} for trial in found]
        trials = best_trials(found)
        error = min(trial.error for trial in trials.values())
        if best is None or error < best[0]:
            settings = {
                name: {"offset": trial.offset, "penalty": trial.penalty, "cycle": trial.cycle}
                for name, trial in trials.items()
            }
            best = error, replace(plain, regressions=settings)
    assert best is not None
    if config.task == "impute":  # a network that fills gaps says the window that it sees
        return replace(best[1], horizon=best[1].look_back), tried
    return best[1], tried


def _season(store: Series, config: ForecastConfig, shortest: int) -> tuple[int, list[dict[str, Any]]]:
    """The season whose naive forecast errs least on the validation part; 1 where there is none."""
    if config.choose.season is not None:
        return config.choose.season, []
    # A season that does not fit into the look-back is of no use.
    longest = max(1, min(shortest // 8, config.choose.look_back or LONGEST_LOOK_BACK))
    options = [n for n in dict.fromkeys([*seasons(store.step), *_periods(store, config)]) if 1 < n <= longest]
    tried: list[dict[str, Any]] = []
    for season in options:
        horizon = config.horizon or max(options)
        choice = Choice(min(horizon, longest), season, season, {}, [])
        bench = make_workbench(store, config, choice)
        rows = bench.rows("validation", SCORED)
        forecast = forecast_all(SeasonalNaive(bench.shape, Head()), bench.windows.cut, rows.items, rows.origins)
        error = float(np.nanmean((forecast[..., 0] - bench.truth(rows)) ** 2))
        tried.append({"season": season, "model": "seasonal naive", "error": error})
    if not tried:
        return 1, []
    # The shortest of those that are as good: twice a season is a season too.
    least = min(trial["error"] for trial in tried)
    return min(int(trial["season"]) for trial in tried if trial["error"] <= AS_GOOD * least + 1e-9), tried


def _periods(store: Series, config: ForecastConfig) -> list[int]:
    """Periods at which training rows resemble themselves: peaks of the mean autocorrelation of some series."""
    split = spans(store.lengths, 1, 1, config.split)
    total: np.ndarray | None = None
    width = int(max(4, min(2048, np.median(split.train_ends) // 3)))
    for item in range(min(SCANNED, len(store.ids))):
        values = store.read(item, "targets", 0, int(split.train_ends[item]))
        if len(values) <= 2 * width:
            continue
        # Differences, because a trend makes every lag look alike; a gap counts as no change.
        change = np.nan_to_num(np.diff(values, axis=0))
        power = np.abs(np.fft.rfft(change - change.mean(axis=0), 2 * len(change), axis=0)) ** 2
        lags = np.fft.irfft(power, axis=0)[:width]
        lags = (lags / np.maximum(lags[:1], 1e-30)).mean(axis=1)
        total = lags if total is None else total + lags
    if total is None:
        return []
    inner = total[1:-1]
    peaks = np.flatnonzero((inner > total[:-2]) & (inner > total[2:]) & (inner > 0.1 * total[0])) + 1
    return [int(lag) for lag in sorted(peaks, key=lambda lag: -total[lag])[:3]]


def _look_backs(config: ForecastConfig, horizon: int, season: int, shortest: int) -> Sequence[int]:
    """The candidates, shortest first."""
    chosen = config.choose
    if chosen.look_back is not None:
        return [chosen.look_back]
    if chosen.look_backs:
        return sorted(chosen.look_backs)
    longest = max(min(LONGEST_LOOK_BACK, shortest // 4), 1)
    wished = {2 * season, horizon, 2 * horizon, 4 * horizon, 7 * season, 14 * season}
    return sorted(n for n in wished if season <= n <= longest) or [min(max(season, horizon), longest)]
