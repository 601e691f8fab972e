"""The spaces that points move in, reduced to the two maps transport needs."""

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from jaxtyping import Float
from torch import Tensor

Point = Float[Tensor, "batch *event"]
Tangent = Float[Tensor, "batch *event"]


@runtime_checkable
class Manifold(Protocol):
    """A geodesically complete manifold whose tangents are plain vectors.

    `log(x, y)` is the velocity that leads from x to y along the shortest geodesic in unit time, and `exp(x, v)` follows
    that geodesic, so that `exp(x, log(x, y)) == y`.
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
