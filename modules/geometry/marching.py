"""Marching cubes on a sparse set of cells: closed, manifold and oriented by construction.

The table is generated, not copied: on each face of a cell the crossings are joined by one fixed rule that reads signs
only, the joined crossings form cycles, and each cycle is cut into triangles. Because the rule reads signs
only, any monotone transform of a field that keeps its zero gives the same triangles, and two cells always agree on the
face between them. Why the result is manifold is said at `_cut`.

Scikit-image's Lewiner tables and libigl's were measured first, on random fields: both are closed and manifold while no
value is exactly zero (libigl's make as many triangles as these), but on values rounded to halves Lewiner's leave open
edges and both make faces without area (`python -m benchmarks.extraction --topology` counts them). Neither says on which
grid edge a vertex lies in a form that root finding can use at speed.
"""

from functools import lru_cache
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int, UInt8

# Corner c of a cell sits at (c & 1, c >> 1 & 1, c >> 2 & 1).
CORNERS: Int[np.ndarray, "8 3"] = np.array([[c & 1, c >> 1 & 1, c >> 2 & 1] for c in range(8)], dtype=np.int32)
# The twelve edges as (lower corner, axis); an edge runs from its lower corner in the direction of its axis.
EDGES: tuple[tuple[int, int], ...] = tuple((c, axis) for axis in range(3) for c in range(8) if not c >> axis & 1)
# The six faces, corners counter-clockwise seen from outside the cell; order: -x, +x, -y, +y, -z, +z.
FACES: tuple[tuple[int, int, int, int], ...] = (
    (0, 4, 6, 2),
    (1, 3, 7, 5),
    (0, 1, 5, 4),
    (2, 6, 7, 3),
    (0, 2, 3, 1),
    (4, 5, 7, 6),
)

# Cells turned into triangles at a time.
_BLOCK = 1 << 14

CLEARANCE = 2.0**-8
"""A vertex keeps this part of an edge between itself and either end, so that a corner value of exactly zero (where
several edges would put their vertex on the same point) makes neither a crack nor a face without area."""


def distinct(keys: Int[np.ndarray, "..."]) -> Int[np.ndarray, " key"]:
    """The distinct integers, ascending. By sorting: the hash table of numpy.unique took six times as long here."""
    keys = np.sort(keys, axis=None)
    return keys[np.concatenate([[True], keys[1:] != keys[:-1]])] if len(keys) else keys


def sign_patterns(values: Float[np.ndarray, "cell 8"]) -> UInt8[np.ndarray, " cell"]:
    """One byte per cell: bit c is set where corner c is inside (negative; zero counts as outside)."""
    return np.packbits(values < 0, axis=1, bitorder="little")[:, 0]


class TriangleTable(NamedTuple):
    """For each of the 256 sign patterns of a cell, its triangles as triples of edge numbers."""

    counts: Int[np.ndarray, "256"]
    starts: Int[np.ndarray, "256"]
    triangles: Int[np.ndarray, "triangle 3"]


def _edge_between(a: int, b: int) -> int:
    return EDGES.index((min(a, b), (a ^ b).bit_length() - 1))


def _edge_faces() -> tuple[frozenset[int], ...]:
    faces_of: list[set[int]] = [set() for _ in EDGES]
    for number, face in enumerate(FACES):
        for a, b in pairwise((*face, face[0])):
            faces_of[_edge_between(a, b)].add(number)
    return tuple(frozenset(faces) for faces in faces_of)


_FACES_OF_EDGE = _edge_faces()
_MIDPOINTS = np.array([CORNERS[corner] + 0.5 * np.eye(3)[axis] for corner, axis in EDGES])


def _cycles(inside: int) -> list[tuple[int, ...]]:
    """Closed walks over the crossed edges of a cell whose inside corners are the bits of `inside`.

    Walking around a face, each step from inside to outside is joined with the next step back in. On a face with
    four crossings this cuts off the two outside corners and leaves the inside ones connected: thin parts hold together.
    Each crossed edge is walked once out and once in by its two faces, so the joins are a permutation of the crossings.
    """
    follows: dict[int, int] = {}
    for face in FACES:
        signs = [inside >> corner & 1 for corner in face]
        crossed = [k for k in range(4) if signs[k] != signs[k - 3]]  # between corner k and corner k + 1
        for place, k in enumerate(crossed):
            if signs[k]:
                entry = crossed[(place + 1) % len(crossed)]
                follows[_edge_between(face[entry], face[entry - 3])] = _edge_between(face[k], face[k - 3])
    cycles = []
    while follows:
        edge, onward = follows.popitem()
        cycle = [edge]
        while onward != cycle[0]:
            cycle.append(onward)
            onward = follows.pop(onward)
        cycles.append(tuple(cycle))
    return cycles


