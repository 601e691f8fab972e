"""Files in all their dialects, and files that are none."""

import gzip
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from data.errors import PenstockError
from data.forecast.reading import numbers, read_table

FRAME = pd.DataFrame({"date": pd.date_range("2021-01-01", periods=30, freq="h"), "y": np.arange(30) / 7})


def written(path: Path, content: bytes | str) -> Path:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


@pytest.mark.parametrize(
    ("separator", "decimal", "encoding"),
    [(",", ".", "utf-8"), (";", ",", "utf-8"), ("\t", ".", "utf-8-sig"), ("|", ".", "utf-16"), (";", ".", "cp1252")],
)
def test_every_dialect_gives_the_same_numbers(tmp_path: Path, separator: str, decimal: str, encoding: str) -> None:
    text = FRAME.rename(columns={"y": " temp °C "}).to_csv(index=False, sep=separator, decimal=decimal)
    frame = read_table(written(tmp_path / "t.csv", text.encode(encoding)))
    assert list(frame.columns) == ["date", "temp °C"]
    np.testing.assert_array_equal(frame["temp °C"], FRAME["y"])  # to the last bit
    packed = read_table(written(tmp_path / "t.csv.gz", gzip.compress(text.encode(encoding))))
    np.testing.assert_array_equal(packed["temp °C"], FRAME["y"])


def test_parquet_with_its_index(tmp_path: Path) -> None:
    FRAME.set_index("date").to_parquet(tmp_path / "t.parquet")
    frame = read_table(tmp_path / "t.parquet")
    assert list(frame.columns) == ["date", "y"] and len(frame) == 30


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"\n\n\n", "is empty"),
        (b"date,y\n", "header but no rows"),
        (b"2021-01-01,5\n2021-01-02,6\n", "names of the columns"),
        (b"date,y,y\n2021-01-01,5,6\n", "comes twice"),
        (bytes(range(256)) * 20, "not text"),
        (bytes(range(128, 256)) * 20, "not text"),
        (b"PAR1" + bytes(200), "cannot be read as Parquet"),
        (b"date,y\n2021-01-01,1\n2021-01-02,2,3,4\n", "line 3"),
        (gzip.compress(FRAME.to_csv(index=False).encode())[:200], "cannot be unpacked"),
    ],
)
def test_what_is_no_table_is_refused_in_one_sentence(tmp_path: Path, content: bytes, message: str) -> None:
    with pytest.raises(PenstockError, match=message):
        read_table(written(tmp_path / "t.csv", content))


def test_a_parquet_file_that_is_cut_off(tmp_path: Path) -> None:
    FRAME.to_parquet(tmp_path / "whole.parquet")
    with pytest.raises(PenstockError, match="cut off"):
        read_table(written(tmp_path / "t.parquet", (tmp_path / "whole.parquet").read_bytes()[:900]))
    with pytest.raises(PenstockError, match="missing"):
        read_table(tmp_path / "nowhere.csv")


def test_words_for_missing_cells_are_counted_and_others_found() -> None:
    values, told, wrong = numbers(pd.Series(["1", " 2.5 ", "?", "NA", None, "1e3", "-"]))
    np.testing.assert_array_equal(values, [1, 2.5, np.nan, np.nan, np.nan, 1000, np.nan])
    assert told == {"?": 1, "NA": 1, "-": 1} and wrong == -1
    _, _, wrong = numbers(pd.Series(["1", "2", "high", "3", "low"]))
    assert wrong == 2
    flags, _, _ = numbers(pd.Series([True, False]))
    np.testing.assert_array_equal(flags, [1, 0])


def test_a_word_that_means_missing_elsewhere_stays_a_name(tmp_path: Path) -> None:
    frame = read_table(written(tmp_path / "t.csv", "date,country,y\n2021-01-01,NA,1\n2021-01-01,DE,2\n"))
    assert frame["country"].tolist() == ["NA", "DE"]
