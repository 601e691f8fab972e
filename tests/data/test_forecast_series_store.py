"""Series by item, role and rows: what the arrays hold, and NaN around them."""

import pickle  # to see that the store survives it; nothing foreign is loaded
from pathlib import Path

import numpy as np
import pytest

from data.errors import SchemaError
from data.forecast.garbage import Garbage
from data.forecast.series_store import ROLES, SeriesStore
from tests.data.series_files import BEGIN, random_series, write_series

LENGTHS = [40, 3000, 7]


def test_holds_what_was_written(tmp_path: Path) -> None:
    series = random_series(LENGTHS, targets=3, observed=1, known=2, static=2, ahead=5, missing=0.1)
    store = write_series(tmp_path / "s.h5", series, step="15min", zone="Europe/Berlin")
    assert list(store.lengths) == LENGTHS
    assert list(store.ahead) == [length + 5 for length in LENGTHS]
    assert store.columns == {
        "targets": ("t0", "t1", "t2"), "observed": ("o0",), "known": ("k0", "k1"), "static": ("s0", "s1")
    }  # fmt: skip
    assert (store.step, store.zone, store.gaps) == ("15min", "Europe/Berlin", True)
    assert list(store.starts) == [BEGIN] * 3
    assert store.static is not None
    for item, one in enumerate(series):
        np.testing.assert_array_equal(store.static[item], one["static"])
        for role in ROLES:
            np.testing.assert_array_equal(store.read(item, role, 0, len(one[role])), one[role])


def test_rows_outside_a_series_are_nan_and_never_those_of_its_neighbour(tmp_path: Path) -> None:
    series = random_series(LENGTHS, targets=1, known=1, ahead=3)
    store = write_series(tmp_path / "s.h5", series)
    for item, one in enumerate(series):
        for role, rows in (("targets", LENGTHS[item]), ("known", LENGTHS[item] + 3)):
            padded = np.pad(one[role], ((10, 10), (0, 0)), constant_values=np.nan)
            np.testing.assert_array_equal(store.read(item, role, -10, rows + 10), padded)
            assert np.isnan(store.read(item, role, -9, 0)).all()
            assert np.isnan(store.read(item, role, rows, rows + 4)).all()


def test_cut_says_whether_a_window_reaches_outside(tmp_path: Path) -> None:
    store = write_series(tmp_path / "s.h5", random_series(LENGTHS, targets=1))
    out = np.empty((2, 6, 1))
    assert store.cut("targets", np.array([0, 2]), np.array([34, 1]), out)
    assert not store.cut("targets", np.array([0, 2]), np.array([34, 2]), out)
    assert not store.cut("targets", np.array([0, 2]), np.array([-1, 0]), out)


def test_survives_pickling(tmp_path: Path) -> None:
    store = write_series(tmp_path / "s.h5", random_series(LENGTHS))
    copied = pickle.loads(pickle.dumps(store))  # noqa: S301
    np.testing.assert_array_equal(copied.read(1, "targets", 100, 200), store.read(1, "targets", 100, 200))
    assert copied.fingerprint == store.fingerprint
    store.verify()


def test_names_that_do_not_fit_the_arrays_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "s.h5"
    write_series(path, random_series([20], targets=2))
    import h5py

    with h5py.File(path, "r+") as file:
        named = file.attrs["columns"].decode().replace('"t0", ', "")
        file.attrs.create("columns", np.bytes_(named), dtype=h5py.string_dtype("utf-8", len(named)))
    with pytest.raises(SchemaError, match="2 names of targets columns, got 1"):
        SeriesStore(path)


class TestGarbage:
    def test_leaves_the_past_and_what_is_known_and_spoils_the_rest(self, tmp_path: Path) -> None:
        series = random_series(LENGTHS, targets=2, observed=1, known=1, ahead=4)
        store = write_series(tmp_path / "s.h5", series)
        ends = np.array([30, 2000, 7])
        spoiled = Garbage(store, ends, seed=1)
        for item, end in enumerate(ends):
            length = LENGTHS[item]
            for role in ("targets", "observed"):
                true, found = store.read(item, role, -3, length + 3), spoiled.read(item, role, -3, length + 3)
                np.testing.assert_array_equal(found[: end + 3], true[: end + 3])
                assert (found[end + 3 : length + 3] != true[end + 3 : length + 3]).all()
                np.testing.assert_array_equal(found[length + 3 :], true[length + 3 :])
            np.testing.assert_array_equal(
                spoiled.read(item, "known", -3, length + 9), store.read(item, "known", -3, length + 9)
            )

    def test_holds_huge_missing_and_infinite_values(self, tmp_path: Path) -> None:
        spoiled = Garbage(write_series(tmp_path / "s.h5", random_series([500])), np.array([100]), seed=1)
        found = spoiled.read(0, "targets", 100, 500)
        assert np.isnan(found).any()
        assert np.isposinf(found).any()
        assert np.isneginf(found).any()
        assert (np.abs(found[np.isfinite(found)]) > 1e20).any()

    def test_is_the_same_however_it_is_read_and_other_with_another_seed(self, tmp_path: Path) -> None:
        store = write_series(tmp_path / "s.h5", random_series([500]))
        spoiled = Garbage(store, np.array([100]), seed=1)
        whole = spoiled.read(0, "targets", 0, 500)
        np.testing.assert_array_equal(spoiled.read(0, "targets", 180, 260), whole[180:260])
        assert not np.array_equal(Garbage(store, np.array([100]), seed=2).read(0, "targets", 0, 500), whole)
