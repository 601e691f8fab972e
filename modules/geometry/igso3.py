"""IGSO(3), the isotropic Gaussian on rotations: Brownian motion on SO(3) spreads to it (Nikolayev & Savyolov 1997)."""

import math
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Float
from torch import Tensor

from data.errors import ConfigError
from modules.geometry.frames import direction
from modules.geometry.precision import exact

NODES = 1000
"""Angles in the table of the inverse distribution."""


@dataclass(frozen=True)
class IGSO3:
    """IGSO(3) around the identity: a uniform axis, and an angle whose distribution is known as a series.

    With c_l = (2l + 1) exp(-l(l + 1) sigma^2 / 2) the density of the angle is 2/pi sin(w/2) sum c_l sin((l + 1/2) w);
    it integrates term by term, so the distribution function needs no quadrature. `sigma` in radians, >= 0.01.
    """

    sigma: float

    def __post_init__(self) -> None:
        if not 0.01 <= self.sigma < math.inf:
            raise ConfigError(
                f"sigma of IGSO(3) must be at least 0.01 radians and finite, got {self.sigma}; 1.5 is usual, and a "
                "smaller spread than 0.01 is no noise for any purpose here."
            )

    @cached_property
    def orders(self) -> Float[Tensor, "order 1"]:
        """l = 0, 1, ... up to where exp(-l(l + 1) sigma^2 / 2) is below the rounding of float64."""
        return torch.arange(math.ceil(10.0 / self.sigma) + 2, dtype=torch.float64)[:, None]

    @cached_property
    def coefficients(self) -> Float[Tensor, "order 1"]:
        return (2 * self.orders + 1) * torch.exp(-0.5 * self.sigma**2 * self.orders * (self.orders + 1))

    def density(self, angle: Float[Tensor, " angle"]) -> Float[Tensor, " angle"]:
        """Probability density of the rotation angle, per radian, at angles in [0, pi]; float64."""
        w = angle.cpu().double()
        return (2 / math.pi) * torch.sin(w / 2) * (self.coefficients * torch.sin((self.orders + 0.5) * w)).sum(0)

    def cdf(self, angle: Float[Tensor, " angle"]) -> Float[Tensor, " angle"]:
        """Probability of a smaller rotation angle, at angles in [0, pi]; float64."""
        w, order = angle.cpu().double(), self.orders
        primitive = torch.where(order > 0, torch.sin(order * w) / order.clamp_min(1), w)
        return (self.coefficients * (primitive - torch.sin((order + 1) * w) / (order + 1))).sum(0) / math.pi

    @cached_property
    def table(self) -> tuple[Float[Tensor, " node"], Float[Tensor, " node"]]:
        """Angles and their distribution function, to invert by interpolation.

        The function begins as the cube of the angle, and the angles lie as cubes: near 0 both grow alike.
        """
        angles = torch.linspace(0, 1, NODES + 1, dtype=torch.float64)[1:] ** 3 * math.pi
        values = self.cdf(angles).clamp(0, 1).cummax(0).values
        zero = torch.zeros(1, dtype=torch.float64)
        return torch.cat([zero, angles]), torch.cat([zero, values])

    def angle(self, uniform: Float[Tensor, "*batch"]) -> Float[Tensor, "*batch"]:
        """The rotation angles (radians) whose distribution function is `uniform`, numbers in [0, 1]."""
        u = exact(uniform).contiguous()
        angles, values = (column.to(u.device) for column in self.table)
        right = torch.searchsorted(values, u).clamp(1, NODES)
        low, high = values[right - 1], values[right]
        share = ((u - low) / (high - low).clamp_min(1e-300)).clamp(0, 1)
        return torch.lerp(angles[right - 1], angles[right], share).to(uniform)

    def sample(self, uniform: Float[Tensor, "*batch"], normal: Float[Tensor, "*batch 3"]) -> Float[Tensor, "*batch 3"]:
        """Rotation vectors (radians) from uniform numbers in [0, 1) for the angle and normal ones for the axis."""
        return self.angle(uniform)[..., None] * direction(normal)
