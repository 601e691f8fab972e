"""Axes: quadrature and derivative against functions with known integrals and derivatives."""

import numpy as np
import pytest

from data.errors import ConfigError
from data.grid import Axis, Grid, between_walls, fourier, stretched


@pytest.mark.parametrize("points", [2, 3, 8, 9, 33])
def test_clenshaw_and_curtis_is_exact_for_polynomials(points: int) -> None:
    axis = between_walls("y", points, length=3.0, origin=-1.0)
    for degree in range(points):
        exact = (2.0 ** (degree + 1) - (-1.0) ** (degree + 1)) / (degree + 1)
        assert axis.weights @ axis.points**degree == pytest.approx(exact, rel=1e-12)
    assert np.all(axis.weights > 0)


def test_the_trapezoid_rule_where_points_are_of_any_spacing() -> None:
    axis = stretched("y", [0, 0.1, 0.5, 2])
    assert axis.weights @ (3 * axis.points + 1) == pytest.approx(8.0)
    assert not axis.chebyshev and not axis.uniform


@pytest.mark.parametrize("points", [4, 9, 32])
def test_chebyshev_derivatives_are_exact_for_polynomials(points: int) -> None:
    axis = between_walls("y", points, length=2.0)
    for degree in range(1, points):
        found = axis.derivative @ axis.points**degree
        assert found == pytest.approx(degree * axis.points ** (degree - 1), abs=1e-12 * points**2 * 2**degree)
    assert np.all(axis.derivative @ np.ones(points) == pytest.approx(0, abs=1e-12))


@pytest.mark.parametrize("points", [7, 8])
def test_fourier_derivatives_are_exact_for_waves(points: int) -> None:
    axis = fourier("x", points, length=5.0, origin=1.0)
    wave = 2 * np.pi * 2 / 5.0
    found = axis.derivative @ np.sin(wave * axis.points)
    assert found == pytest.approx(wave * np.cos(wave * axis.points), abs=1e-12)


def test_derivatives_between_neighbours_are_exact_for_parabolas() -> None:
    axis = stretched("y", [0, 0.1, 0.5, 2, 2.2])
    assert axis.derivative @ axis.points**2 == pytest.approx(2 * axis.points)


def test_every_third_chebyshev_point_in_single_precision_is_one_of_a_coarser_grid() -> None:
    axis = stretched("y", between_walls("y", 97).points.astype(np.float32)[::3])
    assert axis.chebyshev
    assert Grid((axis,)).same(Grid((between_walls("y", 33),)))


def test_weights_of_a_grid_are_shares_of_its_volume() -> None:
    grid = Grid((fourier("x", 4, 7.0), between_walls("y", 9)))
    assert grid.weights.shape == grid.shape == (4, 9)
    assert grid.weights.sum() == pytest.approx(1)
    assert (grid.weights * grid.axes[1].points ** 2).sum() == pytest.approx(4 / 3)
    assert grid.walls == 1 and grid.homogeneous == (0,)


def test_refuses_what_is_no_axis() -> None:
    with pytest.raises(ConfigError, match="increasing"):
        stretched("y", [0, 2, 1])
    with pytest.raises(ConfigError, match="spacing"):
        Axis("x", np.linspace(0, 1, 5), 1.0, periodic=True)
    with pytest.raises(ConfigError, match="different names"):
        Grid((fourier("x", 4, 1.0), fourier("x", 4, 1.0)))
    with pytest.raises(ConfigError, match="at most one"):
        _ = Grid((between_walls("y", 4), between_walls("z", 4))).walls
