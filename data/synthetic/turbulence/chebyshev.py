"""Dense operators between two no-slip walls, on Chebyshev-Gauss-Lobatto points.

The second derivative of functions that vanish at both walls is diagonalised once: every Helmholtz and Poisson problem,
for all wavenumbers at a time, is then a division between two products with a small dense matrix.
"""

from functools import cached_property

import numpy as np
import torch
from jaxtyping import Float
from scipy.interpolate import CubicSpline
from torch import Tensor

from data.grid import Axis, between_walls


class WallNormal:
    """Matrices along the axis between the walls, float64.

    A function that vanishes at both walls is held by its coefficients in the eigenvectors of the second derivative,
    ordered by parity. Matrices "from coefficients" have a row for every point, those "to coefficients" a column for
    every point; what lies on the walls does not enter the latter.
    """

    def __init__(self, axis: Axis, device: torch.device) -> None:
        self.axis = axis
        self.derivative: Float[Tensor, "point point"] = torch.from_numpy(axis.derivative).to(device)
        self.mean: Float[Tensor, " point"] = torch.from_numpy(axis.weights / axis.length).to(device)
        """Quadrature weights of the mean over the distance between the walls."""
        second = axis.derivative @ axis.derivative
        eigenvalues, vectors, inverse = _diagonalised(second[1:-1, 1:-1])
        self.eigenvalues: Float[Tensor, " coefficient"] = torch.from_numpy(eigenvalues).to(device)
        self.values: Float[Tensor, "point coefficient"] = torch.from_numpy(np.pad(vectors, ((1, 1), (0, 0)))).to(device)
        """From coefficients to values, exactly 0 at the walls."""
        self.coefficients: Float[Tensor, "coefficient point"] = torch.from_numpy(np.pad(inverse, ((0, 0), (1, 1)))).to(
            device
        )
        self.wall_source: Float[Tensor, "coefficient wall"] = torch.from_numpy(
            np.ascontiguousarray(inverse @ second[1:-1, [0, -1]])
        ).to(device)
        """What values at the two walls add to the second derivative, as coefficients."""

    @cached_property
    def slopes(self) -> Float[Tensor, "point coefficient"]:
        """From coefficients to the first derivative."""
        return self.derivative @ self.values

    @cached_property
    def wall_slopes(self) -> Float[Tensor, "wall coefficient"]:
        """From coefficients to the first derivative at the two walls."""
        return self.slopes[[0, -1]].contiguous()

    @cached_property
    def clamped_slopes(self) -> Float[Tensor, "point coefficient"]:
        """`slopes` for functions whose derivative at the walls is known to be 0: it is so exactly."""
        found = self.slopes.clone()
        found[[0, -1]] = 0
        return found


def interpolation(axis: Axis, points: Float[np.ndarray, " wanted"]) -> Float[np.ndarray, "wanted point"]:
    """Matrix from values at an axis between walls to those at other points between the same walls.

    Through Chebyshev points goes their polynomial (barycentric form, Berrut and Trefethen 2004), through others a
    natural cubic spline. Points that coincide are copied.
    """
    own = axis.points
    if not axis.chebyshev:
        return np.asarray(CubicSpline(own, np.eye(len(own)), axis=0, bc_type="natural")(points))
    own = between_walls(axis.name, len(axis), axis.length, float(own[0])).points  # files hold float32
    weights = (-1.0) ** np.arange(len(own))
    weights[[0, -1]] /= 2
    distance = np.asarray(points)[:, None] - own
    same = np.abs(distance) < 1e-12 * axis.length
    shares = weights / np.where(same, 1.0, distance)
    matrix = shares / shares.sum(axis=1, keepdims=True)
    copied = same.any(axis=1)
    matrix[copied] = same[copied]
    return np.asarray(matrix)


def _diagonalised(
    matrix: Float[np.ndarray, "n n"],
) -> tuple[Float[np.ndarray, " n"], Float[np.ndarray, "n n"], Float[np.ndarray, "n n"]]:
    """Eigenvalues, eigenvectors as columns and their inverse of a second derivative with zero walls.

    Its eigenvalues are real, negative and distinct (Gottlieb and Lustman 1983). The even and the odd functions are
    taken for themselves: half the size, and no even part in an odd vector through rounding.
    """
    n = len(matrix)
    middle, half = n // 2, n - n // 2
    eigenvalues, vectors, inverse = [], np.zeros((n, n)), np.zeros((n, n))
    for sign, size, columns in ((1, half, slice(0, half)), (-1, middle, slice(half, n))):
        # The upper half of the points follows from the lower one by symmetry.
        extend = np.eye(n)[:, :size] + sign * np.eye(n)[::-1, :size]
        if size > middle:
            extend[middle, middle] = 1
        found, small = np.linalg.eig(matrix[:size] @ extend)
        order = np.argsort(-found.real)
        small = small.real[:, order]
        eigenvalues.append(found.real[order])
        vectors[:, columns] = extend @ small
        inverse[columns] = np.linalg.inv(small) @ extend.T / 2
        if size > middle:
            inverse[columns, middle] *= 2
    return np.concatenate(eigenvalues), vectors, inverse
