"""Prepared data on HDF5: a writer that appears whole or not at all, and a reader that trusts nothing it opens.

Layout and rules: `docs/data-format.md`. Compression and chunk sizes were chosen with `benchmarks/store_compression.py`.
"""

import hashlib
import json
import os
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import h5py
import numpy as np

from data.atomic import disk_full, fsync, is_disk_full, partial_name, remove_stale
from data.errors import PenstockError, SchemaError
from data.schema import Array, FileKind, check_attributes, check_item
from data.store_check import Structure, check_structure

GATHER_ITEMS = 16
"""Items held back before the chunk length of ragged axes is fixed, so that one odd first item does not decide it."""
CHUNKS_PER_ITEM = 4
"""Of a ragged axis: a typical item fills four chunks, so that padding to whole chunks costs an eighth of an item."""
SMALLEST_CHUNK = 16 * 1024
"""Bytes. Scalars and short rows of several items share a chunk up to this size: one item per chunk would cost more."""
LARGEST_CHUNK = 8 * 1024 * 1024
"""Bytes. A larger item is cut along its first axes; the reader refuses chunks above 64 MiB."""
FLUSH_EVERY = 16 * 1024 * 1024
"""Bytes given to HDF5 between two flushes."""
RESERVE = 256 * 1024
"""Bytes kept free beyond the values themselves, for HDF5's own metadata."""
NUMBERS: Mapping[str, Any] = {}
"""Filters of floating-point arrays. gzip takes 18 % off random points and distances and doubles the time to read them:
they are read at every step, so they are stored as they are."""
INDICES: Mapping[str, Any] = {"compression": "gzip", "compression_opts": 1, "shuffle": True}
"""Filters of integers, flags and strings (faces, labels, ids), which shrink well and are rarely read in training."""


class Fingerprint:
    """SHA-256 over kind, version, attributes, ids and values: equal for equal content, whatever the compression."""

    def __init__(self, kind: FileKind) -> None:
        self._kind = kind
        self._items = hashlib.sha256()

    def add(self, item_id: str, arrays: Mapping[str, np.ndarray]) -> None:
        self._update(item_id.encode())
        for name in sorted(arrays):
            value = arrays[name]
            text = value.dtype.kind == "U"
            dtype = "str" if text else value.dtype.newbyteorder("<").str
            self._update(json.dumps([name, dtype, list(value.shape)]).encode())
            numbers = np.ascontiguousarray(value, None if text else value.dtype.newbyteorder("<"))
            self._update(str(value).encode() if text else numbers.reshape(-1).view(np.uint8).data)

    def _update(self, block: bytes | memoryview) -> None:
        # The length first: otherwise moving a byte from one block to the next would go unseen.
        self._items.update(memoryview(block).nbytes.to_bytes(8, "little"))
        self._items.update(block)

    def hexdigest(self, attributes: Mapping[str, str | int | float | bool]) -> str:
        head = json.dumps([self._kind.name, self._kind.version, dict(attributes)], sort_keys=True)
        return hashlib.sha256(head.encode() + self._items.digest()).hexdigest()


