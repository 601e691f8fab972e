"""The forecast workflow: a table in, a forecast with intervals out; same seed, same bits; no look into the future."""

import json
import sys
import types
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from benchmarks.forecast_baseline import ITransformer
from flows.models import load_model
from flows.run import DONE, Run
from flows.steps.forecast_future import read_future
from flows.steps.forecast_results import read_backtest
from flows.steps.forecast_workbench import workbench
from flows.tracking import read_metrics
from modules.forecast.cyclenet import CycleNet
from modules.forecast.foundation import Foundation, FoundationConfig, History

Penstock = Callable[..., tuple[int, str, str]]
DEBUG = ("--preset", "debug")


def evaluation(run: Run) -> dict:
    return json.loads((run.path / "evaluation.json").read_text())


def test_from_series_to_a_report_and_again(penstock: Penstock, runs: Path) -> None:
    code, _, err = penstock(
        "report", "forecast", *DEBUG, "--name", "one", "--seed", "5", "--evaluate.leak_test", "true"
    )
    assert code == 0, err
    run = Run(runs / "one")
    assert run.state() == DONE
    found = evaluation(run)
    assert found["leak_test"]["passed"]
    assert set(found["models"]) == {
        "last_value", "seasonal_naive", "window_mean", "ridge", "cycle_ridge", "cyclenet", "ensemble",
    }  # fmt: skip
    assert found["windows"]["test"] == found["windows"]["of"]
    assert found["models"][found["floor"]]["skill"]["verdict"] == "the floor"
    # What is stored is what was scored, and what is exported, in the units of the data.
    stored = read_backtest(run)
    mse = np.nanmean((stored.test.forecast - stored.test.truth) ** 2)
    assert found["models"][found["chosen"]]["mse"] == pytest.approx(mse, rel=1e-4)
    table = pd.read_parquet(run.exports / "backtest.parquet")
    bench = workbench(run)
    series = table[(table.id == bench.store.ids[0]) & (table.step == 1)]
    values = bench.store.read(0, "targets", int(stored.test.origins[0]), int(bench.store.lengths[0]))[:, 0]
    np.testing.assert_allclose(series.truth, values[: len(series)], rtol=1e-5, equal_nan=True)

    forecast = pd.read_csv(run.exports / "forecast.csv", parse_dates=["time"])
    assert len(forecast) == 4 * 12
    quantiles = forecast[[name for name in forecast if name.startswith("q")]].to_numpy()
    assert (np.diff(quantiles, axis=1) >= 0).all()
    first = forecast[forecast.id == bench.store.ids[0]]
    assert (first.time.diff().dropna() == pd.Timedelta("1h")).all()
    early = pd.read_csv(run.path / "first_forecast.csv", parse_dates=["time"])
    pd.testing.assert_frame_equal(early[["id", "time", "step"]], forecast[["id", "time", "step"]])
    anomalies = pd.read_parquet(run.exports / "anomalies.parquet")
    assert anomalies.p_value.between(0, 1).all()
    page = (run.path / "report.html").read_text()
    assert "Leak test passed" in page
    assert "How the data was read" in page
    assert isinstance(load_model(run.model("cyclenet")).network, CycleNet)
    code, out, err = penstock("export", "model", "one")
    assert code == 0, err
    assert sorted(path.name for path in (run.exports / "models").iterdir()) == ["cycle_ridge", "cyclenet", "ridge"]
    assert "not trained" not in out

    # The same again: the preparation is found, and everything comes out with the same bits.
    code, out, err = penstock("export", "forecast", *DEBUG, "--name", "two", "--seed", "5")
    assert code == 0, err
    assert "Found prepared" in out
    twin = Run(runs / "two")
    for name in ("ridge", "cyclenet"):
        ours, theirs = (one.model(name) / "model.safetensors" for one in (run, twin))
        assert ours.read_bytes() == theirs.read_bytes()
    assert (run.exports / "forecast.csv").read_bytes() == (twin.exports / "forecast.csv").read_bytes()


def test_a_table_is_forecast_from_its_end(penstock: Penstock, runs: Path, tmp_path: Path) -> None:
    """A series that repeats itself exactly is forecast exactly, at the right stamps, in its own units."""
    steps = np.arange(24 * 40)
    season = 100 + 10 * np.sin(2 * np.pi * steps / 24)
    stamps = pd.date_range("2024-03-01", periods=len(steps), freq="h")
    pd.DataFrame({"when": stamps, "load": season}).to_csv(tmp_path / "load.csv", index=False)
    code, out, err = penstock(
        "export", "forecast", "--preset", "debug", "--data", str(tmp_path / "load.csv"), "--name", "load",
        "--cyclenet", "null", "--horizon", "24", "--choose.look_back", "null", "--target", "load",
    )  # fmt: skip
    assert code == 0, err
    assert "season 24" in out
    forecast = pd.read_csv(Run(runs / "load").exports / "forecast.csv", parse_dates=["time"])
    assert forecast.time[0] == stamps[-1] + pd.Timedelta("1h")
    expected = 100 + 10 * np.sin(2 * np.pi * np.arange(len(steps), len(steps) + 24) / 24)
    np.testing.assert_allclose(forecast.forecast, expected, atol=0.05)


