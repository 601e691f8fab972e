"""CSV and Parquet files into one table of plain columns: numbers, texts, or dates. Imported late (pandas)."""

import codecs
import gzip
import re
import zlib
from collections import Counter
from pathlib import Path
from typing import Any, cast

import numpy as np
from jaxtyping import Float64

from data.errors import PenstockError
from data.extras import require

CSV_SUFFIXES = (".csv", ".tsv", ".txt", ".csv.gz", ".tsv.gz", ".txt.gz")
PARQUET_SUFFIXES = (".parquet", ".pq")
SUFFIXES = CSV_SUFFIXES + PARQUET_SUFFIXES
MISSING_WORDS = frozenset(
    ("", "na", "n/a", "#n/a", "nan", "null", "none", "nil", "nat", "?", "-", "--", ".", "missing", "#value!", "#div/0!")
)
"""What a cell of a column of numbers may hold where nothing was measured, in small letters."""
FILE_COLUMN = "(file)"
"""Column that says which file of a folder a row is from."""
_HEAD = 65536
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")
_STAMP = re.compile(r"\d{1,4}[-/.]\d{1,2}[-/.]\d{1,4}.*")


def is_table(path: Path) -> bool:
    """Whether the name says CSV or Parquet."""
    return path.name.lower().endswith(SUFFIXES)


def read_table(path: Path) -> Any:
    """The table of a CSV (or TSV; gzip too) or Parquet file as a pandas frame, its rows numbered from 0.

    Delimiter, decimal comma and encoding of a CSV are found from its text; names of columns lose surrounding spaces.
    Texts are kept as they are written (also "NA"); empty cells are missing.

    Raises:
        PenstockError: missing, empty, of another kind, damaged, or without a header or rows.
    """
    if not path.is_file():
        raise PenstockError(f"expected a CSV or Parquet file, but {path} is missing. Check its path.")
    if not path.stat().st_size:
        raise PenstockError(f"{path} is empty: expected a CSV with a header line, or a Parquet file.")
    with path.open("rb") as file:
        start = file.read(4)
    parquet = start == b"PAR1" or path.name.lower().endswith(PARQUET_SUFFIXES)
    frame = _read_parquet(path) if parquet else _read_csv(path)
    frame.columns = [str(name).strip() for name in frame.columns]
    if not len(frame):
        raise PenstockError(f"{path} has a header but no rows: expected at least one line of data below it.")
    return frame


def read_tables(path: Path, files: dict[str, Path]) -> Any:
    """The tables of several files one below the other, with FILE_COLUMN naming each row's file.

    Raises:
        PenstockError: a file cannot be read, or has other columns than the first.
    """
    pandas = require("pandas", "forecast")
    frames: list[Any] = []
    for name, file in files.items():
        frame = read_table(file)
        if frames and set(frame.columns) != set(frames[0].columns) - {FILE_COLUMN}:
            odd = sorted(set(frame.columns) ^ (set(frames[0].columns) - {FILE_COLUMN}))
            raise PenstockError(
                f"expected the same columns in all files of {path}, but {name} differs from {next(iter(files))} in "
                f"{', '.join(odd[:5])}. Read them one by one, or make their headers equal."
            )
        frame[FILE_COLUMN] = name
        frames.append(frame)
    return pandas.concat(frames)


def _read_parquet(path: Path) -> Any:
    pyarrow, parquet = require("pyarrow", "forecast"), require("pyarrow.parquet", "forecast")
    try:
        # ParquetFile reads this one file: read_table would take `key=value` folders of its path for columns.
        table = parquet.ParquetFile(path).read()
        frame = table.to_pandas()
    except (pyarrow.ArrowException, OSError, ValueError) as error:
        raise PenstockError(
            f"{path} cannot be read as Parquet: it is damaged, cut off or of another kind ({_brief(error)}). "
            "Write or copy it again."
        ) from error
    pandas = require("pandas", "forecast")
    if not isinstance(frame.index, pandas.RangeIndex):
        frame = frame.reset_index()
    nested = {field.name for field in table.schema if pyarrow.types.is_nested(field.type)}
    for name in frame.columns:
        if name in nested:
            frame[name] = frame[name].map(str)
        if isinstance(frame[name].dtype, pandas.CategoricalDtype):
            frame[name] = frame[name].astype(object)
    return frame


def _read_csv(path: Path) -> Any:
    pandas = require("pandas", "forecast")
    encoding, delimiter, decimal = _sniff(path)
    # From 3 on pandas reads numbers to the last bit without being asked, and warns when it is.
    precision = {"float_precision": "round_trip"} if int(pandas.__version__.split(".")[0]) < 3 else {}
    try:
        frame = pandas.read_csv(
            path,
            sep=delimiter,
            decimal=decimal,
            encoding=encoding,
            compression="gzip" if _gzipped(path) else None,
            keep_default_na=False,
            na_values=[""],
            skipinitialspace=True,
            index_col=False,
            low_memory=False,
            **precision,
        )
    except (
        pandas.errors.ParserError,
        pandas.errors.EmptyDataError,
        ValueError,
        EOFError,
        OSError,
        zlib.error,
    ) as error:
        raise PenstockError(
            f"{path} cannot be read as CSV: {_brief(error)}. Expected lines of equally many cells below a header."
        ) from error
    return frame


def _brief(error: BaseException) -> str:
    return " ".join(str(error).split()).removeprefix("Error tokenizing data. C error: ").rstrip(".")[:200]


