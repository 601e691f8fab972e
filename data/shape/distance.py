"""Exact signed distances to triangle meshes, by libigl.

The distance is that to the nearest point on the nearest triangle; the sign comes from the winding number (Jacobson et
al. 2013; fast form Barill et al. 2018). libigl's own `signed_distance` with the fast winding number is not used: it
multiplies the distance with the approximated 1 - 2w, off by up to some per cent (`benchmarks/distances.py`).
"""

import igl
import numpy as np
from jaxtyping import Float, Int
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

_AMBIGUOUS = 0.2
"""Fast winding numbers this close to 1/2 are computed again exactly."""


def winding_numbers(
    vertices: Float[np.ndarray, "vertex 3"],
    faces: Int[np.ndarray, "face 3"],
    points: Float[np.ndarray, "query 3"],
    *,
    refine: bool = True,
) -> Float[np.ndarray, " query"]:
    """Generalised winding number at each point: 1 inside and 0 outside of a closed mesh whose faces look outwards.

    The fast approximation is good to a few hundredths; with `refine`, numbers near 1/2 are summed over all faces, so
    that no sign hangs on the approximation.
    """
    vertices, faces, points = _for_igl(vertices, faces, points)
    if not len(points):
        return np.zeros(0)
    numbers = np.asarray(igl.fast_winding_number(vertices, faces, points))
    unsure = np.flatnonzero(np.abs(np.abs(numbers) - 0.5) < _AMBIGUOUS) if refine else np.zeros(0, dtype=int)
    if len(unsure):
        numbers[unsure] = igl.winding_number(vertices, faces, points[unsure])
    return numbers


def unsigned_distances(
    vertices: Float[np.ndarray, "vertex 3"], faces: Int[np.ndarray, "face 3"], points: Float[np.ndarray, "query 3"]
) -> Float[np.ndarray, " query"]:
    """Distance of each point to the nearest triangle, float64."""
    vertices, faces, points = _for_igl(vertices, faces, points)
    if not len(points):
        return np.zeros(0)
    return np.sqrt(igl.point_mesh_squared_distance(points, vertices, faces)[0])


def signed_distances(
    vertices: Float[np.ndarray, "vertex 3"],
    faces: Int[np.ndarray, "face 3"],
    points: Float[np.ndarray, "query 3"],
    *,
    overlapping: bool = False,
) -> Float[np.ndarray, " query"]:
    """Signed distance of each point, float64, positive outside.

    With `overlapping`, the mesh is a union of closed bodies that touch or cross: a point is inside where it is inside
    of any, and its distance there is the greatest depth in one of them, so that walls buried in another body leave no
    trace. That is min over the bodies' distances, exact outside and at most the true depth inside.
    """
    distances = unsigned_distances(vertices, faces, points)
    inside = winding_numbers(vertices, faces, points) > 0.5
    if not overlapping:
        return np.where(inside, -distances, distances)
    depth = np.zeros(len(points))
    for body in shells(faces):
        corners = vertices[np.unique(faces[body])]
        boxed = np.all((points >= corners.min(axis=0)) & (points <= corners.max(axis=0)), axis=1)
        rows = np.flatnonzero(inside & boxed)
        rows = rows[winding_numbers(vertices, faces[body], points[rows]) > 0.5]
        depth[rows] = np.maximum(depth[rows], unsigned_distances(vertices, faces[body], points[rows]))
    return np.where(inside, -depth, distances)


def bodies(faces: Int[np.ndarray, "face 3"]) -> list[Int[np.ndarray, " face_of_body"]]:
    """Rows of `faces` of each connected piece (faces that share a vertex), in order of their first face."""
    ends = np.concatenate([faces[:, [0, 1]], faces[:, [1, 2]]])
    return _groups(_components(int(faces.max()) + 1, ends)[faces[:, 0]])


def shells(faces: Int[np.ndarray, "face 3"]) -> list[Int[np.ndarray, " face_of_shell"]]:
    """Rows of `faces` of each closed shell of a balanced mesh: bodies cut where they only touch themselves.

    Faces are joined across edges that two faces share. What such a cut leaves open is joined again within its body.
    """
    count = len(faces)
    edges = np.sort(np.concatenate([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]]), axis=1).astype(np.int64)
    _, edge, uses = np.unique(edges[:, 0] * (edges.max() + 1) + edges[:, 1], return_inverse=True, return_counts=True)
    edge, owner = edge.reshape(-1), np.tile(np.arange(count), 3)
    simple = np.flatnonzero(uses[edge] == 2)
    pairs = owner[simple[np.argsort(edge[simple], kind="stable")]].reshape(-1, 2)
    shell = _components(count, pairs)
    open_rows = [rows for rows in _groups(shell) if not balanced(faces[rows])]
    if open_rows:
        body = np.empty(count, dtype=int)
        for number, rows in enumerate(bodies(faces)):
            body[rows] = number
        rows = np.concatenate(open_rows)
        shell[rows] = count + body[rows]
    return _groups(shell)


def balanced(faces: Int[np.ndarray, "face 3"]) -> bool:
    """True where every edge is run through as often in one direction as in the other.

    This is what makes the winding number whole: no hole, and faces that agree; four faces may meet at an edge.
    """
    edges = np.concatenate([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]]).astype(np.int64)
    key = edges.min(axis=1) * (int(faces.max(initial=0)) + 1) + edges.max(axis=1)
    direction = np.where(edges[:, 0] < edges[:, 1], 1, -1)
    _, place = np.unique(key, return_inverse=True)
    return not np.bincount(place.reshape(-1), direction).any()


def _components(count: int, pairs: np.ndarray) -> np.ndarray:
    """Number of the connected component of each of `count` nodes."""
    ones = np.ones(len(pairs), dtype=np.int8)
    return connected_components(coo_matrix((ones, (pairs[:, 0], pairs[:, 1])), shape=(count, count)), directed=False)[1]


def _groups(number: np.ndarray) -> list[np.ndarray]:
    """Rows with the same number together, in order of the first row."""
    order = np.argsort(number, kind="stable")
    cuts = np.flatnonzero(np.diff(number[order])) + 1
    return sorted(np.split(order, cuts), key=lambda rows: int(rows[0]))


def _for_igl(*arrays: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    vertices, faces, points = arrays
    return (
        np.ascontiguousarray(vertices, dtype=np.float64),
        np.ascontiguousarray(faces, dtype=np.int64),
        np.ascontiguousarray(points, dtype=np.float64),
    )
