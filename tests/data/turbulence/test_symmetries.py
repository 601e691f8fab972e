"""Symmetries of flows: the equations of motion, written down independently, do not see them."""

import itertools

import numpy as np
import pytest

from data.grid import Grid, between_walls, fourier
from data.turbulence.symmetries import Motion, Symmetries, shifts_of_wave, symmetries_of

NU, DRAG = 0.003, 0.1


def vorticity_rate(vorticity: np.ndarray, waves: int) -> np.ndarray:
    """Right-hand side of the vorticity equation with drag and the curl of sin(waves y) e_x, on (2π)²."""
    n, m = vorticity.shape
    kx, ky = np.meshgrid(np.fft.fftfreq(n, 1 / n), np.fft.fftfreq(m, 1 / m), indexing="ij")
    square = kx**2 + ky**2
    hat = np.fft.fft2(vorticity)
    stream = hat / np.where(square == 0, 1, square)

    def real(values: np.ndarray) -> np.ndarray:
        return np.fft.ifft2(values).real

    u, v = real(1j * ky * stream), real(-1j * kx * stream)
    force = -waves * np.cos(waves * 2 * np.pi * np.arange(m) / m)[None]
    advection = u * real(1j * kx * hat) + v * real(1j * ky * hat)
    return -advection + real(-NU * square * hat) - DRAG * vorticity + force


def smooth(shape: tuple[int, ...], seed: int) -> np.ndarray:
    """A random field without its highest modes."""
    hat = np.fft.fftn(np.random.default_rng(seed).normal(size=shape))
    for axis, n in enumerate(shape):
        keep = np.abs(np.fft.fftfreq(n, 1 / n)) < n / 3
        hat *= keep.reshape([-1 if k == axis else 1 for k in range(len(shape))])
    return np.fft.ifftn(hat).real


class TestKolmogorov:
    grid = Grid((fourier("x", 16, 2 * np.pi), fourier("y", 24, 2 * np.pi)))

    def found(self, waves: float = 4.0) -> Symmetries:
        symmetries = symmetries_of(self.grid, ["vorticity"], np.zeros(1), np.ones(1), waves)
        assert symmetries is not None
        return symmetries

    @pytest.mark.parametrize("waves", [1, 2, 3, 4, 5, 6])
    def test_the_vorticity_equation_does_not_see_them(self, waves: int) -> None:
        field = smooth(self.grid.shape, 0)
        symmetries = self.found(waves)
        motions = {symmetries.draw(seed) for seed in range(60)}
        assert len(motions) > 30
        assert {motion.flips for motion in motions} >= {(False, False), (True, True)}
        for motion in motions:
            moved = symmetries.apply(motion, field[None, ..., None])[0, ..., 0]
            expected = symmetries.apply(motion, vorticity_rate(field, waves)[None, ..., None])[0, ..., 0]
            np.testing.assert_allclose(vorticity_rate(moved, waves), expected, atol=1e-9)

    def test_all_others_are_seen(self) -> None:
        """Every shift along y and every reflection: the drawn ones are exactly those that the equation allows."""
        waves, field = 4, smooth(self.grid.shape, 0)
        symmetries = self.found(waves)
        drawn = {(motion.flips, motion.shifts[1]) for motion in map(symmetries.draw, range(600))}
        for flips, shift in itertools.product(itertools.product((False, True), repeat=2), range(24)):
            motion = Motion(flips, (0, shift))
            moved = symmetries.apply(motion, field[None, ..., None])[0, ..., 0]
            expected = symmetries.apply(motion, vorticity_rate(field, waves)[None, ..., None])[0, ..., 0]
            kept = np.allclose(vorticity_rate(moved, waves), expected, atol=1e-9)
            assert kept == ((flips, shift) in drawn), (flips, shift)

    def test_the_velocity_moves_as_its_vorticity(self) -> None:
        n, m = self.grid.shape
        kx, ky = 1j * np.fft.fftfreq(n, 1 / n)[:, None], 1j * np.fft.fftfreq(m, 1 / m)[None]
        velocity = np.stack([smooth(self.grid.shape, k) for k in (1, 2)], axis=-1)

        def curl(u: np.ndarray) -> np.ndarray:
            return np.fft.ifft2(kx * np.fft.fft2(u[..., 1]) - ky * np.fft.fft2(u[..., 0])).real

        names = ["velocity_x", "velocity_y"]
        both = symmetries_of(self.grid, names, np.zeros(2), np.ones(2), 4.0)
        assert both is not None
        for seed in range(20):
            motion = both.draw(seed)
            assert motion == self.found().draw(seed)
            moved = both.apply(motion, velocity[None])[0]
            expected = self.found().apply(motion, curl(velocity)[None, ..., None])[0, ..., 0]
            np.testing.assert_allclose(curl(moved), expected, atol=1e-10)

    def test_where_half_a_wave_is_no_number_of_points_only_even_reflections_are_left(self) -> None:
        assert shifts_of_wave(24, 4, half=True) == [3, 9, 15, 21]
        assert shifts_of_wave(20, 4, half=True) == []
        grid = Grid((fourier("x", 20, 2 * np.pi), fourier("y", 20, 2 * np.pi)))
        symmetries = symmetries_of(grid, ["vorticity"], np.zeros(1), np.ones(1), 4.0)
        assert symmetries is not None
        motions = [symmetries.draw(seed) for seed in range(100)]
        assert {motion.flips for motion in motions} == {(False, False), (True, True)}
        assert {motion.shifts[1] % 5 for motion in motions} == {0}

    def test_a_force_that_does_not_fit_the_box_leaves_none(self) -> None:
        assert symmetries_of(self.grid, ["vorticity"], np.zeros(1), np.ones(1), 4.5) is None


