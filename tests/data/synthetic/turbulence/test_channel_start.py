"""Filtered fields, states from coarse frames, operators between the walls."""

import numpy as np
import pytest
import torch

from data.errors import ConfigError
from data.grid import Grid, between_walls, fourier, stretched
from data.synthetic.turbulence.channel import ChannelConfig
from data.synthetic.turbulence.channel_modes import Modes
from data.synthetic.turbulence.chebyshev import WallNormal, interpolation

CONFIG = ChannelConfig(points=(16, 25, 16), dtype="float64", perturbation=1.5)


@pytest.fixture(scope="module")
def channel():
    built = CONFIG.build(0)
    built.advance(0.1)
    return built


def coarse(x: int, y: int, z: int) -> Grid:
    return Grid((fourier("x", x, CONFIG.length_x), between_walls("y", y), fourier("z", z, CONFIG.length_z)))


def weighted(frame: torch.Tensor, grid: Grid) -> float:
    return float(((frame.numpy() ** 2).sum(-1) * grid.weights).sum())


def test_fields_on_a_coarse_grid_are_cut_off_sharply(channel):
    """Against a discrete Fourier transform of the full field and every third point along y."""
    grid = coarse(8, 9, 10)
    full = np.fft.fft2(channel.fields().numpy(), axes=(0, 2))
    kept = np.zeros((8, 25, 10, 3), complex)
    for i in range(-3, 4):
        for k in range(-4, 5):
            kept[i, :, k] = full[i, :, k] * (80 / 256)
    expected = np.fft.ifft2(kept, axes=(0, 2)).real[:, ::3]
    np.testing.assert_allclose(channel.fields(grid).numpy(), expected, atol=1e-12 * np.abs(expected).max())


def test_fields_between_the_points_are_those_of_the_polynomial(channel):
    y = np.linspace(0, 2, 14)
    grid = Grid((channel.grid.axes[0], stretched("y", y), channel.grid.axes[2]))
    values = channel.fields().numpy()[2, :, 3, 0]
    expected = np.polynomial.chebyshev.chebval(
        y - 1, np.polynomial.chebyshev.chebfit(channel.grid.axes[1].points - 1, values, 24)
    )
    np.testing.assert_allclose(channel.fields(grid).numpy()[2, :, 3, 0], expected, atol=1e-9)


def test_a_state_from_its_own_fields_is_the_same(channel):
    again = CONFIG.build(5)
    again.start_from(channel.fields(), channel.grid)
    assert again.time == 0
    assert (again.fields() - channel.fields()).abs().max() < 1e-8


def test_a_state_from_a_frame_with_fewer_modes_keeps_all_of_it(channel):
    grid = coarse(8, 25, 8)
    frame = channel.fields(grid)
    again = CONFIG.build(5)
    again.start_from(frame, grid)
    assert (again.fields(grid) - frame).abs().max() < 1e-8
    assert again.energy() < channel.energy()


def test_a_state_from_fewer_heights_is_near_the_frame(channel):
    grid = coarse(8, 13, 8)
    frame = channel.fields(grid)
    again = CONFIG.build(5)
    again.start_from(frame.float(), grid)
    assert weighted(again.fields(grid) - frame, grid) < 0.02**2 * weighted(frame, grid)


def test_the_start_is_the_nearest_flow_without_divergence_that_does_not_slip(channel):
    """The error of the best approximation is orthogonal to every admissible flow."""
    noise = torch.from_numpy(np.random.default_rng(0).standard_normal((*channel.grid.shape, 3)))
    noise = noise - noise.mean((0, 2), keepdim=True)
    frame = channel.fields() + noise
    found, other = CONFIG.build(5), CONFIG.build(6)
    found.start_from(frame, channel.grid)
    other.start_from(channel.fields() + noise.flip(0), channel.grid)
    weights = torch.from_numpy(channel.grid.weights)[..., None]
    # The Nyquist modes and the mean are none of the fit's business.
    modes = Modes((16, 16), (CONFIG.length_x, CONFIG.length_z), torch.device("cpu"))
    error = (frame - found.fields()).permute(3, 1, 2, 0)
    error = modes.physical(modes.spectral(error), (16, 16)).permute(3, 1, 2, 0)
    admissible = other.fields() - found.fields()
    size = ((error**2 * weights).sum() * (admissible**2 * weights).sum()).sqrt()
    assert size > 0.1
    assert abs((error * admissible * weights).sum()) < 1e-7 * size
    field = found.fields().numpy()
    assert np.all(field[:, [0, -1]] == 0)


