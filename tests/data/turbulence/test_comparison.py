"""Errors of statistics of which the difference is known, and verdicts on rollouts that are made to fail."""

import numpy as np
import pytest

from data.errors import ConfigError
from data.turbulence.comparison import Row, compare, compare_profiles, energy_containing, stability
from data.turbulence.profiles import wall_profiles
from data.turbulence.statistics import FlowStatistics, Statistics
from tests.data.turbulence.fields import XYZ, box, channel, noise, of

XY = XYZ[:2]


def sheared(frames: int, seed: int, *, stretch: float = 1.0) -> Statistics:
    """A channel of a parabola with noise; `stretch` multiplies the noise."""
    grid = channel()
    y = grid.axes[1].points[None, :, None]
    fields = stretch * noise(grid, frames, 3, seed) * (y * (2 - y))[..., None]
    fields[..., 0] += 20 * y * (2 - y)
    return of(fields, grid, block=2)


def plane(frames: int, seed: int, *, stretch: float = 1.0, runs: int = 1, spacing: float = 0.5) -> Statistics:
    """Waves of random phases with the spectrum k^-4 on a plane periodic grid."""
    grid = box(16, 16)
    generator = np.random.default_rng(seed)
    kx, ky = np.meshgrid(np.fft.fftfreq(16, 1 / 16), np.fft.rfftfreq(16, 1 / 16), indexing="ij")
    size = np.hypot(kx, ky)
    amplitude = np.where((size > 0) & (size < 8), np.maximum(size, 1) ** -2.5, 0)
    statistics = FlowStatistics(grid, XY, nu=0.01, block=4)
    for run in range(runs):
        for k in range(frames):
            modes = np.fft.rfft2(generator.standard_normal((16, 16, 2)), axes=(0, 1)) * amplitude[..., None]
            statistics.add(stretch * np.fft.irfft2(modes, (16, 16), axes=(0, 1)), spacing * k, run)
    return statistics.finished()


def errors(rows: list[Row]) -> dict[str, float]:
    return {row.quantity: row.error for row in rows}


def test_no_error_against_itself() -> None:
    for statistics in (sheared(12, 0), plane(12, 0)):
        rows = compare(statistics, statistics)
        assert all(row.error == 0 for row in rows)
        assert all(row.within(0.0) is not False for row in rows)
        assert rows[0].record() == {"quantity": rows[0].quantity, "error": 0.0, "plus_minus": rows[0].plus_minus}
        assert len({row.quantity for row in rows}) == len(rows)


def test_louder_turbulence_has_the_error_of_its_factor() -> None:
    found = errors(compare(sheared(12, 1, stretch=1.2), sheared(12, 1)))
    for name in XYZ:
        assert found[f"rms {name}"] == pytest.approx(0.2, rel=1e-6)
        assert found[f"spectrum of {name} along x, energy-containing"] == pytest.approx(0.44, rel=1e-6)
        # Distance of a distribution from itself stretched by 1.2: 0.2 <|u|>, of a Gaussian 0.2 sqrt(2/π).
        assert found[f"density of {name}"] == pytest.approx(0.2 * np.sqrt(2 / np.pi), rel=0.1)
    assert found["shear stress"] == pytest.approx(0.44, rel=1e-6)
    assert found["fluctuation energy"] == pytest.approx(0.44, rel=1e-6)
    assert found["mean velocity"] < 0.02
    assert found["correlation in time"] == pytest.approx(0, abs=1e-6)


def test_errors_of_a_plane_flow() -> None:
    found = errors(compare(plane(12, 2, stretch=1.1), plane(12, 2)))
    for quantity in ("energy", "enstrophy", "spectrum, energy-containing", "spectrum, intermediate", "spectrum, tail"):
        assert found[quantity] == pytest.approx(0.21, rel=1e-6)
    assert found["rms velocity_x"] == pytest.approx(0.1, rel=1e-6)
    assert found["density of vorticity"] == pytest.approx(0.1 * np.sqrt(2 / np.pi), rel=0.1)


def test_bulk_and_friction_of_a_faster_flow() -> None:
    grid = channel()
    y = grid.axes[1].points[None, :, None]
    field = np.zeros((*grid.shape, 3))
    field[..., 0] = y * (2 - y)
    found = errors(compare(of(1.1 * field[None], grid), of(field[None], grid)))
    assert found["bulk velocity"] == pytest.approx(0.1)
    assert found["centre velocity"] == pytest.approx(0.1)
    assert found["friction velocity"] == pytest.approx(np.sqrt(1.1) - 1)


def test_plus_minus_covers_the_difference_of_equal_flows() -> None:
    """What differs by chance only is within its noise, in nearly all figures of five pairs."""
    held = []
    for seed in range(5):
        rows = compare(plane(64, 10 + seed), plane(64, 30 + seed))
        held += [row.error <= row.plus_minus for row in rows]
    assert np.mean(held) > 0.95


