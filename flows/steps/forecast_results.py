"""The stored backtest of a run's chosen model, for the forecast, the export and the report."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from data.atomic import written_file
from flows.run import Run
from modules.forecast.backtest import Backtest
from modules.forecast.ensemble import Ensemble

BACKTEST = "backtest.npz"
ENSEMBLE = "ensemble"


@dataclass(frozen=True)
class StoredBacktest:
    """Validation and test forecasts of one model, scaled, and quantiles of the latter."""

    model: str
    validation: Backtest
    test: Backtest
    quantiles: np.ndarray
    """[row, horizon, target, level] of the test rows."""
    levels: tuple[float, ...]


def write_backtest(run: Run, stored: StoredBacktest) -> None:
    """Keep the backtest of the chosen model beside the run's other results."""
    arrays: dict[str, Any] = {"quantiles": stored.quantiles, "levels": np.array(stored.levels), "model": stored.model}
    for split, part in (("validation", stored.validation), ("test", stored.test)):
        for name in ("items", "origins", "forecast", "truth", "clock"):
            arrays[f"{split}_{name}"] = getattr(part, name)
    with written_file(run.path / BACKTEST) as temporary, temporary.open("wb") as file:
        np.savez(file, **arrays)


def read_backtest(run: Run) -> StoredBacktest:
    """What `write_backtest` wrote."""
    with np.load(run.path / BACKTEST) as stored:
        arrays = {name: stored[name] for name in stored.files}

    def part(split: str) -> Backtest:
        names = ("items", "origins", "forecast", "truth", "clock")
        return Backtest(**{name: arrays[f"{split}_{name}"] for name in names})

    levels = tuple(float(level) for level in arrays["levels"])
    return StoredBacktest(str(arrays["model"]), part("validation"), part("test"), arrays["quantiles"], levels)


def read_evaluation(run: Run) -> dict[str, Any]:
    """evaluation.json."""
    found: dict[str, Any] = json.loads((run.path / "evaluation.json").read_text())
    return found


def stored_ensemble(evaluation: Mapping[str, Any], horizon: int) -> Ensemble:
    """The ensemble that the backtest settled on."""
    weights: Mapping[str, float] = evaluation["ensemble"]
    return Ensemble(tuple(weights), np.array([list(weights.values())]), horizon)
