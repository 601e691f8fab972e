"""The path that carries one source point to one target point."""

from dataclasses import dataclass

from jaxtyping import Bool, Float
from torch import Tensor

from modules.geometry.manifold import Manifold, Point, Tangent

Time = Float[Tensor, " batch"]
"""One time per sample, 0 = source (noise), 1 = target (data)."""
Mask = Bool[Tensor, "batch *masked"]
"""True where an event counts, over leading axes of the events; for residues [batch, residue]."""


@dataclass(frozen=True)
class PathSample:
    """A point on a path and the velocity with which the path passes it."""

    x_t: Point
    velocity: Tangent


def left_align(t: Time, x: Point) -> Tensor:
    """`t` with trailing axes of length one, so that it broadcasts over the event axes of `x`."""
    return t.to(x.dtype).reshape(-1, *(1,) * (x.ndim - 1))


@dataclass(frozen=True)
class GeodesicPath:
    """x_t = exp_{x0}(t log_{x0} x1): the straight line on R^n (Liu et al. 2022, eq. 1), the shortest arc on SO(3)."""

    manifold: Manifold

    def sample(self, x0: Point, x1: Point, t: Time) -> PathSample:
        """The point at time `t` on the geodesic from `x0` to `x1`, and its velocity."""
        chord = self.manifold.log(x0, x1)
        # In the body frame the velocity of a geodesic is constant: no derivative to take.
        return PathSample(self.manifold.exp(x0, left_align(t, chord) * chord), velocity=chord)
