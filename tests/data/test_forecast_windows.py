"""Windows against plain slices of the arrays they are cut from."""

import json
import pickle  # to see that windows survive it; nothing foreign is loaded
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from data.batch import WindowBatch
from data.errors import ConfigError
from data.forecast.calendar import calendar_features, stamps
from data.forecast.garbage import Garbage
from data.forecast.scaling import Scaler
from data.forecast.series_store import SeriesStore
from data.forecast.windows import Windows
from tests.data.series_files import BEGIN, HOUR, random_series, write_series

L, H = 12, 5


def sliced(series: dict[str, Any], scaler: Scaler, item: int, role: str, first: int, stop: int) -> np.ndarray:
    """Rows of a series in units of the scaler, NaN where there are none."""
    values = np.asarray(series[role])
    padded = np.pad(values, ((100, 100), (0, 0)), constant_values=np.nan)[first + 100 : stop + 100]
    scale = scaler.scales[role]
    row = 0 if scaler.ids is None else item
    found: np.ndarray = (padded - scale.mean[row]) / scale.std[row]
    return found


def check(values: Tensor | None, mask: Tensor | None, expected: np.ndarray) -> None:
    assert values is not None
    assert values.dtype == torch.float32
    assert values.is_contiguous()
    if mask is None:
        assert not np.isnan(expected).any()
    else:
        np.testing.assert_array_equal(mask, ~np.isnan(expected))
    np.testing.assert_array_equal(values, np.nan_to_num(expected).astype(np.float32))


@pytest.mark.parametrize("per_series", [False, True])
@pytest.mark.parametrize("missing", [0.0, 0.2])
@pytest.mark.parametrize("reach", [0, 8])
def test_are_slices_of_the_series(tmp_path: Path, per_series: bool, missing: float, reach: int) -> None:
    """`reach`: how far windows may begin before a series, or end after it."""
    series = random_series([60, 3000, 41], targets=3, observed=2, known=2, static=2, ahead=4, missing=missing)
    store = write_series(tmp_path / "s.h5", series)
    scaler = Scaler.fit(store, store.lengths, per_series=per_series)
    windows = Windows(store, L, H, scaler)
    rng = np.random.default_rng(1)
    items = rng.integers(0, 3, 40)
    origins = rng.integers(L - reach, store.lengths[items] - H + 1 + reach)
    batch = windows.cut(items, origins, seeds=np.arange(40))
    for k, (item, origin) in enumerate(zip(items, origins, strict=True)):
        one = series[item]

        def part(role: str, first: int, stop: int, one: Any = one, item: int = item) -> np.ndarray:
            return sliced(one, scaler, item, role, first, stop)

        def row(mask: Tensor | None, k: int = k) -> Tensor | None:
            return None if mask is None else mask[k]

        assert batch.future is not None
        assert batch.observed is not None
        assert batch.known is not None
        assert batch.static is not None
        check(batch.past[k], row(batch.past_mask), part("targets", origin - L, origin))
        check(batch.future[k], row(batch.future_mask), part("targets", origin, origin + H))
        check(batch.observed[k], row(batch.observed_mask), part("observed", origin - L, origin))
        check(batch.known[k], row(batch.known_mask), part("known", origin - L, origin + H))
        scale = scaler.scales["static"]
        check(batch.static[k], None, ((one["static"] - scale.mean) / scale.std)[0])
    assert batch.series is not None
    assert batch.series.tolist() == items.tolist()
    assert batch.seeds.tolist() == list(range(40))
    assert (batch.past_mask is None) == (missing == 0 and reach == 0)