def test_verdict_is_open_within_the_noise() -> None:
    assert Row("u", 0.1, 0.02).within(0.2) is True
    assert Row("u", 0.3, 0.02).within(0.2) is False
    assert Row("u", 0.19, 0.02).within(0.2) is None
    assert Row("u", 0.21, 0.02).within(0.2) is None
    assert Row("u", 0.1, float("nan")).within(0.2) is True
    assert Row("u", 0.3, float("nan")).within(0.2) is False
    assert Row("u", 0.3, float("nan")).record()["plus_minus"] is None


def test_energy_containing_takes_the_fewest_modes() -> None:
    energy = np.array([0.0, 5.0, 1.0, 3.0, 0.6, 0.4])
    np.testing.assert_array_equal(np.flatnonzero(energy_containing(energy)), [1, 2, 3])
    np.testing.assert_array_equal(np.flatnonzero(energy_containing(energy, 0.5)), [1])
    np.testing.assert_array_equal(np.flatnonzero(energy_containing(energy, 1.0)), [1, 2, 3, 4, 5])


def test_wall_profiles_have_the_units_of_their_own_wall() -> None:
    statistics = sheared(12, 3)
    found = wall_profiles(statistics, "made")
    u_tau = float(statistics.u_tau.value)
    np.testing.assert_allclose(found.velocity.value, statistics.half_velocity.value[:, 0] / u_tau)
    np.testing.assert_allclose(found.rms.value, statistics.half_rms.value / u_tau)
    assert found.shear is not None
    np.testing.assert_allclose(found.shear.value, statistics.half_shear.value / u_tau**2)
    assert found.re_tau == pytest.approx(u_tau / 0.01)
    # At the wall the mean velocity in wall units is y+.
    assert found.velocity.value[1] == pytest.approx(found.y_plus[1] * (1 - found.y[1] / 2), rel=0.05)


def test_profiles_on_other_points_are_interpolated() -> None:
    coarse, fine = (of(flow[None], grid) for grid, flow in map(parabola, (17, 65)))
    rows = compare_profiles(wall_profiles(coarse, "coarse"), wall_profiles(fine, "fine"))
    swapped = compare_profiles(wall_profiles(fine, "fine"), wall_profiles(coarse, "coarse"))
    assert rows[0].quantity == "mean velocity"
    assert rows[0].error < 1e-6
    assert swapped[0].error < 1e-6
    assert compare(coarse, wall_profiles(fine, "fine"))[0].error == rows[0].error


def parabola(points: int) -> tuple[object, np.ndarray]:
    grid = channel(4, points, 4)
    y = grid.axes[1].points[None, :, None]
    field = np.zeros((*grid.shape, 3))
    field[..., 0] = y * (2 - y)
    return grid, field


def test_refuses_another_grid() -> None:
    with pytest.raises(ConfigError, match="on the grid of the reference"):
        compare(sheared(2, 0), plane(2, 0))


def test_a_rollout_like_the_reference_is_stable() -> None:
    found = stability(plane(60, 4, runs=3), plane(60, 5), until=29.5)
    assert found.stable, found.reason
    assert found.inside == 1
    assert found.blow_up is None and found.left is None
    assert found.duration == pytest.approx(29.5)
    assert found.spectrum_l2.error < 0.2
    assert stability(sheared(12, 4), sheared(12, 5)).stable


def test_what_ends_early_is_not_stable() -> None:
    found = stability(plane(40, 6), plane(60, 7), until=29.5)
    assert not found.stable
    assert found.blow_up == pytest.approx(19.5)
    assert found.reason == "ended at time 19.5 of 29.5"


def test_energy_that_leaves_the_band_is_not_stable() -> None:
    grid, reference = box(16, 16), plane(60, 8)
    statistics = FlowStatistics(grid, XY, nu=0.01)
    frame = np.stack([np.sin(axis) for axis in np.meshgrid(*(a.points for a in grid.axes), indexing="ij")], axis=-1)
    frame *= np.sqrt(float(reference.energy.value) / 0.5)
    for k in range(40):
        statistics.add(frame * (1.1 ** max(k - 20, 0)), 0.5 * k)
    found = stability(statistics.finished(), reference)
    assert not found.stable
    assert found.left is not None and 10 < found.left < 16
    assert found.inside == pytest.approx(found.left / 20, abs=1e-9)
    assert "left the band" in found.reason


def test_another_spectrum_is_not_stable() -> None:
    reference = plane(60, 9)
    found = stability(plane(60, 9, stretch=1.15), reference, margin=2.0)
    assert not found.stable
    assert found.spectrum_l2.error == pytest.approx(0.3225, rel=1e-6)
    assert found.spectrum.error == pytest.approx(0.3225, rel=1e-6)
    assert "not within 20%" in found.reason
