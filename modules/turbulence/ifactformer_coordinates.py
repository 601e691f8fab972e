"""What the factorized operator computes once per grid: rotary tables, features of position, quadrature weights."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from data.grid import Grid

PER_UNIT = 64.0
"""Rotary angles per unit of the coordinate: 1 over the published lowest frequency 1/64."""
BASE = 10000.0
UNIFORM = 1e-6
"""Quadrature weights that differ by less count as equal, and then cost nothing."""


@dataclass(frozen=True)
class RotaryTable:
    """Cosines and sines of the angles of one axis; feature i turns with feature i + d/2."""

    cos: Float[Tensor, "point half"]
    sin: Float[Tensor, "point half"]

    def rotate(self, features: Float[Tensor, "batch head point d"]) -> Float[Tensor, "batch head point d"]:
        """Features turned by the angle of their point (Su et al. 2021)."""
        first, second = features.chunk(2, dim=-1)
        return torch.cat([first * self.cos - second * self.sin, second * self.cos + first * self.sin], dim=-1)


@dataclass(frozen=True)
class BlockTables:
    """What one weight set needs of a grid."""

    position: Float[Tensor, "*grid dim"]
    """Sines and cosines of the position, before the learned linear map."""
    rotary: tuple[RotaryTable, ...]


@dataclass(frozen=True)
class GridTables:
    """What the operator needs of a grid."""

    blocks: tuple[BlockTables, ...]
    weights: tuple[Float[Tensor, " point"] | None, ...]
    """Quadrature weights of each axis, their mean 1; None where all are equal."""


def published_coordinates(grid: Grid) -> tuple[Float[Tensor, " point"], ...]:
    """Coordinates as the published network is given them, float64: equally spaced from 0 to the length of each axis.

    Both ends are included, which on a periodic axis makes the spacing L/(n - 1) instead of L/n, and walls are taken
    for an axis of equal spacing.
    """
    return tuple(torch.linspace(0, axis.length, len(axis), dtype=torch.float64) for axis in grid.axes)


def grid_coordinates(grid: Grid) -> tuple[Float[Tensor, " point"], ...]:
    """The true coordinates in the same unit of length, float64, counted from the first point of each axis."""
    return tuple(torch.from_numpy(axis.points - axis.points[0]) for axis in grid.axes)


def harmonic_coordinates(grid: Grid) -> tuple[Float[Tensor, " point"], ...]:
    """Phases in periods, float64: the coordinate over the period, or over twice the distance of the walls."""
    return tuple(
        phase / (axis.length if axis.periodic else 2 * axis.length)
        for phase, axis in zip(grid_coordinates(grid), grid.axes, strict=True)
    )


def quadrature_weights(grid: Grid) -> tuple[Float[Tensor, " point"], ...]:
    """Weights of the grid's own quadrature along each axis, float64."""
    return tuple(torch.from_numpy(axis.weights) for axis in grid.axes)


def inverse_frequencies(d: int) -> Float[Tensor, " half"]:
    """Angle of each pair of features relative to the first pair's, float32 as published."""
    return 1.0 / BASE ** (torch.arange(0, d, 2).float() / d)


def harmonic_frequencies(d: int) -> Float[Tensor, " half"]:
    """Pair k of the features turns k times in a period, k = 0, 1, …: float32, for `harmonic_coordinates`.

    Products of a query and a key then depend on the distance as a Fourier series does, so kernels are periodic where
    the axis is; with d/2 of at least half the points they can be any convolution.
    """
    return 2 * math.pi / PER_UNIT * torch.arange(d // 2).float()


def harmonic_positions(axes: int, features: int) -> Float[Tensor, "axis half"]:
    """Whole wavenumbers 1, 2, … along one axis after the other, float32, for `harmonic_coordinates`."""
    places = torch.arange(features)
    frequencies = torch.zeros(axes, features)
    frequencies[places % axes, places] = 1.0 + places // axes
    return frequencies


def rotary_table(coordinates: Float[Tensor, " point"], frequencies: Float[Tensor, " half"]) -> RotaryTable:
    """The table of one axis, in the precision of the frequencies."""
    angles = torch.outer(coordinates.to(frequencies) * PER_UNIT, frequencies)
    return RotaryTable(angles.cos(), angles.sin())


def position_features(
    coordinates: Sequence[Float[Tensor, " _"]], frequencies: Float[Tensor, "axis half"]
) -> Float[Tensor, "*grid dim"]:
    """Sines, then cosines, of the coordinates of every point times a Gaussian matrix (Tancik et al. 2020)."""
    points = torch.stack(torch.meshgrid([c.to(frequencies) for c in coordinates], indexing="ij"), dim=-1)
    angles = 2 * math.pi * (points @ frequencies)
    return torch.cat([angles.sin(), angles.cos()], dim=-1)


def relative_weights(weights: Float[Tensor, " point"], like: Tensor) -> Float[Tensor, " point"] | None:
    """Weights scaled to a mean of 1, in the precision of `like`; None where all are equal."""
    relative = weights.to(device=like.device, dtype=torch.float64) / weights.double().mean().to(like.device)
    return None if bool(((relative - 1).abs() < UNIFORM).all()) else relative.to(like.dtype)
