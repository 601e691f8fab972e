"""Streaming statistics against analytic flows and plain numpy over the whole series at once."""

from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

from data.errors import ConfigError, PenstockError
from data.grid import Axis, Grid, between_walls, fourier, stretched
from data.turbulence.frame_statistics import BINS, velocity_from_vorticity
from data.turbulence.statistics import FlowStatistics, Statistics
from tests.data.turbulence.fields import XYZ, box, channel, noise, of

XY = XYZ[:2]


def mesh(grid: Grid) -> list[np.ndarray]:
    return np.meshgrid(*(axis.points for axis in grid.axes), indexing="ij")


def test_taylor_green_vortex() -> None:
    grid = box(16, 16, 16)
    x, y, z = mesh(grid)
    field = np.stack([np.sin(x) * np.cos(y) * np.cos(z), -np.cos(x) * np.sin(y) * np.cos(z), 0 * x], axis=-1)
    found = of(field[None], grid)
    assert found.energy.value == pytest.approx(1 / 8, rel=1e-12)
    assert found.enstrophy.value == pytest.approx(3 / 8, rel=1e-12)
    np.testing.assert_allclose(found.divergence.value, [0, np.sqrt(1 / 8)], atol=1e-12)
    # All energy is at |k| = √3, in the shell of 2.
    np.testing.assert_allclose(found.shell_spectrum.value, np.where(found.shells == 2, 1 / 8, 0), atol=1e-15)


def test_waves_of_known_amplitude_have_their_spectrum() -> None:
    grid = Grid((fourier("x", 16, 4 * np.pi), fourier("y", 24, 2 * np.pi)))
    x, y = mesh(grid)
    field = np.stack([3 + 2 * np.cos(y) + np.sin(5 * y), 0.5 * np.cos(1.5 * x)], axis=-1)
    found = of(field[None], grid, XY, profile=None)
    np.testing.assert_allclose(found.shells, 0.5 * np.arange(len(found.shells)))
    expected = {0.0: 4.5, 1.0: 1.0, 5.0: 0.25, 1.5: 0.0625}
    np.testing.assert_allclose(found.shell_spectrum.value, [expected.get(k, 0) for k in found.shells], atol=1e-14)
    along_y = found.spectrum("y").value[0, 0]
    np.testing.assert_allclose(along_y, [{1.0: 2.0, 5.0: 0.5}.get(k, 0) for k in found.wavenumbers("y")], atol=1e-14)
    np.testing.assert_allclose(found.spectrum("x").value[0, 1, 3], 0.125)


@pytest.mark.parametrize("points", [(7, 9), (8, 6), (5, 6, 7), (6, 8, 4)])
def test_spectra_hold_all_the_energy(points: tuple[int, ...]) -> None:
    grid = box(*points, length=3.0)
    found = of(noise(grid, 5, len(points), seed=1), grid, XYZ[: len(points)])
    assert found.shell_spectrum.value.sum() == pytest.approx(float(found.energy.value), rel=1e-12)
    for name in grid.names:
        np.testing.assert_allclose(found.spectrum(name).value.sum(axis=-1), found.rms.value**2, rtol=1e-12)


@pytest.mark.parametrize("wall", [between_walls("y", 12), between_walls("y", 9), stretched("y", [0, 0.1, 0.4, 1.2, 2])])
def test_laminar_channel(wall: Axis) -> None:
    grid = channel(wall=wall)
    y = wall.points[None, :, None]
    field = np.broadcast_to(np.stack([y * (2 - y), 0 * y, 0 * y], axis=-1), (*grid.shape, 3))
    found = of(field[None], grid)
    # -nu U'' = 2 nu is the pressure gradient, and the stress on either wall.
    assert found.u_tau.value == pytest.approx(np.sqrt(0.02), rel=1e-10)
    assert found.u_tau_balance.value == pytest.approx(np.sqrt(0.02), rel=1e-10)
    assert found.re_tau == pytest.approx(np.sqrt(0.02) / 0.01, rel=1e-10)
    np.testing.assert_allclose(found.series.friction, [[0.02, 0.02]], rtol=1e-10)
    if wall.chebyshev:
        assert found.bulk.value[0] == pytest.approx(2 / 3, rel=1e-12)
        assert found.energy.value == pytest.approx(4 / 15, rel=1e-12)
    assert np.isnan(found.u_tau.plus_minus)