def test_folds_with_refit_hold_every_origin_once(penstock: Penstock, runs: Path) -> None:
    settings = ("--evaluate.folds", "3", "--evaluate.refit", "true", "--cyclenet.trainer.steps", "4")
    code, _, err = penstock("evaluate", "forecast", *DEBUG, "--name", "folds", *settings)
    assert code == 0, err
    run = Run(runs / "folds")
    stored, bench = read_backtest(run), workbench(run)
    assert len(stored.test) == len(bench.rows("test")) + sum(len(workbench(run, k).rows("test")) for k in (1, 2))
    pairs = set(zip(stored.test.items.tolist(), stored.test.origins.tolist(), strict=True))
    assert len(pairs) == len(stored.test)
    for fold in (1, 2):
        assert (run.model(f"cyclenet-fold{fold}") / "model.safetensors").is_file()
        later, earlier = workbench(run, fold), workbench(run, fold - 1)
        # A later fold is fitted on more rows, none of which lies beyond its own first origin.
        assert (later.split.train_ends >= earlier.split.train_ends).all()
        assert (later.split.validation_ends <= later.split.test.first).all()
        assert (later.split.test.first == earlier.split.test.stop).all()


def test_seeds_are_an_axis(penstock: Penstock, runs: Path) -> None:
    code, _, err = penstock("evaluate", "forecast", *DEBUG, "--name", "seeds", "--seeds", "2")
    assert code == 0, err
    run = Run(runs / "seeds")
    found = evaluation(run)
    scores = [found["models"][name]["mse"] for name in ("cyclenet", "cyclenet-1")]
    assert scores[0] != scores[1]
    assert found["seeds"]["cyclenet"]["mse_mean"] == pytest.approx(np.mean(scores))
    assert found["seeds"]["cyclenet"]["mse_sd"] == pytest.approx(np.std(scores, ddof=1))
    assert {row.stage for row in read_metrics(run.metrics_file)} == {"cyclenet", "cyclenet-1"}


def test_a_network_alone_can_be_trained_and_a_missing_one_says_so(penstock: Penstock, runs: Path) -> None:
    code, _, err = penstock("train", "forecast.cyclenet", *DEBUG, "--name", "alone")
    assert code == 0, err
    code, _, err = penstock("train", "forecast.patchtst", "--run", "alone")
    assert code == 2
    assert "leaves out train_patchtst" in err
    assert "Traceback" not in err


def test_known_covariates_that_end_too_early_move_the_forecast(penstock: Penstock, runs: Path, tmp_path: Path) -> None:
    steps = np.arange(24 * 30)
    price = np.random.default_rng(0).normal(size=len(steps))
    frame = pd.DataFrame(
        {"time": pd.date_range("2024-01-01", periods=len(steps), freq="h"), "y": price, "price": price}
    )
    frame["y"] = np.sin(steps / 4) + np.random.default_rng(1).normal(size=len(steps))
    frame.to_csv(tmp_path / "prices.csv", index=False)
    words = ("--data", str(tmp_path / "prices.csv"), "--target", "y", "--known-future", "price", "--cyclenet", "null")
    code, out, err = penstock("sample", "forecast", *DEBUG, "--name", "early", *words)
    assert code == 0, err
    assert "known for fewer than 12 steps ahead" in out
    frame.loc[len(frame) - 12 :, "y"] = np.nan  # the coming values of the price are given now
    frame.to_csv(tmp_path / "prices.csv", index=False)
    code, out, err = penstock("sample", "forecast", *DEBUG, "--name", "enough", *words)
    assert code == 0, err
    assert "known for fewer" not in out


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"y": ["1", "2", "high"] * 100}, "high"),
        ({"y": [None] * 300}, "y"),
        ({"time": ["2024-01-01"] * 300}, "stamp"),
    ],
    ids=["text", "nothing measured", "one stamp"],
)
def test_a_table_that_cannot_be_read_is_one_message(
    penstock: Penstock, runs: Path, tmp_path: Path, change: dict[str, list], message: str
) -> None:
    table = {"time": pd.date_range("2024-01-01", periods=300, freq="h").astype(str), "y": np.arange(300.0)} | change
    pd.DataFrame(table).to_csv(tmp_path / "bad.csv", index=False)
    code, _, err = penstock("prepare", "forecast", *DEBUG, "--data", str(tmp_path / "bad.csv"), "--target", "y")
    assert code == 2
    assert message in err
    assert "Traceback" not in err
    assert not list(runs.glob("forecast-*"))


