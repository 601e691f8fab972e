"""Projections: the laws they impose, that they change nothing that obeys, and that they are the nearest fields."""

import numpy as np
import pytest
import torch
from torch import Tensor

from data.errors import ConfigError
from data.grid import Grid, between_walls, fourier
from modules.turbulence.fields import fluctuation, fluctuation_energy, point_weights
from modules.turbulence.projections import (
    ProjectionConfig,
    divergence,
    divergence_free,
    flux,
    no_slip,
    with_flux,
    within_band,
)
from tests.modules.turbulence.field_makers import GRIDS, WALLED, field

ANYTHING = torch.tensor([0.0, float("inf")])


def inner(a: Tensor, b: Tensor, grid: Grid) -> Tensor:
    return (a * b * point_weights(grid, a)[..., None]).sum()


def at_walls(values: Tensor, grid: Grid) -> Tensor:
    assert grid.walls is not None
    return values.movedim(grid.walls + 1, 0)[[0, -1]]


@pytest.mark.parametrize("name", GRIDS)
def test_the_projected_field_has_no_divergence(name: str) -> None:
    grid = GRIDS[name]
    given = field(grid)
    projected = divergence_free(given, grid)

    assert divergence(given, grid).abs().max() > 10
    assert divergence(projected, grid).abs().max() < 1e-12
    torch.testing.assert_close(divergence_free(projected, grid), projected, rtol=0, atol=1e-12)
    if grid.walls is not None:
        assert at_walls(projected, grid).abs().max() < 1e-14


@pytest.mark.parametrize("name", GRIDS)
def test_the_projection_is_orthogonal(name: str) -> None:
    """What it takes away is orthogonal, in energy, to every field that obeys: so it is the nearest one."""
    grid = GRIDS[name]
    given = no_slip(field(grid), grid)
    taken = given - divergence_free(given, grid)
    for seed in range(3):
        obeys = divergence_free(field(grid, seed=10 + seed), grid)
        scale = inner(obeys, obeys, grid).sqrt() * inner(taken, taken, grid).sqrt()
        assert abs(inner(taken, obeys, grid)) < 1e-12 * scale


def test_a_known_flow_comes_out_of_a_known_gradient() -> None:
    """On a periodic box: Taylor and Green's vortices plus the gradient of a potential."""
    grid = Grid((fourier("x", 16, 2 * np.pi), fourier("y", 12, 2 * np.pi)))
    x, y = torch.meshgrid(*(torch.as_tensor(axis.points) for axis in grid.axes), indexing="ij")
    vortices = torch.stack([x.cos() * y.sin(), -x.sin() * y.cos()], dim=-1)
    gradient = torch.stack([2 * (2 * x).cos() * y.cos(), -(2 * x).sin() * y.sin()], dim=-1)
    found = divergence_free((vortices + 3 * gradient)[None], grid)[0]
    torch.testing.assert_close(found, vortices, rtol=0, atol=1e-13)


def test_a_flow_between_walls_stays() -> None:
    """A wave in x whose stream function has double zeros at the walls, over Poiseuille's profile."""
    grid = Grid((fourier("x", 12, 2 * np.pi), between_walls("y", 17), fourier("z", 8, np.pi)))
    x, y, z = torch.meshgrid(*(torch.as_tensor(axis.points) for axis in grid.axes), indexing="ij")
    s, slope = (y * (2 - y)) ** 2, 4 * y * (2 - y) * (1 - y)
    wave = torch.stack([y * (2 - y) + slope * x.sin(), -s * x.cos(), (y * (2 - y)) * (2 * z).cos() * 0], dim=-1)[None]
    torch.testing.assert_close(divergence_free(wave, grid), wave, rtol=0, atol=1e-13)


def test_float32_is_projected_in_float64() -> None:
    grid = GRIDS["channel"]
    given = field(grid).float()
    found = divergence_free(given, grid)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, divergence_free(given.double(), grid).float(), rtol=0, atol=0)


@pytest.mark.parametrize("name", ["box", "channel"])
def test_gradients_pass_also_after_inference(name: str) -> None:
    grid = Grid(GRIDS[name].axes)
    with torch.inference_mode():
        divergence_free(field(grid), grid)
    given = field(grid, batch=1).requires_grad_()
    with torch.enable_grad():
        found = divergence_free(given, grid)
    other = field(grid, batch=1, seed=5)
    (gradient,) = torch.autograd.grad((found * other * point_weights(grid, other)[..., None]).sum(), given)
    # An orthogonal projection is its own adjoint in the inner product of the energy.
    expected = divergence_free(no_slip(other, grid), grid) * point_weights(grid, other)[..., None]
    torch.testing.assert_close(gradient, expected, rtol=0, atol=1e-13)


