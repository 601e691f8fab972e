"""One stage of the time step of a channel: Crank and Nicolson's viscous term with v' = 0 at the walls."""

import torch
from jaxtyping import Complex, Float
from torch import Tensor

from data.synthetic.turbulence.channel_products import along
from data.synthetic.turbulence.chebyshev import WallNormal

ADVANCED = (8 / 15, 5 / 12, 3 / 4)
"""Share of the step with which each stage's convective term counts (Spalart, Moser and Rogers 1991)."""
HELD_OVER = (0.0, -17 / 60, -5 / 12)
"""Share with which the convective term of the stage before counts."""


class Stage:
    """The implicit part of one stage, for all wavenumbers.

    With the diffusion number β = nu dt (γ + ζ)/2, Crank and Nicolson's (1 - β∇²) q⁺ = (1 + β∇²) q + f is
    (1 - β∇²)(q⁺ + q) = 2q + f: the viscous term itself is never formed. All in coefficients, complex128.
    """

    def __init__(
        self, wall: WallNormal, squared: Float[Tensor, "z x"], poisson: Float[Tensor, "coefficient z x"], beta: float
    ) -> None:
        self.wall = wall
        self.damping = 1 / (1 + beta * (squared - wall.eigenvalues[:, None, None]))
        """The inverse of 1 - β∇²."""
        self.lift = self.damping * poisson
        # ∇²v at the walls has no condition of its own: it takes the values that make v' vanish there.
        influence = torch.einsum("ac,czx,cb->zxab", wall.wall_slopes, self.lift, wall.wall_source)
        self.correction = torch.linalg.inv(influence)

    def vorticity(
        self, old: Complex[Tensor, "coefficient z x"], source: Complex[Tensor, "coefficient z x"]
    ) -> Complex[Tensor, "coefficient z x"]:
        """ω_y after the stage."""
        return self.damping * (2 * old + source) - old

    def normal(
        self, old: Complex[Tensor, "coefficient z x"], source: Complex[Tensor, "coefficient z x"]
    ) -> Complex[Tensor, "coefficient z x"]:
        """v after the stage; the source is that of ∇²v under the inverse Laplacian."""
        found = self.damping * (2 * old + source) - old
        slopes = along(self.wall.wall_slopes, found)
        values = torch.einsum("zxab,bzx->azx", self.correction.to(found.dtype), slopes)
        return found - self.lift * along(self.wall.wall_source, values)
