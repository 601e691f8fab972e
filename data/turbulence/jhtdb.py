"""Cut-outs of the Johns Hopkins Turbulence Databases: HDF5 as pyJHTDB writes it, netCDF-4 as giverny does.

A dataset `Velocity_0001` for each time index, [z, y, x, component], and the 1-D coordinates `xcoor`, `ycoor`, `zcoor`.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np
from jaxtyping import Float

from data.errors import ConfigError, SchemaError
from data.grid import Axis, Grid, stretched
from data.turbulence.source import FieldSource, ImportConfig
from data.turbulence.well_rules import contained

VARIABLE = re.compile(r"([A-Za-z]+)_(\d{4,})")
AXES = ("x", "y", "z")


@dataclass(frozen=True)
class KnownSet:
    """A data set of the databases: time between stored steps, its whole periodic axes, viscosity."""

    spacing: float
    periods: dict[str, float]
    nu: float


TWO_PI = 2 * np.pi
KNOWN = {
    "channel": KnownSet(0.0065, {"x": 8 * np.pi, "z": 3 * np.pi}, 5e-5),
    "isotropic1024coarse": KnownSet(0.002, dict.fromkeys(AXES, TWO_PI), 1.85e-4),
    "isotropic1024fine": KnownSet(0.0002, dict.fromkeys(AXES, TWO_PI), 1.85e-4),
}
"""As the databases' own pages describe them."""


def is_cutout(path: Path) -> bool:
    """Whether a file is HDF5 with datasets named as those of cut-outs are."""
    try:
        with h5py.File(path, "r") as file:
            return any(VARIABLE.fullmatch(name) for name in file)
    except OSError:
        return False


def cutout_source(paths: Sequence[Path], config: ImportConfig) -> FieldSource:
    """Cut-outs of one region, each with one time step or several, as one trajectory.

    Raises:
        SchemaError: no velocity, other than 3 components, files of different regions, a time index twice, or steps
            that are not equally spaced.
    """
    found: dict[int, tuple[Path, str]] = {}
    first: tuple[str, tuple[Float[np.ndarray, " point"], ...]] | None = None
    for path in paths:
        broken = contained(path)
        if broken:
            raise SchemaError(f"{path}: {broken[0]}.")
        with h5py.File(path, "r") as file:
            steps = _steps(path, file)
            coordinates = _coordinates(path, file)
            name = _text(file.attrs.get("dataset"))
            for index, dataset in steps.items():
                _check_shape(path, file[dataset], coordinates)
                if index in found:
                    raise SchemaError(
                        f"{path}: time index {index} is also in {found[index][0].name}. Keep one of them."
                    )
                found[index] = (path, dataset)
        first = first or (name, coordinates)
        for axis, ours, others in zip(AXES, coordinates, first[1], strict=True):
            if ours.shape != others.shape or not np.allclose(ours, others):
                raise SchemaError(
                    f"{path}: expected the {len(others)} coordinates {axis} of {paths[0].name}, got {len(ours)} "
                    "others. All cut-outs of one import must show the same region: one grid."
                )
    assert first is not None
    indices = sorted(found)
    if len(set(np.diff(indices))) > 1:
        raise SchemaError(f"{paths[0].parent}: expected time steps equally spaced, got the indices {indices[:9]}.")
    return _source(first[0], first[1], found, indices, config)


