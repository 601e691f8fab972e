"""A closed surface around triangles that are not one: narrow-band distance field, then marching cubes.

Two kinds of pieces are told apart. Where the winding number is near a whole number on both sides of a piece (scans with
holes, self-intersecting solids, shells made of panels), the solid is where it exceeds 1/2, which also closes the holes
smoothly. Where it is not (open sheets, a Möbius strip), the piece is thickened: all points nearer than half the stated
thickness. Every piece is kept.
"""

from collections.abc import Callable

import manifold3d as m3d
import numpy as np
from jaxtyping import Bool, Float, Int
from skimage.measure import marching_cubes

from data.errors import MeshError
from data.shape.distance import unsigned_distances, winding_numbers

SIMPLIFY = 0.05
"""Nearly flat patches of the new surface are joined within this fraction of a cell."""

Field = Callable[[Float[np.ndarray, "query 3"], float], tuple[Float[np.ndarray, " query"], Float[np.ndarray, " query"]]]
"""(points, cell size) -> (value, positive outside; lower bound of the distance to the surface)."""


def enclose(
    vertices: Float[np.ndarray, "vertex 3"],
    faces: Int[np.ndarray, "face 3"],
    sheet: Bool[np.ndarray, " face"],
    *,
    resolution: int,
    thickness: float,
) -> tuple[Float[np.ndarray, "new_vertex 3"], Int[np.ndarray, "new_face 3"]]:
    """Vertices (float64) and faces (int64) of a closed surface in the cube, from a grid of `resolution`³ cells.

    `sheet` marks the faces to thicken; the others bound the solid by their winding number.

    Raises:
        MeshError: nothing is enclosed at this resolution.
    """
    field = _field(vertices, faces, sheet, thickness)
    values = _narrow_band(field, resolution)
    if not (values < 0).any():
        raise MeshError(f"encloses nothing at {resolution}^3 cells; raise watertight_resolution or sheet_thickness.")
    cell = 2.0 / resolution
    # A value of exactly zero on a grid point would make marching cubes emit degenerate, sometimes open, corners.
    tiny = np.float32(1e-3 * cell)
    np.copyto(values, np.where(values < 0, -tiny, tiny), where=np.abs(values) < tiny)
    new_vertices, new_faces, _, _ = marching_cubes(values, 0.0, spacing=(cell,) * 3, gradient_direction="ascent")
    return _closed(new_vertices.astype(np.float64) - 1.0, new_faces.astype(np.int64), SIMPLIFY * cell)


def _field(vertices: np.ndarray, faces: np.ndarray, sheet: np.ndarray, thickness: float) -> Field:
    walls, sheets = faces[~sheet], faces[sheet]

    def field(points: np.ndarray, cell: float) -> tuple[np.ndarray, np.ndarray]:
        value, bound = np.full(len(points), np.inf), np.full(len(points), np.inf)
        if len(walls):
            distance = unsigned_distances(vertices, walls, points)
            winding = winding_numbers(vertices, walls, points, refine=False)
            # Across a hole the winding number itself passes 1/2 smoothly; the distance to the rim would jump.
            smooth = cell * np.clip(2 * np.abs(0.5 - winding), 0.01, 1.0)
            value = np.where(winding > 0.5, -1, 1) * np.where(distance > 2 * cell, smooth, distance)
            bound = distance
        if len(sheets):
            shell = unsigned_distances(vertices, sheets, points) - thickness / 2
            value, bound = np.minimum(value, shell), np.minimum(bound, np.abs(shell))
        return value, bound

    return field


def _narrow_band(field: Field, resolution: int) -> Float[np.ndarray, "x y z"]:
    """Field values, float32, on the (resolution + 1)³ points of the cube's grid.

    Cells are halved from a coarse grid, and only those are looked into that the surface can cross: their corners
    differ in sign, or one is nearer to the surface than half the cell's diagonal. All others are of one sign.
    """
    cells = resolution
    while cells % 2 == 0 and cells > 32:
        cells //= 2
    size = 2.0 / cells
    indices = np.stack(np.meshgrid(*[np.arange(cells + 1)] * 3, indexing="ij"), axis=-1).reshape(-1, 3)
    value, bound = (a.reshape((cells + 1,) * 3) for a in field(indices * size - 1.0, size))
    while True:
        near = _corner_reduce(bound, np.minimum) <= np.sqrt(3) / 2 * size
        mixed = _corner_reduce(value < 0, np.logical_or) & ~_corner_reduce(value < 0, np.logical_and)
        if cells == resolution:
            return value.astype(np.float32)
        active = np.argwhere(near | mixed)
        cells, size = 2 * cells, size / 2
        half = np.minimum((np.arange(cells + 1)) // 2, cells // 2)
        value = np.where(value[np.ix_(half, half, half)] < 0, -size, size).astype(np.float32)
        bound = np.full(value.shape, np.inf, dtype=np.float32)
        todo = np.zeros(value.shape, dtype=bool)
        for offset in np.ndindex(3, 3, 3):
            todo[tuple((2 * active + offset).T)] = True
        found = field(np.argwhere(todo) * size - 1.0, size)
        value[todo], bound[todo] = found


def _corner_reduce(grid: np.ndarray, combine: np.ufunc) -> np.ndarray:
    """One value per cell from its eight corners."""
    for axis in range(3):
        low = np.take(grid, range(grid.shape[axis] - 1), axis=axis)
        high = np.take(grid, range(1, grid.shape[axis]), axis=axis)
        grid = combine(low, high)
    return grid


def _closed(vertices: np.ndarray, faces: np.ndarray, tolerance: float) -> tuple[np.ndarray, np.ndarray]:
    """The surface simplified within `tolerance`; manifold3d accepts nothing but closed, oriented surfaces."""
    solid = m3d.Manifold(m3d.Mesh64(vertices, faces.astype(np.uint64)))
    if solid.status() != m3d.Error.NoError:
        raise MeshError(f"the surface made around it is not closed ({solid.status()}); raise watertight_resolution.")
    if solid.volume() < 0:
        solid = m3d.Manifold(m3d.Mesh64(vertices, faces[:, ::-1].astype(np.uint64)))
    mesh = solid.simplify(tolerance).to_mesh64()
    return np.array(mesh.vert_properties, dtype=np.float64)[:, :3], np.array(mesh.tri_verts, dtype=np.int64)
