"""Meshes written to the formats that modelling programs read."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import trimesh

from data.atomic import written_file
from data.batch import TriangleMesh
from data.errors import PenstockError

FORMATS = ("glb", "obj", "ply", "stl")
"""What `write_mesh` writes, by the ending of the file name."""


@dataclass(frozen=True)
class MeshReport:
    """What a written mesh is like."""

    path: Path
    num_vertices: int
    num_faces: int
    closed: bool
    """Every edge is run through once in each direction: no hole, faces agree."""
    volume: float
    """Enclosed volume in the written units; meaningful for closed meshes only."""


def write_mesh(
    mesh: TriangleMesh,
    path: Path,
    *,
    centre: tuple[float, float, float] | np.ndarray = (0.0, 0.0, 0.0),
    scale: float = 1.0,
) -> MeshReport:
    """Write a mesh as GLB, OBJ, PLY or STL, by the ending of `path`; whole or not at all.

    Positions come out as cube position / scale + centre: with the values stored at preparation, in the source's units
    and place. GLB, PLY and STL hold float32. glTF says that y points up; the axes are written as they are.

    Raises:
        PenstockError: another ending, or a mesh without faces.
        DiskFullError: no space left.
    """
    kind = path.suffix.lower().removeprefix(".")
    if kind not in FORMATS:
        raise PenstockError(f"expected a mesh file name ending in {', '.join(FORMATS)}, got '{path.name}'.")
    if not len(mesh.faces):
        raise PenstockError(f"nothing to write to {path}: the mesh has no faces.")
    vertices = np.asarray(mesh.vertices, dtype=np.float64) / scale + np.asarray(centre)
    exported = trimesh.Trimesh(vertices, np.asarray(mesh.faces), process=False)
    content = _encoded(exported, kind)
    with written_file(path) as temporary:
        temporary.write_bytes(content)
    return MeshReport(path, len(vertices), len(mesh.faces), is_closed(mesh), float(exported.volume))


def _encoded(mesh: trimesh.Trimesh, kind: str) -> bytes:
    # Without the comment of trimesh's OBJ writer, equal meshes give equal bytes whatever its version.
    content = mesh.export(file_type="obj", header=None, digits=9) if kind == "obj" else mesh.export(file_type=kind)
    assert isinstance(content, str | bytes)
    return content.encode() if isinstance(content, str) else content


def is_closed(mesh: TriangleMesh) -> bool:
    """True where every edge is run through once in each direction."""
    faces = np.asarray(mesh.faces, dtype=np.int64)
    if not len(faces):
        return False
    start, stop = faces.reshape(-1), np.roll(faces, -1, axis=1).reshape(-1)
    count = int(faces.max()) + 1
    forward, backward = np.sort(start * count + stop), np.sort(stop * count + start)
    return bool(np.array_equal(forward, backward) and (np.diff(forward) > 0).all())
