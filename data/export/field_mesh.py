"""Fields as visualisation programs hold them: a rectilinear mesh in space, vectors of three, x counted fastest."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from data.errors import PenstockError
from data.grid import Grid
from data.turbulence.well import fields_of

AXES = ("x", "y", "z")


@dataclass(frozen=True, eq=False)
class NodeMesh:
    """The nodes of a rectilinear mesh, and which components of a frame make up the named fields on it.

    Our frames are [x, y, z, component] with z counted fastest; VTK and XDMF count x fastest, which as an array is
    [z, y, x]. A field of two dimensions lies in the plane z = 0.
    """

    coordinates: tuple[Float[np.ndarray, " x"], Float[np.ndarray, " y"], Float[np.ndarray, " z"]]
    """Along x, y and z, float64."""
    fields: Mapping[str, tuple[int | None, ...]]
    """Positions of the components of every field: one of a scalar, three of a vector (None: zero everywhere)."""
    periods: tuple[bool, ...]
    """For every axis of a frame, whether its first layer of points is repeated at its end."""

    @property
    def shape(self) -> tuple[int, int, int]:
        """Points along z, y, x: the order of the arrays."""
        x, y, z = (len(points) for points in self.coordinates)
        return z, y, x

    def arrays(self, frame: Float[np.ndarray, "*grid component"]) -> dict[str, np.ndarray]:
        """Every field as little-endian float32 [z, y, x] or [z, y, x, 3], contiguous."""
        values = np.asarray(frame, np.float32)
        values = np.pad(values, [(0, int(repeated)) for repeated in (*self.periods, False)], mode="wrap")
        axes = values.ndim - 1
        values = values.transpose(*reversed(range(axes)), axes).reshape(*self.shape, values.shape[-1])
        return {name: self._field(values, columns) for name, columns in self.fields.items()}

    def _field(self, values: np.ndarray, columns: tuple[int | None, ...]) -> np.ndarray:
        if len(columns) == 1:
            return np.ascontiguousarray(values[..., columns[0]], "<f4")
        found = np.zeros((*self.shape, 3), "<f4")
        for k, column in enumerate(columns):
            if column is not None:
                found[..., k] = values[..., column]
        return found


def node_mesh(grid: Grid, components: Sequence[str], *, closed: bool) -> NodeMesh:
    """The mesh of a grid of one to three axes.

    With `closed` the first layer of points of a periodic axis is repeated at its end, so that the cells fill the whole
    period; without it the mesh has the points of the grid alone.

    Raises:
        PenstockError: more than three axes, or components that are no fields (`fields_of`).
    """
    if len(grid.axes) > 3:
        raise PenstockError(f"expected a grid of at most three axes to export, got {', '.join(grid.names)}.")
    periods = tuple(closed and axis.periodic for axis in grid.axes)
    along = [
        np.append(axis.points, axis.points[0] + axis.length) if repeated else np.asarray(axis.points)
        for axis, repeated in zip(grid.axes, periods, strict=True)
    ]
    along += [np.zeros(1)] * (3 - len(along))
    x, y, z = (np.asarray(points, np.float64) for points in along)
    return NodeMesh((x, y, z), _fields(grid.names, components), periods)


def _fields(axes: Sequence[str], components: Sequence[str]) -> dict[str, tuple[int | None, ...]]:
    """Components gathered: those of a vector are one field, those of a tensor stay single."""
    found: dict[str, tuple[int | None, ...]] = {}
    first = 0
    for name, order in fields_of(components, axes):
        parts = range(first, first + len(axes) ** order)
        if order == 1 and len(axes) > 1:
            found[name] = (*parts, *(None,) * (3 - len(axes)))
        else:
            found |= {components[k]: (k,) for k in parts}
        first = parts.stop
    return found
