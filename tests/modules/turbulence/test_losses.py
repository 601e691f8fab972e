"""Losses: their values on known fields, what they see and do not see, and gradients that exist."""

import numpy as np
import pytest
import torch

from data.errors import ConfigError
from data.grid import Grid, between_walls, fourier
from modules.turbulence.fields import point_weights
from modules.turbulence.losses import LossConfig, scaled_error, spectral_error
from modules.turbulence.metrics import relative_l2
from tests.modules.turbulence.field_makers import GRIDS, field

KINDS = ["relative_l2", "fluctuation", "increment"]


def unit_of(grid: Grid, kind: str, components: int) -> torch.Tensor:
    heights = 1 if grid.walls is None or kind != "fluctuation" else grid.shape[grid.walls]
    return 0.5 + torch.rand(heights, components, generator=torch.Generator().manual_seed(3), dtype=torch.float64)


def test_the_default_is_the_published_loss() -> None:
    """Sample by sample, over all points and components together."""
    grid = GRIDS["channel"]
    found, truth = field(grid, seed=1), field(grid)
    loss = LossConfig().per_sample(found, truth, grid, unit_of(grid, "relative_l2", 3))
    for k in range(3):
        expected = (found[k] - truth[k]).norm() / truth[k].norm()
        torch.testing.assert_close(loss[k], expected, rtol=1e-13, atol=0)


@pytest.mark.parametrize("name", GRIDS)
@pytest.mark.parametrize("quadrature", [False, True])
def test_errors_in_units_of_each_height(name: str, quadrature: bool) -> None:
    grid = GRIDS[name]
    found, truth = field(grid, components=2, seed=1), field(grid, components=2)
    unit = unit_of(grid, "fluctuation", 2)
    weights = point_weights(grid, truth) if quadrature else None
    whole = np.ones((*grid.shape, 2))
    if grid.walls is not None:
        whole = np.moveaxis(np.moveaxis(whole, grid.walls, -2) * unit.numpy(), -2, grid.walls)
    else:
        whole = whole * unit.numpy()
    square = ((found - truth).numpy() / whole) ** 2
    share = grid.weights[..., None] / 2 if quadrature else 1 / whole.size
    expected = np.sqrt((square * share).reshape(3, -1).sum(axis=1))
    np.testing.assert_allclose(scaled_error(found, truth, grid, unit, weights), expected, rtol=1e-12)


def test_an_error_of_one_unit_everywhere_is_one() -> None:
    grid = GRIDS["channel"]
    truth, unit = field(grid), unit_of(grid, "fluctuation", 3)
    found = truth + unit[:, None, :]
    for weights in (None, point_weights(grid, truth)):
        torch.testing.assert_close(
            scaled_error(found, truth, grid, unit, weights), torch.ones(3, dtype=torch.float64), rtol=1e-12, atol=0
        )


def test_at_walls_where_nothing_moves_errors_count_in_the_unit_of_the_component() -> None:
    grid = Grid((fourier("x", 4, 1.0), between_walls("y", 5)))
    unit = torch.tensor([[0.0], [3.0], [3.0], [3.0], [0.0]], dtype=torch.float64)
    truth = torch.zeros(1, 4, 5, 1, dtype=torch.float64)
    found = truth.clone()
    found[:, :, 0] = 1.0
    whole = np.sqrt(27 / 5)
    assert scaled_error(found, truth, grid, unit).item() == pytest.approx(np.sqrt(4 / 20) / whole)


@pytest.mark.parametrize("name", GRIDS)
def test_spectra_do_not_see_a_shift_but_an_amplitude(name: str) -> None:
    grid = GRIDS[name]
    truth = field(grid)
    axis = grid.homogeneous[0]
    shifted = truth.roll(2, dims=axis + 1)
    assert spectral_error(shifted, truth, grid).max() < 1e-12
    # Energies four times as large: log 4, but for the floor.
    found = 2 * (truth - truth.mean(dim=[a + 1 for a in grid.homogeneous], keepdim=True))
    torch.testing.assert_close(
        spectral_error(found, truth, grid), torch.full((3,), np.log(4.0), dtype=torch.float64), rtol=2e-2, atol=0
    )


def test_spectra_see_a_smooth_prediction() -> None:
    """The mean field, the best guess of a one-step loss where nothing is certain, has hardly any spectrum."""
    grid = GRIDS["square"]
    truth = field(grid, components=1)
    assert spectral_error(0.1 * truth, truth, grid).min() > 3.5
    assert relative_l2(0.1 * truth, truth).max() < 1


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_are_finite_without_error_and_without_flow(kind: str) -> None:
    """A first frame at rest, or a perfect prediction, must not poison a training."""
    grid = GRIDS["channel"]
    truth = field(grid).float()
    loss = LossConfig(kind=kind, spectral=0.1)  # type: ignore[arg-type]
    unit = unit_of(grid, kind, 3).float()
    for start in (truth.clone(), torch.zeros_like(truth)):
        found = start.requires_grad_()
        loss.per_sample(found, truth, grid, unit).sum().backward()
        assert found.grad is not None
        assert found.grad.isfinite().all()


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_against_differences(kind: str) -> None:
    grid = GRIDS["turned"]
    truth, found = field(grid, batch=1), field(grid, batch=1, seed=1).requires_grad_()
    unit = unit_of(grid, kind, 2)
    loss = LossConfig(kind=kind, spectral=0.3, quadrature=True)  # type: ignore[arg-type]
    assert torch.autograd.gradcheck(lambda x: loss.per_sample(x, truth, grid, unit), (found,), fast_mode=True)


def test_refuses_a_negative_weight() -> None:
    with pytest.raises(ConfigError, match="spectral"):
        LossConfig(spectral=-1.0)
