"""How a file in The Well's layout grows, and what is in it when it is complete.

HDF5 files do not survive a kill while they grow. So frames are appended, with their times and check sums, to a plain
file for each trajectory; when all are there they are copied into the HDF5 file.
"""

import hashlib
import json
import struct
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from typing import Any, Self

import h5py
import numpy as np
from jaxtyping import Float

from data.errors import SchemaError
from data.grid import Axis, Grid
from data.turbulence.well_rules import LENGTHS, ORDERS, component_names, fields_of

_NAMES = h5py.string_dtype()


@dataclass(frozen=True)
class Header:
    """What is known of a file before its first frame."""

    name: str
    grid: Grid
    components: tuple[str, ...]
    parameters: dict[str, float]
    trajectories: int
    attributes: dict[str, Any]
    scalars: tuple[str, ...]
    open_axes: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        axes = [[a.name, a.points.tolist(), a.length, a.periodic] for a in self.grid.axes]
        return {**vars(self), "grid": axes}

    @classmethod
    def from_json(cls, found: dict[str, Any]) -> Self:
        axes = tuple(Axis(n, np.asarray(p, np.float64), length, periodic=s) for n, p, length, s in found["grid"])
        lists = {name: tuple(found[name]) for name in ("components", "scalars", "open_axes")}
        return cls(**{**found, **lists, "grid": Grid(axes)})


class Fingerprint:
    """SHA-256 over the content of a file, frame by frame, trajectory after trajectory."""

    def __init__(self, name: str, components: Sequence[str], grid: Grid) -> None:
        axes = [[a.name, a.periodic, round(a.length, 5), [round(float(p), 5) for p in a.points]] for a in grid.axes]
        self._digest = hashlib.sha256(json.dumps([name, list(components), axes]).encode())

    def add(self, trajectory: int, time: float, frame: Float[np.ndarray, "*grid component"]) -> None:
        self._digest.update(struct.pack("<qf", trajectory, time))
        self._digest.update(np.ascontiguousarray(frame, "<f4").reshape(-1).view(np.uint8).data)

    def hexdigest(self) -> str:
        return self._digest.hexdigest()


class Log:
    """Frames of one trajectory, one record after another: time, CRC-32 of the rest, scalars, values (float32).

    A record that a kill or a power cut left incomplete is cut off when the log is opened.
    """

    HEAD = struct.Struct("<dI")

    def __init__(self, path: Path, scalars: int, shape: tuple[int, ...]) -> None:
        self.path, self._scalars, self._shape = path, scalars, shape
        self._size = self.HEAD.size + 8 * scalars + 4 * int(np.prod(shape))
        # Unbuffered: what the disk had no room for is not tried again later.
        self._file: FileIO | None = path.open("a+b", buffering=0)
        self.last_time: float | None = None
        """Of the last frame; None before the first one."""
        self._count = path.stat().st_size // self._size
        while self._count and self._read(self._count - 1) is None:
            self._count -= 1
        self.truncate(self._count)

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, position: int) -> tuple[float, np.ndarray, np.ndarray]:
        """Time, scalars and values of a frame."""
        found = self._read(position)
        if found is None:
            raise SchemaError(f"{self.path}: frame {position} is damaged. Make the file anew.")
        return found

    def _read(self, position: int) -> tuple[float, np.ndarray, np.ndarray] | None:
        assert self._file is not None
        self._file.seek(position * self._size)
        record = self._file.read(self._size)
        if len(record) < self._size:
            return None
        time, check = self.HEAD.unpack_from(record)
        if zlib.crc32(record[self.HEAD.size :]) != check:
            return None
        scalars = np.frombuffer(record, "<f8", self._scalars, self.HEAD.size)
        values = np.frombuffer(record, "<f4", offset=self.HEAD.size + scalars.nbytes)
        return time, scalars, values.reshape(self._shape)

    def append(self, time: float, scalars: Sequence[float], values: np.ndarray) -> None:
        assert self._file is not None
        body = np.asarray(scalars, "<f8").tobytes() + np.ascontiguousarray(values, "<f4").tobytes()
        try:
            record = memoryview(self.HEAD.pack(time, zlib.crc32(body)) + body)
            while record:
                record = record[self._file.write(record) :]
        except OSError:
            self.truncate(self._count)
            raise
        self._count += 1
        self.last_time = time

    def truncate(self, count: int) -> None:
        assert self._file is not None
        self._file.truncate(count * self._size)
        self._count = min(self._count, count)
        self.last_time = self[self._count - 1][0] if self._count else None

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None


