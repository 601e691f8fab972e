"""The three-dimensional solver against Taylor and Green's vortex, budgets, and the laws of turbulence."""

import itertools
import math

import numpy as np
import pytest
import torch

from data.errors import ConfigError
from data.grid import Grid
from data.synthetic.turbulence.fourier import Box, box
from data.synthetic.turbulence.isotropic import Isotropic, IsotropicConfig
from data.synthetic.turbulence.simulation import BlownUp
from data.synthetic.turbulence.subgrid import SubgridConfig, dynamic_coefficient


def divergence(velocity: torch.Tensor, grid: Grid) -> torch.Tensor:
    """By the derivative matrices of the grid, in float64."""
    matrices = [torch.from_numpy(axis.derivative) for axis in grid.axes]
    u, v, w = velocity.double().unbind(-1)
    return (
        torch.einsum("ax,xyz->ayz", matrices[0], u)
        + torch.einsum("ay,xyz->xaz", matrices[1], v)
        + torch.einsum("az,xyz->xya", matrices[2], w)
    )


def taylor_green(points: int, nu: float, step: float) -> Isotropic:
    config = IsotropicConfig(points=points, nu=nu, start="taylor_green", forcing="none", dtype="float64", step=step)
    return config.build(0)


def test_taylor_green_at_the_start() -> None:
    """E = 1/8, enstrophy 3/8, and the field itself."""
    flow = taylor_green(24, 0.01, 0.05)
    x = torch.from_numpy(flow.grid.axes[0].points)
    expected = torch.sin(x)[:, None, None] * torch.cos(x)[:, None] * torch.cos(x)
    torch.testing.assert_close(flow.fields()[..., 0], expected, rtol=0, atol=1e-14)
    torch.testing.assert_close(flow.fields()[..., 1], -expected.transpose(0, 1), rtol=0, atol=1e-14)
    assert flow.energy() == pytest.approx(1 / 8, rel=1e-14)
    assert flow.enstrophy() == pytest.approx(3 / 8, rel=1e-14)


def taylor_series(nu: float) -> np.ndarray:
    """a0 to a4 of E(t) = Σ a_k t^k, from the equation itself by Taylor's recursion with numpy on the grid's points.

    The pressure form and full transforms share nothing with the solver but the equation.
    """
    n, order = 24, 4
    k = np.fft.fftfreq(n, 1 / n)
    k = np.stack(np.meshgrid(k, k, k, indexing="ij"))
    squared = (k**2).sum(0)
    x = np.stack(np.meshgrid(*(2 * np.pi * np.arange(n) / n,) * 3, indexing="ij"))
    u = np.stack([np.sin(x[0]) * np.cos(x[1]) * np.cos(x[2]), -np.cos(x[0]) * np.sin(x[1]) * np.cos(x[2]), 0 * x[0]])
    terms = [np.fft.fftn(u, axes=(1, 2, 3))]
    for m in range(order):
        points = [np.fft.ifftn(t, axes=(1, 2, 3)).real for t in terms]
        slopes = [np.fft.ifftn(1j * k[:, None] * t, axes=(2, 3, 4)).real for t in terms]  # [j, i]
        advected = sum(np.einsum("jxyz,jixyz->ixyz", points[p], slopes[m - p]) for p in range(m + 1))
        change = -np.fft.fftn(advected, axes=(1, 2, 3))
        change -= k * (k * change).sum(0) / np.maximum(squared, 1)
        terms.append((change - nu * squared * terms[m]) / (m + 1))
    fields = [np.fft.ifftn(t, axes=(1, 2, 3)).real for t in terms]
    return np.array(
        [sum((fields[p] * fields[m - p]).sum(0).mean() for p in range(m + 1)) / 2 for m in range(order + 1)]
    )


def test_taylor_green_at_early_times() -> None:
    """The solver's energy against the series in time: what is left is the series' next term."""
    flow = taylor_green(24, 0.05, 0.01)
    series = taylor_series(0.05)
    assert series[0] == pytest.approx(1 / 8)
    assert series[1] == pytest.approx(-2 * 0.05 * 3 / 8)
    errors = []
    for time in (0.1, 0.2, 0.4):
        flow.advance(time)
        errors.append(abs(flow.energy() - np.polynomial.polynomial.polyval(time, series)))
    assert errors[0] < 1e-8
    assert [math.log2(b / a) for a, b in itertools.pairwise(errors)] == pytest.approx([5, 5], abs=0.5)


def test_energy_falls_by_what_the_enstrophy_says() -> None:
    """-dE/dt = 2 ν Ω, by central differences."""
    flow = taylor_green(24, 0.01, 0.01)
    flow.advance(1.0)
    before, h = flow.energy(), 0.01
    flow.advance(1.0 + h)
    dissipation = 2 * 0.01 * flow.enstrophy()
    flow.advance(1.0 + 2 * h)
    assert (before - flow.energy()) / (2 * h) == pytest.approx(dissipation, rel=1e-5)


