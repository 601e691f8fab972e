"""The grid on which a field is given: axes, periodic or between walls, with quadrature and derivative."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Float

from data.errors import ConfigError

CLOSE = 1e-5
"""Points count as equal within this share of the axis: files hold them in float32."""


@dataclass(frozen=True, eq=False)
class Axis:
    """One axis of a grid.

    A periodic axis has n equally spaced points, the first one at its origin, and does not repeat its first point at
    the end. An axis between walls begins and ends on them.
    """

    name: str
    points: Float[np.ndarray, " point"]
    """Coordinates, float64, increasing."""
    length: float
    """Period, or distance between the walls."""
    periodic: bool

    def __post_init__(self) -> None:
        spacing = np.diff(self.points)
        if len(self.points) < 2 or not np.all(spacing > 0):
            raise ConfigError(f"axis {self.name}: expected at least 2 increasing coordinates, got {self.points[:4]} ….")
        if self.periodic and not np.allclose(spacing, self.length / len(self.points), atol=CLOSE * self.length):
            raise ConfigError(
                f"axis {self.name}: a periodic axis of length {self.length:g} with {len(self.points)} points has the "
                f"spacing {self.length / len(self.points):g}, got {spacing.min():g} to {spacing.max():g}."
            )

    def __len__(self) -> int:
        return len(self.points)

    @cached_property
    def chebyshev(self) -> bool:
        """Whether the points are Chebyshev-Gauss-Lobatto points between the walls."""
        if self.periodic:
            return False
        return bool(
            np.allclose(self.points, _lobatto(len(self), self.points[0], self.length), atol=CLOSE * self.length)
        )

    @cached_property
    def uniform(self) -> bool:
        """Whether all spacings are equal."""
        return bool(np.allclose(np.diff(self.points), np.diff(self.points).mean(), atol=CLOSE * self.length))

    @cached_property
    def weights(self) -> Float[np.ndarray, " point"]:
        """Weights of a quadrature along the axis, positive, their sum its length.

        Equal ones on a periodic axis, Clenshaw and Curtis' on Chebyshev points, the trapezoid rule elsewhere.
        """
        if self.periodic:
            return np.full(len(self), self.length / len(self))
        if self.chebyshev:
            return self.length / 2 * _clenshaw_curtis(len(self))
        spacing = np.diff(self.points)
        return np.concatenate([spacing[:1], spacing[:-1] + spacing[1:], spacing[-1:]]) / 2

    @cached_property
    def derivative(self) -> Float[np.ndarray, "point point"]:
        """Matrix that takes values at the points to their derivative there.

        Spectral on a periodic axis (without the Nyquist mode) and on Chebyshev points; elsewhere of second order, from
        the parabola through three neighbours.
        """
        if self.periodic:
            n = len(self)
            modes = 2j * np.pi / self.length * np.fft.rfftfreq(n, 1 / n)
            if n % 2 == 0:
                modes[-1] = 0
            return np.asarray(np.fft.irfft(modes[:, None] * np.fft.rfft(np.eye(n), axis=0), n, axis=0))
        if self.chebyshev:
            return 2 / self.length * _chebyshev_derivative(len(self))
        return np.asarray(np.gradient(np.eye(len(self)), self.points, axis=0, edge_order=2 if len(self) > 2 else 1))


@dataclass(frozen=True, eq=False)
class Grid:
    """A grid of points: the product of its axes, in the order in which fields have them."""

    axes: tuple[Axis, ...]

    def __post_init__(self) -> None:
        names = [axis.name for axis in self.axes]
        if not names or len(set(names)) < len(names):
            raise ConfigError(f"a grid has axes of different names, got {names}.")

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(len(axis) for axis in self.axes)

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(axis.name for axis in self.axes)

    @property
    def homogeneous(self) -> tuple[int, ...]:
        """Positions of the periodic axes, along which statistics are averaged."""
        return tuple(k for k, axis in enumerate(self.axes) if axis.periodic)

    @property
    def walls(self) -> int | None:
        """Position of the axis between walls; None where every axis is periodic.

        Raises:
            ConfigError: several axes have walls.
        """
        found = [k for k, axis in enumerate(self.axes) if not axis.periodic]
        if len(found) > 1:
            raise ConfigError(f"expected at most one axis between walls, got {[self.names[k] for k in found]}.")
        return found[0] if found else None

    @cached_property
    def weights(self) -> Float[np.ndarray, "*grid"]:
        """Quadrature weights of the points as shares of the volume: their sum is 1."""
        found = np.ones(())
        for axis in self.axes:
            found = found[..., None] * (axis.weights / axis.weights.sum())
        return found

    def same(self, other: "Grid") -> bool:
        """Whether two grids have the same axes, to the precision of files."""
        return len(self.axes) == len(other.axes) and all(map(_alike, self.axes, other.axes))


def fourier(name: str, points: int, length: float, origin: float = 0.0) -> Axis:
    """A periodic axis."""
    return Axis(name, origin + length / points * np.arange(points), float(length), periodic=True)


def between_walls(name: str, points: int, length: float = 2.0, origin: float = 0.0) -> Axis:
    """Chebyshev-Gauss-Lobatto points between two walls, the lower wall first."""
    return Axis(name, _lobatto(points, origin, length), float(length), periodic=False)


def stretched(name: str, points: Sequence[float] | Float[np.ndarray, " point"]) -> Axis:
    """Points of any spacing between two walls, at which the first and the last lie."""
    coordinates = np.asarray(points, np.float64)
    return Axis(name, coordinates, float(coordinates[-1] - coordinates[0]), periodic=False)


def _alike(a: Axis, b: Axis) -> bool:
    return (
        (a.name, a.periodic, len(a)) == (b.name, b.periodic, len(b))
        and abs(a.length - b.length) <= CLOSE * a.length
        and bool(np.allclose(a.points, b.points, rtol=0, atol=CLOSE * a.length))
    )


def _lobatto(points: int, origin: float, length: float) -> Float[np.ndarray, " point"]:
    # sin² is symmetric to rounding; 1 - cos is not.
    return origin + length * np.sin(np.pi / 2 * np.arange(points) / (points - 1)) ** 2


def _clenshaw_curtis(points: int) -> Float[np.ndarray, " point"]:
    """Weights on [-1, 1]: the integrals of the polynomials that are 1 at one point and 0 at the others."""
    n = points - 1
    angles = np.pi * np.arange(points) / n
    even = np.arange(0, points, 2)
    share = 2 / (1 - even.astype(float) ** 2)
    share[even == 0] /= 2
    share[even == n] /= 2
    weights = 2 / n * np.cos(np.outer(angles, even)) @ share
    weights[[0, -1]] /= 2
    return np.asarray(weights)


def _chebyshev_derivative(points: int) -> Float[np.ndarray, "point point"]:
    """Differentiation on the increasing points -cos(πj/n) of [-1, 1].

    Differences come from sines of half angles and the diagonal from the others of its row, so that constants have no
    derivative at all (Bayliss, Class and Matkowsky 1995).
    """
    n = points - 1
    j = np.arange(points)
    scale = np.where((j == 0) | (j == n), 2.0, 1.0) * (-1.0) ** j
    # x_i - x_k for x = -cos(πj/n)
    difference = 2 * np.sin(np.pi / (2 * n) * np.add.outer(j, j)) * np.sin(np.pi / (2 * n) * np.subtract.outer(j, j))
    np.fill_diagonal(difference, 1.0)
    matrix = np.outer(scale, 1 / scale) / difference
    np.fill_diagonal(matrix, 0.0)
    np.fill_diagonal(matrix, -matrix.sum(axis=1))
    return np.asarray(matrix)
