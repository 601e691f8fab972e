"""The other tasks of the forecast domain: gaps, labels of sequences, films."""

import csv
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd

from flows.run import DONE, Run

Penstock = Callable[..., tuple[int, str, str]]


def test_gaps_are_filled_and_what_was_measured_stays(penstock: Penstock, runs: Path, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    steps = np.arange(600)
    truth = np.sin(2 * np.pi * steps / 24) + 0.02 * rng.normal(size=len(steps))
    given = truth.copy()
    for start in rng.choice(570, 12, replace=False):
        given[start : start + 6] = np.nan
    stamps = pd.date_range("2024-01-01", periods=len(steps), freq="h")
    pd.DataFrame({"time": stamps, "y": given}).to_csv(tmp_path / "gaps.csv", index=False)
    code, _, err = penstock(
        "report", "forecast", "--preset", "impute", "--data", str(tmp_path / "gaps.csv"), "--name", "gaps",
        "--choose.look_back", "48", "--itransformer", "null", "--dlinear.trainer.steps", "300",
        "--dlinear.trainer.batch_size", "64", "--dlinear.epochs", "null", "--dlinear.optimizer.learning_rate", "0.01",
    )  # fmt: skip
    assert code == 0, err
    run = Run(runs / "gaps")
    assert run.state() == DONE
    models = json.loads((run.path / "evaluation.json").read_text())["models"]
    assert models["dlinear"]["mse"] < models["window_mean"]["mse"]
    table = pd.read_parquet(run.exports / "imputed.parquet")
    missing = np.isnan(given)
    np.testing.assert_array_equal(table.filled, missing)
    np.testing.assert_array_equal(table.value[~missing], given[~missing])
    assert np.isfinite(table.value).all()
    # Better than knowing nothing of the season.
    assert np.mean((table.value[missing] - truth[missing]) ** 2) < np.var(truth)


def test_sequences_are_labelled(penstock: Penstock, runs: Path) -> None:
    small = (
        "--classifier.trainer.steps",
        "40",
        "--classifier.synthetic.count",
        "60",
        "--classifier.network.width",
        "16",
    )
    code, _, err = penstock("report", "forecast", "--preset", "vowels", "--name", "labels", *small)
    assert code == 0, err
    run = Run(runs / "labels")
    assert run.state() == DONE
    found = json.loads((run.path / "evaluation.json").read_text())
    with (run.exports / "labels.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["split"] == "test"]
    assert len(rows) == found["test"]["sequences"] == 15
    right = sum(row["label"] == row["predicted"] for row in rows)
    assert found["test"]["accuracy"] == right / len(rows)
    assert np.trace(found["test"]["confusion"]) == right


def test_films_are_predicted_and_held_against_floors(penstock: Penstock, runs: Path) -> None:
    small = (
        "--predformer.trainer.steps",
        "10",
        "--predformer.synthetic.count",
        "40",
        "--predformer.network.features",
        "16",
    )
    code, _, err = penstock("report", "forecast", "--preset", "films", "--name", "films", *small)
    assert code == 0, err
    run = Run(runs / "films")
    assert run.state() == DONE
    found = json.loads((run.path / "evaluation.json").read_text())
    assert set(found["models"]) == {"predformer", "zeros", "mean", "copy_last"}
    with np.load(run.exports / "films.npz") as stored:
        true = stored["true"].astype(float) / 255
        assert len(true) == found["films"]
    # The floor of nothing, from what was exported: the mean energy of a frame.
    assert abs(found["models"]["zeros"]["mse"] - (true**2).sum(axis=(2, 3, 4)).mean()) < 0.5
