"""Transforms and filters against numpy, and against functions that a grid holds exactly."""

import math

import numpy as np
import pytest
import torch

from data.errors import ConfigError
from data.grid import Grid, fourier
from data.synthetic.turbulence.fourier import Box, IntegratingFactor, below, box, check_same_box, resized

GRID = Grid((fourier("x", 12, 4.0), fourier("y", 15, 2 * math.pi)))


def waves(grid: Grid, numbers: list[tuple[int, int]]) -> torch.Tensor:
    x, y = np.meshgrid(*(2 * np.pi * a.points / a.length for a in grid.axes), indexing="ij")
    return torch.from_numpy(sum(np.cos(k * x + j * y + 0.3 * j) for k, j in numbers))


def resampled(field: torch.Tensor, grid: Grid, wanted: Grid) -> torch.Tensor:
    modes = torch.fft.rfft2(field, norm="forward")
    return torch.fft.irfft2(resized(modes, grid.shape, wanted.shape), s=wanted.shape, norm="forward")


def test_derivatives_are_those_of_the_grid() -> None:
    flow = Box(GRID, torch.float64, "cpu")
    field = torch.randn(3, 12, 15, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for axis, k in enumerate(flow.wavenumbers):
        matrix = torch.from_numpy(GRID.axes[axis].derivative)
        expected = torch.tensordot(field, matrix, ([1 + axis], [1])).movedim(-1, 1 + axis)
        torch.testing.assert_close(flow.points(1j * k * flow.modes(field)), expected, rtol=0, atol=1e-12)


def test_parseval() -> None:
    for points in (12, 15):
        flow = Box(box(points, "xyz"), torch.float64, "cpu")
        field = torch.randn(3, points, points, points, dtype=torch.float64)
        assert flow.mean_square(flow.modes(field)) == pytest.approx(field.square().sum(0).mean().item(), rel=1e-13)


@pytest.mark.parametrize("points", [12, 15, 16, 33])
def test_products_of_kept_modes_have_no_aliases(points: int) -> None:
    """Against the product on a grid twice as fine."""
    flow = Box(box(points, "xy"), torch.float64, "cpu")
    a, b = (flow.modes(torch.randn(points, points, dtype=torch.float64)) * flow.kept for _ in range(2))
    here = flow.modes(flow.points(a) * flow.points(b)) * flow.kept
    fine = Box(box(2 * points, "xy"), torch.float64, "cpu")
    wide = [resized(m, (points,) * 2, (2 * points,) * 2) for m in (a, b)]
    there = resized(fine.modes(fine.points(wide[0]) * fine.points(wide[1])), (2 * points,) * 2, (points,) * 2)
    torch.testing.assert_close(here, there * flow.kept, rtol=0, atol=1e-14)
    assert flow.cutoff == max(k for k in range(points) if 3 * k < points)


@pytest.mark.parametrize("points", [6, 7])
def test_modes_of_a_real_field(points: int) -> None:
    """The projection is what a transform to points and back does, Nyquist modes of the last axis apart."""
    flow = Box(box(points, "xyz"), torch.float64, "cpu")
    generator = torch.Generator().manual_seed(0)
    modes = torch.randn(2, points, points, points // 2 + 1, generator=generator, dtype=torch.complex128)
    modes[..., -1] = 0
    torch.testing.assert_close(flow.real(modes), flow.modes(flow.points(modes)), rtol=0, atol=1e-14)


@pytest.mark.parametrize("wanted", [(8, 9), (9, 8), (24, 30), (11, 16), (12, 15)])
def test_change_of_grid_keeps_what_both_hold(wanted: tuple[int, int]) -> None:
    other = Grid(tuple(fourier(a.name, n, a.length) for a, n in zip(GRID.axes, wanted, strict=True)))
    common = [(0, 0), (1, 2), (-3, 1), (2, -3)]
    field = waves(GRID, common)
    torch.testing.assert_close(resampled(field, GRID, other), waves(other, common), rtol=0, atol=1e-13)
    torch.testing.assert_close(resampled(resampled(field, GRID, other), other, GRID), field, rtol=0, atol=1e-13)


def test_a_coarser_grid_loses_only_what_it_cannot_hold() -> None:
    other = Grid((fourier("x", 8, 4.0), fourier("y", 8, 2 * math.pi)))
    field = waves(GRID, [(1, 3), (5, 0), (0, 5), (4, 4)])  # 4 is the Nyquist number there
    torch.testing.assert_close(resampled(field, GRID, other), waves(other, [(1, 3)]), rtol=0, atol=1e-13)


def test_another_box_is_refused() -> None:
    with pytest.raises(ConfigError, match="same periodic box"):
        check_same_box(GRID, Grid((fourier("x", 12, 4.0), fourier("y", 15, 6.0))))
    check_same_box(GRID, Grid((fourier("x", 8, 4.0), fourier("y", 7, 2 * math.pi))))


def test_the_test_filter_is_sharp() -> None:
    flow = Box(box(24, "xy"), torch.float64, "cpu")  # kept up to 7, the test filter up to 3
    kept, lost = waves(flow.grid, [(3, 3), (0, 1)]), waves(flow.grid, [(4, 0), (0, 4), (7, 7)])
    torch.testing.assert_close(flow.scales.test_filter(kept + lost), kept, rtol=0, atol=1e-13)
    assert flow.scales.width.item() == pytest.approx(math.pi / 7)
    assert below(flow.grid, [4, 4]).sum().item() == 7 * 4


def test_the_linear_part_is_exact_and_a_force_is_part_of_it() -> None:
    """dw/dt = -3 w + 2 from 0: w = 2/3 (1 - exp(-3 t)), in one step of any length."""
    rate = torch.tensor([-3.0], dtype=torch.float64)
    method = IntegratingFactor(
        rate, lambda w, _: 0 * w, torch.complex128, torch.tensor([2 / 3], dtype=torch.complex128)
    )
    found = method.step(torch.zeros(1, dtype=torch.complex128), 1.7)
    assert found.item().real == pytest.approx(2 / 3 * (1 - math.exp(-5.1)), rel=1e-14)


def test_steps_are_of_fourth_order() -> None:
    """dw/dt = -w - w² from 1: w = 1 / (2 exp(t) - 1)."""
    method = IntegratingFactor(torch.tensor([-1.0], dtype=torch.float64), lambda w, _: -w * w, torch.complex128)
    errors = []
    for steps in (10, 20, 40):
        state = torch.ones(1, dtype=torch.complex128)
        for _ in range(steps):
            state = method.step(state, 1 / steps)
        errors.append(abs(state.item() - 1 / (2 * math.e - 1)))
    assert math.log2(errors[1] / errors[2]) == pytest.approx(4, abs=0.3)
    assert errors[2] < 1e-8
