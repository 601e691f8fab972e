"""The published long-horizon protocol on its own files: windows, scalers, naive forecasts, ridge regression."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor

from data.batch import WindowBatch
from data.forecast import ColumnsConfig, prepare
from data.forecast.calendar import calendar_features, stamps
from data.forecast.scaling import Scaler
from data.forecast.series_store import SeriesStore
from data.forecast.time_split import TimeSplit, TimeSplitConfig, WindowIndex, spans
from data.forecast.windows import Windows
from modules.forecast.floors import LastValue, SeasonalNaive, WindowMean
from modules.forecast.heads import Head
from modules.forecast.interface import Forecaster, WindowShape
from modules.forecast.ridge import Ridge, RidgeConfig, choose_ridge, choose_ridge_on_series

pytestmark = pytest.mark.golden

BATCH = 256
ATOL, RIDGE_ATOL = 1e-6, 5e-4
ETT_HOURLY = (8640, 2880, 2880)
FILES = {"exchange": "exchange_rate", "illness": "national_illness"}
QUICK_NAIVE = ("96->96", "96->720", "36->24", "104->60")
QUICK_RIDGE = ("ETTh1 96->96", "ETTh1 336->336", "ETTh2 96->720", "exchange 96->96", "illness 104->24")
QUICK_PRICES = ("PJM + exogenous history and known future",)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """One case for each number in the file; those that take longer are slow."""
    path = Path(metafunc.config.getoption("--golden")) / "forecast" / "protocol_anchors.json"
    anchors = json.loads(path.read_text()) if path.exists() else None
    cases: list[tuple[tuple[Any, ...], bool]] = []
    if anchors is None:
        pass
    elif "size" in metafunc.fixturenames:
        for name, facts in anchors["datasets"].items():
            cases += [((name, size), size in QUICK_NAIVE) for size in facts["windows"]]
    elif "ridge_case" in metafunc.fixturenames:
        cases = [((case,), case in QUICK_RIDGE) for case in anchors["ridge"]["results"]]
    elif "price_case" in metafunc.fixturenames:
        cases = [((case,), case in QUICK_PRICES) for case in anchors["ridge_exogenous_EPF"]["results"]]
    elif "name" in metafunc.fixturenames:
        cases = [((name,), True) for name in anchors["datasets"]]
    names = [n for n in ("name", "size", "ridge_case", "price_case") if n in metafunc.fixturenames]
    if names:
        skip = pytest.mark.skip(f"no {path}; see --golden DIR")
        values = [pytest.param(*case, marks=[] if quick else [pytest.mark.slow]) for case, quick in cases]
        metafunc.parametrize(names, values or [pytest.param(*[None] * len(names), marks=skip)])


@dataclass(frozen=True)
class Bench:
    """One file by the protocol's split, scaled with its training rows."""

    store: SeriesStore
    split: TimeSplitConfig

    def cut(self, look_back: int, horizon: int) -> TimeSplit:
        return spans(self.store.lengths, look_back, horizon, self.split)

    @cached_property
    def scaler(self) -> Scaler:
        return Scaler.fit(self.store, self.cut(1, 1).train_ends)

    def batches(self, part: str, look_back: int, horizon: int) -> Iterator[WindowBatch]:
        windows = Windows(self.store, look_back, horizon, self.scaler, calendar=False)
        index = WindowIndex(self.cut(look_back, horizon)[part])
        for first in range(0, len(index), BATCH):
            yield windows.cut(*index.locate(np.arange(first, min(first + BATCH, len(index)))))

    def rows(self, first: int, stop: int) -> Tensor:
        """Scaled rows of the targets, float64."""
        values = self.store.read(0, "targets", first, stop)
        return torch.from_numpy(self.scaler.apply("targets", np.array([0]), values[None])[0])


class Benches:
    """Prepares each file once."""

    def __init__(self, folder: Path, made: Path) -> None:
        self.folder, self.made = folder, made
        self.found: dict[str, Bench] = {}

    def __call__(self, name: str, **columns: Any) -> Bench:
        source = self.folder / f"{name}.csv"
        if not source.exists():
            pytest.skip(f"no {source}; the datasets lie beside the golden numbers")
        key = f"{name}-{'-'.join(columns)}"
        if key not in self.found:
            prepared = prepare(source, ColumnsConfig(missing=(), **columns), self.made / key)
            split = TimeSplitConfig(rows=ETT_HOURLY) if name.startswith("ETTh") else TimeSplitConfig()
            self.found[key] = Bench(SeriesStore(prepared.path), split)
        return self.found[key]


