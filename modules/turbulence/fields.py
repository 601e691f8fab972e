"""What fields on a grid have in common: weights of their points, means over periodic axes, what fluctuates."""

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from data.errors import ConfigError
from data.grid import Grid


def point_weights(grid: Grid, like: Tensor) -> Float[Tensor, "*grid"]:
    """Quadrature weights of the points, their sum 1, in the type and on the device of `like`."""
    return torch.as_tensor(grid.weights, dtype=like.dtype, device=like.device)


def profile(field: Float[Tensor, "batch *grid component"], grid: Grid) -> Float[Tensor, "batch *grid_or_1 component"]:
    """The mean over the periodic axes, which stay with length 1; a grid without any keeps the field."""
    along = [axis + 1 for axis in grid.homogeneous]
    return field.mean(dim=along, keepdim=True) if along else field


def fluctuation(field: Float[Tensor, "batch *grid component"], grid: Grid) -> Float[Tensor, "batch *grid component"]:
    """The field without its own mean over the periodic axes."""
    return field - profile(field, grid)


def fluctuation_energy(field: Float[Tensor, "batch *grid component"], grid: Grid) -> Float[Tensor, " batch"]:
    """Half the mean square of the fluctuation: mean over the volume, sum over the components.

    Of velocities it is the turbulent kinetic energy of one frame per mass, of a vorticity the enstrophy.
    """
    density = 0.5 * fluctuation(field, grid).square().sum(dim=-1)
    return (density * point_weights(grid, field)).flatten(1).sum(dim=1)


def velocity_of(vorticity: Float[Tensor, "*batch x y 1"], grid: Grid) -> Float[Tensor, "*batch x y 2"]:
    """The velocity of a vorticity in the periodic plane, by the streamfunction; without mean flow.

    ω = ∂v/∂x - ∂u/∂y, u = ∂ψ/∂y, v = -∂ψ/∂x, so -∇²ψ = ω. Nyquist modes have no derivative here.

    Raises:
        ConfigError: a grid that is no periodic plane.
    """
    if len(grid.axes) != 2 or grid.walls is not None:
        raise ConfigError("velocity from a vorticity: expected a grid of two periodic axes.")
    waves = []
    for axis, spaced in zip(grid.axes, (np.fft.fftfreq, np.fft.rfftfreq), strict=True):
        n = len(axis)
        k = 2 * np.pi * spaced(n, axis.length / n)
        if n % 2 == 0:
            k[n // 2] = 0
        waves.append(torch.as_tensor(k, dtype=vorticity.dtype, device=vorticity.device))
    along, across = waves[0][:, None], waves[1]
    square = along.square() + across.square()
    inverse = torch.where(square > 0, 1 / square.clamp_min(torch.finfo(square.dtype).tiny), 0.0)
    stream = torch.fft.rfft2(vorticity[..., 0]) * inverse
    modes = torch.stack([1j * across * stream, -1j * along * stream])
    return torch.fft.irfft2(modes, s=grid.shape).movedim(0, -1)
