"""Forecasts, backtests and anomaly scores as tables that other programs read: Parquet and CSV."""

import gzip
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from data.atomic import written_file
from data.errors import PenstockError
from data.extras import require

FORMATS = ("parquet", "csv", "csv.gz")
"""What is written, by the ending of the file name."""


def quantile_name(level: float) -> str:
    """Name of the column of a quantile: "q0.1" for level 0.1.

    Raises:
        PenstockError: a level outside (0, 1).
    """
    if not 0 < level < 1:
        raise PenstockError(f"a quantile's level lies between 0 and 1, got {level}.")
    return f"q{level:.10g}"


def write_table(columns: Mapping[str, np.ndarray], path: Path, *, zone: str = "") -> Path:
    """Write columns of equal length as a table; whole or not at all. Gives `path`.

    Columns of datetime64 are stamps in UTC. With a `zone` they are written in it: as stamps with that zone in Parquet,
    as ISO text with its offset in CSV. Without one they are written as they are. Missing numbers are null in Parquet
    and empty in CSV; floats are written so that reading gives the same number.

    Args:
        columns: by name, in the order of the table: numbers, flags, texts, datetime64[ns].
        path: ends in .parquet, .csv or .csv.gz.
        zone: a time zone such as "Europe/Vienna", "UTC" or "+01:00"; '' for stamps that have none.

    Raises:
        PenstockError: another ending, columns of different length, or an unknown time zone.
        DiskFullError: no space left.
    """
    if not path.name.endswith(tuple(f".{ending}" for ending in FORMATS)):
        raise PenstockError(f"expected a file name that ends in {', '.join(FORMATS)}, got {path.name}.")
    lengths = {name: len(values) for name, values in columns.items()}
    if not columns or len(set(lengths.values())) != 1:
        raise PenstockError(f"expected columns of one length, got {lengths or 'none'}.")
    pandas = require("pandas", "forecast")
    frame = pandas.DataFrame({name: _column(name, values, zone) for name, values in columns.items()})
    with written_file(path) as temporary:
        if path.suffix == ".parquet":
            _write_parquet(columns, zone, temporary)
        else:
            _write_csv(frame, temporary, packed=path.suffix == ".gz")
    return path


def _column(name: str, values: Any, zone: str) -> Any:
    """A column as pandas holds it, stamps in their zone."""
    pandas = require("pandas", "forecast")
    array = np.asarray(values)
    if array.ndim != 1:
        raise PenstockError(f"column '{name}': expected one value per row, got an array of shape {array.shape}.")
    if array.dtype.kind != "M":
        return pandas.Series(array.astype(object) if array.dtype.kind == "U" else array)
    stamps = pandas.Series(array.astype("datetime64[ns]"))
    if not zone:
        return stamps
    try:
        return stamps.dt.tz_localize("UTC").dt.tz_convert(zone)
    except (KeyError, ValueError, OSError) as error:
        raise PenstockError(f"expected a time zone such as 'Europe/Vienna' or 'UTC', got {zone!r}.") from error


def _iso(stamps: Any) -> Any:
    """Stamps as ISO text, without a fraction where no stamp has one; with their offset where they have a zone."""
    pandas = require("pandas", "forecast")
    whole = bool((stamps.dropna().astype("int64") % 1_000_000_000 == 0).all())
    text = stamps.dt.strftime("%Y-%m-%d %H:%M:%S" if whole else "%Y-%m-%d %H:%M:%S.%f")
    if stamps.dt.tz is not None:
        offsets = stamps.dt.strftime("%z").str.replace(r"(\d{2})(\d{2})$", r"\1:\2", regex=True)
        text = text + offsets
    return text.where(pandas.notna(stamps), None)


def _write_csv(frame: Any, path: Path, *, packed: bool) -> None:
    for name in [name for name in frame.columns if frame[name].dtype.kind == "M"]:
        frame[name] = _iso(frame[name])
    if not packed:
        frame.to_csv(path, index=False, lineterminator="\n")
        return
    # Without name and time in its head, equal tables give equal files.
    with path.open("wb") as raw, gzip.GzipFile("", "wb", fileobj=raw, mtime=0) as file:
        file.write(frame.to_csv(index=False, lineterminator="\n").encode())


def _write_parquet(columns: Mapping[str, np.ndarray], zone: str, path: Path) -> None:
    pyarrow, parquet = require("pyarrow", "forecast"), require("pyarrow.parquet", "forecast")

    def column(values: np.ndarray) -> Any:
        if values.dtype.kind == "M":
            return pyarrow.array(values.astype("datetime64[ns]"), pyarrow.timestamp("ns", zone or None))
        return pyarrow.array(values.astype(object) if values.dtype.kind == "U" else values, from_pandas=True)

    table = pyarrow.table({name: column(np.asarray(values)) for name, values in columns.items()})
    parquet.write_table(table, path, compression="zstd", version="2.6")