def test_starts_from_a_frame_of_a_stretched_grid(channel):
    y = 1 + np.tanh(2 * np.linspace(-1, 1, 33)) / np.tanh(2)
    grid = Grid((channel.grid.axes[0], stretched("y", y), channel.grid.axes[2]))
    again = CONFIG.build(5)
    again.start_from(channel.fields(grid), grid)
    assert weighted(again.fields() - channel.fields(), channel.grid) < 0.03**2 * weighted(
        channel.fields(), channel.grid
    )


@pytest.mark.parametrize(
    ("frame", "grid", "message"),
    [
        (
            torch.zeros(8, 9, 8, 3),
            Grid((fourier("x", 8, 3.0), between_walls("y", 9), fourier("z", 8, 3.0))),
            "length_x",
        ),
        (torch.zeros(8, 9, 8, 2), coarse(8, 9, 8), "of shape"),
        (torch.full((8, 9, 8, 3), torch.nan), coarse(8, 9, 8), "finite"),
        (-torch.ones(8, 9, 8, 3), coarse(8, 9, 8), "a flow along x"),
    ],
)
def test_refuses_frames_of_something_else(frame, grid, message):
    with pytest.raises(ConfigError, match=message):
        CONFIG.build(0).start_from(frame, grid)


def test_products_on_the_padded_grid_are_free_of_aliasing():
    """Against the sum over all pairs of modes."""
    modes = Modes((8, 8), (2 * np.pi, 2 * np.pi), torch.device("cpu"))
    random = np.random.default_rng(0)
    fields = [
        modes.physical(modes.spectral(torch.from_numpy(random.standard_normal((8, 8)))), (8, 8)) for _ in range(2)
    ]
    a, b = (np.fft.fft2(f.numpy()) / 64 for f in fields)
    numbers = np.fft.fftfreq(8, 1 / 8).astype(int)
    expected = {}
    for i, k in np.ndindex(8, 8):
        for m, n in np.ndindex(8, 8):
            key = (numbers[i] + numbers[m], numbers[k] + numbers[n])
            expected[key] = expected.get(key, 0) + a[i, k] * b[m, n]
    points = modes.product_points
    found = modes.spectral(torch.stack([modes.physical(modes.spectral(f), points) for f in fields]).prod(0))
    for z in range(-3, 4):
        for x in range(4):
            assert found[z, x] == pytest.approx(expected[z, x], abs=1e-13)


def test_operators_between_the_walls():
    """Eigenvalues of the second derivative, a Helmholtz problem, derivatives of functions that vanish at the walls."""
    wall = WallNormal(between_walls("y", 33), torch.device("cpu"))
    y = wall.axis.points
    exact = -((np.arange(1, 9) * np.pi / 2) ** 2)
    np.testing.assert_allclose(np.sort(wall.eigenvalues.numpy())[::-1][:8], exact, rtol=1e-10)
    f = np.sin(np.pi * y) * np.exp(y)
    coefficients = wall.coefficients @ torch.from_numpy(f)
    np.testing.assert_allclose(wall.values @ coefficients, f, atol=1e-13)
    slope = np.exp(y) * (np.sin(np.pi * y) + np.pi * np.cos(np.pi * y))
    np.testing.assert_allclose(wall.slopes @ coefficients, slope, atol=1e-11)
    second = np.exp(y) * ((1 - np.pi**2) * np.sin(np.pi * y) + 2 * np.pi * np.cos(np.pi * y))
    solved = (wall.coefficients @ torch.from_numpy(f - 0.3 * second)) / (1 - 0.3 * wall.eigenvalues)
    np.testing.assert_allclose(wall.values @ solved, f, atol=1e-11)
    assert float(wall.mean @ torch.from_numpy(y**6)) == pytest.approx(2**6 / 7, rel=1e-13)


def test_interpolation_copies_points_and_is_exact_for_polynomials():
    axis = between_walls("y", 25)
    assert np.array_equal(interpolation(axis, axis.points[::3]), np.eye(25)[::3])
    y = np.linspace(0, 2, 11)
    np.testing.assert_allclose(interpolation(axis, y) @ axis.points**7, y**7, rtol=1e-12, atol=1e-12)
