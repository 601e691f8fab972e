"""Fields from files of others, brought into The Well's layout: its own files, JHTDB cut-outs, `.npy` arrays."""

import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from jaxtyping import Float

from data.atomic import written_file
from data.errors import PenstockError, SchemaError
from data.grid import Axis, Grid, fourier, stretched
from data.turbulence.jhtdb import cutout_source, is_cutout
from data.turbulence.source import FieldSource, ImportConfig, well_source
from data.turbulence.well import WellFile, WellWriter, check_finite
from data.turbulence.well_folder import ENDINGS, SPLITS, STATS, WellFolder, check_like, files_of

NETCDF, ARRAY = ".nc", ".npy"
READABLE = (*ENDINGS, NETCDF, ARRAY)
COMPONENTS = ("velocity_x", "velocity_y", "velocity_z")

Show = Callable[[int, int], None]
"""Gets the frames written so far and those there are."""


@dataclass(frozen=True)
class Imported:
    """What an import gave."""

    notes: list[str] = field(default_factory=list)
    """What the user should know of how the fields were read."""
    fingerprints: dict[str, list[str]] = field(default_factory=lambda: {split: [] for split in SPLITS})
    """Of the files of each part, by name."""


def import_fields(source: Path, folder: Path, config: ImportConfig, show: Show | None = None) -> Imported:
    """Write the fields of `source` into `folder/data/{train,valid,test}`, files in The Well's layout, every number
    looked at; the source is never changed.

    `source` is a folder in The Well's layout (its files are copied, `stats.yaml` too), files in it (one, or a folder of
    them), JHTDB cut-outs (one file, or a folder of time steps), or a `.npy` array of the data set of Li et al.
    (arXiv:2412.18840): [run, frame, x, y, z, (u, v, w, p)] or [frame, x, y, z, …]; the pressure is left out.

    Raises:
        PenstockError: nothing there, or a rule broken; the message says which.
    """
    source, show = Path(source), show or (lambda done, total: None)
    for root in (source, source.parent) if source.name == "data" else (source,):
        if any(files_of(root, split) for split in SPLITS):
            return _copy_folder(root, folder, show)
    found = read_source(source, config)
    imported = Imported([*found.notes])
    parts = found.parts(config.validation, config.test)
    total, done = sum(b - a for pieces in parts.values() for _, a, b in pieces), 0
    if max(map(len, found.times)) < 2:
        raise SchemaError(f"{source}: expected at least 2 frames in time, got {max(map(len, found.times))}.")
    if not parts["valid"]:
        imported.notes.append("There are too few frames to hold some out: all are trained on.")
    parameters = dict(found.parameters)
    if config.nu is not None:
        parameters.setdefault("nu", config.nu)
    for split, pieces in parts.items():
        for number, (trajectory, first, end) in enumerate(pieces):
            path = folder / "data" / split / f"{_stem(found.name)}_{split}_{number:03d}.hdf5"
            with WellWriter(
                path,
                name=found.name,
                grid=found.grid,
                components=found.components,
                parameters=parameters,
                attributes=found.attributes,
                open_axes=found.open_axes,
                statistics=found.statistics,
            ) as writer:
                for k in range(first, end):
                    frame = found.read(trajectory, k)
                    check_finite(source, found.components, trajectory, k, frame)
                    writer.append(0, float(found.times[trajectory][k]), frame)
                    done += 1
                    show(done, total)
            imported.fingerprints[split].append(WellFile(path).fingerprint)
    return imported


