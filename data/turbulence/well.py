"""One HDF5 file in The Well's layout: read window by window, written frame by frame so that a kill loses nothing."""

import errno
import fcntl
import json
import math
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Self

import h5py
import numpy as np
from jaxtyping import Float
from torch import Tensor

from data.atomic import disk_full, is_disk_full, written_file
from data.errors import ConfigError, PenstockError, SchemaError
from data.grid import Axis, Grid, between_walls, stretched
from data.turbulence.well_rules import LENGTHS, ORDERS, RESERVED, component_names, fields_of, flag, names_of, violations
from data.turbulence.well_writing import Fingerprint, Header, Log, write_content

UNFINISHED = ".unfinished"
"""Ending of the folder in which a file grows; The Well's readers look for .hdf5 and .h5 only."""
HEADER, ENDING = "header.json", ".frames"
STATISTICS = "dns_statistics"
"""Group for arrays that came with the frames, such as statistics of the unfiltered fields."""
RESERVE = 1024 * 1024
"""Bytes that a file takes beyond its frames, at most."""
LARGEST_STATISTIC = 64 * 1024 * 1024
"""Bytes; larger arrays of that group are not read."""
EQUAL = 1e-3
"""Frames count as equally spaced within this share of their spacing: files hold times in float32."""


class WellFile:
    """A file in The Well's layout, opened at the first read, once in each process.

    Components are the time-varying fields in the layout's order: scalars, then vectors (`velocity_x`, `velocity_y`, …),
    then tensors. Fields that do not vary in time, and `scalars`, are not read.

    Raises:
        SchemaError: the file breaks the layout's rules, has a grid that is not a product of axes, or no field that
            varies in time.
    """

    def __init__(self, path: Path) -> None:
        self.path = Path(path)
        broken = violations(self.path)
        if broken:
            more = f" (and {len(broken) - 1} more)" if len(broken) > 1 else ""
            raise SchemaError(f"{path}: {broken[0]}{more}. This is a rule of The Well's layout, in which fields come.")
        self._open: tuple[int, h5py.File] | None = None
        with h5py.File(self.path, "r") as file:
            self.attributes: dict[str, Any] = {k: _plain(v) for k, v in file.attrs.items() if k not in RESERVED}
            self.name = str(file.attrs["dataset_name"])
            self.grid = _read_grid(self.path, file)
            walls = _axes_with(file, "WALL")
            self.open_axes = tuple(a.name for a in self.grid.axes if not a.periodic and a.name not in walls)
            """Axes that are cut out of a longer domain: neither periodic nor between walls."""
            self.trajectories = int(file.attrs["n_trajectories"])
            self.parameters: dict[str, float] = {
                name: float(value)
                for name in names_of(file, "simulation_parameters") or ()
                if isinstance(value := _plain(file.attrs[name]), int | float)
            }
            for name in self.parameters:
                del self.attributes[name]
            self.statistics: dict[str, np.ndarray] = _read_statistics(file)
            """Arrays of the group `dns_statistics`."""
            self._fields = _varying_fields(file)
            times = np.asarray(file["dimensions/time"][()], np.float64)
            self.times: Float[np.ndarray, "trajectory time"] = np.broadcast_to(
                times, (self.trajectories, times.shape[-1])
            )
            self._stored = file.attrs.get("fingerprint")
        if not self._fields:
            raise SchemaError(f"{path}: expected a field that varies in time, found none in {', '.join(ORDERS)}.")
        self.components = tuple(
            part for _, name, order in self._fields for part in component_names(name, order, self.grid.names)
        )
        steps = self.times.shape[1]
        lengths = self.attributes.pop(LENGTHS, [steps] * self.trajectories)
        if len(lengths) != self.trajectories or not all(0 < length <= steps for length in lengths):
            raise SchemaError(f"{path}: expected '{LENGTHS}' to count the frames of each trajectory, got {lengths}.")
        self.lengths: tuple[int, ...] = tuple(int(length) for length in lengths)
        """Frames of each trajectory."""

    @property
    def frame_shape(self) -> tuple[int, ...]:
        return (*self.grid.shape, len(self.components))

    @property
    def spacing(self) -> float:
        """Time from one frame to the next.

        Raises:
            SchemaError: there is one frame only, or they are not equally spaced.
        """
        if max(self.lengths) < 2:
            raise SchemaError(f"{self.path}: expected at least 2 frames in time, got {max(self.lengths)}.")
        steps = np.concatenate([np.diff(row[:length]) for row, length in zip(self.times, self.lengths, strict=True)])
        spacing = float(steps.mean())
        rounding = 4 * float(np.finfo(np.float32).eps) * float(np.abs(self.times).max())
        if np.abs(steps - spacing).max() > EQUAL * spacing + rounding:
            raise SchemaError(
                f"{self.path}: expected frames equally spaced in time, got spacings from {steps.min():g} to "
                f"{steps.max():g}. Take every n-th frame, or interpolate them to equal steps."
            )
        return spacing

    def read(self, trajectory: int, frames: slice | Sequence[int]) -> Float[np.ndarray, "time *grid component"]:
        """Frames of one trajectory, float32; nothing else is read from the file."""
        positions: slice | list[int] = frames if isinstance(frames, slice) else [int(k) for k in frames]
        if isinstance(positions, slice):
            positions = slice(*positions.indices(self.lengths[trajectory]))
            count = len(range(positions.start, positions.stop, positions.step))
        else:
            count = len(positions)
        found = np.empty((count, *self.frame_shape), np.float32)
        first = 0
        for group, name, order in self._fields:
            width = len(self.grid.axes) ** order
            found[..., first : first + width] = self._field(f"{group}/{name}", trajectory, positions, width)
            first += width
        return found

    def _field(self, where: str, trajectory: int, frames: slice | list[int], width: int) -> np.ndarray:
        """One field as [time, *grid, component]; axes along which it does not vary have the length 1."""
        try:
            dataset = self._file()[where]
            own: tuple[int, ...] = (trajectory,) if flag(dataset, "sample_varying") else ()
            if isinstance(frames, slice):
                values = dataset[(*own, frames)]
            else:
                values = np.stack([dataset[(*own, k)] for k in frames]) if frames else dataset[(*own, slice(0, 0))]
        except (OSError, KeyError) as error:
            raise SchemaError(
                f"{self.path}: '{where}' cannot be read ({error}). The file is damaged: get it anew."
            ) from None
        sizes = zip(self.grid.shape, dataset.attrs["dim_varying"], strict=True)
        return np.asarray(values).reshape(len(values), *(size if varies else 1 for size, varies in sizes), width)

    def _file(self) -> h5py.File:
        # A handle that went through a fork shares its position with the parent's: each process opens its own.
        if self._open is None or self._open[0] != os.getpid():
            self._open = (os.getpid(), h5py.File(self.path, "r", locking="best-effort"))
        return self._open[1]

    def close(self) -> None:
        if self._open is not None and self._open[0] == os.getpid():
            self._open[1].close()
        self._open = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_open": None}

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 (hex) over name, components, grid, times and values: equal for equal content."""
        return self._stored if isinstance(self._stored, str) else self.checked()

    def checked(self, show: Callable[[int], None] | None = None) -> str:
        """The fingerprint, from all values. `show` gets the frames read so far.

        Raises:
            SchemaError: numbers that are not finite, or values that were changed after the file was written.
        """
        digest, done = Fingerprint(self.name, self.components, self.grid), 0
        for trajectory, length in enumerate(self.lengths):
            for k in range(length):
                frame = self.read(trajectory, slice(k, k + 1))[0]
                check_finite(self.path, self.components, trajectory, k, frame)
                digest.add(trajectory, float(self.times[trajectory, k]), frame)
                done += 1
                if show is not None:
                    show(done)
        if isinstance(self._stored, str) and self._stored != digest.hexdigest():
            raise SchemaError(f"{self.path}: the values are not those that were written: get the file anew.")
        return digest.hexdigest()


def check_finite(
    path: Path, components: Sequence[str], trajectory: int, position: int, frame: Float[np.ndarray, "*grid component"]
) -> None:
    """Refuse (SchemaError) a frame of a file with NaN or infinity."""
    if not np.isfinite(frame).all():
        bad = components[int(np.argwhere(~np.isfinite(frame))[0, -1])]
        raise SchemaError(
            f"{path}: expected finite numbers, but {bad} in frame {position} of trajectory {trajectory} holds NaN or "
            "infinity. Leave such frames out."
        )


class WellWriter:
    """Writes one file in The Well's layout, frame by frame; it appears under its name when the block ends well.

    When the block ends with an error, or the process is killed, all frames stay in the folder `PATH.unfinished`:
    `WellWriter.resumed(path)` goes on with them, and a new `WellWriter(path, …)` begins anew.

    Args:
        path: of the file, ending in .hdf5 (or .h5) for The Well's readers.
        name: of the data set, the same in all its files.
        grid: axes between walls get the boundary condition WALL, the others PERIODIC.
        components: of a frame: scalars first, then vectors as `NAME_AXIS` for every axis.
        parameters: `simulation_parameters` of The Well, also stored as constant scalars.
        attributes: of the file: strings, numbers, lists of them.
        scalars: names of the scalars that are given with every frame.
        open_axes: axes that are neither periodic nor between walls: a part cut out of a longer domain. They get the
            boundary condition OPEN.
        statistics: arrays of the group `dns_statistics`; may be completed (it is a plain dictionary) until the block
            ends, and is not kept when the block breaks off.

    Raises:
        ConfigError: components or names that the layout has no place for.
        PenstockError: another process writes this file.
    """

    def __init__(
        self,
        path: Path,
        *,
        name: str,
        grid: Grid,
        components: Sequence[str],
        parameters: Mapping[str, float],
        trajectories: int = 1,
        attributes: Mapping[str, Any] | None = None,
        scalars: Sequence[str] = (),
        open_axes: Sequence[str] = (),
        statistics: Mapping[str, np.ndarray] | None = None,
    ) -> None:
        numbers = {key: float(value) for key, value in parameters.items()}
        plain = {key: _plain(value) for key, value in (attributes or {}).items()}
        header = Header(name, grid, tuple(components), numbers, trajectories, plain, tuple(scalars), tuple(open_axes))
        fields_of(header.components, grid.names)
        taken = [*RESERVED, *numbers, LENGTHS]
        clash = sorted(key for key in header.attributes if key in taken) + sorted(set(scalars) & set(numbers))
        if clash or trajectories < 1 or set(numbers) & set(RESERVED):
            raise ConfigError(
                f"{path}: expected at least one trajectory and attributes, parameters and scalars of different names "
                f"that the layout does not use itself, got {trajectories} trajectories and {clash or sorted(numbers)}."
            )
        self._begin(Path(path), header, anew=True)
        self.statistics.update(statistics or {})

    @classmethod
    def resumed(cls, path: Path) -> Self:
        """The writer that goes on where one for `path` broke off.

        Raises:
            PenstockError: nothing unfinished is there, or another process writes it.
        """
        try:
            found = json.loads((_folder(Path(path)) / HEADER).read_text())
        except FileNotFoundError:
            raise PenstockError(f"{path}: nothing unfinished is there to go on with. Begin anew.") from None
        writer = cls.__new__(cls)
        writer._begin(Path(path), Header.from_json(found), anew=False)
        return writer

    @staticmethod
    def unfinished(path: Path) -> bool:
        """Whether a writer for `path` broke off."""
        return (_folder(Path(path)) / HEADER).is_file()

    def _begin(self, path: Path, header: Header, anew: bool) -> None:
        self.path, self.grid, self.components = path, header.grid, header.components
        self.trajectories = header.trajectories
        self.statistics: dict[str, np.ndarray] = {}
        self._header = header
        self._shape = (*header.grid.shape, len(header.components))
        folder = _folder(path)
        folder.mkdir(parents=True, exist_ok=True)
        self._lock: BinaryIO | None = (folder / "lock").open("ab")
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self._lock.close()
            raise PenstockError(f"{path}: another process writes this file. Wait for it, or stop it.") from None
        if anew:
            (folder / HEADER).unlink(missing_ok=True)
            for left in folder.glob(f"*{ENDING}"):
                left.unlink()
            with written_file(folder / HEADER) as temporary:
                temporary.write_text(json.dumps(header.to_json()))
        rows = range(header.trajectories)
        self._logs = [Log(folder / f"{k:05d}{ENDING}", len(header.scalars), self._shape) for k in rows]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if error is None:
                self.finish()
        finally:
            self.close()

    def frames(self, trajectory: int = 0) -> int:
        """Frames that a trajectory has so far."""
        return len(self._logs[trajectory])

    def last_time(self, trajectory: int = 0) -> float | None:
        """Time of the last frame; None before the first one."""
        return self._logs[trajectory].last_time

    def frame(self, trajectory: int, position: int) -> Float[np.ndarray, "*grid component"]:
        """A frame that was appended before, float32."""
        return self._logs[trajectory][position][2].copy()

    def append(
        self,
        trajectory: int,
        time: float,
        frame: Float[np.ndarray, "*grid component"] | Tensor,
        scalars: Mapping[str, float] | None = None,
    ) -> None:
        """Add a frame, in the units of the file. It survives a kill of the process once this returns.

        Raises:
            PenstockError: another shape, a number that is not finite, a time that is not after the last one's, or
                other scalars than announced.
            DiskFullError: no space left; the frames before are kept.
        """
        values = np.asarray(frame.detach().cpu() if isinstance(frame, Tensor) else frame, np.float32)
        given = dict(scalars or {})
        last = self.last_time(trajectory)
        if values.shape != self._shape:
            raise PenstockError(f"{self.path}: expected frames {self._shape}, got {values.shape}.")
        if set(given) != set(self._header.scalars):
            raise PenstockError(f"{self.path}: expected the scalars {self._header.scalars}, got {sorted(given)}.")
        if not np.isfinite(values).all() or not np.isfinite(time):
            raise PenstockError(
                f"{self.path}: frame {self.frames(trajectory)} of trajectory {trajectory} (time {time:g}) holds "
                "numbers that are not finite. The frames before it are kept."
            )
        if last is not None and np.float32(time) <= np.float32(last):
            raise PenstockError(f"{self.path}: expected a time after the last frame's, {last:g}, got {time:g}.")
        try:
            self._logs[trajectory].append(float(time), [float(given[k]) for k in self._header.scalars], values)
        except OSError as error:
            raise disk_full(self.path, error) if is_disk_full(error) else error from error

    def truncate(self, trajectory: int, frames: int) -> None:
        """Keep only the first `frames` frames of a trajectory: for a source that goes on from an earlier state."""
        self._logs[trajectory].truncate(frames)

    def finish(self) -> None:
        """Write the file and remove what it grew in.

        Raises:
            PenstockError: a trajectory has no frame.
            DiskFullError: no room for the file beside what it grew in, which is kept.
        """
        empty = [k for k in range(self.trajectories) if not self.frames(k)]
        if empty:
            raise PenstockError(f"{self.path}: expected at least one frame in each trajectory; none in {empty[:5]}.")
        # Asked before: HDF5 cannot be left cleanly once a write has failed.
        needed = sum(len(log) for log in self._logs) * 4 * math.prod(self._shape) + RESERVE
        if shutil.disk_usage(self.path.parent).free < needed:
            raise disk_full(self.path, OSError(errno.ENOSPC, f"{needed} bytes are needed"))
        with written_file(self.path) as temporary, h5py.File(temporary, "w-", libver=("v110", "v110")) as file:
            write_content(file, self._header, self._logs)
            if self.statistics:
                for key, value in self.statistics.items():
                    file.require_group(STATISTICS).create_dataset(key, data=value)
        self.close()
        shutil.rmtree(_folder(self.path), ignore_errors=True)

    def close(self) -> None:
        """Let go of the file; what is not finished stays for `resumed`."""
        for log in self._logs:
            log.close()
        if self._lock is not None:
            self._lock.close()
            self._lock = None


def _folder(path: Path) -> Path:
    return path.with_name(path.name + UNFINISHED)


def _plain(value: Any) -> Any:
    """An attribute as plain Python values."""
    if isinstance(value, np.ndarray | np.generic):
        return value.tolist()
    return value.decode() if isinstance(value, bytes) else value


def _varying_fields(file: h5py.File) -> list[tuple[str, str, int]]:
    """Group, name and tensor order of the fields that vary in time."""
    return [
        (group, name, order)
        for order, group in enumerate(ORDERS)
        for name in names_of(file[group], "field_names") or ()
        if flag(file[group][name], "time_varying")
    ]


def _read_grid(path: Path, file: h5py.File) -> Grid:
    if file.attrs["grid_type"] != "cartesian":
        raise SchemaError(f"{path}: expected a cartesian grid, got {file.attrs['grid_type']}.")
    periodic = _axes_with(file, "PERIODIC")
    axes = []
    for name in names_of(file["dimensions"], "spatial_dims") or ():
        dataset = file["dimensions"][name]
        if flag(dataset, "sample_varying") or flag(dataset, "time_varying"):
            raise SchemaError(f"{path}: expected one grid for all trajectories and times, but axis '{name}' varies.")
        try:
            axes.append(_axis(name, np.asarray(dataset[()], np.float64), name in periodic, dataset.attrs.get("length")))
        except ConfigError as error:
            raise SchemaError(f"{path}: {error}") from None
    return Grid(tuple(axes))


def _read_statistics(file: h5py.File) -> dict[str, np.ndarray]:
    group = file.get(STATISTICS)
    if not isinstance(group, h5py.Group):
        return {}
    return {
        name: np.asarray(dataset[()])
        for name, dataset in group.items()
        if isinstance(dataset, h5py.Dataset) and dataset.dtype.kind in "iuf" and dataset.nbytes <= LARGEST_STATISTIC
    }


def _axes_with(file: h5py.File, kind: str) -> set[str]:
    """Axes that have a boundary condition of a kind."""
    return {
        dim
        for group in file["boundary_conditions"].values()
        if group.attrs["bc_type"].upper() == kind
        for dim in names_of(group, "associated_dims") or ()
    }


def _axis(name: str, points: Float[np.ndarray, " point"], periodic: bool, length: object) -> Axis:
    """An axis from what a file holds in float32, exact where its rule is known."""
    if len(points) < 2:
        raise ConfigError(f"axis {name}: expected at least 2 points, got {len(points)}.")
    if periodic:
        period = (
            float(length)
            if isinstance(length, float | np.floating)
            else (points[-1] - points[0]) * len(points) / (len(points) - 1)
        )
        found = Axis(name, points, period, periodic=True)  # refuses unequal spacing
        return Axis(name, points[0] + period / len(found) * np.arange(len(found)), period, periodic=True)
    found = stretched(name, points)
    return between_walls(name, len(found), found.length, float(points[0])) if found.chebyshev else found
