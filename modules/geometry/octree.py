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

from modules.geometry.marching import CORNERS, FACES

# The 27 corners of a cell's eight children, in units of a child, and the eight of them that bound each child.
_LATTICE = np.array([(x, y, z) for z, y, x in product(range(3), repeat=3)])
_CHILD_CORNERS = np.array([[(child + corner) @ (1, 3, 9) for corner in CORNERS] for child in CORNERS])
# Sample points of a cell for the exclusion test, and their farthest possible distance from each corner in cell lengths:
# every point of the cell is within `sqrt(3) / 8` of one of the samples.
_SAMPLES = (np.array(list(product(range(4), repeat=3))) + 0.5) / 4
_REACH = np.linalg.norm(_SAMPLES[:, None] - CORNERS, axis=-1) + np.sqrt(3) / 8
# Cells handled at a time where a step needs a wide intermediate.
_BLOCK = 1 << 17

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

    def keys(self, index: Int[np.ndarray, "*shape 3"]) -> Int[np.ndarray, "*shape"]:
        """One integer per grid index; ascending keys run fastest along x."""
        return index @ self._strides

    def index(self, keys: Int[np.ndarray, " key"]) -> Index:
        """The grid index of each key."""
        return np.stack([keys % self.size, keys // self.size % self.size, keys // self.size**2], axis=1)

    def in_box(self, index: Int[np.ndarray, "*shape 3"]) -> Bool[np.ndarray, "*shape"]:
        """Whether a corner lies in the box and not in the layer around it."""
        return np.all((index >= 1) & (index <= self.resolution + 1), axis=-1)

    def learn(self, keys: Int[np.ndarray, " key"]) -> int:
        """Ask the field at those of the corners that are in the box and not known yet; how many these were."""
        keys = np.unique(keys)
        if len(self._keys):
            keys = keys[~self._find(keys)[1]]
        index = self.index(keys)
        in_box = self.in_box(index)
        keys, index = keys[in_box], index[in_box]
        if len(keys):
            places = np.searchsorted(self._keys, keys)
            self._values = np.insert(self._values, places, self._ask(index))
            self._keys = np.insert(self._keys, places, keys)
        return len(keys)

    def at(self, index: Int[np.ndarray, "*shape 3"]) -> Float[np.ndarray, "*shape"]:
        """Values at known corners; the largest float32 outside the box."""
        places, known = self._find(self.keys(index))
        assert bool(np.all(known | ~self.in_box(index))), "a corner in the box was looked up before it was asked for"
        return np.where(known, self._values[places], np.finfo(np.float32).max)

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
    coarsest level), some point of the cell is farther than |v| / w from each corner, in cell edges. On a distance this
    test excludes nothing that the surface enters. It knows ratios only, so any scale of the field will do; where a
    field is clipped or saturated, w is too small, and parts thinner than a coarse cell that are not connected with
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

    def follow(self, cells: Index, values: CornerField) -> tuple[Index, CornerField, int]:
        """The cells with all others that the surface runs on into on the finest grid, and how many queries this took.

        Wherever a face between two cells has corners of both signs, both cells are there in the end: so the mesh is
        closed, and a part that the coarse levels overlooked is found when it is connected with one that they saw.
        """
        if self.closed:
            caps = self._reflect(cells)
            cells, values = np.concatenate([cells, caps]), np.concatenate([values, self._corner_values(caps, 1)])
        mixed = _mixed(values)
        cells, values = cells[mixed], values[mixed]
        visited = np.sort(self.corners.keys(cells))
        found = [(cells, values)]
        queries = 0
        while len(cells):
            keys = np.setdiff1d(self._across_faces(cells, values), visited, assume_unique=True)
            visited = np.insert(visited, np.searchsorted(visited, keys), keys)
            cells = self.corners.index(keys)
            queries += self.corners.learn(self._corner_keys(cells, 1))
            values = self._corner_values(cells, 1)
            found.append((cells, values))
        return np.concatenate([c for c, _ in found]), np.concatenate([v for _, v in found]), queries

    def _coarsest(self, step: int) -> tuple[Index, CornerField, Float[np.ndarray, " cell"], Level]:
        starts = np.arange(1, self.resolution + 1, step)
        grid = np.stack(np.meshgrid(starts, starts, starts, indexing="ij"), axis=-1)
        cells = grid.reshape(-1, 3)
        queries = sum(self.corners.learn(self._corner_keys(block, step)) for block in _blocks(cells))
        values = np.concatenate([self._corner_values(block, step) for block in _blocks(cells)])
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
        self, parents: Index, parent_variation: Float[np.ndarray, " cell"], step: int
    ) -> tuple[Index, CornerField, Float[np.ndarray, " cell"], Level]:
        top = self.resolution + 1
        keys = [np.unique(self.corners.keys(self._lattice(block, step))) for block in _blocks(parents)]
        queries = self.corners.learn(np.concatenate(keys)) if keys else 0
        kept = []
        examined = 0
        for block, inherited in zip(_blocks(parents), _blocks(parent_variation), strict=True):
            lattice = self._lattice(block, step)
            children = lattice[:, _CHILD_CORNERS[:, 0]]
            real = (children < top).all(axis=-1)
            cells, values = children[real], self.corners.at(lattice)[:, _CHILD_CORNERS][real]
            variation = np.maximum(_variation(values), np.broadcast_to(inherited[:, None] / 2, real.shape)[real])
            keep = self._passed_through(cells, values, step)
            if step > 1:
                keep |= self._may_hide(values, variation)
            examined += len(cells)
            kept.append((cells[keep], values[keep], variation[keep]))
        cells, values, variation = (np.concatenate(parts) for parts in zip(*kept, strict=True)) if kept else _nothing()
        return cells, values, variation, Level(step, queries, examined, len(cells))

    def _lattice(self, parents: Index, step: int) -> Int[np.ndarray, "cell 27 3"]:
        """The corners of the eight children, which have edges of `step`; beyond the box they fall on its boundary."""
        return np.minimum(parents[:, None] + step * _LATTICE, self.resolution + 1)

    def _passed_through(self, cells: Index, values: CornerField, step: int) -> Bool[np.ndarray, " cell"]:
        """Cells with corners of both signs and, where solids are capped, cells inside a solid that touch the box."""
        if not self.closed:
            return _mixed(values)
        at_boundary = ((cells == 1) | (cells + step > self.resolution)).any(axis=1)
        return _mixed(values) | (at_boundary & (values < 0).all(axis=1))

    def _may_hide(self, values: CornerField, variation: Float[np.ndarray, " cell"]) -> Bool[np.ndarray, " cell"]:
        """Cells without a change of sign in which the surface can nevertheless be; see the class."""
        hides = np.zeros(len(values), dtype=bool)
        reach = self.safety * variation
        candidates = np.flatnonzero(np.abs(values).min(axis=1) < reach * _REACH.max(axis=1).min())
        for block in _blocks(candidates):
            far = np.abs(values[block]) / reach[block, None]  # candidates have a reach above zero
            for sample in _REACH.astype(np.float32):
                hides[block] |= (far < sample).all(axis=1)
        return hides

    def _reflect(self, cells: Index) -> Index:
        """The cells of the outer layer behind cells at the boundary, across faces, edges and corners of the box."""
        behind = []
        for offset in product((-1, 0, 1), repeat=3):
            outwards = np.array(offset)
            applies = np.where(outwards < 0, cells == 1, (outwards == 0) | (cells == self.resolution)).all(axis=1)
            if any(offset):
                behind.append(cells[applies] + outwards)
        return np.concatenate(behind)

    def _across_faces(self, cells: Index, values: CornerField) -> Int[np.ndarray, " key"]:
        """Keys of the cells on the other side of each face with corners of both signs, ascending."""
        inside = values < 0
        keys = []
        for number, face in enumerate(FACES):
            crossed = inside[:, face].any(axis=1) & ~inside[:, face].all(axis=1)
            beyond = cells[crossed]
            beyond[:, number // 2] += 1 if number % 2 else -1
            if not self.closed:
                beyond = beyond[((beyond >= 1) & (beyond <= self.resolution)).all(axis=1)]
            keys.append(self.corners.keys(beyond))
        return np.unique(np.concatenate(keys))

    def _corner_index(self, cells: Index, step: int) -> Int[np.ndarray, "cell 8 3"]:
        corners = cells[:, None] + step * CORNERS
        return np.minimum(corners, self.resolution + 1) if step > 1 else corners

    def _corner_keys(self, cells: Index, step: int) -> Int[np.ndarray, " key"]:
        return np.unique(self.corners.keys(self._corner_index(cells, step)))

    def _corner_values(self, cells: Index, step: int) -> CornerField:
        return self.corners.at(self._corner_index(cells, step))


def _blocks(array: np.ndarray) -> list[np.ndarray]:
    return [array[start : start + _BLOCK] for start in range(0, len(array), _BLOCK)]


def _mixed(values: CornerField) -> Bool[np.ndarray, " cell"]:
    inside = values < 0
    return np.asarray(inside.any(axis=1) & ~inside.all(axis=1))


def _variation(values: CornerField) -> Float[np.ndarray, " cell"]:
    """The largest difference along an edge for each axis, Euclidean over the axes: the gradient's length times the
    cell's edge where the field is linear."""
    cubes = values.reshape(-1, 2, 2, 2)
    steps = [np.abs(np.diff(cubes, axis=axis)).reshape(len(values), -1).max(axis=1) for axis in (1, 2, 3)]
    return np.sqrt(sum(step.astype(np.float64) ** 2 for step in steps)).astype(np.float32)


def _nothing() -> tuple[Index, CornerField, Float[np.ndarray, " cell"]]:
    return np.empty((0, 3), dtype=np.int64), np.empty((0, 8), dtype=np.float32), np.empty(0, dtype=np.float32)