def chunk_shape(shape: tuple[int, ...], itemsize: int, items: int = 1) -> tuple[int, ...]:
    """Chunk of a dataset whose leading axis counts items (or ragged rows), `shape` being that of one of them.

    `items` of them make a chunk; small ones are gathered to SMALLEST_CHUNK, large ones are cut to LARGEST_CHUNK.
    """
    size = max(itemsize * int(np.prod(shape)), 1)
    if items == 1 and size < SMALLEST_CHUNK:
        items = SMALLEST_CHUNK // size
    chunk = [items, *(max(length, 1) for length in shape)]
    for axis in range(len(chunk)):
        rest = max(itemsize * int(np.prod(chunk[axis + 1 :])), 1)
        chunk[axis] = max(1, min(chunk[axis], LARGEST_CHUNK // rest))
    return tuple(chunk)


class Writer:
    """Writes one file of a kind, item by item; the file appears under its name only when the block ends well.

    `attributes` may be completed (they are a plain dictionary) until the block ends. `compression` takes h5py's filter
    arguments for all arrays alike; None chooses by dtype.

    Example:
        with Writer(path, SHAPE_SAMPLES, {"unit": "cube"}) as writer:
            writer.add("torus-0001", {"surface": surface, "label": np.int32(3)})
    """

    def __init__(
        self,
        path: Path,
        kind: FileKind,
        attributes: Mapping[str, Any] | None = None,
        *,
        compression: Mapping[str, Any] | None = None,
    ) -> None:
        self.path = Path(path)
        self.kind = kind
        self.attributes: dict[str, Any] = dict(attributes or {})
        self.fingerprint: str | None = None
        """Known when the block has ended."""
        self._compression = compression
        self._digest = Fingerprint(kind)
        self._sizes: dict[str, int] = {}
        self._names: set[str] | None = None
        self._ids: dict[str, None] = {}
        self._waiting: list[dict[str, np.ndarray]] = []
        self._strings: dict[str, list[str]] = defaultdict(list)
        self._spans: dict[str, list[tuple[int, int]]] = defaultdict(list)
        self._chunk_rows: dict[str, int] = {}
        self._file: h5py.File | None = None
        self._stored = 0
        self._unflushed = 0

    def __enter__(self) -> Self:
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            remove_stale(self.path)
            self._temporary = partial_name(self.path)
            # Format 1.10 gives every metadata block a checksum of its own; the lock tells `remove_stale` we live.
            self._file = h5py.File(self._temporary, "w-", libver=("v110", "v110"), locking="best-effort")
        except OSError as error:
            raise self._explain(error) from error
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None:
            self._abandon()
            return
        try:
            self._finish()
        except BaseException as problem:
            self._abandon()
            raise self._explain(problem) from problem

    def add(self, item_id: str, arrays: Mapping[str, Any]) -> None:
        """Store one item.

        Raises:
            SchemaError: the arrays do not follow the kind, or the id was added before.
            DiskFullError: no space left; the block's end removes what was written.
        """
        if not item_id or "\0" in item_id or item_id in self._ids:
            raise SchemaError(
                f"item id {item_id!r} is empty, holds a null character, or was added before; ids are unique."
            )
        checked = check_item(self.kind, arrays, self._sizes)
        self._names = set(checked) if self._names is None else self._names
        if self._names != set(checked):
            raise SchemaError(
                f"item '{item_id}' has arrays {sorted(checked)}, the items before it {sorted(self._names)}: "
                "an optional array is in every item of a file or in none."
            )
        self._digest.add(item_id, checked)
        self._ids[item_id] = None
        self._waiting.append(checked)
        if self._chunk_rows or len(self._waiting) >= GATHER_ITEMS:
            self._write_waiting()

    def _write_waiting(self) -> None:
        assert self._file is not None, "Writer is a context manager"
        if self._names and not self._chunk_rows:
            self._choose_chunk_rows()
        try:
            for item in self._waiting:
                self._reserve(sum(self._footprint(name, value) for name, value in item.items()))
                self._write_item(item)
            self._waiting.clear()
        except (OSError, RuntimeError) as error:
            raise self._explain(error) from error

    def _footprint(self, name: str, value: np.ndarray) -> int:
        """Bytes that storing `value` may take at most: whole chunks, not compressed."""
        row = self.kind.arrays[name]
        step = self._chunk_rows.get(row.ragged, 1) if row.ragged else 1
        padding = step * (value.nbytes // max(len(value), 1)) if row.ragged else SMALLEST_CHUNK
        return value.nbytes + padding

    def _reserve(self, coming: int) -> None:
        """Take disk space for the next `coming` bytes, or raise OSError now.

        HDF5 2.0 that meets a full disk reports it late, cannot close the file any more and has crashed the process at
        exit; so it must never meet one.
        """
        assert self._file is not None
        if self._unflushed + coming > FLUSH_EVERY:
            self._file.flush()
            self._unflushed = 0
        self._unflushed += coming
        descriptor = os.open(self._temporary, os.O_RDWR)
        try:
            os.posix_fallocate(descriptor, self._file.id.get_filesize(), self._unflushed + RESERVE)
        finally:
            os.close(descriptor)

    def _choose_chunk_rows(self) -> None:
        """Fix the rows per chunk of each ragged axis from the items seen so far.

        Every item starts on a chunk boundary: reading one item touches no other's chunks.
        """
        self._chunk_rows["*"] = 1  # says that the choice is made, also where nothing is ragged
        for name in sorted(self._names or ()):
            axis = self.kind.arrays[name].ragged
            if axis is None:
                continue
            rows = int(np.median([len(item[name]) for item in self._waiting]))
            row_bytes = max(self._waiting[0][name].dtype.itemsize * int(np.prod(self._waiting[0][name].shape[1:])), 1)
            wanted = max(rows // CHUNKS_PER_ITEM, SMALLEST_CHUNK // row_bytes, 1)
            wanted = max(min(wanted, LARGEST_CHUNK // row_bytes), 1)
            self._chunk_rows[axis] = min(wanted, self._chunk_rows.get(axis, wanted))

    def _write_item(self, item: Mapping[str, np.ndarray]) -> None:
        assert self._file is not None
        starts: dict[str, int] = {}
        for name, value in item.items():
            row = self.kind.arrays[name]
            if row.dtype == "str":
                self._strings[name].append(str(value))
                continue
            dataset = self._file[name] if name in self._file else self._create(name, row, value)
            if row.ragged is None:
                dataset.resize(self._stored + 1, axis=0)
                dataset[self._stored] = value
                continue
            if row.ragged not in starts:
                spans, step = self._spans[row.ragged], self._chunk_rows[row.ragged]
                end = spans[-1][1] if spans else 0
                starts[row.ragged] = -(-end // step) * step if len(value) else end
                spans.append((starts[row.ragged], starts[row.ragged] + len(value)))
            start = starts[row.ragged]
            if len(value):
                dataset.resize(start + len(value), axis=0)
                dataset[start : start + len(value)] = value
        self._stored += 1

    def _filters(self, dtype: np.dtype) -> dict[str, Any]:
        chosen = self._compression
        if chosen is None:
            chosen = NUMBERS if dtype.kind == "f" else INDICES
        return {**chosen, "fletcher32": True}

    def _create(self, name: str, row: Array, value: np.ndarray) -> h5py.Dataset:
        assert self._file is not None
        if row.ragged is None:
            shape, items = value.shape, 1
        else:
            shape, items = value.shape[1:], self._chunk_rows[row.ragged]
        chunks = chunk_shape(shape, value.dtype.itemsize, items)
        return self._file.create_dataset(
            name, (0, *shape), _stored_dtype(row), maxshape=(None, *shape), chunks=chunks, **self._filters(value.dtype)
        )

    def _finish(self) -> None:
        assert self._file is not None
        if not self._ids:
            raise PenstockError(
                f"nothing to write to {self.path}: no item was prepared. Look at the refused ones first."
            )
        attributes = check_attributes(self.kind, self.attributes)
        self._write_waiting()
        for name, strings in {"ids": list(self._ids), **self._strings}.items():
            self._store_strings(name, strings)
        self._reserve(16 * len(self._ids) * len(self._spans) + len(json.dumps(attributes)))
        spans = self._file.create_group("spans")
        for axis, rows in self._spans.items():
            spans.create_dataset(
                axis,
                data=np.array(rows, "<i8"),
                chunks=(min(len(rows), 1024), 2),
                maxshape=(None, 2),
                **self._filters(np.dtype("<i8")),
            )
        fingerprint = self._digest.hexdigest(attributes)
        head = {"kind": self.kind.name, "version": self.kind.version, "fingerprint": fingerprint}
        for name, value in {**attributes, **head}.items():
            raw = value.encode() if isinstance(value, str) else None
            dtype = None if raw is None else h5py.string_dtype("utf-8", max(len(raw), 1))
            self._file.attrs.create(name, value if raw is None else np.array(raw, dtype), dtype=dtype)
        self._file.flush()
        size = self._file.id.get_filesize()
        self._file.close()
        os.truncate(self._temporary, size)  # gives back what was reserved and not used
        Reader(self._temporary, self.kind)
        fsync(self._temporary)
        self._temporary.replace(self.path)
        fsync(self.path.parent)
        self.fingerprint = fingerprint

    def _store_strings(self, name: str, strings: Sequence[str]) -> None:
        assert self._file is not None
        encoded = [text.encode() for text in strings]
        # Fixed length: strings of variable length live in a heap that no checksum covers.
        dtype = h5py.string_dtype("utf-8", max(map(len, encoded)) or 1)
        array = np.array(encoded, dtype)
        chunks = chunk_shape((), dtype.itemsize)[0]
        self._reserve(array.nbytes)
        self._file.create_dataset(
            name, data=array, chunks=(min(chunks, len(array)),), maxshape=(None,), **self._filters(dtype)
        )

    def _abandon(self) -> None:
        if self._file is not None:
            with suppress(OSError, RuntimeError):  # the file goes anyway
                self._file.close()
            self._temporary.unlink(missing_ok=True)

    def _explain(self, error: BaseException) -> BaseException:
        if is_disk_full(error):
            return disk_full(self.path, error)
        if isinstance(error, OSError) and not isinstance(error, PenstockError):
            return PenstockError(f"cannot write {self.path}: {error}. Check that the folder exists and is writable.")
        return error


class Reader:
    """Reads a file of a kind: checked when made, opened late and once per process, safe to pickle and to fork.

    Raises (on making):
        SchemaError: not HDF5, truncated, of another kind or version, or not as the table of its kind says.
    """

    def __init__(self, path: Path, kind: FileKind) -> None:
        self.path = Path(path).absolute()
        self.kind = kind
        self._file: h5py.File | None = None
        self._pid = 0
        # Opened for the check only: a worker process then never inherits an open handle it has not asked for.
        with _opened(self.path) as file, explained(self.path, "the file's structure"):
            self._structure: Structure = check_structure(self.path, file, kind)

    @property
    def ids(self) -> tuple[str, ...]:
        return self._structure.ids

    @property
    def attributes(self) -> dict[str, str | int | float | bool]:
        return dict(self._structure.attributes)

    @property
    def fingerprint(self) -> str:
        return self._structure.fingerprint

    @property
    def names(self) -> tuple[str, ...]:
        """The arrays that this file holds: those of the kind, less optional ones that are absent."""
        return self._structure.names

    def __len__(self) -> int:
        return len(self.ids)

    def read(self, index: int, names: Sequence[str] | None = None) -> dict[str, np.ndarray]:
        """The arrays of one item, all of them or those in `names`; strings come as 0-d unicode arrays.

        Raises:
            SchemaError: a name that the file does not hold, or damaged bytes (a checksum fails).
        """
        if not -len(self) <= index < len(self):
            raise IndexError(f"item {index} of {self.path}: it holds {len(self)} items")
        index %= len(self)
        return {name: self._read(index, name) for name in (self.names if names is None else names)}

    def _read(self, index: int, name: str) -> np.ndarray:
        if name not in self.names:
            raise SchemaError(f"{self.path} holds no array '{name}'; it holds {', '.join(self.names)}.")
        row = self.kind.arrays[name]
        file = self._open()
        with explained(self.path, f"array '{name}' of item '{self.ids[index]}'"):
            if row.dtype == "str":
                return np.array(file[name][index].decode())
            if row.ragged is None:
                return np.asarray(file[name][index])
            start, stop = self._structure.spans[row.ragged][index]
            return np.asarray(file[name][int(start) : int(stop)])

    def rows(self, name: str) -> np.ndarray:
        """Where the rows of every item of a ragged array lie in the file: [item, (first, stop)], int64."""
        row = self.kind.arrays[name]
        assert row.ragged is not None, f"'{name}' is not ragged"
        return self._structure.spans[row.ragged]

    def column(self, name: str) -> np.ndarray:
        """An array of numbers that is not ragged, of all items at once: [item, ...]."""
        with explained(self.path, f"array '{name}'"):
            return np.asarray(self.stored(name)[()])

    def stored(self, name: str) -> h5py.Dataset:
        """The dataset itself, in this process's handle; for `data.mapped`, which knows its layout."""
        return self._open()[name]

    def verify(self) -> None:
        """Read everything and compare with the fingerprint in the file.

        Raises:
            SchemaError: a checksum fails, or the content is not what was written.
        """
        digest = Fingerprint(self.kind)
        for index, item_id in enumerate(self.ids):
            digest.add(item_id, self.read(index))
        found = digest.hexdigest(self.attributes)
        if found != self.fingerprint:
            raise SchemaError(
                f"{self.path}: expected content with fingerprint {self.fingerprint}, got {found}: the file was changed "
                "after it was written. Prepare it again."
            )

    def close(self) -> None:
        """Close this process's handle; the next read opens another."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def _open(self) -> h5py.File:
        if self._file is not None and self._pid == os.getpid():
            return self._file
        # After a fork the inherited handle shares its file descriptor with the parent: drop our copy of it first.
        self.close()
        file = _open_file(self.path)
        try:
            with explained(self.path, "the file's structure"):
                found = check_structure(self.path, file, self.kind)
            if found.fingerprint != self.fingerprint:
                raise SchemaError(
                    f"{self.path} was replaced by other data while it was in use. Start the command again."
                )
        except BaseException:
            file.close()
            raise
        self._file, self._pid = file, os.getpid()
        return file

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_file": None, "_pid": 0}


def _stored_dtype(row: Array) -> np.dtype:
    return np.dtype(row.dtype).newbyteorder("<")


def _open_file(path: Path) -> h5py.File:
    if not path.is_file():
        raise SchemaError(f"{path}: expected a prepared HDF5 file, found {'a folder' if path.is_dir() else 'nothing'}.")
    with explained(path, "the file"):
        return h5py.File(path, "r", locking="best-effort")


@contextmanager
def _opened(path: Path) -> Iterator[h5py.File]:
    file = _open_file(path)
    try:
        yield file
    finally:
        file.close()


@contextmanager
def explained(path: Path, what: str) -> Iterator[None]:
    """Whatever h5py raises on damaged bytes, said as one SchemaError."""
    try:
        yield
    except SchemaError:
        raise
    except (
        OSError,
        RuntimeError,
        ValueError,
        TypeError,
        KeyError,
        AttributeError,
        OverflowError,
        MemoryError,
    ) as error:
        raise SchemaError(
            f"{path}: cannot read {what}: expected an intact HDF5 file, got: {error}. "
            "The file is damaged, truncated, or not HDF5; prepare it again or copy it once more."
        ) from error
