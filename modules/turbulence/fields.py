"""What fields on a grid have in common: weights of their points, means over periodic axes, what fluctuates."""

import torch
from jaxtyping import Float
from torch import Tensor

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