def _gzipped(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(2) == b"\x1f\x8b"


def _sniff(path: Path) -> tuple[str, str, str]:
    """Encoding, delimiter and decimal mark of a CSV.

    Raises:
        PenstockError: not text, or no header line.
    """
    try:
        with gzip.open(path) if _gzipped(path) else path.open("rb") as file:
            head = file.read(_HEAD)
    except (OSError, EOFError, zlib.error) as error:
        raise PenstockError(f"{path} cannot be unpacked: it is damaged or cut off ({_brief(error)}).") from error
    encoding = _encoding(path, head)
    text = head.decode(encoding, errors="ignore")
    lines = [line for line in text.splitlines() if line.strip()]
    lines = lines[:-1] if len(head) == _HEAD and len(lines) > 1 else lines
    if not lines:
        raise PenstockError(f"{path} is empty: expected a CSV with a header line.")
    delimiter = _delimiter(lines[:200])
    cells = [cell.strip().strip('"') for cell in lines[0].split(delimiter)]
    if all(_NUMBER.fullmatch(cell) or _STAMP.fullmatch(cell) for cell in cells):
        raise PenstockError(
            f"{path}: expected a first line with the names of the columns, got {lines[0][:80]!r}. Add a header line."
        )
    twice = [cell for cell, count in Counter(cells).items() if count > 1 and cell]
    if twice:
        raise PenstockError(f"{path}: the column '{twice[0]}' comes twice; every column needs a name of its own.")
    body = [cell.strip().strip('"') for line in lines[1:200] for cell in line.split(delimiter)]
    comma = delimiter != "," and sum(bool(re.fullmatch(r"[+-]?\d+,\d+", cell)) for cell in body) > 0
    return encoding, delimiter, "," if comma else "."


def _encoding(path: Path, head: bytes) -> str:
    for mark, name in ((b"\xef\xbb\xbf", "utf-8-sig"), (b"\xff\xfe", "utf-16"), (b"\xfe\xff", "utf-16")):
        if head.startswith(mark):
            return name
    control = sum(head.count(bytes([code])) for code in (*range(9), *range(14, 27), *range(28, 32)))
    if control > len(head) / 1000:
        raise PenstockError(
            f"{path} is not text: it holds {control:,} control bytes in its first {len(head):,}. "
            "Expected a CSV with a header line, or a Parquet file."
        )
    try:
        codecs.getincrementaldecoder("utf-8")().decode(head)  # a letter may be cut at the end of the head
        return "utf-8"
    except UnicodeDecodeError:
        pass
    try:
        head.decode("cp1252")
    except UnicodeDecodeError as error:
        raise PenstockError(
            f"{path} is not text in UTF-8 or a Western code page: expected a CSV or Parquet file."
        ) from error
    return "cp1252"


def _delimiter(lines: list[str]) -> str:
    """The mark that cuts most lines into equally many cells, the more the better."""

    def quality(mark: str) -> tuple[float, int]:
        counts = [len(re.sub(r'"[^"]*"', "", line).split(mark)) for line in lines]
        usual, times = Counter(counts).most_common(1)[0]
        return (times / len(lines) if usual > 1 else 0.0), usual

    # A decimal comma cuts lines evenly too, so the rarer marks come first where they cut evenly.
    for mark in (";", "\t", "|"):
        if quality(mark)[0] > 0.9:
            return mark
    return ","


def numbers(column: Any) -> tuple[Float64[np.ndarray, " row"], dict[str, int], int]:
    """A column as numbers: NaN where missing, how often each word stood for a missing value, and the first row (its
    position) that holds something else; -1 where there is none.
    """
    pandas = require("pandas", "forecast")
    if pandas.api.types.is_bool_dtype(column.dtype) or pandas.api.types.is_numeric_dtype(column.dtype):
        if pandas.api.types.is_complex_dtype(column.dtype):
            return np.full(len(column), np.nan), {}, 0
        return column.to_numpy(dtype=np.float64, na_value=np.nan), {}, -1
    if pandas.api.types.is_datetime64_any_dtype(column.dtype):
        return np.full(len(column), np.nan), {}, 0
    # Each different text once: a column of words may have millions of rows.
    codes, texts = pandas.factorize(column)
    words = [str(text).strip() for text in texts]
    found = pandas.to_numeric(pandas.Series(words, dtype=object), errors="coerce").to_numpy(dtype=np.float64)
    missing = np.array([word.lower() in MISSING_WORDS for word in words], bool)
    flags = {"true": 1.0, "false": 0.0}
    found = np.array([flags.get(word.lower(), value) for word, value in zip(words, found, strict=True)])
    found[missing] = np.nan
    lookup = np.append(found, np.nan)  # code -1 is an empty cell
    counts = np.bincount(codes[codes >= 0], minlength=len(words))
    told = {words[k]: int(counts[k]) for k in np.flatnonzero(missing)}
    wrong = np.append(np.isnan(found) & ~missing, False)[codes]
    return lookup[codes], told, int(np.argmax(wrong)) if wrong.any() else -1


def texts(column: Any) -> Any:
    """A column as texts without surrounding spaces, None where the cell is empty."""
    pandas = require("pandas", "forecast")
    codes, values = pandas.factorize(column)
    words = np.array([*(_word(value) for value in values), None], dtype=object)
    return cast(Any, words[codes])


def _word(value: Any) -> str:
    """ "7" for 7 and 7.0."""
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value).strip()