@pytest.fixture(scope="module")
def anchors(golden: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((golden / "forecast" / "protocol_anchors.json").read_text())
    return found


@pytest.fixture(scope="module")
def benches(datasets: Path, tmp_path_factory: pytest.TempPathFactory) -> Benches:
    return Benches(datasets / "forecast", tmp_path_factory.mktemp("protocol"))


def errors(model: Forecaster, batches: Iterator[WindowBatch]) -> np.ndarray:
    """Mean square and mean absolute error of each window [window, 2], over all its targets and steps."""
    found = []
    with torch.no_grad():
        for batch in batches:
            assert batch.future is not None
            error = (model(batch)[..., 0] - batch.future).double()
            found.append(torch.stack([error.square().mean(dim=(1, 2)), error.abs().mean(dim=(1, 2))], dim=1))
    return torch.cat(found).numpy()


def targets(facts: dict[str, Any]) -> tuple[str, ...]:
    return tuple(facts["columns"][1:])


def steps(size: str) -> tuple[int, int]:
    look_back, horizon = size.split("->")
    return int(look_back), int(horizon)


def test_scaler(name: str, anchors: dict[str, Any], benches: Benches) -> None:
    facts = anchors["datasets"][name]
    bench = benches(name, target=targets(facts))
    scale = bench.scaler.scales["targets"]
    assert bench.store.lengths.tolist() == [facts["rows"]]
    np.testing.assert_allclose(scale.mean[0], facts["scaler_mean"], rtol=1e-12)
    np.testing.assert_allclose(scale.std[0], facts["scaler_std"], rtol=1e-12)


def test_first_test_window(name: str, anchors: dict[str, Any], benches: Benches) -> None:
    facts = anchors["datasets"][name]
    bench, size = benches(name, target=targets(facts)), next(iter(facts["windows"]))
    look_back, horizon = steps(size)
    batch = next(bench.batches("test", look_back, horizon))
    expected = facts["first_test_window"]
    assert batch.future is not None
    np.testing.assert_allclose(batch.past[0, 0], expected["x_first_row"], rtol=0, atol=ATOL)
    np.testing.assert_allclose(batch.past[0, -1], expected["x_last_row"], rtol=0, atol=ATOL)
    np.testing.assert_allclose(batch.future[0, -1], expected["y_last_row"], rtol=0, atol=ATOL)
    origin = int(bench.cut(look_back, horizon).test.first[0])
    stamp = stamps(int(bench.store.starts[0]), bench.store.step, origin - look_back, origin + 1)
    assert pd.Timestamp(stamp[-1]) == pd.Timestamp(expected["date_of_first_test_target"])
    # The protocol takes the features of days for the weekly file too.
    features = calendar_features(stamp, "h" if bench.store.step == "h" else "D")
    np.testing.assert_allclose(features[0], expected["time_features_first_row"], rtol=0, atol=ATOL)


def test_windows_and_naive_forecasts(name: str, size: str, anchors: dict[str, Any], benches: Benches) -> None:
    facts = anchors["datasets"][name]
    bench = benches(name, target=targets(facts))
    look_back, horizon = steps(size)
    split = bench.cut(look_back, horizon)
    counts = {"train": len(split.train), "val": len(split.validation), "test": len(split.test)}
    assert counts == facts["windows"][size]

    batches = list(bench.batches("test", look_back, horizon))
    truth = np.concatenate([b.future.double().numpy() for b in batches])  # type: ignore[union-attr]
    for floor, expected in facts["naive_test"][size].items():
        of = floor.removeprefix("drop_last_effect_on_")
        season = int(of.rsplit("_", 1)[1]) if of.startswith("seasonal") else 1
        shape = WindowShape(look_back=look_back, horizon=horizon, targets=truth.shape[2], season=season)
        if of.startswith("zero"):
            of_window = np.stack([np.square(truth).mean(axis=(1, 2)), np.abs(truth).mean(axis=(1, 2))], axis=1)
        else:
            floors = {"last_value": LastValue, "window_mean": WindowMean}
            model = floors.get(of, SeasonalNaive)(shape, Head())
            of_window = errors(model, iter(batches))
        assert len(of_window) == counts["test"]
        if floor == of:
            np.testing.assert_allclose(of_window.mean(axis=0), expected, rtol=0, atol=ATOL)
            continue
        for batch_size, (kept, value) in expected.items():  # what a test loader that drops its last batch reports
            assert kept == len(of_window) // int(batch_size) * int(batch_size)
            np.testing.assert_allclose(of_window[:kept].mean(axis=0), value, rtol=0, atol=ATOL)


def test_ridge(ridge_case: str, anchors: dict[str, Any], benches: Benches) -> None:
    expected = anchors["ridge"]["results"][ridge_case]
    short, size = ridge_case.split(" ")
    name = FILES.get(short, short)
    facts = anchors["datasets"][name]
    bench = benches(name, target=targets(facts))
    look_back, horizon = steps(size)
    shape = WindowShape(look_back=look_back, horizon=horizon, targets=len(facts["columns"]) - 1)
    split = bench.cut(look_back, horizon)
    train, validation = int(split.train_ends[0]), int(split.validation_ends[0])
    series = [bench.rows(0, train)], [bench.rows(train - look_back, validation)]
    ridge, choice = choose_ridge_on_series(*series, shape)
    assert (choice.best.offset, choice.best.penalty) == (expected["norm"], expected["lam"])
    assert choice.best.error == pytest.approx(expected["val_mse"], abs=RIDGE_ATOL)
    assert_errors(ridge, bench, shape, expected, expected["test_windows"])


@pytest.mark.slow
@pytest.mark.parametrize(("published", "best"), [("ETTh1", 0.433), ("ETTh2", 0.370)])
def test_ridge_with_a_cycle(published: str, best: float, anchors: dict[str, Any], benches: Benches) -> None:
    """The best clean result published for 96 steps, averaged over the four horizons, with all chosen on validation."""
    bench = benches(published, target=targets(anchors["datasets"][published]))
    found = []
    for horizon in (96, 192, 336, 720):
        shape = WindowShape(look_back=96, horizon=horizon, targets=7, season=24)
        train, validation = ETT_HOURLY[0], ETT_HOURLY[0] + ETT_HOURLY[1]
        first, start = train - 96, next(bench.batches("train", 96, horizon)).position
        assert start is not None
        ridge, choice = choose_ridge_on_series(
            [bench.rows(0, train)],
            [bench.rows(first, validation)],
            shape,
            cycles=(False, True),
            positions=([int(start[0])], [int(start[0]) + first]),
        )
        assert choice.best.cycle
        found.append(errors(ridge, bench.batches("test", 96, horizon))[:, 0].mean())
    assert np.mean(found) <= best


def test_ridge_on_prices(price_case: str, anchors: dict[str, Any], benches: Benches) -> None:
    """Day-ahead forecasts of load and wind are known for the hours to be forecast."""
    expected = anchors["ridge_exogenous_EPF"]["results"][price_case]
    name, _, what = price_case.partition(" ")
    source = benches.folder / f"EPF_{name}.csv"
    covariates = tuple(pd.read_csv(source, nrows=0).columns[1:-1].str.strip()) if source.exists() else ()
    observed, known = "history" in what and "future" not in what, "future" in what
    roles = {"observed" if observed else "known" if known else "ignore": covariates}
    bench = benches(f"EPF_{name}", target=("OT",), **roles)
    shape = WindowShape(
        look_back=168, horizon=24, observed=observed * len(covariates), known=known * len(covariates), season=24
    )
    ridge, choice = choose_ridge(
        lambda: bench.batches("train", 168, 24),
        lambda: bench.batches("validation", 168, 24),
        shape,
        config=RidgeConfig(intercept=True),
        offsets=("season",),
    )
    assert choice.best.penalty == expected["lam"]
    assert_errors(ridge, bench, shape, expected, expected["windows"])


def assert_errors(ridge: Ridge, bench: Bench, shape: WindowShape, expected: dict[str, Any], windows: int) -> None:
    found = errors(ridge, bench.batches("test", shape.look_back, shape.horizon))
    assert len(found) == windows
    np.testing.assert_allclose(found.mean(axis=0), [expected["mse"], expected["mae"]], rtol=0, atol=RIDGE_ATOL)