def _cut(cycle: tuple[int, ...]) -> tuple[float, list[tuple[int, int, int]]]:
    """The cost and the triangles of the cheapest cut of a cycle without a diagonal that lies in a face of the cell.

    The neighbour across that face could use the same diagonal, and four triangles would then meet in it. Every other
    mesh edge is either a join inside a face (used once by each of the two cells) or a diagonal through the interior of
    one cell (used twice there): so each edge has two triangles, and around each vertex the four cells at its grid edge
    close one fan. Cost: squared diagonal lengths with every vertex at the middle of its edge. Infinite when impossible.
    """
    if len(cycle) < 3:
        return 0.0, []
    first, last = cycle[0], cycle[-1]
    best: tuple[float, list[tuple[int, int, int]]] = (np.inf, [])
    for k in range(1, len(cycle) - 1):
        cost = 0.0
        for end, place in ((first, k - 1), (last, len(cycle) - 2 - k)):
            if place:  # not neighbours in the cycle: a diagonal
                shares_face = bool(_FACES_OF_EDGE[end] & _FACES_OF_EDGE[cycle[k]])
                cost += np.inf if shares_face else float(np.sum((_MIDPOINTS[end] - _MIDPOINTS[cycle[k]]) ** 2))
        (left_cost, left), (right_cost, right) = _cut(cycle[: k + 1]), _cut(cycle[k:])
        cost += left_cost + right_cost
        if cost < best[0]:
            best = cost, [(first, cycle[k], last), *left, *right]
    return best


@lru_cache(maxsize=1)
def triangle_table() -> TriangleTable:
    """The triangles of all 256 sign patterns, seen counter-clockwise from the positive side."""
    rows: list[list[tuple[int, int, int]]] = []
    for inside in range(256):
        triangles: list[tuple[int, int, int]] = []
        for cycle in _cycles(inside):
            cost, cut = _cut(cycle)
            assert np.isfinite(cost), f"pattern {inside}: cycle {cycle} has no cut without a diagonal in a face"
            triangles += cut
        rows.append(triangles)
    counts = np.array([len(row) for row in rows], dtype=np.int32)
    return TriangleTable(
        counts,
        (np.cumsum(counts) - counts).astype(np.int32),
        np.array([triangle for row in rows for triangle in row], dtype=np.int32),
    )


class CrossedEdges(NamedTuple):
    """Where the surface crosses the grid: one row per crossed grid edge, in ascending order of (axis, z, y, x)."""

    corners: Int[np.ndarray, "vertex 3"]
    """Grid index of the lower end."""
    axes: Int[np.ndarray, " vertex"]
    low: Float[np.ndarray, " vertex"]
    """Field at the lower end."""
    high: Float[np.ndarray, " vertex"]
    """Field at the upper end; one of the two is negative, the other is not."""

    def fractions(self) -> Float[np.ndarray, " vertex"]:
        """Zero of the straight line between the two ends, as a part of the edge, CLEARANCE away from both ends."""
        low, high = self.low.astype(np.float64), self.high.astype(np.float64)
        return np.clip(low / (low - high), CLEARANCE, 1 - CLEARANCE)


def march(
    cells: Int[np.ndarray, "cell 3"], values: Float[np.ndarray, "cell 8"], size: int
) -> tuple[CrossedEdges, Int[np.ndarray, "face 3"]]:
    """The crossed grid edges (one vertex each) and the triangles of the zero level, counter-clockwise from outside.

    `cells` are distinct grid indices of lower corners, all below `size`; `values` the field at their corners in the
    order of CORNERS, negative inside. Closed where every cell across a face with a change of sign is also in `cells`.
    """
    inside = values < 0
    strides = np.array([1, size, size * size])
    bases = cells @ strides

    crossings: list[CrossedEdges] = []
    numbers = np.empty((len(cells), len(EDGES)), dtype=np.int32)
    first = 0
    for axis in range(3):
        ends = {edge: (low, low | 1 << axis) for edge, (low, along) in enumerate(EDGES) if along == axis}
        owners = {edge: np.flatnonzero(inside[:, low] != inside[:, high]) for edge, (low, high) in ends.items()}
        # An edge is named by the flat index of its lower corner.
        names = {edge: bases[owners[edge]] + CORNERS[low] @ strides for edge, (low, _) in ends.items()}
        distinct_names = distinct(np.concatenate(list(names.values())))
        low_values, high_values = np.empty((2, len(distinct_names)), dtype=values.dtype)
        for edge, (low, high) in ends.items():
            number = np.searchsorted(distinct_names, names[edge])
            numbers[owners[edge], edge] = first + number
            low_values[number] = values[owners[edge], low]
            high_values[number] = values[owners[edge], high]
        corners = np.stack([distinct_names // stride % size for stride in strides], axis=1).astype(np.int32)
        crossings.append(CrossedEdges(corners, np.full(len(corners), axis), low_values, high_values))
        first += len(distinct_names)
    edges = CrossedEdges(*(np.concatenate(columns) for columns in zip(*crossings, strict=True)))
    return edges, _triangles(sign_patterns(values), numbers)


def _triangles(patterns: UInt8[np.ndarray, " cell"], numbers: Int[np.ndarray, "cell 12"]) -> Int[np.ndarray, "face 3"]:
    """The triangles of each cell in turn, `numbers` saying which vertex lies on each of its crossed edges."""
    table = triangle_table()
    totals = np.concatenate([[0], np.cumsum(table.counts[patterns])])
    faces = np.empty((totals[-1], 3), dtype=np.int32)
    for start in range(0, len(patterns), _BLOCK):
        block = patterns[start : start + _BLOCK]
        begins = totals[start : start + len(block) + 1]
        owners = np.repeat(np.arange(len(block)), table.counts[block])
        within = np.arange(begins[0], begins[-1]) - begins[owners]
        triangles = table.triangles[table.starts[block[owners]] + within]
        faces[begins[0] : begins[-1]] = numbers[start + owners[:, None], triangles]
    return faces
