"""Fields over time written for other programs: The Well's HDF5, XDMF with HDF5, and VTK's XML files."""

import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float

from data.atomic import written_file, written_folder
from data.errors import PenstockError
from data.export.field_mesh import node_mesh
from data.export.field_vtk import pvd_lines, write_vtr
from data.export.field_xdmf import write_companion, write_description
from data.turbulence.well import WellFile

FORMATS = {"well": ".hdf5", "xdmf": ".xdmf", "vtk": ".pvd"}
"""What `write_field` writes, by the ending of the file name: The Well's HDF5, XDMF with HDF5, VTK's XML files."""


@dataclass(frozen=True)
class FieldReport:
    """What was written."""

    path: Path
    """The file to open."""
    companion: Path | None
    """What has to lie beside it: the HDF5 file of an XDMF file, the folder of frames of a .pvd file."""
    frames: int
    bytes: int
    """Of all files together."""


def write_field(
    source: WellFile,
    path: Path,
    *,
    trajectory: int | None = None,
    frames: Sequence[int] | slice = slice(None),
    closed: bool = False,
) -> FieldReport:
    """Write the frames of a file in The Well's layout for another program, by the ending of `path`.

    `.hdf5`: the file as it is, byte for byte, with all its trajectories. `.xdmf`: an XML description and `NAME.h5`
    beside it. `.pvd`: a collection and the folder `NAME` with one rectilinear grid (.vtr) per frame. The last two open
    in ParaView and VisIt: float32 values at nodes, coordinates in float64 and in the file's units, times as in the
    file; `velocity_x`, `velocity_y`, … become one vector. References are relative: what lies together can be moved
    together. Frames are read and written one by one. Each file, and the folder, appears whole or not at all, and the
    file to open appears last.

    Args:
        trajectory: which one, where the format holds one; may be left out where the source has one.
        frames: which ones; all if left out.
        closed: whether to repeat the first layer of points of a periodic axis at its end, so that cells fill the
            period.

    Raises:
        PenstockError: another ending, a trajectory or frames that are not there, or an .hdf5 asked for in part.
        DiskFullError: no space left; what was at `path` before is untouched.
    """
    kind = next((name for name, ending in FORMATS.items() if ending == path.suffix.lower()), None)
    if kind is None:
        raise PenstockError(f"expected a file name ending in {', '.join(FORMATS.values())}, got '{path.name}'.")
    if kind == "well":
        return _copy(source, path, whole=trajectory is None and frames == slice(None) and not closed)
    run, chosen = _chosen(source, trajectory, frames)
    mesh = node_mesh(source.grid, source.components, closed=closed)
    times = [float(source.times[run, k]) for k in chosen]
    if kind == "xdmf":
        # Whoever reads the description splits "file:dataset" at a colon.
        companion = path.with_name(f"{path.stem.replace(':', '_')}.h5")
        with written_file(path) as temporary:
            with temporary.open("w", encoding="utf-8") as file:
                write_description(file, companion.name, mesh, times)
            with written_file(companion) as arrays:
                write_companion(arrays, mesh, times, _read(source, run, chosen))
        size = companion.stat().st_size
    else:
        companion = path.with_suffix("")
        names = [f"{companion.name}_{k:06d}.vtr" for k in range(len(chosen))]
        with written_file(path) as temporary:
            listed = [(time, f"{companion.name}/{name}") for time, name in zip(times, names, strict=True)]
            temporary.write_text(pvd_lines(listed), encoding="utf-8")
            with written_folder(companion) as folder:
                for name, time, frame in zip(names, times, _read(source, run, chosen), strict=True):
                    write_vtr(folder / name, mesh, frame, time)
        size = sum((companion / name).stat().st_size for name in names)
    return FieldReport(path, companion, len(chosen), size + path.stat().st_size)


def _copy(source: WellFile, path: Path, *, whole: bool) -> FieldReport:
    if not whole:
        raise PenstockError(
            f"expected the whole of {source.path.name} for {path.name}: The Well's HDF5 is copied as it is, with all "
            "its trajectories. Ask for a part of it as .xdmf or .pvd."
        )
    if path.exists() and path.samefile(source.path):
        raise PenstockError(f"expected another place than {path}: that is the file to copy.")
    with written_file(path) as temporary:
        shutil.copyfile(source.path, temporary)
    return FieldReport(path, None, sum(source.lengths), path.stat().st_size)


def _chosen(source: WellFile, trajectory: int | None, frames: Sequence[int] | slice) -> tuple[int, list[int]]:
    """The trajectory and its frames, checked."""
    if trajectory is None and source.trajectories > 1:
        raise PenstockError(
            f"expected the number of a trajectory: {source.path.name} has {source.trajectories}, a file for ParaView "
            f"holds one. Give one of 0 to {source.trajectories - 1}."
        )
    run = trajectory or 0
    if not 0 <= run < source.trajectories:
        raise PenstockError(f"{source.path.name} has trajectories 0 to {source.trajectories - 1}, got {run}.")
    count = source.lengths[run]
    chosen = list(range(count))[frames] if isinstance(frames, slice) else [int(k) for k in frames]
    wrong = [k for k in chosen if not 0 <= k < count]
    if wrong or not chosen:
        asked = f"frame {wrong[0]}" if wrong else "none"
        raise PenstockError(f"{source.path.name} has frames 0 to {count - 1}, got {asked}.")
    return run, chosen


def _read(source: WellFile, trajectory: int, frames: Sequence[int]) -> Iterator[Float[np.ndarray, "*grid component"]]:
    for k in frames:
        yield source.read(trajectory, slice(k, k + 1))[0]
