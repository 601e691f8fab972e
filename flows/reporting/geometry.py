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
    """Deflated: int32 counts of vertices, faces and places (one per vertex, or none), float32 origin (3) and step,
    uint16 positions, uint32 indices, uint8 places."""
    shown_faces: int
    faces: int


def encode(mesh: TriangleMesh, faces: int = PREVIEW_FACES, places: np.ndarray | None = None) -> Preview:
    """A preview of `mesh` with about `faces` triangles.

    `places` is a number in [0, 1] per vertex, shown as a colour from one end of a spectrum to the other. Positions keep
    1/65535 of the longest side. Indices and positions are stored as differences, component by component, which deflate
    packs to about a third.
    """
    small = decimate(mesh, faces)
    vertices, triangles = _in_order_of_use(small)
    shades = np.zeros(0, np.uint8) if places is None else _nearest(mesh, places, vertices)
    low = vertices.min(axis=0) if len(vertices) else np.zeros(3)
    extent = float((vertices.max(axis=0) - low).max()) if len(vertices) else 0.0
    step = extent / _STEPS if extent > 0 else 1.0
    positions = np.round((vertices - low) / step).astype(np.uint16)

    stream = BytesIO()
    stream.write(np.array([len(positions), len(triangles), len(shades)], "<i4").tobytes())
    stream.write(np.array([*low, step], "<f4").tobytes())
    stream.write(_differences(positions, "<u2"))
    stream.write(_differences(triangles.astype(np.uint32), "<u4"))
    stream.write(shades.tobytes())
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


def _nearest(mesh: TriangleMesh, places: np.ndarray, vertices: np.ndarray) -> np.ndarray:
    """The place of the vertex of `mesh` that is nearest to each of `vertices`, in steps of 1/255."""
    from scipy.spatial import cKDTree

    if not len(vertices):
        return np.zeros(0, np.uint8)
    usable = np.isfinite(mesh.vertices).all(axis=1)
    _, nearest = cKDTree(mesh.vertices[usable]).query(vertices)
    return np.round(255 * np.clip(places[usable][nearest], 0, 1)).astype(np.uint8)


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
