"""Forecast tables as pandas and pyarrow read them back."""

from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

from data.atomic import DiskFullError
from data.errors import PenstockError
from data.export.forecast import quantile_name, write_table

RNG = np.random.default_rng(0)
STAMPS = pd.date_range("2021-10-30 20:00", periods=12, freq="h").values.astype("datetime64[ns]")


def table(rows: int = 12) -> dict[str, np.ndarray]:
    quantiles = np.sort(RNG.normal(size=(rows, 3)), axis=1)
    quantiles[2, 0] = np.nan
    return {
        "id": np.array(["a/1", 'say "b", c'] * (rows // 2)),
        "time": np.resize(STAMPS, rows),
        "target": np.array(["y"] * rows),
        "horizon": np.arange(rows),
        "forecast": RNG.normal(size=rows) * 1e-7,
        **{quantile_name(level): quantiles[:, k] for k, level in enumerate((0.1, 0.5, 0.95))},
    }


def test_names_of_quantiles() -> None:
    assert [name for name in table() if name.startswith("q")] == ["q0.1", "q0.5", "q0.95"]
    assert quantile_name(0.025) == "q0.025" and quantile_name(np.float64(0.1) * 3) == "q0.3"
    with pytest.raises(PenstockError, match="between 0 and 1"):
        quantile_name(10)


@pytest.mark.parametrize("ending", ["parquet", "csv", "csv.gz"])
def test_what_is_written_is_read_back_to_the_last_bit(tmp_path: Path, ending: str) -> None:
    columns = table()
    path = write_table(columns, tmp_path / f"f.{ending}")
    # Texts of numbers are turned by Python: pandas before 3 rounds them by default.
    back = pd.read_parquet(path) if ending == "parquet" else pd.read_csv(path, dtype=str)
    assert list(back.columns) == list(columns)
    for name in ("forecast", "q0.1", "q0.5", "q0.95", "horizon"):
        np.testing.assert_array_equal([float(value) for value in back[name]], columns[name])
    assert back["id"].tolist() == columns["id"].tolist()
    np.testing.assert_array_equal(pd.to_datetime(back["time"]).to_numpy().astype("datetime64[ns]"), STAMPS)
    assert back["q0.1"].isna().sum() == 1


def test_stamps_are_in_the_zone_of_the_reader(tmp_path: Path) -> None:
    columns = table()
    parquet = pq.read_table(write_table(columns, tmp_path / "f.parquet", zone="Europe/Berlin"))
    assert str(parquet.schema.field("time").type) == "timestamp[ns, tz=Europe/Berlin]"
    np.testing.assert_array_equal(parquet["time"].cast("int64").to_numpy(), STAMPS.view(np.int64))
    text = pd.read_csv(write_table(columns, tmp_path / "f.csv", zone="Europe/Berlin"))["time"]
    assert text[4] == "2021-10-31 02:00:00+02:00" and text[5] == "2021-10-31 02:00:00+01:00"
    back = pd.to_datetime(text, utc=True).dt.tz_localize(None).to_numpy().astype("datetime64[ns]")
    np.testing.assert_array_equal(back, STAMPS)
    fixed = pd.read_csv(write_table(columns, tmp_path / "g.csv", zone="+05:30"))["time"]
    assert fixed[0] == "2021-10-31 01:30:00+05:30"


def test_fractions_of_a_second_and_step_numbers(tmp_path: Path) -> None:
    fine = STAMPS + np.timedelta64(250, "ms")
    back = pd.read_csv(write_table({"time": fine}, tmp_path / "f.csv"))["time"]
    np.testing.assert_array_equal(pd.to_datetime(back).to_numpy().astype("datetime64[ns]"), fine)
    back = pd.read_csv(write_table({"time": np.arange(5)}, tmp_path / "g.csv"))
    assert back["time"].tolist() == [0, 1, 2, 3, 4]


def test_equal_tables_are_equal_files(tmp_path: Path) -> None:
    columns = table()
    for ending in ("parquet", "csv", "csv.gz"):
        one = write_table(columns, tmp_path / f"f.{ending}").read_bytes()
        assert write_table(columns, tmp_path / f"f.{ending}").read_bytes() == one


def test_what_cannot_be_written_is_refused_and_leaves_nothing(tmp_path: Path) -> None:
    for columns, name, zone, message in (
        (table(), "f.xlsx", "", "ends in"),
        ({"a": np.arange(3), "b": np.arange(4)}, "f.csv", "", "one length"),
        ({}, "f.csv", "", "one length"),
        ({"a": np.zeros((3, 2))}, "f.csv", "", "one value per row"),
        (table(), "f.csv", "Mars/Olympus", "time zone"),
    ):
        with pytest.raises(PenstockError, match=message):
            write_table(columns, tmp_path / name, zone=zone)
    assert not list(tmp_path.iterdir())


def test_a_full_disk_leaves_the_earlier_table(small_disk: Path) -> None:
    path = write_table(table(), small_disk / "f.parquet")
    before = path.read_bytes()
    with pytest.raises(DiskFullError):
        write_table({"x": RNG.normal(size=400_000)}, path)
    assert path.read_bytes() == before and [p.name for p in small_disk.iterdir()] == ["f.parquet"]