def write_content(file: h5py.File, header: Header, logs: Sequence[Log]) -> None:
    """The whole content of a file."""
    file.attrs.update(header.attributes)
    file.attrs["dataset_name"] = header.name
    file.attrs["grid_type"] = "cartesian"
    file.attrs["n_spatial_dims"] = len(header.grid.axes)
    file.attrs["n_trajectories"] = header.trajectories
    _name(file, "simulation_parameters", header.parameters)
    file.attrs.update(header.parameters)
    lengths = [len(log) for log in logs]
    if len(set(lengths)) > 1:
        file.attrs[LENGTHS] = lengths
    _write_boundaries(file, header)
    times, scalars, fingerprint = _write_fields(file, header, logs)
    _write_dimensions(file, header.grid, times)
    group = file.create_group("scalars")
    _name(group, "field_names", [*header.parameters, *header.scalars])
    for key, value in header.parameters.items():
        _flagged(group.create_dataset(key, data=np.float32(value)), sample=False, time=False)
    for k, key in enumerate(header.scalars):
        _flagged(group.create_dataset(key, data=scalars[..., k].astype(np.float32)), sample=True, time=True)
    file.attrs["fingerprint"] = fingerprint


def _write_fields(file: h5py.File, header: Header, logs: Sequence[Log]) -> tuple[np.ndarray, np.ndarray, str]:
    """The fields, chunks of one frame; gives the times [trajectory, time], the scalars and the fingerprint."""
    grid, steps = header.grid, max(map(len, logs))
    groups = [file.create_group(name) for name in ORDERS]
    fields = fields_of(header.components, grid.names)
    for order, group in enumerate(groups):
        _name(group, "field_names", [name for name, found in fields if found == order])
    datasets = []
    for name, order in fields:
        shape = (*grid.shape, *(len(grid.axes),) * order)
        dataset = groups[order].create_dataset(
            name,
            (header.trajectories, steps, *shape),
            np.float32,
            chunks=(1, 1, *shape),
            fletcher32=True,
            fillvalue=np.nan,  # of the frames that a shorter trajectory lacks
        )
        _flagged(dataset, sample=True, time=True)
        dataset.attrs["dim_varying"] = np.ones(len(grid.axes), bool)
        if order == 2:
            dataset.attrs["symmetric"] = dataset.attrs["antisymmetric"] = np.bool_(False)
        datasets.append((dataset, shape, len(component_names(name, order, grid.names))))
    times = np.full((header.trajectories, steps), np.nan)
    scalars = np.full((header.trajectories, steps, len(header.scalars)), np.nan)
    digest = Fingerprint(header.name, header.components, grid)
    for trajectory, log in enumerate(logs):
        for k in range(len(log)):
            times[trajectory, k], scalars[trajectory, k], values = log[k]
            digest.add(trajectory, times[trajectory, k], values)
            first = 0
            for dataset, shape, width in datasets:
                dataset[trajectory, k] = values[..., first : first + width].reshape(shape)
                first += width
    return times, scalars, digest.hexdigest()


def _write_dimensions(file: h5py.File, grid: Grid, times: np.ndarray) -> None:
    group = file.create_group("dimensions")
    _name(group, "spatial_dims", grid.names)
    longest = times[np.isfinite(times).sum(axis=1).argmax()]
    # A trajectory that ended early gets the times that its missing frames would have had.
    filled = np.where(np.isfinite(times), times, longest + (times[:, :1] - longest[0])).astype(np.float32)
    same = bool((filled == filled[0]).all())
    dataset = group.create_dataset("time", data=filled[0] if same else filled)
    _flagged(dataset, sample=not same, time=True)
    for axis in grid.axes:
        dataset = group.create_dataset(axis.name, data=axis.points.astype(np.float32))
        dataset.attrs["length"] = axis.length  # of a period the points alone say it to single precision only
        _flagged(dataset, sample=False, time=False)


def _write_boundaries(file: h5py.File, header: Header) -> None:
    group = file.create_group("boundary_conditions")
    vectors = [name for name, order in fields_of(header.components, header.grid.names) if order == 1]
    for axis in header.grid.axes:
        kind = "PERIODIC" if axis.periodic else "OPEN" if axis.name in header.open_axes else "WALL"
        condition = group.create_group(f"{axis.name}_{kind.lower()}")
        condition.attrs["bc_type"] = kind
        _name(condition, "associated_dims", [axis.name])
        _name(condition, "associated_fields", vectors if kind == "WALL" else [])
        mask = np.zeros(len(axis), bool)
        mask[[0, -1]] = True
        condition.create_dataset("mask", data=mask)
        if vectors and kind == "WALL":
            condition.create_dataset("values", data=np.zeros((2, len(header.grid.axes)), np.float32))
        _flagged(condition, sample=False, time=False)


def _name(holder: h5py.HLObject, attribute: str, names: Mapping[str, Any] | Sequence[str]) -> None:
    holder.attrs.create(attribute, np.array(list(names), dtype=object), (len(names),), _NAMES)


def _flagged(holder: h5py.HLObject, *, sample: bool, time: bool) -> None:
    holder.attrs["sample_varying"] = np.bool_(sample)
    holder.attrs["time_varying"] = np.bool_(time)