def read_source(source: Path, config: ImportConfig) -> FieldSource:
    """The fields of files that are no folder in The Well's layout.

    Raises:
        PenstockError: as `import_fields`.
    """
    if source.suffix == ARRAY and source.is_file():
        return array_source(source, config)
    if source.is_dir():
        paths = sorted(
            p for p in source.iterdir() if p.suffix in (*ENDINGS, NETCDF) and not p.name.startswith(".") and p.is_file()
        )
    else:
        paths = [source]
    if not paths or not paths[0].exists():
        raise PenstockError(
            f"{source}: expected fields in The Well's layout (a folder with data/train, or .h5 and .hdf5 files), JHTDB "
            "cut-outs, or a .npy array; found none of them."
        )
    cutouts = [is_cutout(path) for path in paths]
    if all(cutouts):
        return cutout_source(paths, config)
    if any(cutouts):
        raise SchemaError(
            f"{source}: expected files of one kind, got JHTDB cut-outs ({paths[cutouts.index(True)].name}) beside "
            f"others ({paths[cutouts.index(False)].name})."
        )
    files = [WellFile(path) for path in paths]
    for file in files:
        check_like(file, files[0])
    return well_source(files)


def array_source(path: Path, config: ImportConfig) -> FieldSource:
    """A `.npy` array of a channel flow, [run, frame, x, y, z, component]; it is mapped and read a frame at a time.

    Raises:
        SchemaError: no such array, other axes, or another number of components.
    """
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise SchemaError(f"{path}: expected a .npy array of numbers, complete ({error}).") from None
    if array.ndim not in (5, 6) or array.dtype.kind != "f":
        raise SchemaError(
            f"{path}: expected real numbers [run, frame, x, y, z, component] or [frame, x, y, z, component], got "
            f"{array.dtype} {array.shape}."
        )
    if array.shape[-1] not in (3, 4):
        raise SchemaError(f"{path}: expected 3 or 4 components (u, v, w, and perhaps p), got {array.shape[-1]}.")
    runs = array if array.ndim == 6 else array[None]
    notes = [f"{len(runs)} runs of {runs.shape[1]} frames."]
    if array.shape[-1] == 4:
        notes.append("The fourth component, the pressure, was left out.")
    if config.spacing is None:
        notes.append("The time between frames is not known and was taken as 1: give importing.spacing.")
    x, y, z = (float(length) for length in config.lengths)
    walls: Axis
    if config.wall_points:
        if len(config.wall_points) != runs.shape[3]:
            raise SchemaError(
                f"{path}: expected {runs.shape[3]} wall points, one for each point along y, got "
                f"{len(config.wall_points)}."
            )
        walls = stretched("y", config.wall_points)
    else:
        walls = stretched("y", np.linspace(0, y, runs.shape[3]))
        notes.append("The points along y were taken as equally spaced: if they are not, give importing.wall_points.")
    grid = Grid((fourier("x", runs.shape[2], x), walls, fourier("z", runs.shape[4], z)))
    times = (config.spacing or 1.0) * np.arange(runs.shape[1])

    def read(trajectory: int, frame: int) -> Float[np.ndarray, "x y z component"]:
        return np.asarray(runs[trajectory, frame, ..., :3], np.float32)

    return FieldSource(path.stem, grid, COMPONENTS, [times] * len(runs), read, notes=tuple(notes))


def _copy_folder(source: Path, folder: Path, show: Show) -> Imported:
    """Copy a folder in The Well's layout, its rules checked before and its numbers as they are copied."""
    found, imported = WellFolder(source), Imported()
    total, done = sum(sum(file.lengths) for split in SPLITS for file in found.files(split)), 0
    if (source / STATS).exists():
        found.check_stats()
        with written_file(folder / STATS) as temporary:
            shutil.copyfile(source / STATS, temporary)
    for split in SPLITS:
        for file in found.files(split):
            before = done
            fingerprint = file.checked(lambda frames: show(before + frames, total))  # noqa: B023 - used at once
            done += sum(file.lengths)
            with written_file(folder / "data" / split / file.path.name) as temporary:
                shutil.copyfile(file.path, temporary)
            imported.fingerprints[split].append(fingerprint)
    missing = [split for split in SPLITS if not found.files(split)]
    if missing:
        imported.notes.append(f"The source has no files for {' and '.join(missing)}.")
    return imported


def _stem(name: str) -> str:
    """A data set's name as the beginning of file names."""
    return "".join(c if c.isalnum() or c in "-_" else "-" for c in name)[:60] or "fields"
