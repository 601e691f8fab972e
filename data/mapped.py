"""Stored numbers without HDF5 in between: a memory map, and a table of where each chunk lies.

For readers that take short slices from random places very often: h5py spends some 100 microseconds on each.
"""

import mmap
from typing import Any

import h5py
import numpy as np
from jaxtyping import Float, Int

from data.errors import SchemaError
from data.store import Reader, explained

NUMBER = np.dtype("<f8")
CHECKSUM = 4
"""Bytes that Fletcher-32 puts behind the values of a chunk."""


class MappedColumns:
    """Rows of one float64 array of a prepared file; opened late and once per process, safe to pickle and to fork.

    Only what a caller touches is read, by the kernel, and stays in its cache and not in the process's own memory.
    Checksums are not looked at here: `Reader.verify` reads all of a file and does.

    Raises:
        SchemaError: the array is not stored as plain little-endian float64 in whole rows, or the file is shorter than
            its table of chunks says.
    """

    def __init__(self, reader: Reader, name: str) -> None:
        self.reader = reader
        self.name = name
        dataset = reader.stored(name)
        with explained(reader.path, f"array '{name}'"):
            self._check(dataset)
        self.columns = int(np.prod(dataset.shape[1:]))
        self._rows = int(dataset.shape[0])
        self._chunk_rows = int(dataset.chunks[0])
        self._row_bytes = NUMBER.itemsize * self.columns
        with explained(reader.path, f"the chunks of array '{name}'"):
            self._offsets: Int[np.ndarray, " chunk"] | None = self._table(dataset)
        self._bytes: memoryview | None = None

    def __len__(self) -> int:
        return self._rows

    def _check(self, dataset: h5py.Dataset) -> None:
        plain = dataset.dtype == NUMBER and dataset.chunks is not None and dataset.chunks[1:] == dataset.shape[1:]
        if not plain or dataset.compression is not None or dataset.shuffle or dataset.file.userblock_size:
            raise SchemaError(
                f"{self.reader.path}: array '{self.name}' cannot be mapped: expected little-endian float64 in chunks "
                f"of whole rows without compression, got {dataset.dtype} in chunks {dataset.chunks} of shape "
                f"{dataset.shape}, compression {dataset.compression}, shuffle {dataset.shuffle}. Prepare it again."
            )

    def read(self, first: int, stop: int) -> Float[np.ndarray, "row column"]:
        """A copy of rows [first, stop)."""
        if not 0 <= first <= stop <= self._rows:
            raise IndexError(f"rows {first} to {stop} of '{self.name}': it holds {self._rows}")
        values = np.empty((stop - first, self.columns))
        self.copy(first, stop, values.reshape(-1).view(np.uint8).data, 0)
        return values

    def copy(self, first: int, stop: int, target: memoryview, at: int) -> None:
        """Copy rows [first, stop), which exist, into the bytes `target` from byte `at` on."""
        if self._bytes is None:
            self._open()
        assert self._bytes is not None and self._offsets is not None
        while first < stop:
            chunk, row = divmod(first, self._chunk_rows)
            rows = min(stop - first, self._chunk_rows - row)
            size = rows * self._row_bytes
            offset = self._offsets.item(chunk) + row * self._row_bytes
            target[at : at + size] = self._bytes[offset : offset + size]
            first += rows
            at += size

    def _open(self) -> None:
        with explained(self.reader.path, f"the chunks of array '{self.name}'"):
            if self._offsets is None:
                self._offsets = self._table(self.reader.stored(self.name))
                self.reader.close()
            with self.reader.path.open("rb") as file:
                mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
            end = int(self._offsets.max(initial=0)) + self._chunk_rows * self._row_bytes if self._rows else 0
            if end > len(mapped):
                raise SchemaError(
                    f"{self.reader.path}: expected at least {end} bytes, got {len(mapped)}: the file is truncated. "
                    "Prepare it again or copy it once more."
                )
            self._bytes = memoryview(mapped)

    def _table(self, dataset: h5py.Dataset) -> Int[np.ndarray, " chunk"]:
        """Where in the file the values of each chunk begin. All were written: the reader checks that."""
        offsets = np.zeros(-(-self._rows // self._chunk_rows), np.int64)
        size = self._chunk_rows * self._row_bytes

        def note(chunk: Any) -> None:
            if chunk.size not in (size, size + CHECKSUM):
                raise SchemaError(
                    f"{self.reader.path}: a chunk of '{self.name}' has {chunk.size} bytes, expected {size} and "
                    f"{CHECKSUM} of a checksum. The file is damaged; prepare it again."
                )
            offsets[chunk.chunk_offset[0] // self._chunk_rows] = chunk.byte_offset

        if self._rows and self.columns:
            dataset.id.chunk_iter(note)
        return offsets

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_offsets": None, "_bytes": None}
