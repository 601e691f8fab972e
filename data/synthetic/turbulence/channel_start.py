"""Initial states of a channel: mean profiles with random low modes, and the nearest admissible field to a given one."""

import numpy as np
import torch
from jaxtyping import Complex, Float
from torch import Tensor

from data.synthetic.turbulence.channel_modes import Modes
from data.synthetic.turbulence.channel_products import along
from data.synthetic.turbulence.chebyshev import WallNormal

BATCH = 2**24
"""Numbers in the matrices that are solved at a time."""
LOW_MODES = (4, 6)
"""Highest modes along x and z of a random start."""


def laminar(y: Float[np.ndarray, " y"]) -> Float[np.ndarray, " y"]:
    """Plane Poiseuille flow between walls at 0 and 2 with mean velocity 1."""
    return 1.5 * y * (2 - y)


def reichardt(y: Float[np.ndarray, " y"], reynolds: float) -> Float[np.ndarray, " y"]:
    """Reichardt's (1951) law of the wall at the friction Reynolds number, in units of u_tau, y from 0 to 2."""
    plus = reynolds * np.minimum(y, 2 - y)
    return np.asarray(np.log1p(0.41 * plus) / 0.41 + 7.8 * (1 - np.exp(-plus / 11) - plus / 11 * np.exp(-plus / 3)))


def random_modes(modes: Modes, y: Float[np.ndarray, " y"], seed: int) -> Complex[Tensor, "3 y z x"]:
    """Smooth random fluctuations that vanish at the walls with their slope, each component with the rms 1.

    Neither divergence-free nor with a mean; complex128.
    """
    random = np.random.default_rng([seed, 0])
    shapes = np.stack([np.sin(np.pi / 2 * y) ** 2 * np.cos(np.pi / 2 * k * y) for k in range(4)])
    # Drawn for all low modes, whatever the grid holds: finer grids start from the same flow.
    drawn = random.standard_normal((3, 4, 2 * LOW_MODES[1] + 1, LOW_MODES[0] + 1, 2)) @ np.array([1, 1j])
    drawn[:, :, 0, 0] = 0
    drawn[:, :, LOW_MODES[1] + 1 :, 0] = drawn[:, :, LOW_MODES[1] : 0 : -1, 0].conj()
    spectra = np.einsum("ckzx,ky->cyzx", drawn, shapes)
    device = modes.kx.device
    points = (2 * LOW_MODES[0] + 2, 2 * LOW_MODES[1] + 2)
    low = Modes(points, modes.lengths, device)
    found = low.resized(torch.from_numpy(spectra).to(device), modes.points)
    return found / mean_square(found, torch.from_numpy(np.gradient(y) / 2).to(device)).sqrt()[:, None, None, None]


def mean_square(spectra: Complex[Tensor, "c y z x"], mean: Float[Tensor, " y"]) -> Float[Tensor, " c"]:
    """Volume mean of the square of each component, with weights `mean` along y (Parseval)."""
    squares = spectra.real.square() + spectra.imag.square()
    both = torch.full(spectra.shape[-1:], 2.0, dtype=squares.dtype, device=squares.device)
    both[0] = 1  # modes with kx > 0 stand for their conjugates too
    return torch.einsum("cyzx,y,x->c", squares, mean, both)


def nearest(
    velocity: Complex[Tensor, "3 y z x"], modes: Modes, wall: WallNormal
) -> tuple[Complex[Tensor, "coefficient z x"], Complex[Tensor, "coefficient z x"]]:
    """The divergence-free flow with no slip at the walls that is nearest to a velocity; coefficients of v and ω_y.

    ω_y is that of the velocity. v minimises the volume integral of |v - v*|² + |v' + i kx u* + i kz w*|²/k² over the
    polynomials with v = v' = 0 at the walls: what is admissible already is kept. The mean flow takes the place of ω_y
    at wavenumber 0, as U + i W.
    """
    u, v, w = velocity
    vorticity = 1j * (modes.kz * u - modes.kx * w)
    vorticity[:, 0, 0] = u[:, 0, 0].real + 1j * w[:, 0, 0].real
    held = (v.abs() + u.abs() + w.abs()).amax(0) > 0
    held[0, 0] = False
    normal = v.new_zeros(len(wall.eigenvalues), *modes.shape)
    squared = modes.squared[held]
    # Polynomials with no slope at the walls, in the eigenvectors: an orthonormal basis of what wall_slopes takes to 0.
    basis = torch.linalg.svd(wall.wall_slopes).Vh[2:].T
    values, slopes = wall.values @ basis, wall.slopes @ basis
    mass, stiffness = (m.T @ (wall.mean[:, None] * m) for m in (values, slopes))
    outflow = 1j * (modes.kx * u + modes.kz * w)
    right = modes.squared * along(values.T * wall.mean, v) - along(slopes.T * wall.mean, outflow)
    right = torch.view_as_real(right[:, held].T.contiguous())
    count = max(1, BATCH // mass.numel())
    found = torch.cat(
        [
            torch.linalg.solve(k2[:, None, None] * mass + stiffness, part)
            for k2, part in zip(squared.split(count), right.split(count), strict=True)
        ]
    )
    normal[:, held] = basis.to(v.dtype) @ torch.view_as_complex(found.contiguous()).T
    # Once more against the rounding in the basis.
    normal -= along(torch.linalg.pinv(wall.wall_slopes), along(wall.wall_slopes, normal))
    return normal, along(wall.coefficients, vorticity)
