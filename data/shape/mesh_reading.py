"""Triangles from any mesh file that trimesh reads."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import trimesh
from jaxtyping import Float, Int

from data.errors import MeshError

MESH_SUFFIXES = (".obj", ".ply", ".stl", ".off", ".glb", ".gltf", ".3mf", ".xaml", ".3dxml", ".dae")
"""File names that are taken for meshes; other files in a data folder are left alone."""


@dataclass(frozen=True)
class SourceMesh:
    """Triangles as they stand in a file: source units, nothing repaired, equal vertices not yet merged."""

    vertices: Float[np.ndarray, "vertex 3"]
    faces: Int[np.ndarray, "face 3"]


def read_mesh(path: Path, *, max_faces: int = 4_000_000) -> SourceMesh:
    """All triangles of a file, scenes joined with their transforms applied. Missing materials do not matter.

    Raises:
        MeshError: not readable as a mesh, no triangles, numbers that are not finite, or more than `max_faces` faces.
    """
    if not path.is_file():
        raise MeshError(f"expected a mesh file, but {path} is missing or not a file.")
    try:
        loaded = trimesh.load(path, process=False, skip_materials=True)
        mesh = loaded.to_mesh() if isinstance(loaded, trimesh.Scene) else loaded
    except Exception as error:  # each of trimesh's readers fails in its own way on a foreign file
        raise MeshError(f"not readable as {path.suffix[1:]}: {type(error).__name__}: {error}") from error
    if not isinstance(mesh, trimesh.Trimesh) or not len(mesh.faces):
        raise MeshError("no triangles in the file (a text, a point cloud, or an empty mesh).")
    vertices, faces = np.asarray(mesh.vertices, dtype=np.float64), np.asarray(mesh.faces, dtype=np.int64)
    if len(faces) > max_faces:
        raise MeshError(f"{len(faces):,} faces, more than the {max_faces:,} allowed (max_faces); decimate it first.")
    if faces.min() < 0 or faces.max() >= len(vertices):
        raise MeshError("a face names a vertex that is not in the file.")
    used = vertices[np.unique(faces)]
    if not np.isfinite(used).all():
        bad = int((~np.isfinite(used)).any(axis=1).sum())
        raise MeshError(f"{bad} of {len(used)} vertices are not finite numbers (NaN or infinity).")
    return SourceMesh(vertices, faces)
