"""The scaler against numpy, the published numbers, and its own JSON."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest

from data.errors import CheckpointError, PenstockError
from data.forecast import scaling
from data.forecast.garbage import Garbage
from data.forecast.scaling import Scaler
from tests.conftest import REPOSITORY
from tests.data.series_files import random_series, write_series

DATASETS = REPOSITORY.parent / "shared" / "datasets" / "forecast"


def test_is_numpys_of_all_training_rows_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scaling, "BLOCK", 64)
    series = random_series([300, 50, 700], targets=3, observed=1, known=2, static=2, ahead=9, missing=0.2)
    store = write_series(tmp_path / "s.h5", series)
    ends = np.array([200, 0, 650])
    scaler = Scaler.fit(store, ends)
    for role in ("targets", "observed", "known"):
        rows = np.concatenate([one[role][:end] for one, end in zip(series, ends, strict=True)])
        np.testing.assert_allclose(scaler.scales[role].mean, [np.nanmean(rows, axis=0)], rtol=1e-12)
        np.testing.assert_allclose(scaler.scales[role].std, [np.nanstd(rows, axis=0)], rtol=1e-12)
    static = np.stack([one["static"] for one in series])
    np.testing.assert_allclose(scaler.scales["static"].std, [static.std(axis=0)], rtol=1e-12)


def test_of_each_series_is_numpys_of_that_series(tmp_path: Path) -> None:
    series = random_series([300, 90], targets=2, missing=0.2)
    scaler = Scaler.fit(write_series(tmp_path / "s.h5", series), np.array([200, 90]), per_series=True)
    for item, end in enumerate((200, 90)):
        rows = series[item]["targets"][:end]
        np.testing.assert_allclose(scaler.scales["targets"].mean[item], np.nanmean(rows, axis=0), rtol=1e-12)
        np.testing.assert_allclose(scaler.scales["targets"].std[item], np.nanstd(rows, axis=0), rtol=1e-12)


@pytest.mark.golden
def test_has_the_published_numbers(golden: Path, tmp_path: Path) -> None:
    anchors = json.loads((golden / "forecast" / "protocol_anchors.json").read_text())["datasets"]
    if not DATASETS.is_dir():
        pytest.skip(f"no data sets at {DATASETS}")
    for name, anchor in anchors.items():
        with (DATASETS / f"{name}.csv").open() as file:
            rows = list(csv.reader(file))
        values = np.array([row[1:] for row in rows[1:]], float)
        store = write_series(tmp_path / f"{name}.h5", [{"targets": values}])
        end = 8640 if name.startswith("ETTh") else int(0.7 * len(values))
        scale = Scaler.fit(store, np.array([end])).scales["targets"]
        np.testing.assert_allclose(scale.mean[0], anchor["scaler_mean"], rtol=1e-6, atol=1e-6)
        np.testing.assert_allclose(scale.std[0], anchor["scaler_std"], rtol=1e-6)


def test_sees_nothing_from_the_ends_on(tmp_path: Path) -> None:
    store = write_series(tmp_path / "s.h5", random_series([300, 200], targets=2, observed=2))
    ends = np.array([100, 150])
    for per_series in (False, True):
        true = Scaler.fit(store, ends, per_series=per_series).to_plain()
        assert Scaler.fit(Garbage(store, ends, seed=0), ends, per_series=per_series).to_plain() == true


def test_reports_columns_that_do_not_change_and_leaves_their_spread_alone(tmp_path: Path) -> None:
    """0.1 + 0.1 + ... is not a multiple of 0.1 in floating point: a spread of rounding errors would blow noise up."""
    values = np.column_stack([np.full(999, 0.1), np.arange(999.0), np.full(999, np.nan)])
    store = write_series(tmp_path / "s.h5", [{"targets": values}, {"targets": values}])
    pooled = Scaler.fit(store, store.lengths)
    assert pooled.constant == ("targets/t0", "targets/t2")
    assert list(pooled.scales["targets"].std[0, [0, 2]]) == [1.0, 1.0]
    assert pooled.scales["targets"].mean[0, 2] == 0
    each = Scaler.fit(store, store.lengths, per_series=True)
    assert each.constant == tuple(f"series-{k}: targets/{c}" for k in (0, 1) for c in ("t0", "t2"))


def test_large_offsets_cost_no_precision(tmp_path: Path) -> None:
    values = 1e9 + np.random.default_rng(0).normal(size=(70_000, 1))
    store = write_series(tmp_path / "s.h5", [{"targets": values}])
    found = Scaler.fit(store, store.lengths).scales["targets"].std
    np.testing.assert_allclose(found[0], (values - 1e9).std(axis=0), rtol=1e-8)


def test_infinite_training_values_are_refused(tmp_path: Path) -> None:
    store = write_series(tmp_path / "s.h5", [{"targets": np.array([[1.0], [np.inf], [2.0]])}])
    with pytest.raises(PenstockError, match="finite numbers"):
        Scaler.fit(store, store.lengths)


@pytest.mark.parametrize("per_series", [False, True])
def test_comes_back_from_json_unchanged(tmp_path: Path, per_series: bool) -> None:
    store = write_series(tmp_path / "s.h5", random_series([90, 80], targets=3, known=1, static=1))
    scaler = Scaler.fit(store, store.lengths, per_series=per_series)
    again = Scaler.from_plain(json.loads(json.dumps(scaler.to_plain())))
    assert again.to_plain() == scaler.to_plain()
    items = np.array([1, 0, 1])
    values = np.random.default_rng(0).normal(size=(3, 5, 3))
    scaled = again.apply("targets", items, values)
    np.testing.assert_allclose(scaler.undo(items, scaled), values, rtol=1e-12)
    many = np.stack([scaled, 2 * scaled], axis=-1)
    np.testing.assert_allclose(scaler.undo(items, many)[..., 0], values, rtol=1e-12)


def test_follows_the_series_of_another_store(tmp_path: Path) -> None:
    store = write_series(tmp_path / "s.h5", random_series([90, 80], targets=1))
    scaler = Scaler.fit(store, store.lengths, per_series=True)
    turned = scaler.for_series(("series-1", "series-0"))
    np.testing.assert_array_equal(turned.scales["targets"].mean, scaler.scales["targets"].mean[::-1])
    with pytest.raises(PenstockError, match="series new have no scale"):
        scaler.for_series(("series-1", "new"))


@pytest.mark.parametrize(
    "plain",
    [
        {},
        {"scales": {"targets": {"mean": [[1.0]], "std": [[0.0]]}}, "ids": None, "constant": []},
        {"scales": {"targets": {"mean": [[1.0]], "std": [[1.0, 2.0]]}}, "ids": None, "constant": []},
        {"scales": {"targets": {"mean": [[1.0]], "std": [[1.0]]}}, "ids": ["a", "b"], "constant": []},
        {"scales": {"targets": {"mean": "x", "std": [[1.0]]}}, "ids": None, "constant": []},
    ],
)
def test_json_of_another_form_is_refused(plain: dict[str, object]) -> None:
    with pytest.raises(CheckpointError, match="Export the model again"):
        Scaler.from_plain(plain)