def test_a_horizon_longer_than_the_series_is_refused(penstock: Penstock) -> None:
    code, _, err = penstock("prepare", "forecast", *DEBUG, "--horizon", "100000", "--name", "long")
    assert code == 0, err
    code, _, err = penstock("train", "forecast.cyclenet", "--run", "long")
    assert code == 2
    assert "shorter --horizon" in err


def test_weights_of_the_library_become_a_run_on_the_users_data(penstock: Penstock, runs: Path, tmp_path: Path) -> None:
    torch.manual_seed(0)
    theirs = ITransformer(24, 12, layers=1, width=16, heads=2, hidden=16, dropout=0.0).eval()
    folder = tmp_path / (
        "long_term_forecast_mine_24_12_iTransformer_custom_ftM_sl24_ll12_pl12_dm16_nh2_el1_dl1_df16_fc1_ebtimeF_dtTrue_0"
    )
    folder.mkdir()
    torch.save(theirs.state_dict(), folder / "checkpoint.pth")
    (folder / "args.json").write_text(json.dumps({"enc_in": 2}))
    stamps = pd.date_range("2024-01-01", periods=400, freq="h")
    values = np.random.default_rng(0).normal(size=(400, 2)).cumsum(axis=0)
    table = pd.DataFrame({"date": stamps, "a": values[:, 0], "b": values[:, 1]})
    table.to_csv(tmp_path / "own.csv", index=False)
    words = ("import", "--from", "tslib", str(folder), "--name", "taken", "--domain", "forecast")
    code, _, err = penstock(*words, "--data", str(tmp_path / "own.csv"))
    assert code == 0, err
    code, _, err = penstock("evaluate", "taken")
    assert code == 0, err
    run = Run(runs / "taken")
    bench = workbench(run)
    rows = bench.rows("test")
    [batch] = bench.batches(rows)
    with torch.no_grad():
        expected = theirs(batch.past, batch.calendar[:, :24]).numpy()
    mse = evaluation(run)["models"]["itransformer"]["mse"]
    assert mse == pytest.approx(float(((expected - bench.truth(rows)) ** 2).mean()), rel=1e-4)

    table[["date", "a"]].to_csv(tmp_path / "other.csv", index=False)
    other = ("--name", "misfit", "--domain", "forecast", "--data", str(tmp_path / "other.csv"))
    code, _, err = penstock(*words[:4], *other)
    assert code == 0, err
    code, _, err = penstock("evaluate", "misfit")
    assert code == 2
    assert "made for targets 2" in err


def last_value_loader(config: FoundationConfig) -> Foundation:
    """A pretrained model of another package, as `module:function` names it: the newest value, and one beside it."""

    def forecast(histories: Sequence[History], horizon: int, levels: tuple[float, ...]) -> np.ndarray:
        newest = [one.target[np.isfinite(one.target)][-1] for one in histories]
        return np.broadcast_to(np.array(newest)[:, None, None], (len(histories), horizon, len(levels)))

    return forecast


def test_a_pretrained_model_stands_beside_the_others(
    penstock: Penstock, runs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = types.ModuleType("somebodys_package")
    module.load = last_value_loader  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "somebodys_package", module)
    words = (
        "--foundation.kind",
        "somebodys_package:load",
        "--cyclenet",
        "null",
        "--sample.model",
        "somebodys_package:load",
    )
    code, _, err = penstock("sample", "forecast", *DEBUG, "--name", "foundation", *words)
    assert code == 0, err
    models = evaluation(Run(runs / "foundation"))["models"]
    theirs, floor = models["somebodys_package:load"], models["last_value"]
    assert theirs["mse"] == pytest.approx(floor["mse"], rel=1e-5)
    assert theirs["validation_mse"] == pytest.approx(floor["validation_mse"], rel=1e-5)


def test_a_networks_own_quantiles_are_scored_and_can_be_taken(penstock: Penstock, runs: Path) -> None:
    words = ("--cyclenet.head.kind", "quantile", "--intervals.method", "head", "--sample.model", "cyclenet")
    code, _, err = penstock("export", "forecast", *DEBUG, "--name", "quantiles", *words)
    assert code == 0, err
    run = Run(runs / "quantiles")
    own = evaluation(run)["heads"]["cyclenet"]
    assert 0 < own["0.8"]["coverage"] < own["0.9"]["coverage"] < 1
    assert own["crps"] > 0
    # The forecast's quantiles are the network's, in the units of the data.
    bench, future = workbench(run), read_future(run)
    network = load_model(run.model("cyclenet")).network
    with torch.no_grad():
        said = network(bench.windows.cut(future.items, future.origins, future=False))
    expected = bench.scaler.undo(future.items, network.head.quantiles(said, future.levels).numpy())
    np.testing.assert_allclose(future.quantiles, expected, rtol=1e-5)