def test_plane_periodic_flow_from_its_vorticity() -> None:
    grid = box(16, 12)
    x, y = mesh(grid)
    # ψ = cos x sin 2y
    velocity = np.stack([2 * np.cos(x) * np.cos(2 * y), np.sin(x) * np.sin(2 * y)], axis=-1)
    vorticity = 5 * np.cos(x) * np.sin(2 * y)
    np.testing.assert_allclose(velocity_from_vorticity(vorticity, grid), velocity, atol=1e-13)
    from_vorticity, from_velocity = of(vorticity[None, ..., None], grid, ("vorticity",)), of(velocity[None], grid, XY)
    assert from_vorticity.energy.value == pytest.approx((1 + 0.25) / 2, rel=1e-12)
    for name, mean in from_vorticity.blocks.means.items():
        if name != "histogram":  # values on an edge of a bin fall on either side of it
            np.testing.assert_allclose(mean, from_velocity.blocks.means[name], atol=1e-12, err_msg=name)


def test_profiles_and_stresses_are_those_of_the_whole_series() -> None:
    grid = channel()
    frames = noise(grid, 21, 3, seed=2)
    found = of(frames, grid, block=4)
    mean = frames.mean(axis=(0, 1, 3))
    fluctuation = frames - mean[:, None]
    np.testing.assert_allclose(found.velocity.value, mean, atol=1e-14)
    np.testing.assert_allclose(
        found.covariance.value, np.einsum("txyzi,txyzj->yij", fluctuation, fluctuation) / (21 * 8 * 6), atol=1e-13
    )
    np.testing.assert_allclose(found.rms.value, fluctuation.std(axis=(0, 1, 3)), rtol=1e-12)
    weights = grid.axes[1].weights / 2
    np.testing.assert_allclose(found.series.energy, 0.5 * (frames**2).sum(-1).mean(axis=(1, 3)) @ weights, rtol=1e-12)
    about = frames - frames.mean(axis=(1, 3), keepdims=True)
    np.testing.assert_allclose(found.series.fluctuation, 0.5 * (about**2).sum(-1).mean((1, 3)) @ weights, rtol=1e-12)
    np.testing.assert_allclose(found.series.bulk, weights @ frames.mean(axis=(1, 3)), rtol=1e-12)


def test_spectra_between_walls_are_sums_over_the_modes() -> None:
    grid = channel(nx=7)
    frames = noise(grid, 6, 3, seed=3)
    found = of(frames, grid)
    mean = frames.mean(axis=(0, 1, 3))
    for level, places in enumerate(found.layout.levels):
        expected = np.zeros((3, 4))
        for mode in range(4):
            wave = np.exp(-2j * np.pi * mode * np.arange(7) / 7)
            for j in places:
                power = np.abs(np.einsum("x,txzc->tzc", wave, frames[:, :, j]) / 7) ** 2
                expected[:, mode] += power.mean(axis=(0, 1)) * (1 if mode == 0 else 2) / len(places)
        expected[:, 0] -= (mean[list(places)] ** 2).mean(axis=0)
        np.testing.assert_allclose(found.spectrum("x").value[level], expected, atol=1e-13)


def test_levels_are_pairs_of_heights_at_the_wanted_wall_units() -> None:
    found = FlowStatistics(channel(ny=33), XYZ, nu=1 / 180).layout
    assert found.levels == ((2, 30), (4, 28), (6, 26), (11, 21), (16,))


def test_densities_count_fluctuations_about_the_plane() -> None:
    grid = channel(ny=33)
    frames = noise(grid, 4, 3, seed=4)
    found = of(frames, grid)
    lower, upper = found.layout.levels[1]
    for k, name in enumerate(XYZ):
        edges, sign = found.edges(1, name), (-1 if name == "velocity_y" else 1)
        planes = [s * (f[:, j, :, k] - f[:, j, :, k].mean()) for f in frames for j, s in ((lower, 1), (upper, sign))]
        expected, _ = np.histogram(planes, edges, density=True)
        np.testing.assert_allclose(found.density(1, name).value, expected, atol=1e-12)
        assert found.density(1, name).value @ np.diff(edges) == pytest.approx(1)