def _source(
    name: str,
    coordinates: Sequence[Float[np.ndarray, " point"]],
    found: dict[int, tuple[Path, str]],
    indices: list[int],
    config: ImportConfig,
) -> FieldSource:
    known = KNOWN.get(name)
    spacing = config.spacing or (known.spacing if known else 1.0)
    notes = [f"Cut-out of {name}: the velocity of {len(indices)} time steps, turned from z, y, x to x, y, z."]
    if config.spacing is None and known is None:
        notes.append("The time between steps is not known and was taken as 1: give importing.spacing.")
    axes = tuple(_axis(axis, points, known, config) for axis, points in zip(AXES, coordinates, strict=True))
    free = tuple(a.name for a in axes if not a.periodic and not _between_walls(a, name, known))
    if free:
        notes.append(f"Cut out of a longer domain, neither periodic nor between walls: {', '.join(free)}.")
    nu = config.nu or (known.nu if known else None)

    def read(trajectory: int, frame: int) -> Float[np.ndarray, "x y z component"]:
        path, dataset = found[indices[frame]]
        with h5py.File(path, "r") as file:
            try:
                return np.ascontiguousarray(np.transpose(file[dataset][()], (2, 1, 0, 3)))
            except OSError as error:
                raise SchemaError(f"{path}: '{dataset}' cannot be read ({error}): get the file anew.") from None

    return FieldSource(
        name=name,
        grid=Grid(axes),
        components=tuple(f"velocity_{axis}" for axis in AXES),
        times=[spacing * np.asarray(indices, np.float64)],
        read=read,
        parameters={} if nu is None else {"nu": nu},
        attributes={"source": f"JHTDB {name}"},
        open_axes=free,
        notes=tuple(notes),
    )


def _steps(path: Path, file: h5py.File) -> dict[int, str]:
    matches = [match for name in file if (match := VARIABLE.fullmatch(name))]
    steps = {int(match[2]): match[0] for match in matches if match[1] == "Velocity"}
    if not steps:
        raise SchemaError(
            f"{path}: expected the velocity in datasets named Velocity_0001, got "
            f"{', '.join(sorted({match[1] for match in matches}))}."
        )
    return steps


def _coordinates(path: Path, file: h5py.File) -> tuple[Float[np.ndarray, " point"], ...]:
    found = []
    for axis in AXES:
        names = [name for name in (f"{axis}coor", f"{axis}coor_uv") if isinstance(file.get(name), h5py.Dataset)]
        if not names or file[names[0]].ndim != 1:
            raise SchemaError(f"{path}: expected the coordinates along {axis} in '{axis}coor', a 1-D dataset.")
        found.append(np.asarray(file[names[0]][()], np.float64))
    return tuple(found)


def _check_shape(path: Path, dataset: h5py.Dataset, coordinates: Sequence[np.ndarray]) -> None:
    expected = (*(len(points) for points in reversed(coordinates)), len(AXES))
    if dataset.shape != expected or dataset.dtype.kind != "f":
        raise SchemaError(
            f"{path}: expected '{dataset.name}' as [z, y, x, component], real numbers {expected}, got {dataset.dtype} "
            f"{dataset.shape}."
        )


def _axis(name: str, points: Float[np.ndarray, " point"], known: KnownSet | None, config: ImportConfig) -> Axis:
    if len(points) < 2:
        raise SchemaError(f"a cut-out needs at least 2 points along {name}, got {len(points)}.")
    length = (points[-1] - points[0]) * len(points) / (len(points) - 1)
    if config.periodic is not None:
        periodic = name in config.periodic
    else:
        whole = known.periods.get(name) if known else None
        periodic = whole is not None and abs(length - whole) < 1e-3 * whole
        length = whole if periodic and whole is not None else length
    if not periodic:
        return stretched(name, points)
    try:
        return Axis(name, points[0] + length / len(points) * np.arange(len(points)), float(length), periodic=True)
    except ConfigError as error:
        raise SchemaError(f"a cut-out's {error}") from None


def _between_walls(axis: Axis, name: str, known: KnownSet | None) -> bool:
    """Whether an axis that is not periodic reaches from wall to wall of the channel, y = -1 … 1."""
    return known is not None and name == "channel" and axis.name == "y" and abs(axis.length - 2) < 0.01


def _text(value: object) -> str:
    """A string attribute, in whichever way it is stored."""
    if isinstance(value, np.ndarray):
        value = value.ravel()[0] if value.size else ""
    text = value.decode(errors="replace") if isinstance(value, bytes) else str(value or "")
    return text.strip("\0 ") or "cut-out"