@pytest.mark.golden
def test_are_the_published_protocols(golden: Path, tmp_path: Path) -> None:
    """First test window of ETTh1 and others, values and calendar features."""
    import csv

    from tests.data.test_forecast_scaling import DATASETS

    if not DATASETS.is_dir():
        pytest.skip(f"no data sets at {DATASETS}")
    anchors = json.loads((golden / "forecast" / "protocol_anchors.json").read_text())["datasets"]
    for name in ("ETTh1", "ETTh2"):
        first = anchors[name]["first_test_window"]
        with (DATASETS / f"{name}.csv").open() as file:
            rows = list(csv.reader(file))
        start = int(np.datetime64(rows[1][0], "ns").astype(np.int64))
        values = np.array([row[1:] for row in rows[1:]], float)
        store = write_series(tmp_path / f"{name}.h5", [{"targets": values, "start": start}])
        batch = Windows(store, 96, 96, Scaler.fit(store, np.array([8640]))).cut([0], [11520])
        assert batch.future is not None
        assert batch.calendar is not None
        np.testing.assert_allclose(batch.past[0, 0], first["x_first_row"], atol=1e-6, rtol=1e-6)
        np.testing.assert_allclose(batch.past[0, -1], first["x_last_row"], atol=1e-6, rtol=1e-6)
        np.testing.assert_allclose(batch.future[0, -1], first["y_last_row"], atol=1e-6, rtol=1e-6)
        np.testing.assert_allclose(batch.calendar[0, 0], first["time_features_first_row"], atol=1e-6)