def test_densities_of_a_gaussian_field() -> None:
    grid = box(64, 64)
    found = of(np.random.default_rng(5).standard_normal((20, 64, 64, 2)), grid, XY)
    edges = found.edges(0, "velocity_x")
    middle = (edges[:-1] + edges[1:]) / 2
    # 82 000 points, bins of an eighth: 1 % of the peak is 1.0 standard error.
    expected = np.exp(-(middle**2) / 2) / np.sqrt(2 * np.pi)
    assert np.abs(found.density(0, "velocity_x").value - expected).max() < 0.016
    assert len(middle) == BINS


def test_correlation_in_time_at_fixed_points() -> None:
    grid = channel(4, 5, 2)
    frames = noise(grid, 40, 3, seed=6)
    found = of(frames, grid, lags=3)
    centre = (frames - frames.mean(axis=(1, 3), keepdims=True))[:, :, 2]
    variance = (centre**2).mean(axis=(0, 1, 2))
    for lag in range(4):
        expected = (centre[lag:] * centre[: 40 - lag]).mean(axis=(0, 1, 2)) / variance
        np.testing.assert_allclose(found.correlation.value[-1, :, lag], expected, atol=1e-12)


def test_correlation_time_of_an_exponential() -> None:
    grid, steps, memory = box(16, 16), 1500, 0.8
    generator = np.random.default_rng(7)
    statistics = FlowStatistics(grid, XY, nu=None, lags=32)
    frame = generator.standard_normal((16, 16, 2))
    for k in range(steps):
        statistics.add(frame, 0.1 * k)
        frame = memory * frame + np.sqrt(1 - memory**2) * generator.standard_normal((16, 16, 2))
    found = statistics.finished()
    np.testing.assert_allclose(found.correlation.value[0, :, :8], [memory ** np.arange(8)] * 2, atol=0.01)
    # Trapezoid rule over a geometric series.
    np.testing.assert_allclose(found.correlation_time.value, 0.1 * (1 / (1 - memory) - 0.5), rtol=0.03)


def test_upside_down_is_the_same_channel() -> None:
    grid = channel(ny=12)
    frames = noise(grid, 6, 3, seed=8)
    turned = frames[:, :, ::-1] * np.array([1, -1, 1])
    one = of(frames, grid)
    other = of(turned, grid, like=one)
    for name in ("half_velocity", "half_covariance", "half_rms", "half_shear", "u_tau", "correlation"):
        np.testing.assert_allclose(getattr(other, name).value, getattr(one, name).value, atol=1e-12, err_msg=name)
    np.testing.assert_allclose(other.blocks.mean("histogram"), one.blocks.mean("histogram"), atol=1e-12)
    np.testing.assert_allclose(other.spectrum("z").value, one.spectrum("z").value, atol=1e-12)


def test_divergence_and_vorticity_by_the_axes() -> None:
    grid = channel(16, 17, 16)
    x, y, z = mesh(grid)
    field = np.stack([np.sin(x / 2) * y**2, np.cos(1.5 * z) * y**3, np.sin(1.5 * z) * np.cos(x / 2) + 0 * y], axis=-1)
    found = of(field[None], grid)
    slope = 0.5 * np.cos(x / 2) * y**2
    divergence = slope + 3 * y**2 * np.cos(1.5 * z) + 1.5 * np.cos(1.5 * z) * np.cos(x / 2)
    vorticity = [1.5 * np.sin(1.5 * z) * y**3, 0.5 * np.sin(1.5 * z) * np.sin(x / 2), -2 * y * np.sin(x / 2)]
    weights = grid.weights[:, 1:-1] / grid.weights[:, 1:-1].sum()
    expected = [np.sqrt((weights * f[:, 1:-1] ** 2).sum()) for f in (divergence, slope)]
    np.testing.assert_allclose(found.divergence.value, expected, rtol=1e-10)
    square = np.stack([(component**2).mean(axis=(0, 2)) for component in vorticity], axis=-1)
    np.testing.assert_allclose(found.blocks.mean("vorticity_square"), square, rtol=1e-10, atol=1e-12)


def test_profile_along_a_periodic_axis() -> None:
    grid = box(8, 12)
    _, y = mesh(grid)
    frames = noise(grid, 4, 2, seed=9)
    frames[..., 0] += np.sin(4 * y)
    found = of(frames, grid, XY, profile="y")
    np.testing.assert_allclose(found.velocity.value, frames.mean(axis=(0, 1)), atol=1e-14)
    np.testing.assert_allclose(found.rms.value, frames.std(axis=(0, 1)), rtol=1e-12)
    np.testing.assert_allclose(
        found.spectrum("x").value.sum(axis=-1)[0], (frames.std(axis=(0, 1)) ** 2).mean(axis=0), rtol=1e-12
    )


