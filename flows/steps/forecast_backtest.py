"""The backtest: every model on every test window, held against the floors, with intervals and error bars."""

import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from configs.forecast import ForecastConfig
from flows.progress import Progress
from flows.run import Run, write_json
from flows.steps.forecast_leak_check import check_leaks
from flows.steps.forecast_models import FLOORS, Candidate, candidates
from flows.steps.forecast_results import (
    ENSEMBLE,
    StoredBacktest,
    read_backtest,
    read_evaluation,
    stored_ensemble,
    write_backtest,
)
from flows.steps.forecast_train import repeated, seconds_of
from flows.steps.forecast_workbench import Rows, Workbench, workbench
from flows.tracking import tracked
from modules.forecast.backtest import Backtest
from modules.forecast.bootstrap import compare
from modules.forecast.conformal import TrailingConformal, joined, split_conformal
from modules.forecast.ensemble import Ensemble, combine
from modules.forecast.metrics import (
    interval_scores,
    point_scores,
    quantile_scores,
    seasonal_scale,
    skill,
    window_errors,
)

BLOCK = 3
"""Horizons in a block of the bootstrap: neighbouring windows share their weather for longer than one."""


@dataclass(frozen=True)
class Forecasts:
    """Point forecasts of all models on the same windows [row, horizon, target], scaled as in the first fold."""

    rows: Rows
    truth: np.ndarray
    points: dict[str, np.ndarray]
    quantiles: dict[str, np.ndarray]
    """Of the models that forecast distributions [row, horizon, target, level]."""


def evaluate(run: Run) -> None:
    """Write evaluation.json and backtest.npz."""
    config: ForecastConfig = run.config
    bench = workbench(run)
    models, rows = candidates(run, bench), bench.rows("validation", config.evaluate.windows)
    validation = _forecasts(models, bench, rows, "validation", config.intervals.quantiles)
    test = _test_forecasts(run, bench)
    ensemble = _with_ensemble(config, validation, test)
    result: dict[str, Any] = {
        "task": config.task,
        "protocol": config.protocol,
        "windows": _counts(bench, validation, test),
        "shape": vars(bench.shape),
        "folds": config.evaluate.folds,
        "models": _scores(config, bench, validation, test),
        "ensemble": dict(zip(ensemble.names, ensemble.weights[0].round(6).tolist(), strict=True)),
        "seconds": seconds_of(run),
    }
    result["seeds"] = _seeds(config, result["models"])
    result["chosen"] = min(result["models"], key=lambda name: result["models"][name]["validation_mse"])
    result["floor"] = _floor(result["models"])
    result["leak_test"] = check_leaks(run, bench, str(result["chosen"])) if config.evaluate.leak_test else None
    stored = _intervals(config, bench, validation, test, str(result["chosen"]))
    result["intervals"] = _coverage(config, stored)
    result["heads"] = _own_coverage(config, test)
    result["crps"] = quantile_scores(stored.quantiles, stored.levels, stored.test.truth).crps
    write_backtest(run, stored)
    write_json(run.path / "evaluation.json", plain(result))
    with tracked(run, "evaluate") as tracker:
        scores = {f"test/{name}/mse": model["mse"] for name, model in result["models"].items()}
        tracker.log({name: value for name, value in scores.items() if np.isfinite(value)})


def known_errors(run: Run, bench: Workbench, name: str) -> Backtest:
    """Validation and test forecasts of one model, chosen or not, with what came of them."""
    stored = read_backtest(run)
    if stored.model != name:
        ensemble = stored_ensemble(read_evaluation(run), bench.shape.horizon)
        only = ensemble.names if name == ENSEMBLE else (name,)
        models = {key: model for key, model in candidates(run, bench).items() if key in only}
        rows = bench.rows("validation", run.config.evaluate.windows)
        levels = run.config.intervals.quantiles
        found = (_forecasts(models, bench, rows, "validation", levels), _test_forecasts(run, bench, only))
        if name == ENSEMBLE:
            for part in found:
                part.points[ENSEMBLE] = ensemble.apply(part.points)
        return joined(*(bench.backtest(part.rows, part.points[name], part.truth) for part in found))
    return joined(stored.validation, stored.test)


def before(history: Backtest, rows: Rows) -> Backtest:
    """The forecasts of `history` that were made before those of `rows`, of each series."""
    first = dict(zip(rows.items.tolist(), rows.origins.tolist(), strict=True))
    kept = history.origins < np.array([first.get(item, -1) for item in history.items.tolist()])
    return Backtest(
        items=history.items[kept],
        origins=history.origins[kept],
        forecast=history.forecast[kept],
        truth=history.truth[kept],
        clock=None if history.clock is None else history.clock[kept],
    )


def _forecasts(
    models: Mapping[str, Candidate], bench: Workbench, rows: Rows, what: str, levels: tuple[float, ...]
) -> Forecasts:
    progress = Progress(f"backtest {what}", len(models), "models")
    points, quantiles = {}, {}
    for place, (name, model) in enumerate(models.items(), start=1):
        answer = model.raw(bench, rows)
        points[name] = model.middle(answer)
        if model.head.kind != "point":
            quantiles[name] = model.own_quantiles(answer, levels)
        progress.update(place)
    return Forecasts(rows, bench.truth(rows), points, quantiles)


