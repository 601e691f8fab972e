"""The velocity of a vorticity: one wave by hand, random fields by the laws, and how a stepper shows it."""

import math

import numpy as np
import pytest
import torch

from data.errors import ConfigError
from data.grid import Grid, fourier
from modules.turbulence.fields import velocity_of
from modules.turbulence.fno import FNOConfig
from modules.turbulence.losses import LossConfig
from modules.turbulence.projections import divergence
from modules.turbulence.stepper import Stepper, StepperConfig
from tests.modules.turbulence.field_makers import GRIDS, Pointwise, field


def test_one_wave() -> None:
    grid = Grid((fourier("x", 12, 2 * np.pi), fourier("y", 10, 3.0)))
    x, y = torch.meshgrid(*(torch.from_numpy(axis.points) for axis in grid.axes), indexing="ij")
    k, m = 2.0, 2 * math.pi / 3.0
    stream = torch.cos(k * x) * torch.sin(m * y)
    vorticity = (k**2 + m**2) * stream
    expected = torch.stack([m * torch.cos(k * x) * torch.cos(m * y), k * torch.sin(k * x) * torch.sin(m * y)], dim=-1)
    torch.testing.assert_close(velocity_of(vorticity[..., None], grid), expected)


def test_laws() -> None:
    grid = Grid((fourier("x", 11, 2.0), fourier("y", 9, 3.0)))
    vorticity = field(grid, components=1)
    vorticity = vorticity - vorticity.mean(dim=(1, 2), keepdim=True)
    velocity = velocity_of(vorticity, grid)
    d_x, d_y = (torch.as_tensor(axis.derivative) for axis in grid.axes)
    curl = torch.einsum("ij,bjk->bik", d_x, velocity[..., 1]) - torch.einsum("ij,bkj->bki", d_y, velocity[..., 0])
    torch.testing.assert_close(curl, vorticity[..., 0])
    assert divergence(velocity, grid).abs().max() < 1e-12
    assert velocity.mean(dim=(1, 2)).abs().max() < 1e-14


def test_a_stepper_shows_the_velocity_and_steps_the_vorticity() -> None:
    grid = GRIDS["square"]
    config = StepperConfig(components=1, axes=2, history=2, velocity=True, increment=True)
    network = Pointwise(3, 2).double()
    model = Stepper(config, network).double()
    model.set_statistics([0.7], [2.0], [0.0], [0.5])
    past = field(grid, batch=4, components=1).unflatten(0, (2, 2))
    found = model(past, grid)
    (seen,) = network.shown
    torch.testing.assert_close(seen[..., :1], (past - 0.7) / 2, rtol=0, atol=1e-7)
    torch.testing.assert_close(seen[..., 1:], 4 * velocity_of(past, grid) / 2)
    torch.testing.assert_close(found, past[:, -1] + 0.5 * network(seen, grid)[..., :1])
    built = StepperConfig(components=1, axes=2, velocity=True, network=FNOConfig(modes=4, width=4, layers=1)).build()
    assert built.network.config.components == 3


def test_loss_of_the_velocity() -> None:
    """A wave of half the wavenumber has twice the velocity: its error counts four times in the square."""
    grid = Grid((fourier("x", 16, 2 * np.pi), fourier("y", 12, 2 * np.pi)))
    x = torch.from_numpy(grid.axes[0].points)[:, None].expand(grid.shape)
    truth = (torch.cos(2 * x) + torch.cos(4 * x))[None, ..., None]
    unit = torch.ones(1, 1, dtype=torch.float64)
    plain, weighted = (LossConfig(kind="increment", velocity=weight) for weight in (0.0, 3.0))
    for missing, share in ((2, 2 / math.sqrt(5)), (4, 1 / math.sqrt(5))):
        found = truth - torch.cos(missing * x)[None, ..., None]
        difference = weighted.per_sample(found, truth, grid, unit) - plain.per_sample(found, truth, grid, unit)
        torch.testing.assert_close(difference, torch.tensor([3 * share], dtype=torch.float64))


def test_refusals() -> None:
    with pytest.raises(ConfigError, match="1 component, 2 axes"):
        StepperConfig(components=3, axes=3, velocity=True).build()
    with pytest.raises(ConfigError, match="weight 'velocity' must not be negative"):
        LossConfig(velocity=-1.0)
    with pytest.raises(ConfigError, match="two periodic axes"):
        velocity_of(field(GRIDS["turned"], components=1), GRIDS["turned"])
