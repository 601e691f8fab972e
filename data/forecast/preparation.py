"""CSV or Parquet tables, or the synthetic series, made into one `series.h5` with the account of how they were read."""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from data.atomic import written_file
from data.errors import PenstockError, SchemaError
from data.extras import require
from data.forecast.columns import Column, ColumnsConfig, Reading
from data.forecast.kinds import FORECAST_SERIES
from data.preparing import Show, content_hash, followed, read_refused, visible_files, write_refused
from data.store import Reader, Writer
from data.synthetic.forecast import SyntheticForecastConfig, generate, synthetic_columns, synthetic_ids

VERSION = 1
"""Raised when the same inputs and configuration would give other series."""
SERIES, READING = "series.h5", "reading.json"


@dataclass(frozen=True)
class Prepared:
    """What a preparation gave."""

    path: Path
    """series.h5"""
    key: str
    ids: tuple[str, ...]
    reading: Reading
    refused: dict[str, str]
    """Reason by series, as in refused.csv beside the file."""
    reused: bool
    """True where the finished preparation was found and nothing was read."""

    def summary(self) -> list[str]:
        """Short sentences for the user."""
        return self.reading.summary() + (["Found prepared."] if self.reused else [])


@dataclass(frozen=True)
class _Content:
    """What goes into the file."""

    items: Iterator[tuple[str, dict[str, Any]]]
    count: int
    columns: dict[str, list[str]]
    reading: Reading
    refused: dict[str, str]


def prepare(
    source: Path | SyntheticForecastConfig, columns: ColumnsConfig, folder: Path, show: Show | None = None
) -> Prepared:
    """Read the series of `source` (a CSV or Parquet file, a folder of them with equal columns, or the synthetic ones)
    into `folder/series.h5`, with `folder/reading.json` and `folder/refused.csv` beside it.

    The source is never changed. A finished preparation with the same key is returned as it is.

    Raises:
        PenstockError: nothing there to read, or no sensible way to read it; the message says where and what to do.
    """
    key = preparation_key(source, columns)
    path = folder / SERIES
    found = _finished(path, key)
    if found is not None:
        return found
    content = _synthetic(source) if isinstance(source, SyntheticForecastConfig) else _read(source, columns)
    write_refused(path, content.refused)
    reading, ids = content.reading, []
    account = json.dumps({"key": key, **reading.to_json()}, sort_keys=True)
    attributes = {
        "columns": json.dumps(content.columns),
        "step": reading.step,
        "zone": reading.zone,
        "gaps": False,
        "reading": account,
    }
    with Writer(path, FORECAST_SERIES, attributes) as writer:

        def written() -> Iterator[tuple[str, bool]]:
            for item_id, arrays in content.items:
                writer.add(item_id, arrays)
                if any(np.isnan(array).any() for array in arrays.values()):
                    writer.attributes["gaps"] = True
                ids.append(item_id)
                yield item_id, True

        total = content.count + len(content.refused)
        followed(written(), total, len(content.refused), len(content.refused), show)
    with written_file(path.with_name(READING)) as temporary:
        temporary.write_text(json.dumps(json.loads(account), indent=1))
    return Prepared(path, key, tuple(ids), reading, content.refused, reused=False)


def preparation_key(source: Path | SyntheticForecastConfig, columns: ColumnsConfig) -> str:
    """SHA-256 (hex) over the content of all inputs, the configuration, and the version of file and method.

    Raises:
        PenstockError: nothing there to read.
    """
    if isinstance(source, SyntheticForecastConfig):
        inputs: Any = asdict(source)
    else:
        inputs = [[name, content_hash(path)] for name, path in _files(source).items()]
    words = [VERSION, FORECAST_SERIES.name, FORECAST_SERIES.version, asdict(columns), inputs]
    return hashlib.sha256(json.dumps(words, sort_keys=True).encode()).hexdigest()


def _files(source: Path) -> dict[str, Path]:
    """The tables of a file or folder by their name."""
    if source.is_file():
        return {_stem(source.name): source}
    if not source.is_dir():
        raise PenstockError(f"expected a CSV or Parquet file or a folder of them, but {source} is missing.")
    from data.forecast.reading import SUFFIXES, is_table

    found = visible_files(source, is_table)
    if not found:
        raise PenstockError(
            f"expected tables ({', '.join(SUFFIXES)}) in {source}, but there are none, also not in its subfolders."
        )
    stems = {name: _stem(name) for name in found}
    distinct = len(set(stems.values())) == len(stems)
    return {stems[name] if distinct else name: path for name, path in found.items()}


def _stem(name: str) -> str:
    from data.forecast.reading import SUFFIXES

    ending = next((s for s in sorted(SUFFIXES, key=len)[::-1] if name.lower().endswith(s)), "")
    return name[: len(name) - len(ending)] if ending else name


def _read(source: Path, columns: ColumnsConfig) -> _Content:
    for package in ("pandas", "pyarrow"):  # once and clearly, before anything is read
        require(package, "forecast")
    from data.forecast.reading import read_table, read_tables
    from data.forecast.table import read_series

    files = _files(source)
    if len(files) == 1:
        name, path = next(iter(files.items()))
        table = read_series(read_table(path), name, columns)
    else:
        table = read_series(read_tables(source, files), source.name, columns)
    return _Content(table.series(), len(table.ids), table.columns, table.reading, table.refused)


def _synthetic(config: SyntheticForecastConfig) -> _Content:
    """The synthetic series with an account as if they had been read from a table."""
    items = [generate(config, k) for k in range(config.series)]
    names = synthetic_columns(config)
    roles = {"targets": "target", "observed": "observed", "known": "known", "static": "static"}
    lengths = [len(item["targets"]) for item in items]
    ahead = min(len(item["known"]) - len(item["targets"]) for item in items)
    missing = sum(int(np.isnan(item["targets"]).sum()) for item in items)
    reading = Reading(
        source="synthetic",
        rows=sum(lengths),
        columns=tuple(Column(name, roles[array], "synthetic") for array in names for name in names[array]),  # type: ignore[arg-type]
        stamps="made, not read",
        zone="",
        step=config.step,
        step_reason="configured",
        first=config.first,
        last=_last_stamp(items, config),
        series=len(items),
        shortest=min(lengths),
        longest=max(lengths),
        steps=sum(lengths),
        missing_values=missing,
        ahead=dict.fromkeys(names["known"], ahead),
    )
    return _Content(iter(zip(synthetic_ids(config), items, strict=True)), len(items), names, reading, {})


def _last_stamp(items: list[dict[str, Any]], config: SyntheticForecastConfig) -> str:
    from data.forecast.calendar import stamps

    ends = [
        stamps(int(item["start"]), config.step, len(item["targets"]) - 1, len(item["targets"]))[0] for item in items
    ]
    return str(max(ends).astype("datetime64[s]")).replace("T", " ")


def _finished(path: Path, key: str) -> Prepared | None:
    """The preparation that `path` holds, if it has this key and its file is sound."""
    if not path.exists():
        return None
    try:
        reader = Reader(path, FORECAST_SERIES)
        account = json.loads(str(reader.attributes["reading"]))
        if account.get("key") != key:
            return None
        reading = Reading.from_json(account)
    except (SchemaError, KeyError, TypeError, ValueError):
        return None  # damaged or of an older version: prepared anew, the rename replaces it
    return Prepared(path, key, reader.ids, reading, read_refused(path), reused=True)