def _test_forecasts(run: Run, bench: Workbench, only: Collection[str] | None = None) -> Forecasts:
    """The test windows, forecast fold by fold, each fold by models that saw nothing from its first origin on."""
    config: ForecastConfig = run.config
    parts = []
    for fold in range(config.evaluate.folds):
        own = bench if config.evaluate.folds == 1 else workbench(run, fold)
        most = -(-config.evaluate.windows // config.evaluate.folds)
        models = {name: model for name, model in candidates(run, own, fold).items() if only is None or name in only}
        found = _forecasts(models, own, own.rows("test", most), f"fold {fold + 1}", config.intervals.quantiles)
        parts.append(found if own is bench else _rescaled(found, own, bench))
    return parts[0] if len(parts) == 1 else _together(parts)


def _rescaled(found: Forecasts, own: Workbench, bench: Workbench) -> Forecasts:
    """Forecasts of a later fold in the scale of the first, in which all are scored."""
    items = found.rows.items

    def moved(values: np.ndarray) -> np.ndarray:
        return bench.scaler.apply("targets", items, own.scaler.undo(items, values)).astype(np.float32)

    points, quantiles = (
        {name: moved(values) for name, values in part.items()} for part in (found.points, found.quantiles)
    )
    return Forecasts(found.rows, moved(found.truth), points, quantiles)


def _together(parts: list[Forecasts]) -> Forecasts:
    items = np.concatenate([part.rows.items for part in parts])
    origins = np.concatenate([part.rows.origins for part in parts])
    order = np.lexsort((origins, items))
    rows = Rows(items[order], origins[order], sum(part.rows.of for part in parts))
    # A network trained with several seeds has its other seeds in the first fold alone, unless nothing is refitted.
    names = [name for name in parts[0].points if all(name in part.points for part in parts)]
    points = {name: np.concatenate([part.points[name] for part in parts])[order] for name in names}
    own = {
        name: np.concatenate([part.quantiles[name] for part in parts])[order]
        for name in parts[0].quantiles
        if name in names
    }
    return Forecasts(rows, np.concatenate([part.truth for part in parts])[order], points, own)


def _with_ensemble(config: ForecastConfig, validation: Forecasts, test: Forecasts) -> Ensemble:
    """Adds the mean of all models, weighted on the validation windows, to both; further seeds are not counted twice.

    Its own validation forecasts are made with the weights of the other half of the validation part: with weights that
    were fitted to them it would always seem the best.
    """
    seeds = {repeated(name, k) for name in config.networks for k in range(1, config.seeds)}
    # Floors are what the others are held against; as members they follow the noise of the validation part.
    members = [name for name in test.points if name not in seeds and name not in FLOORS]
    held = {name: validation.points[name] for name in members}
    ensemble = combine(held, validation.truth)
    test.points[ENSEMBLE] = ensemble.apply({name: test.points[name] for name in members})
    crossed = ensemble.apply(held)
    late = validation.rows.origins >= np.median(validation.rows.origins)
    if 0 < late.sum() < len(late):
        for half in (late, ~late):
            other = combine({name: points[~half] for name, points in held.items()}, validation.truth[~half])
            crossed[half] = other.apply({name: points[half] for name, points in held.items()})
    validation.points[ENSEMBLE] = crossed
    return ensemble


def _counts(bench: Workbench, validation: Forecasts, test: Forecasts) -> dict[str, int]:
    return {
        "train": len(bench.split.train),
        "validation": len(validation.rows),
        "test": len(test.rows),
        "of": test.rows.of,
        "series": len(np.unique(test.rows.items)),
        "left_out": len(bench.split.refused),
    }


def workable(bench: Workbench) -> np.ndarray:
    """The series that have windows."""
    return np.setdiff1d(np.arange(len(bench.store.ids)), list(bench.split.refused))


def _scores(config: ForecastConfig, bench: Workbench, validation: Forecasts, test: Forecasts) -> dict[str, Any]:
    """Every model's errors and its skill against the best floor, with the error bar of the difference."""
    scales = _scales(bench)
    found: dict[str, Any] = {}
    errors: dict[str, np.ndarray] = {}
    counts = np.zeros(0)
    for name, points in test.points.items():
        scored = point_scores(points, test.truth, test.rows.items, scales)
        errors[name], counts = window_errors(points, test.truth)
        in_data = bench.scaler.undo(test.rows.items, points), bench.scaler.undo(test.rows.items, test.truth)
        found[name] = {
            "mse": scored.mse,
            "mae": scored.mae,
            "mase": scored.mase,
            "rmse": point_scores(*in_data).rmse,
            "per_horizon_mse": scored.square.by_horizon.tolist(),
            "per_target_mse": scored.square.by_target.tolist(),
            "validation_mse": point_scores(validation.points[name], validation.truth).mse,
        }
    floor = _floor(found)
    for name, scores in found.items():
        difference = compare(
            errors[name], errors[floor], test.rows.items, bench.backtest(test.rows, test.truth, test.truth).times,
            BLOCK * bench.shape.horizon, max(100, config.evaluate.bootstrap), config.seed, counts,
        )  # fmt: skip
        level = found[floor]["mse"]
        ends = sorted((-difference.high / level, -difference.low / level)) if level > 0 else [float("nan")] * 2
        scores["skill"] = {
            "value": skill(scores["mse"], level),
            "low": ends[0],
            "high": ends[1],
            "verdict": difference.verdict if name != floor else "the floor",
            "against": floor,
            "blocks": difference.blocks,
        }
    return found


def _floor(models: Mapping[str, Any]) -> str:
    """The floor of least validation error: what the others are held against."""
    return min(FLOORS, key=lambda name: models[name]["validation_mse"])


def _scales(bench: Workbench) -> np.ndarray:
    """Seasonal naive error of every series within its training rows, in scaled units."""
    scales = np.full((len(bench.store.ids), bench.shape.targets), np.nan)
    for item in workable(bench):
        values = bench.store.read(int(item), "targets", 0, int(bench.split.train_ends[item]))
        scaled = bench.scaler.apply("targets", np.array([item]), values[None])[0]
        scales[item] = seasonal_scale(scaled, bench.shape.season)
    return scales


def _seeds(config: ForecastConfig, models: Mapping[str, Any]) -> dict[str, Any]:
    """Mean and standard deviation over the trainings that differ in their seed alone."""
    found: dict[str, Any] = {}
    for name in config.networks if config.seeds > 1 else ():
        runs = [models[repeated(name, k)] for k in range(config.seeds) if repeated(name, k) in models]
        values = {score: [one[score] for one in runs] for score in ("mse", "mae")}
        found[name] = dict(values)
        for score, numbers in values.items():
            found[name] |= {f"{score}_mean": float(np.mean(numbers)), f"{score}_sd": float(np.std(numbers, ddof=1))}
    return found


def _intervals(
    config: ForecastConfig, bench: Workbench, validation: Forecasts, test: Forecasts, name: str
) -> StoredBacktest:
    """The chosen model's intervals: trailing conformal ones, or those of its own head."""
    began = time.process_time()
    history = bench.backtest(validation.rows, validation.points[name], validation.truth)
    tested = bench.backtest(test.rows, test.points[name], test.truth)
    levels = config.intervals.quantiles
    if config.intervals.method == "head" and name in test.quantiles:
        return StoredBacktest(name, history, tested, test.quantiles[name], levels)
    found = TrailingConformal(window=config.intervals.window).intervals(history, tested, levels)
    print(f"intervals of {name}: {len(tested)} windows in {time.process_time() - began:.1f} CPU s", flush=True)
    return StoredBacktest(name, history, tested, found.quantiles.astype(np.float32), levels)


def _coverage(config: ForecastConfig, stored: StoredBacktest) -> dict[str, Any]:
    """Nominal against actual coverage and width, beside plain split conformal intervals."""
    found: dict[str, Any] = {}
    plain_split = split_conformal(stored.validation, stored.test, stored.levels)
    for nominal in config.intervals.levels:
        ends = [stored.levels.index(round(0.5 + sign * nominal / 2, 6)) for sign in (-1, 1)]
        low, high = (stored.quantiles[..., end] for end in ends)
        scored = interval_scores(low, high, stored.test.truth, nominal)
        bottom, top = plain_split.band(nominal)
        plain_scored = interval_scores(bottom, top, stored.test.truth, nominal)
        found[f"{nominal:g}"] = {
            "coverage": scored.coverage,
            "width": scored.width,
            "winkler": scored.winkler,
            "off": scored.is_off,
            "split_coverage": plain_scored.coverage,
            "split_width": plain_scored.width,
            "per_horizon": {
                "coverage": scored.covered.by_horizon.tolist(),
                "width": scored.widths.by_horizon.tolist(),
            },
        }
    return found


def _own_coverage(config: ForecastConfig, test: Forecasts) -> dict[str, Any]:
    """What the quantiles of networks with such heads are worth, before any calibration."""
    levels, found = config.intervals.quantiles, dict[str, Any]()
    for name, quantiles in test.quantiles.items():
        found[name] = {"crps": quantile_scores(quantiles, levels, test.truth).crps}
        for nominal in config.intervals.levels:
            low, high = (quantiles[..., levels.index(round(0.5 + sign * nominal / 2, 6))] for sign in (-1, 1))
            scored = interval_scores(low, high, test.truth, nominal)
            found[name][f"{nominal:g}"] = {"coverage": scored.coverage, "width": scored.width}
    return found


def plain(value: Any) -> Any:
    """As JSON takes it: numbers that are not finite become null."""
    if isinstance(value, Mapping):
        return {str(key): plain(part) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(part) for part in value]
    if isinstance(value, (float, np.floating)):
        return float(value) if np.isfinite(value) else None
    return value.item() if isinstance(value, np.generic) else value