def test_blocks_change_no_mean_and_trajectories_may_take_turns() -> None:
    grid = box(8, 8)
    runs = noise(grid, 60, 2, seed=10).reshape(2, 30, 8, 8, 2)
    one, other = FlowStatistics(grid, XY, nu=None, block=1), FlowStatistics(grid, XY, nu=None, block=5)
    for k in range(30):
        for run in range(2):
            one.add(runs[run, k], 0.1 * k, run)
    for run in range(2):
        for k in range(30):
            other.add(torch.from_numpy(runs[run, k]), 0.1 * k, run)
    first, second = one.finished(), other.finished()
    for name in first.blocks.means:
        np.testing.assert_allclose(first.blocks.mean(name), second.blocks.mean(name), atol=1e-12, err_msg=name)
    np.testing.assert_array_equal(first.series.of(1).energy, second.series.of(1).energy)
    assert first.spacing == pytest.approx(0.1)


@pytest.mark.parametrize(
    ("components", "message"),
    [(("velocity_x", "velocity_z"), "need the components"), (("vorticity",), "need the comp")],
)
def test_refuses_fields_that_are_no_velocity(components: tuple[str, ...], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        FlowStatistics(channel(), components, nu=None)


def test_refuses_bad_frames() -> None:
    grid = box(4, 4)
    statistics = FlowStatistics(grid, (*XY, "pressure"), nu=None)
    with pytest.raises(ConfigError, match="at least one frame"):
        statistics.finished()
    statistics.add(np.ones((4, 4, 3)), 1.0)
    with pytest.raises(PenstockError, match="comes after 1"):
        statistics.add(np.ones((4, 4, 3)), 1.0)
    with pytest.raises(PenstockError, match=r"expected the shape \(4, 4, 3\)"):
        statistics.add(np.ones((4, 4, 2)), 2.0)
    with pytest.raises(PenstockError, match="time 2 holds NaN"):
        statistics.add(np.full((4, 4, 3), np.nan), 2.0)
    found = statistics.finished()
    assert found.frames == 1
    with pytest.raises(ConfigError, match="between walls"):
        _ = found.u_tau
    with pytest.raises(ConfigError, match="one of the axes"):
        FlowStatistics(grid, XY, nu=None, profile="z")


def test_wall_units_need_a_viscosity() -> None:
    grid = channel()
    statistics = FlowStatistics(grid, XYZ, nu=None)
    statistics.add(noise(grid, 1, 3, seed=11)[0], 0.0)
    with pytest.raises(ConfigError, match="hand over nu"):
        _ = statistics.finished().u_tau
    assert statistics.finished().series.friction.shape == (1, 0)


@pytest.fixture(scope="module")
def channel180(datasets: Path) -> Statistics:
    path = datasets / "turbulence" / "channel180.h5"
    if not path.is_file():
        pytest.skip(f"no {path}")
    statistics = FlowStatistics(channel(32, 33, 16), XYZ, nu=1 / 180, lags=4)
    with h5py.File(path) as file:
        for k in range(0, 356, 2):
            statistics.add(file["t1_fields/velocity"][0, k], float(file["dimensions/time"][k]))
    return statistics.finished()


def test_figures_of_the_shared_channel(channel180: Statistics) -> None:
    """Against what an independent program found in the same frames."""
    np.testing.assert_allclose(channel180.half_rms.value.max(axis=0), [2.02, 0.62, 0.92], atol=0.02)
    assert channel180.bulk.value[0] == pytest.approx(15.63, abs=1e-3)
    assert np.trapezoid(channel180.velocity.value[:, 0], channel180.points) / 2 == pytest.approx(15.605, abs=1e-3)
    # Of the unfiltered simulation; the filter does not touch the mean.
    assert channel180.u_tau.value == pytest.approx(1.0128, abs=0.005)
    assert channel180.centre_velocity.value == pytest.approx(18.28, abs=0.02)
    np.testing.assert_allclose(channel180.divergence.value, [0.37, 2.8], rtol=0.06)
