"""Errors: against their formulas in numpy, and values known beforehand."""

import numpy as np
import pytest
import torch

from data.grid import Grid, between_walls, fourier
from modules.turbulence.fields import point_weights
from modules.turbulence.metrics import correlation, relative_l2, steps_until, vrmse
from tests.modules.turbulence.field_makers import GRIDS, field


@pytest.mark.parametrize("name", ["square", "channel"])
def test_formulas(name: str) -> None:
    grid = GRIDS[name]
    found, truth = field(grid, seed=1), field(grid)
    a, b = found.numpy(), truth.numpy()
    for k in range(len(a)):
        expected = np.sqrt(((a[k] - b[k]) ** 2).sum() / (b[k] ** 2).sum())
        np.testing.assert_allclose(relative_l2(found, truth)[k], expected, rtol=1e-13)
        for c in range(a.shape[-1]):
            mse = ((a[k, ..., c] - b[k, ..., c]) ** 2).mean()
            np.testing.assert_allclose(
                vrmse(found, truth)[k, c], np.sqrt(mse / (b[k, ..., c].var(ddof=1) + 1e-7)), rtol=1e-13
            )
    weights = point_weights(grid, truth)
    w = grid.weights[..., None]
    expected = np.sqrt((w * (a[0] - b[0]) ** 2).sum() / (w * b[0] ** 2).sum())
    np.testing.assert_allclose(relative_l2(found, truth, weights)[0], expected, rtol=1e-13)


def test_quadrature_is_the_integral() -> None:
    """The truth y on [0, 2], found y + y²: ∫y⁴ = 32/5, ∫y² = 8/3; the mean of (y-1)² is 1/3."""
    grid = Grid((fourier("x", 4, 1.0), between_walls("y", 9)))
    y = torch.as_tensor(grid.axes[1].points).expand(4, -1)[None, ..., None]
    weights = point_weights(grid, y)
    np.testing.assert_allclose(relative_l2(y + y**2, y, weights), np.sqrt(32 / 5 / (8 / 3)), rtol=1e-12)
    np.testing.assert_allclose(vrmse(y + y**2, y, weights), np.sqrt(16 / 5 / (1 / 3 + 1e-7)), rtol=1e-12)


def test_the_mean_as_prediction_has_a_vrmse_of_one() -> None:
    truth = field(GRIDS["box"])
    mean = truth.mean(dim=(1, 2, 3), keepdim=True).expand_as(truth)
    torch.testing.assert_close(vrmse(mean, truth), torch.ones(3, 3, dtype=torch.float64), rtol=2e-3, atol=0)


def test_correlation_is_of_the_fluctuations() -> None:
    """Waves a quarter, a half and a sixth of a period apart, over a mean profile that is no part of it."""
    grid = Grid((fourier("x", 24, 2 * np.pi), between_walls("y", 7)))
    x, y = torch.meshgrid(*(torch.as_tensor(axis.points) for axis in grid.axes), indexing="ij")
    truth = (20 * y + x.sin()).expand(4, -1, -1)[..., None]
    shifts = torch.tensor([0.0, np.pi / 2, np.pi, np.pi / 3], dtype=torch.float64)
    found = (20 * y + 3 * (x + shifts[:, None, None]).sin())[..., None]
    expected = torch.tensor([1.0, 0.0, -1.0, 0.5], dtype=torch.float64)[:, None]
    torch.testing.assert_close(correlation(found, truth, grid), expected, rtol=0, atol=1e-13)


@pytest.mark.parametrize(
    ("values", "level", "falling", "expected"),
    [
        ([0.1, 0.2, 0.4], 0.3, False, 2.5),
        ([0.1, 0.2, 0.3], 0.3, False, None),
        ([1.0, 2.0], 0.5, False, 0.5),
        ([0.1, float("nan")], 0.5, False, 1.0),
        ([0.1, float("inf")], 0.5, False, 1.0),
        ([0.9, 0.7, 0.3], 0.5, True, 2.5),
        ([0.6], 0.8, True, 0.5),
        ([0.9, 0.9], 0.5, True, None),
        ([], 0.5, False, None),
    ],
)
def test_steps_until(values: list[float], level: float, falling: bool, expected: float | None) -> None:
    found = steps_until(values, level, falling=falling)
    assert found == (None if expected is None else pytest.approx(expected))
