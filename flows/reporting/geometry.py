"""Meshes small enough to travel inside a page."""

import base64
import zlib
from dataclasses import dataclass
from io import BytesIO

import numpy as np

from data.batch import TriangleMesh

PREVIEW_FACES = 8000
"""Enough that a 300-pixel view shows no difference; about 30 kB in the page."""

_COLLAPSE_LIMIT = 60_000  # faces: edge collapse takes up to a second there; denser meshes are first put on a grid
_STEPS = 65535  # quantisation steps along the longest side


@dataclass(frozen=True)
class Preview:
    """A decimated, quantised mesh as base64 text, and what the full mesh had."""

    data: str
    """Deflated: int32 vertex and face counts, float32 origin (3) and step, uint16 positions, uint32 indices."""
    shown_faces: int
    faces: int


def encode(mesh: TriangleMesh, faces: int = PREVIEW_FACES) -> Preview:
    """A preview of `mesh` with about `faces` triangles.

    Positions keep 1/65535 of the longest side. Indices and positions are stored as differences, component by
    component, which deflate packs to about a third.
    """
    small = decimate(mesh, faces)
    vertices, triangles = _in_order_of_use(small)
    low = vertices.min(axis=0) if len(vertices) else np.zeros(3)
    extent = float((vertices.max(axis=0) - low).max()) if len(vertices) else 0.0
    step = extent / _STEPS if extent > 0 else 1.0
    positions = np.round((vertices - low) / step).astype(np.uint16)

    stream = BytesIO()
    stream.write(np.array([len(positions), len(triangles)], "<i4").tobytes())
    stream.write(np.array([*low, step], "<f4").tobytes())
    stream.write(_differences(positions, "<u2"))
    stream.write(_differences(triangles.astype(np.uint32), "<u4"))
    packed = base64.b64encode(zlib.compress(stream.getvalue(), 9)).decode("ascii")
    return Preview(packed, shown_faces=len(triangles), faces=len(mesh.faces))


def decimate(mesh: TriangleMesh, faces: int) -> TriangleMesh:
    """`mesh` with about `faces` triangles at most, by quadric edge collapse (Garland & Heckbert 1997, in libigl).

    A mesh that edge collapse refuses (edges of more than two faces) is snapped to a grid instead. Corners that are
    not finite numbers are dropped with their faces: a page must not fail because a network diverged.
    """
    mesh = _finite(mesh)
    if len(mesh.faces) <= faces:
        return mesh
    if len(mesh.faces) > _COLLAPSE_LIMIT:
        mesh = _snap(mesh, _COLLAPSE_LIMIT)
    import igl

    try:
        vertices, triangles = igl.qslim(np.ascontiguousarray(mesh.vertices, float), mesh.faces.astype(np.int64), faces)[
            :2
        ]
    except (RuntimeError, ValueError):
        return _snap(mesh, faces)
    # On an input it cannot walk along, libigl gives back nothing or the whole.
    return TriangleMesh(vertices, triangles) if 0 < len(triangles) <= 2 * faces else _snap(mesh, faces)


def _snap(mesh: TriangleMesh, faces: int) -> TriangleMesh:
    """`mesh` with its vertices merged in the cells of a regular grid that leaves at most `faces` triangles."""
    low = mesh.vertices.min(axis=0)
    extent = max(float((mesh.vertices.max(axis=0) - low).max()), 1e-12)
    resolution = int(faces**0.5) + 2  # a flat square seen along an axis would fill it
    while True:
        cells = np.floor((mesh.vertices - low) / extent * resolution).astype(np.int64)
        _, cell_of, count = np.unique(cells, axis=0, return_inverse=True, return_counts=True)
        cell_of = cell_of.reshape(-1)
        triangles = cell_of[mesh.faces]
        a, b, c = triangles.T
        triangles = triangles[(a != b) & (b != c) & (c != a)]
        if len(triangles) <= faces or resolution <= 2:
            break
        resolution = int(resolution / 1.15)
    sums = np.stack([np.bincount(cell_of, mesh.vertices[:, axis], len(count)) for axis in range(3)], axis=1)
    return TriangleMesh(sums / count[:, None], triangles)


def _finite(mesh: TriangleMesh) -> TriangleMesh:
    finite = np.isfinite(mesh.vertices).all(axis=1)
    if finite.all():
        return mesh
    return TriangleMesh(np.where(finite[:, None], mesh.vertices, 0.0), mesh.faces[finite[mesh.faces].all(axis=1)])


def _in_order_of_use(mesh: TriangleMesh) -> tuple[np.ndarray, np.ndarray]:
    """Vertices and faces renumbered so that neighbours in the list are neighbours in space, which packs better."""
    if not len(mesh.faces):
        return np.zeros((0, 3)), np.zeros((0, 3), np.int64)
    centres = mesh.vertices[mesh.faces].mean(axis=1)
    span = np.maximum(np.ptp(centres, axis=0), 1e-12)
    cells = np.floor((centres - centres.min(axis=0)) / span * 31.999).astype(np.int64)
    faces = mesh.faces[np.argsort(_interleaved(cells), kind="stable")]
    used, first, inverse = np.unique(faces.reshape(-1), return_index=True, return_inverse=True)
    order = np.argsort(first)
    rank = np.empty_like(order)
    rank[order] = np.arange(len(order))
    return np.asarray(mesh.vertices, float)[used[order]], rank[inverse].reshape(-1, 3)


def _interleaved(cells: np.ndarray) -> np.ndarray:
    """Morton codes of 5-bit cell coordinates."""
    code = np.zeros(len(cells), np.int64)
    for bit in range(5):
        for axis in range(3):
            code |= ((cells[:, axis] >> bit) & 1) << (3 * bit + axis)
    return code


def _differences(rows: np.ndarray, dtype: str) -> bytes:
    """Row-to-row differences modulo the type's range, column after column, low bytes before high bytes."""
    columns = np.diff(rows, axis=0, prepend=np.zeros_like(rows[:1])).T.astype(dtype)
    octets = np.ascontiguousarray(columns).view(np.uint8).reshape(-1, np.dtype(dtype).itemsize)
    return octets.T.tobytes()
