"""Refinement of a uniform grid near the zero level of a field, asking the field once per grid point.

All indices are those of the finest grid, shifted by one: box corners run from 1 to n + 1, and the layers 0 and n + 2
lie outside the box and count as positive, so that a solid cut by the box can be capped. Cells are named by their lower
corner. Coarse corners are corners of the finest grid too (the last coarse cell is cut off at n + 1), so n is free.
"""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import product
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy.ndimage import maximum_filter

from modules.geometry.marching import CORNERS, EDGES, FACES, distinct, sign_patterns

# Of the 27 corners of a cell's eight children, numbered x + 3 y + 9 z, the eight that bound each child.
_CHILD_CORNERS = np.array([[(child + corner) @ (1, 3, 9) for corner in CORNERS] for child in CORNERS])
# Sample points of a cell for the exclusion test, and their farthest possible distance from each corner in cell lengths:
# every point of the cell is within `sqrt(3) / 8` of one of the samples.
_SAMPLES = (np.array(list(product(range(4), repeat=3))) + 0.5) / 4
_REACH = np.linalg.norm(_SAMPLES[:, None] - CORNERS, axis=-1) + np.sqrt(3) / 8
# Cells handled at a time where a step needs a wide intermediate.
_BLOCK = 1 << 14

Index = Int[np.ndarray, "cell 3"]
CornerField = Float[np.ndarray, "cell 8"]


class CornerValues:
    """Field values at grid corners, each asked for once: sorted integer keys beside their values."""

    def __init__(self, ask: Callable[[Index], Float[np.ndarray, " point"]], resolution: int) -> None:
        self.resolution = resolution
        self.size = resolution + 3
        self._ask = ask
        self._strides = np.array([1, self.size, self.size * self.size])
        self._keys = np.empty(0, dtype=np.int64)
        self._values = np.empty(0, dtype=np.float32)

    def __len__(self) -> int:
        return len(self._keys)

    def keys(self, index: Index) -> Int[np.ndarray, " cell"]:
        """One integer per grid index; ascending keys run fastest along x."""
        return index @ self._strides

    def block_keys(self, cells: Index, step: int, points: int, *, clip: bool = True) -> Int[np.ndarray, "cell corner"]:
        """Keys of the `points`^3 corners at distances of `step` from each cell's lower corner, x running fastest.

        With `clip`, corners beyond the box fall on its boundary.
        """
        reach = cells[:, :, None] + step * np.arange(points, dtype=np.int32)
        if clip:
            reach = np.minimum(reach, self.resolution + 1)
        x, y, z = (reach[:, axis] * stride for axis, stride in enumerate(self._strides))
        return (z[:, :, None, None] + y[:, None, :, None] + x[:, None, None, :]).reshape(len(cells), points**3)

    def index(self, keys: Int[np.ndarray, " key"]) -> Int[np.ndarray, "key 3"]:
        """The grid index of each key."""
        index = np.empty((len(keys), 3), dtype=np.int32)
        for axis, stride in enumerate(self._strides):
            index[:, axis] = keys // stride % self.size
        return index

    def in_box(self, keys: Int[np.ndarray, " key"]) -> Bool[np.ndarray, " key"]:
        """Whether a corner lies in the box and not in the layer around it."""
        index = self.index(keys)
        return np.all((index >= 1) & (index <= self.resolution + 1), axis=1)

    def learn(self, keys: Int[np.ndarray, " key"]) -> int:
        """Ask the field at those of the distinct corners that are in the box and not known yet; how many these were."""
        if len(self._keys):
            keys = keys[~self._find(keys)[1]]
        keys = keys[self.in_box(keys)]
        if len(keys):
            places = np.searchsorted(self._keys, keys)
            self._values = np.insert(self._values, places, self._ask(self.index(keys)))
            self._keys = np.insert(self._keys, places, keys)
        return len(keys)

    def at(self, keys: Int[np.ndarray, "*shape"]) -> Float[np.ndarray, "*shape"]:
        """Values at known corners; the largest float32 outside the box."""
        places, known = self._find(keys)
        values = self._values[places]
        if not known.all():
            assert not self.in_box(keys[~known]).any(), "a corner in the box was looked up before it was asked for"
            values[~known] = np.finfo(np.float32).max
        return values

    def only_sign(self) -> Literal["", "outside", "inside"]:
        """The side that all known corners are on, or "" when both were seen."""
        inside = self._values < 0
        return "inside" if inside.all() else "" if inside.any() else "outside"

    def inside_at_boundary(self) -> bool:
        """Whether a known corner on the boundary of the box is inside."""
        index = self.index(self._keys[self._values < 0])
        return bool(((index == 1) | (index == self.resolution + 1)).any())

    def _find(self, keys: Int[np.ndarray, "*shape"]) -> tuple[Int[np.ndarray, "*shape"], Bool[np.ndarray, "*shape"]]:
        places = np.minimum(np.searchsorted(self._keys, keys), len(self._keys) - 1)
        return places, self._keys[places] == keys