@pytest.mark.parametrize(
    ("step", "zone", "starts"),
    [
        ("h", "", [BEGIN, BEGIN + 7 * HOUR, BEGIN - 40 * 365 * 24 * HOUR]),
        ("h", "Europe/Berlin", [BEGIN, BEGIN + 4000 * HOUR]),
        ("15min", "", [BEGIN, BEGIN + 7 * HOUR // 60]),
        ("D", "", [BEGIN, BEGIN + 24 * HOUR]),
        ("D", "America/New_York", [BEGIN + 4 * HOUR, BEGIN + 28 * HOUR]),
        ("W", "", [BEGIN, BEGIN + 24 * HOUR]),
        ("MS", "", [BEGIN + 72 * HOUR, BEGIN + 72 * HOUR + 30 * 24 * HOUR]),
        ("B", "", [BEGIN, BEGIN + 96 * HOUR]),
    ],
)
def test_calendar_is_that_of_each_stamp(tmp_path: Path, step: str, zone: str, starts: list[int]) -> None:
    """Blocks that are shared by all series against the stamps of every single window."""
    series = [{**one, "start": start} for one, start in zip(random_series([2500] * len(starts)), starts, strict=False)]
    store = write_series(tmp_path / "s.h5", series, step=step, zone=zone)
    windows = Windows(store, L, H, Scaler.fit(store, store.lengths))
    rng = np.random.default_rng(0)
    items, origins = rng.integers(0, len(starts), 30), rng.integers(L, 2500 - H, 30)
    batch = windows.cut(items, origins)
    assert batch.calendar is not None
    for k, (item, origin) in enumerate(zip(items, origins, strict=True)):
        found = stamps(starts[item], step, origin - L, origin + H, zone)
        np.testing.assert_array_equal(batch.calendar[k], calendar_features(found, step, zone))


def test_position_has_one_phase_for_all_series(tmp_path: Path) -> None:
    """The 24 h cycle of an hourly series is at midnight where the position is a multiple of 24."""
    starts = [BEGIN, BEGIN + 7 * HOUR, BEGIN - 5 * HOUR]
    store = write_series(
        tmp_path / "s.h5", [{**o, "start": s} for o, s in zip(random_series([99] * 3), starts, strict=True)]
    )
    windows = Windows(store, L, H, Scaler.fit(store, store.lengths))
    batch = windows.cut([0, 1, 2, 0], [20, 20, 20, 21])
    assert batch.position is not None
    assert [int(p) % 24 for p in batch.position] == [8, 15, 3, 9]
    assert int(batch.position[0]) == BEGIN // HOUR + 8
    numbered = write_series(tmp_path / "n.h5", [{**random_series([99])[0], "start": 1000}], step="5")
    batch = Windows(numbered, L, H, Scaler.fit(numbered, numbered.lengths)).cut([0], [20])
    assert batch.calendar is None
    assert batch.position is not None
    assert int(batch.position[0]) == 200 + 8


def test_counts_are_the_columns_of_the_batch(tmp_path: Path) -> None:
    store = write_series(tmp_path / "s.h5", random_series([99], targets=3, known=2, static=1))
    windows = Windows(store, L, H, Scaler.fit(store, store.lengths))
    assert windows.counts == {"targets": 3, "observed": 0, "known": 2, "static": 1, "calendar": 4}
    batch = windows.cut([0], [50])
    assert batch.observed is None
    assert batch.calendar is not None
    assert batch.calendar.shape == (1, L + H, 4)
    without = Windows(store, L, H, Scaler.fit(store, store.lengths), calendar=False)
    assert without.counts["calendar"] == 0
    assert without.cut([0], [50]).calendar is None


def test_without_future_nothing_from_the_origin_on_is_read(tmp_path: Path) -> None:
    store = write_series(tmp_path / "s.h5", random_series([99, 200], targets=2, observed=1, known=1, ahead=H))
    scaler = Scaler.fit(store, store.lengths)
    origins = np.array([99, 150])
    true = Windows(store, L, H, scaler).cut([0, 1], origins, future=False)
    spoiled = Windows(Garbage(store, origins, seed=3), L, H, scaler).cut([0, 1], origins, future=False)
    assert true.future is None
    assert true.past_mask is None
    for name, value in vars(true).items():
        other = getattr(spoiled, name)
        assert torch.equal(value, other) if isinstance(value, Tensor) else value == other, name


def test_garbage_reaches_the_future(tmp_path: Path) -> None:
    """Otherwise a leak test with it would see nothing."""
    store = write_series(tmp_path / "s.h5", random_series([200], targets=2))
    scaler = Scaler.fit(store, store.lengths)
    batch = Windows(Garbage(store, np.array([100]), seed=3), L, H, scaler).cut([0, 0], [100, 104])
    assert batch.future is not None
    assert not batch.future.isfinite().all()
    assert batch.past[0].isfinite().all()
    assert (batch.past[1, -4:].abs() > 1e3).any() or not batch.past[1, -4:].isfinite().all()


def test_a_scaler_of_other_data_is_refused(tmp_path: Path) -> None:
    store = write_series(tmp_path / "s.h5", random_series([99, 99], targets=2))
    other = write_series(tmp_path / "o.h5", random_series([99], targets=2))
    with pytest.raises(ConfigError, match="other series"):
        Windows(store, L, H, Scaler.fit(other, other.lengths, per_series=True))
    wider = write_series(tmp_path / "w.h5", random_series([99], targets=3))
    with pytest.raises(ConfigError, match="fit it on these data"):
        Windows(store, L, H, Scaler.fit(wider, wider.lengths))
    with pytest.raises(ConfigError, match="at least 1 step"):
        Windows(store, L, 0, Scaler.fit(store, store.lengths))


def test_survive_pickling(tmp_path: Path) -> None:
    store = write_series(tmp_path / "s.h5", random_series([99], targets=2))
    windows = Windows(store, L, H, Scaler.fit(store, store.lengths))
    batch: WindowBatch = windows.cut([0], [50])
    again = pickle.loads(pickle.dumps(windows)).cut([0], [50])  # noqa: S301
    assert torch.equal(batch.past, again.past)
    assert torch.equal(batch.calendar, again.calendar)


def cutting_memory(store: SeriesStore, batches: int) -> int:
    """Largest memory (bytes) that Python and numpy held while `batches` batches were cut."""
    scaler = Scaler.fit(store, store.lengths)
    windows = Windows(store, 48, 24, scaler)
    rng = np.random.default_rng(0)
    tracemalloc.start()
    try:
        for _ in range(batches):
            items = rng.integers(0, len(store), 16)
            windows.cut(items, rng.integers(48, store.lengths[items] - 24))
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_memory_of_a_batch_does_not_grow_with_number_or_length_of_the_series(tmp_path: Path) -> None:
    """The data grow 200-fold, to 16 MB. What grows: 8 bytes per chunk, and the calendar up to its limit."""
    small = write_series(tmp_path / "a.h5", random_series([1000] * 10, targets=1))
    large = write_series(tmp_path / "b.h5", random_series([10_000] * 200, targets=1))
    few, many = cutting_memory(small, 50), cutting_memory(large, 50)
    assert many < few + 400_000, (few, many)
