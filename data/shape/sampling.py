"""Points on, near and around a solid."""

import numpy as np
from jaxtyping import Float, Int


def face_normals(
    vertices: Float[np.ndarray, "vertex 3"], faces: Int[np.ndarray, "face 3"]
) -> tuple[Float[np.ndarray, "face 3"], Float[np.ndarray, " face"]]:
    """Unit normal (zero for a degenerate face) and area of every face, float64."""
    a, b, c = (vertices[faces[:, k]].astype(np.float64) for k in range(3))
    cross = np.cross(b - a, c - a)
    length = np.linalg.norm(cross, axis=1)
    return cross / np.maximum(length, np.finfo(np.float64).tiny)[:, None], length / 2


def sample_surface(
    vertices: Float[np.ndarray, "vertex 3"],
    faces: Int[np.ndarray, "face 3"],
    count: int,
    rng: np.random.Generator,
) -> Float[np.ndarray, "count 6"]:
    """Points uniform by area with the unit normals of their faces, float64."""
    normals, areas = face_normals(vertices, faces)
    ends = np.cumsum(areas)
    chosen = np.searchsorted(ends, rng.random(count) * ends[-1], side="right").clip(max=len(faces) - 1)
    # The square root makes the points uniform in the triangle (Turk 1990).
    root, share = np.sqrt(rng.random(count))[:, None], rng.random(count)[:, None]
    a, b, c = (vertices[faces[chosen, k]].astype(np.float64) for k in range(3))
    points = (1 - root) * a + root * (1 - share) * b + root * share * c
    return np.concatenate([points, normals[chosen]], axis=1)


def sample_sharp_edges(
    vertices: Float[np.ndarray, "vertex 3"],
    faces: Int[np.ndarray, "face 3"],
    count: int,
    angle: float,
    rng: np.random.Generator,
) -> Float[np.ndarray, "sharp 6"]:
    """`count` points uniform by length on edges where the normals of both faces differ by more than `angle` degrees.

    With each comes the unit mean of both normals (edge importance as in Dora, Chen et al. 2024). Empty where no edge
    is that sharp.
    """
    normals, areas = face_normals(vertices, faces)
    first, second, ends = _edge_pairs(faces)
    # A degenerate face has no direction; the sharp edge beside it would be an accident of the triangulation.
    solid = (areas[first] > 0) & (areas[second] > 0)
    sharp = solid & (np.einsum("ij,ij->i", normals[first], normals[second]) < np.cos(np.radians(angle)))
    start, stop = (vertices[ends[sharp, k]].astype(np.float64) for k in range(2))
    lengths = np.cumsum(np.linalg.norm(stop - start, axis=1))
    if not count or not len(lengths) or lengths[-1] <= 0:
        return np.zeros((0, 6))
    chosen = np.searchsorted(lengths, rng.random(count) * lengths[-1], side="right").clip(max=len(lengths) - 1)
    share = rng.random(count)[:, None]
    mean = (normals[first] + normals[second])[sharp][chosen]
    length = np.linalg.norm(mean, axis=1, keepdims=True)
    # Two faces folded back on each other have no mean direction: take that of one of them.
    mean = np.where(length > 1e-6, mean / np.maximum(length, 1e-6), normals[first][sharp][chosen])
    return np.concatenate([(1 - share) * start[chosen] + share * stop[chosen], mean], axis=1)


def _edge_pairs(faces: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(face, other face, end vertices) of every edge between two faces; where more than two meet, consecutive pairs."""
    edges = np.sort(np.concatenate([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]]), axis=1)
    owner = np.tile(np.arange(len(faces)), 3)
    order = np.lexsort((edges[:, 1], edges[:, 0]))
    edges, owner = edges[order], owner[order]
    same = np.flatnonzero((edges[1:] == edges[:-1]).all(axis=1))
    return owner[same], owner[same + 1], edges[same]