@pytest.mark.parametrize("name", WALLED)
def test_no_slip_is_zero_at_the_walls_alone(name: str) -> None:
    grid = GRIDS[name]
    given = field(grid)
    found = no_slip(given, grid)
    assert grid.walls is not None
    assert not at_walls(found, grid).any()
    inside = slice(1, -1)
    assert torch.equal(found.movedim(grid.walls + 1, 0)[inside], given.movedim(grid.walls + 1, 0)[inside])


@pytest.mark.parametrize("name", GRIDS)
def test_the_mass_flux_is_what_is_wanted(name: str) -> None:
    grid = GRIDS[name]
    given, before = divergence_free(field(grid), grid), field(grid, seed=1)
    found = with_flux(given, flux(before, grid), grid)
    kept = range(len(grid.axes)) if grid.walls is None else [grid.homogeneous[0]]
    for component in range(len(grid.axes)):
        wanted = flux(before if component in kept else given, grid)[:, component]
        torch.testing.assert_close(flux(found, grid)[:, component], wanted, rtol=0, atol=1e-14)
    assert divergence(found, grid).abs().max() < 1e-12
    torch.testing.assert_close(fluctuation(found, grid), fluctuation(given, grid), rtol=0, atol=1e-14)
    if grid.walls is not None:
        assert at_walls(found, grid).abs().max() < 1e-14


@pytest.mark.parametrize("name", GRIDS)
@pytest.mark.parametrize("components", [1, 4])
def test_energies_are_brought_into_the_band(name: str, components: int) -> None:
    grid = GRIDS[name]
    size = torch.tensor([0.1, 1.0, 10.0], dtype=torch.float64)
    shape = (-1, *([1] * (len(grid.axes) + 1)))
    given = field(grid, components=components) * size.reshape(shape)
    energy = fluctuation_energy(given, grid)
    band = torch.stack([energy[1] / 2, energy[1] * 2])
    found = within_band(given, grid, band)
    expected = torch.stack([band[0], energy[1], band[1]])
    torch.testing.assert_close(fluctuation_energy(found, grid), expected, rtol=1e-13, atol=0)
    torch.testing.assert_close(found[1], given[1], rtol=0, atol=1e-14)
    mean = [axis + 1 for axis in grid.homogeneous]
    torch.testing.assert_close(found.mean(dim=mean), given.mean(dim=mean), rtol=0, atol=1e-13)


def test_a_field_at_rest_stays_at_rest() -> None:
    grid = GRIDS["square"]
    given = torch.full((2, *grid.shape, 1), 3.0, requires_grad=True)
    found = within_band(given, grid, torch.tensor([1.0, 2.0]))
    found.sum().backward()
    assert torch.equal(found, given)
    assert given.grad is not None
    assert given.grad.isfinite().all()


def test_energy_is_that_of_the_continuous_field() -> None:
    """The mean of sin²x·y² (2-y)² over the channel is 1/2 · 8/15."""
    grid = GRIDS["channel"]
    x, y, _ = torch.meshgrid(*(torch.as_tensor(axis.points) for axis in grid.axes), indexing="ij")
    wave = (x / 2).sin() * y * (2 - y)
    velocity = torch.stack([wave + 5 * y, 2 * wave, 0 * wave], dim=-1)[None]
    expected = 0.5 * (1 + 4) * 0.5 * 8 / 15
    torch.testing.assert_close(fluctuation_energy(velocity, grid).item(), expected, rtol=1e-12, atol=0)


@pytest.mark.parametrize("name", GRIDS)
def test_all_laws_hold_together(name: str) -> None:
    grid = GRIDS[name]
    before = field(grid, seed=1)
    band = torch.tensor([2.0, 3.0], dtype=torch.float64)
    laws = ProjectionConfig(walls=True, divergence=True, mass_flux=True, energy_band=True)
    found = laws.apply(field(grid), before, grid, band)
    assert divergence(found, grid).abs().max() < 1e-11
    torch.testing.assert_close(
        flux(found, grid)[:, grid.homogeneous[0]], flux(before, grid)[:, grid.homogeneous[0]], rtol=0, atol=1e-13
    )
    energy = fluctuation_energy(found, grid)
    assert ((energy > 2 - 1e-12) & (energy < 3 + 1e-12)).all()
    if grid.walls is not None:
        assert at_walls(found, grid).abs().max() < 1e-13


def test_nothing_is_the_default() -> None:
    grid = GRIDS["channel"]
    given = field(grid)
    assert ProjectionConfig().apply(given, field(grid, seed=1), grid, ANYTHING) is given


def test_refuses_a_divergence_of_a_scalar() -> None:
    grid = GRIDS["square"]
    with pytest.raises(ConfigError, match="one velocity for each axis x, y, got 1"):
        divergence_free(field(grid, components=1), grid)


def test_refuses_walls_with_hardly_a_point_between_them() -> None:
    grid = Grid((fourier("x", 8, 1.0), between_walls("y", 4)))
    with pytest.raises(ConfigError, match="at least 5 points, got 4"):
        divergence_free(field(grid), grid)
