"""The spaces that points move in, reduced to the two maps transport needs."""

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from modules.geometry import quaternion

Point = Float[Tensor, "batch *event"]
Tangent = Float[Tensor, "batch *tangent"]
"""A plain vector at each point; its last axis may be shorter than the point's, as on SO(3): 3 against 4."""


@runtime_checkable
class Manifold(Protocol):
    """A geodesically complete manifold whose tangents are plain vectors.

    `log(x, y)` is the velocity that leads from x to y along the shortest geodesic in unit time, and `exp(x, v)` follows
    that geodesic, so that `exp(x, log(x, y)) == y`. Tangents are in the frame of their point, so that the velocity of a
    geodesic is constant along it.
    """

    def exp(self, x: Point, v: Tangent) -> Point:
        """The point reached from `x` after unit time with initial velocity `v`."""
        ...

    def log(self, x: Point, y: Point) -> Tangent:
        """The velocity at `x` whose geodesic is at `y` after unit time."""
        ...


@dataclass(frozen=True)
class Euclidean:
    """R^n with any event shape: geodesics are straight lines."""

    def exp(self, x: Point, v: Tangent) -> Point:
        return x + v

    def log(self, x: Point, y: Point) -> Tangent:
        return y - x


@dataclass(frozen=True)
class SO3:
    """Rotations: points are unit quaternions [..., 4], tangents rotation vectors in the body frame [..., 3] (rad)."""

    def exp(self, x: Point, v: Tangent) -> Point:
        return quaternion.normalise(quaternion.multiply(x, quaternion.exp(v)))

    def log(self, x: Point, y: Point) -> Tangent:
        return quaternion.log(quaternion.multiply(quaternion.conjugate(x), y))


@dataclass(frozen=True)
class Part:
    """One factor of a product: a manifold and the lengths of its points and tangents on the last axis."""

    manifold: Manifold
    point: int
    tangent: int


@dataclass(frozen=True)
class Product:
    """A product of manifolds, side by side on the last axis; each factor moves on its own."""

    parts: tuple[Part, ...]

    @property
    def point_sizes(self) -> list[int]:
        return [part.point for part in self.parts]

    @property
    def tangent_sizes(self) -> list[int]:
        return [part.tangent for part in self.parts]

    def exp(self, x: Point, v: Tangent) -> Point:
        pieces = zip(self.parts, x.split(self.point_sizes, -1), v.split(self.tangent_sizes, -1), strict=True)
        return torch.cat([part.manifold.exp(xs, vs) for part, xs, vs in pieces], dim=-1)

    def log(self, x: Point, y: Point) -> Tangent:
        pieces = zip(self.parts, x.split(self.point_sizes, -1), y.split(self.point_sizes, -1), strict=True)
        return torch.cat([part.manifold.log(xs, ys) for part, xs, ys in pieces], dim=-1)


FRAMES = Product((Part(SO3(), 4, 3), Part(Euclidean(), 3, 3)))
"""Residue frames [..., 7]: unit quaternion, then translation; tangents [..., 6]: rotation vector, then velocity."""