def test_the_divergence_is_zero_to_rounding() -> None:
    for config in (
        IsotropicConfig(points=16, dtype="float64"),
        IsotropicConfig(points=16, dtype="float64", subgrid=SubgridConfig(model="wale")),
        IsotropicConfig(points=16, dtype="float64", forcing="energy"),
    ):
        flow = config.build(1)
        flow.advance(0.2)
        assert divergence(flow.fields(), flow.grid).abs().max() < 1e-12


def test_a_start_from_any_field_is_made_free_of_divergence() -> None:
    flow = IsotropicConfig(points=24, dtype="float64").build(0)
    grid = box(12, "xyz")
    frame = torch.randn(12, 12, 12, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    flow.start_from(frame, grid)
    assert divergence(flow.fields(), flow.grid).abs().max() < 1e-12
    once = flow.fields(grid)
    flow.start_from(once, grid)
    torch.testing.assert_close(flow.fields(grid), once, rtol=0, atol=1e-13)  # a projection changes nothing twice
    torch.testing.assert_close(once.mean((0, 1, 2)), torch.zeros(3, dtype=torch.float64), rtol=0, atol=1e-15)


def test_constant_power_is_what_comes_in() -> None:
    """dE/dt = P - 2 ν Ω."""
    flow = IsotropicConfig(points=16, nu=0.05, power=0.3, dtype="float64", step=0.01).build(2)
    before = flow.energy()
    flow.advance(0.01)
    balance = 0.3 - 2 * 0.05 * flow.enstrophy()
    flow.advance(0.02)
    assert (flow.energy() - before) / 0.02 == pytest.approx(balance, rel=1e-3)


def test_constant_energy_of_the_forced_wavenumbers() -> None:
    flow = IsotropicConfig(points=16, nu=0.05, forcing="energy", forced_below=2.5, dtype="float64").build(2)

    def forced() -> float:
        """Independent of the solver: numpy's transform of the field."""
        modes = np.fft.fftn(flow.fields().numpy(), axes=(0, 1, 2)) / 16**3
        k = np.fft.fftfreq(16, 1 / 16)
        squared = k[:, None, None] ** 2 + k[:, None] ** 2 + k**2
        return float(0.5 * (np.abs(modes) ** 2).sum(-1)[(squared > 0) & (squared < 6.25)].sum())

    before = forced()
    flow.advance(0.5)
    assert forced() == pytest.approx(before, rel=1e-12)
    assert flow.energy() != pytest.approx(before, rel=1e-3)


@pytest.mark.parametrize("forcing", ["power", "energy"])
def test_nothing_grows_that_no_field_shows(forcing: str) -> None:
    """An imaginary part of modes that a real field has not, which only the force would act on, is gone after a step."""
    flow = IsotropicConfig(points=12, forcing=forcing, dtype="float64").build(1)  # type: ignore[arg-type]
    state = flow.state()
    state["modes"][0, :, 1, 0, 1] += 1e-3
    state["modes"][0, :, -1, 0, 1] += 1e-3
    seen = flow.fields()
    flow.restore(state)
    torch.testing.assert_close(flow.fields(), seen, rtol=0, atol=1e-14)
    flow.advance(0.05)
    shown = 0.5 * flow.fields().square().sum(-1).mean().item()
    assert flow.energy() == pytest.approx(shown, rel=1e-13)


def test_energy_is_conserved_without_viscosity() -> None:
    flow = IsotropicConfig(points=16, nu=1e-12, forcing="none", dtype="float64", step=0.005).build(3)
    before = flow.energy()
    flow.advance(0.2)
    assert flow.energy() == pytest.approx(before, rel=1e-9)


def test_the_start_is_the_seeds_and_not_the_grids() -> None:
    fine, coarse, other = (
        IsotropicConfig(points=points, dtype="float64").build(seed) for points, seed in ((48, 1), (24, 1), (24, 2))
    )
    torch.testing.assert_close(fine.fields(coarse.grid), coarse.fields(), rtol=0, atol=1e-12)
    assert (other.fields() - coarse.fields()).norm() > coarse.fields().norm()
    assert coarse.energy() == pytest.approx(0.5, rel=1e-12)


@pytest.mark.parametrize("forcing", ["power", "energy"])
def test_a_state_goes_on_to_the_bit(forcing: str) -> None:
    config = IsotropicConfig(points=12, forcing=forcing, subgrid=SubgridConfig(model="dynamic"))  # type: ignore[arg-type]
    flow, other = config.build(2), config.build(3)
    flow.advance(0.1)
    other.restore(flow.state())
    flow.advance(0.2)
    other.advance(0.2)
    assert torch.equal(flow.fields(), other.fields())


@pytest.mark.parametrize("model", ["smagorinsky", "dynamic", "wale"])
def test_a_subgrid_model_only_takes_energy(model: str) -> None:
    subgrid = SubgridConfig(model=model)  # type: ignore[arg-type]
    flow = IsotropicConfig(points=16, nu=1e-9, forcing="none", dtype="float64", subgrid=subgrid).build(4)
    flow.advance(0.2)
    first = flow.energy()
    flow.advance(0.4)
    assert flow.energy() < first < 0.5


def test_smagorinsky_takes_what_its_viscosity_says() -> None:
    """dE/dt = -<2 ν_t S_ij S_ij>, of which the mean is (C_s Δ)² <|S|³>."""
    subgrid = SubgridConfig(model="smagorinsky", constant=0.1)
    flow = IsotropicConfig(points=24, nu=1e-12, forcing="none", dtype="float64", step=0.002, subgrid=subgrid).build(4)
    before = flow.energy()
    flow.advance(0.002)
    slopes = [
        torch.tensordot(flow.fields(), torch.from_numpy(axis.derivative), ([k], [1])).movedim(-1, k)
        for k, axis in enumerate(flow.grid.axes)
    ]
    gradient = torch.stack(slopes, -1)
    rate = (2 * ((gradient + gradient.mT) / 2).square().sum((-1, -2))).sqrt()
    taken = (0.1 * math.pi / 7) ** 2 * rate.pow(3).mean().item()
    flow.advance(0.004)
    assert (before - flow.energy()) / 0.004 == pytest.approx(taken, rel=2e-3)


def test_too_long_a_step_is_named() -> None:
    flow = IsotropicConfig(points=16, step=1.0, nu=1e-4).build(1)
    with pytest.raises(BlownUp, match=r"isotropic turbulence: .*time step 1\).*allows a step of about 0\."):
        flow.advance(60.0)
    assert flow.time == 0 and bool(flow.fields().isfinite().all())


def test_refusals() -> None:
    with pytest.raises(ConfigError, match="nu, step and energy above 0"):
        IsotropicConfig(nu=0)
    with pytest.raises(ConfigError, match="forced_below"):
        IsotropicConfig(points=16, forced_below=8)


@pytest.mark.slow
def test_taylor_green_dissipates_most_where_it_should() -> None:
    """Re 100: 0.0129 at about t = 5 (Brachet et al. 1983, figure 7)."""
    flow = taylor_green(32, 0.01, 0.05)
    times = np.arange(1, 61) / 10
    rates, energies = [], [flow.energy()]
    for time in times:
        flow.advance(float(time))
        rates.append(2 * 0.01 * flow.enstrophy())
        energies.append(flow.energy())
    assert max(rates) == pytest.approx(0.0129, rel=0.01)
    assert times[int(np.argmax(rates))] == pytest.approx(5, abs=0.2)
    slopes = -np.diff(energies[1:])[1:] / 0.2 - np.diff(energies[1:])[:-1] / 0.2
    np.testing.assert_allclose(slopes, rates[1:-1], rtol=2e-3)


@pytest.mark.slow
def test_large_eddies_have_kolmogorovs_spectrum() -> None:
    """E(k) = C ε^{2/3} k^{-5/3} with C near 1.5 up to the cut-off, and C_s near 0.1 (sharp cut-off in each direction,
    Δ from the wavenumbers along an axis), though the viscosity alone would leave all energy at the cut-off."""
    config = IsotropicConfig(points=24, nu=1e-3, step=0.04, subgrid=SubgridConfig(model="dynamic"))
    flow = config.build(1)
    exact = Box(flow.grid, torch.float32, "cpu")
    shells = exact.squared.sqrt().round()
    spectra = []
    for time in (4.0, 5.0, 6.0, 7.0, 8.0):
        flow.advance(time)
        modes = exact.modes(flow.fields().movedim(-1, 0))
        energy = torch.view_as_real(modes).square().sum((0, -1)) * exact.weights / 2
        spectra.append([float(energy[shells == k].sum()) * k ** (5 / 3) / 0.1 ** (2 / 3) for k in range(3, 8)])
    constants = np.mean(spectra, axis=0)
    assert np.all((constants > 0.7) & (constants < 2.1))
    assert np.mean(constants) == pytest.approx(1.5, rel=0.2)
    velocity = exact.points(modes)
    gradient = exact.points(torch.stack([1j * k * modes for k in exact.wavenumbers], 1))
    assert 0.08 < dynamic_coefficient(velocity, gradient, exact.scales).item() ** 0.5 < 0.15
