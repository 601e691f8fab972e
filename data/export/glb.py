"""Meshes out of GLB files in memory."""

from io import BytesIO

import numpy as np

from data.batch import TriangleMesh
from data.errors import MeshError


def from_glb(content: bytes) -> TriangleMesh:
    """All triangles of a GLB file's scene as one mesh, its nodes' transforms applied.

    Raises:
        MeshError: not a GLB file, or one without triangles.
    """
    import trimesh

    try:
        mesh = trimesh.load_scene(BytesIO(content), file_type="glb").to_mesh()
        return TriangleMesh(np.asarray(mesh.vertices, np.float64), np.asarray(mesh.faces, np.int64))
    except Exception as error:  # trimesh's readers raise whatever the bytes lead them into
        raise MeshError(
            f"expected the content of a GLB file, got {len(content)} bytes without a mesh ({error})"
        ) from None