@dataclass(frozen=True)
class Level:
    """What one level of the refinement did."""

    step: int
    """Edge of this level's cells in cells of the finest grid."""
    queries: int
    cells: int
    """Cells looked at."""
    kept: int
    """Cells that were divided; on the finest level, cells that the surface passes through."""


@dataclass(frozen=True)
class Octree:
    """A grid over the box, refined where the surface may be.

    A cell is divided when its corners differ in sign, when it is a neighbour of such a cell on the coarsest level, or
    when the measured variation of the field says that it may hide a part thinner than itself: with w the largest
    variation over one cell edge (Euclidean over the axes; of this cell, of its parents, and of the neighbours on the
    coarsest level), some point of the cell is farther than |v| / w from each corner, in cell edges. Where w is
    not below the true slope, as on distances except on their ridges, this test excludes no cell that the surface
    enters. It knows ratios only, so any scale of the field will do; where a field is
    clipped or saturated, w is too small, and parts thinner than a coarse cell that are not connected with
    anything found can be missed. What is connected on the finest grid is found by `follow`.
    """

    corners: CornerValues
    coarse: int
    safety: float
    closed: bool

    @property
    def resolution(self) -> int:
        return self.corners.resolution

    def refine(self) -> tuple[Index, CornerField, list[Level]]:
        """The cells of the finest grid that the surface passes through, as far as refinement finds them."""
        step = 1
        while -(-self.resolution // (2 * step)) >= self.coarse:
            step *= 2
        cells, values, variation, level = self._coarsest(step)
        levels = [level]
        while step > 1:
            step //= 2
            cells, values, variation, level = self._divide(cells, variation, step)
            levels.append(level)
        return cells, values, levels

    def follow(
        self, cells: Int[np.ndarray, "start 3"], values: Float[np.ndarray, "start 8"]
    ) -> tuple[Index, CornerField, int]:
        """The cells with all others that the surface runs on into on the finest grid, and how many queries this took.

        In the order in which a dense grid would list them. A cell inside a solid that touches the box only caps it.
        Wherever a face between two cells has corners of both signs, both cells are there in the end: so the mesh is
        closed, and a part that the coarse levels overlooked is found when it is connected with one that they saw.
        """
        if self.closed:
            caps = self._reflect(cells)
            cells, values = np.concatenate([cells, caps]), np.concatenate([values, self._outer_values(caps)])
        mixed = _mixed(values)
        cells, values = cells[mixed], values[mixed]
        visited = np.sort(self.corners.keys(cells))
        queries = 0
        while len(cells):
            keys = self._across_faces(cells, values, visited)
            visited = np.insert(visited, np.searchsorted(visited, keys), keys)
            cells = self.corners.index(keys)
            queries += self.corners.learn(distinct(self.corners.block_keys(cells, 1, 2, clip=False)))
            values = self._outer_values(cells)
        cells = self.corners.index(visited)
        return cells, self._outer_values(cells), queries

    def _coarsest(self, step: int) -> tuple[Index, CornerField, Float[np.ndarray, " cell"], Level]:
        starts = np.arange(1, self.resolution + 1, step, dtype=np.int32)
        grid = np.stack(np.meshgrid(starts, starts, starts, indexing="ij"), axis=-1)
        cells = grid.reshape(-1, 3)
        queries = sum(self.corners.learn(distinct(self.corners.block_keys(b, step, 2))) for b in _blocks(cells))
        values = np.concatenate([self.corners.at(self.corners.block_keys(b, step, 2)) for b in _blocks(cells)])
        # Only here are all neighbours known: let each cell have the largest variation around it, for a plate in the
        # middle of a cell leaves the cell's own corners equal.
        variation = maximum_filter(_variation(values).reshape(grid.shape[:3]), size=3, mode="nearest").ravel()
        keep = self._passed_through(cells, values, step)
        if step > 1:
            keep = maximum_filter(keep.reshape(grid.shape[:3]), size=3, mode="nearest").ravel()
            keep |= self._may_hide(values, variation)
        level = Level(step, queries, len(cells), int(keep.sum()))
        return cells[keep], values[keep], variation[keep], level

    def _divide(
        self, parents: Int[np.ndarray, "parent 3"], parent_variation: Float[np.ndarray, " parent"], step: int
    ) -> tuple[Index, CornerField, Float[np.ndarray, " cell"], Level]:
        keys = [distinct(self.corners.block_keys(block, step, 3)) for block in _blocks(parents)]
        queries = self.corners.learn(distinct(np.concatenate(keys))) if keys else 0
        kept = []
        examined = 0
        for block, inherited in zip(_blocks(parents), _blocks(parent_variation), strict=True):
            children = block[:, None] + step * CORNERS
            real = np.all(children <= self.resolution, axis=-1)
            lattice = self.corners.at(self.corners.block_keys(block, step, 3))
            cells, values = children[real], lattice[:, _CHILD_CORNERS][real]
            variation = np.maximum(_variation(values), np.broadcast_to(inherited[:, None] / 2, real.shape)[real])
            keep = self._passed_through(cells, values, step)
            if step > 1:
                keep |= self._may_hide(values, variation)
            examined += len(cells)
            kept.append((cells[keep], values[keep], variation[keep]))
        cells, values, variation = (np.concatenate(parts) for parts in zip(*kept, strict=True)) if kept else _nothing()
        return cells, values, variation, Level(step, queries, examined, len(cells))

    def _passed_through(self, cells: Index, values: CornerField, step: int) -> Bool[np.ndarray, " cell"]:
        """Cells with corners of both signs and, where solids are capped, cells inside a solid that touch the box."""
        patterns = sign_patterns(values)
        passed = (patterns != 0) & (patterns != 255)
        if self.closed:
            passed |= (patterns == 255) & np.any((cells == 1) | (cells + step > self.resolution), axis=1)
        return passed

    def _may_hide(self, values: CornerField, variation: Float[np.ndarray, " cell"]) -> Bool[np.ndarray, " cell"]:
        """Cells without a change of sign in which the surface can nevertheless be; see the class."""
        hides = np.zeros(len(values), dtype=bool)
        reach = self.safety * variation
        candidates = np.flatnonzero(np.abs(values).min(axis=1) < reach * _REACH.max(axis=1).min())
        for block in _blocks(candidates):
            far = np.abs(values[block]) / reach[block, None]  # candidates have a reach above zero
            for sample in _REACH.astype(np.float32):
                hides[block] |= np.packbits(far < sample, axis=1)[:, 0] == 255
        return hides

    def _reflect(self, cells: Index) -> Int[np.ndarray, "behind 3"]:
        """The cells of the outer layer behind cells at the boundary, across faces, edges and corners of the box."""
        behind = []
        cells = cells[np.any((cells == 1) | (cells == self.resolution), axis=1)]
        for offset in product((-1, 0, 1), repeat=3):
            outwards = np.array(offset)
            applies = np.where(outwards < 0, cells == 1, (outwards == 0) | (cells == self.resolution)).all(axis=1)
            if any(offset):
                behind.append(cells[applies] + outwards)
        return np.concatenate(behind)

    def _across_faces(
        self, cells: Index, values: CornerField, visited: Int[np.ndarray, " visited"]
    ) -> Int[np.ndarray, " key"]:
        """Keys, ascending, of the cells not yet visited on the other side of faces with corners of both signs."""
        patterns = sign_patterns(values)
        found = []
        for number, face in enumerate(FACES):
            mask = sum(1 << corner for corner in face)
            crossed = (patterns & mask != 0) & (patterns & mask != mask)
            beyond = cells[crossed]
            beyond[:, number // 2] += 1 if number % 2 else -1
            if not self.closed:
                beyond = beyond[((beyond >= 1) & (beyond <= self.resolution)).all(axis=1)]
            keys = self.corners.keys(beyond)
            found.append(keys[visited[np.minimum(np.searchsorted(visited, keys), len(visited) - 1)] != keys])
        return distinct(np.concatenate(found))

    def _outer_values(self, cells: Index) -> CornerField:
        """Values at the corners of cells of the finest grid that may lie in the layer around the box."""
        values = np.empty((len(cells), 8), dtype=np.float32)
        for start in range(0, len(cells), _BLOCK):
            block = cells[start : start + _BLOCK]
            values[start : start + _BLOCK] = self.corners.at(self.corners.block_keys(block, 1, 2, clip=False))
        return values


def _blocks(array: np.ndarray) -> list[np.ndarray]:
    return [array[start : start + _BLOCK] for start in range(0, len(array), _BLOCK)]


def _mixed(values: CornerField) -> Bool[np.ndarray, " cell"]:
    patterns = sign_patterns(values)
    return (patterns != 0) & (patterns != 255)


def _variation(values: CornerField) -> Float[np.ndarray, " cell"]:
    """The largest difference along an edge for each axis, Euclidean over the axes: the gradient's length times the
    cell's edge where the field is linear."""
    squares = np.zeros(len(values))
    for axis in range(3):
        ends = [(corner, corner | 1 << axis) for corner, along in EDGES if along == axis]
        steps = [np.abs(values[:, high] - values[:, low]) for low, high in ends]
        squares += np.maximum.reduce(steps).astype(np.float64) ** 2
    return np.sqrt(squares).astype(np.float32)


def _nothing() -> tuple[Index, CornerField, Float[np.ndarray, " cell"]]:
    return np.empty((0, 3), dtype=np.int32), np.empty((0, 8), dtype=np.float32), np.empty(0, dtype=np.float32)