class TestChannel:
    grid = Grid((fourier("x", 12, 4 * np.pi), between_walls("y", 9), fourier("z", 8, 2.0)))
    names = ("velocity_x", "velocity_y", "velocity_z")
    mean, std = np.array([15.6, 0.0, 1e-3]), np.array([3.0, 0.5, 0.7])

    def rate(self, u: np.ndarray) -> np.ndarray:
        """-(u·∇)u + ν∇²u + e_x: the momentum equation but for the pressure, which follows from it."""
        derivatives = [axis.derivative for axis in self.grid.axes]

        def along(field: np.ndarray, k: int) -> np.ndarray:
            return np.moveaxis(np.tensordot(derivatives[k], field, (1, k)), 0, k)

        found = np.zeros_like(u)
        for i in range(3):
            for k in range(3):
                slope = along(u[..., i], k)
                found[..., i] += -u[..., k] * slope + NU * along(slope, k)
        found[..., 0] += 1
        return found

    def test_the_momentum_equation_does_not_see_them(self) -> None:
        symmetries = symmetries_of(self.grid, self.names, self.mean, self.std)
        assert symmetries is not None
        assert symmetries.reflected == (False, True, True)
        u = np.random.default_rng(0).normal(size=(*self.grid.shape, 3))
        expected = self.rate(u)
        for seed in range(40):
            motion = symmetries.draw(seed)
            np.testing.assert_allclose(
                self.rate(symmetries.apply(motion, u[None])[0]), symmetries.apply(motion, expected[None])[0], atol=1e-9
            )

    def test_reflecting_the_mean_flow_is_no_symmetry(self) -> None:
        symmetries = Symmetries(self.grid, self.names, (True, True, True))
        u = np.random.default_rng(0).normal(size=(*self.grid.shape, 3))
        motion = Motion((True, False, False), (0, 0, 0))
        moved = self.rate(symmetries.apply(motion, u[None])[0])
        assert np.abs(moved - symmetries.apply(motion, self.rate(u)[None])[0]).max() > 1

    def test_a_stretched_axis_that_is_not_symmetric_is_not_reflected(self) -> None:
        half = Grid((self.grid.axes[0], between_walls("y", 9), self.grid.axes[2]))
        skewed = type(half.axes[1])("y", half.axes[1].points ** 2 / 2, 2.0, periodic=False)
        symmetries = symmetries_of(Grid((half.axes[0], skewed, half.axes[2])), self.names, self.mean, self.std)
        assert symmetries is not None
        assert symmetries.reflected == (False, False, True)


def test_unknown_flows_have_none() -> None:
    plane = TestKolmogorov.grid
    assert symmetries_of(plane, ["vorticity"], np.zeros(1), np.ones(1)) is None
    assert symmetries_of(plane, ["dye"], np.zeros(1), np.ones(1), 4.0) is None
    walls = Grid((between_walls("x", 5), between_walls("y", 5)))
    assert symmetries_of(walls, ["velocity_x", "velocity_y"], np.zeros(2), np.ones(2)) is None


def test_of_a_periodic_box_every_axis_is_reflected() -> None:
    box = Grid(tuple(fourier(name, 6, 2 * np.pi) for name in "xyz"))
    symmetries = symmetries_of(box, ("pressure", *TestChannel.names), np.zeros(4), np.ones(4))
    assert symmetries is not None
    assert symmetries.reflected == (True, True, True)
    frame = np.random.default_rng(0).normal(size=(1, 6, 6, 6, 4))
    moved = symmetries.apply(Motion((True, False, False), (2, 0, 0)), frame)
    for j in range(6):  # the point j comes from -(j - 2)
        np.testing.assert_array_equal(moved[0, j], frame[0, (2 - j) % 6] * [1, -1, 1, 1])
