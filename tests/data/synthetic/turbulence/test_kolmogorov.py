"""The two-dimensional solver against solutions and budgets of the equation itself."""

import itertools
import math

import numpy as np
import pytest
import torch

from data.errors import ConfigError
from data.synthetic.turbulence.fourier import box
from data.synthetic.turbulence.kolmogorov import Kolmogorov, KolmogorovConfig
from data.synthetic.turbulence.simulation import BlownUp
from data.synthetic.turbulence.subgrid import SubgridConfig


def laminar(config: KolmogorovConfig) -> torch.Tensor:
    """u = A / (ν n² + μ) sin(n y), v = 0."""
    n = config.forcing_wavenumber
    y = 2 * math.pi / config.points * torch.arange(config.points, dtype=torch.float64)
    vorticity = -config.amplitude / (config.nu * n**2 + config.drag) * n * torch.cos(n * y)
    return vorticity.expand(config.points, -1)[..., None].clone()


def test_the_laminar_state_rests() -> None:
    simulation = KolmogorovConfig(points=32, nu=0.01, dtype="float64", step=0.02).build(0)
    expected = laminar(simulation.config)
    simulation.start_from(expected, simulation.grid)
    simulation.advance(1.0)
    torch.testing.assert_close(simulation.fields(), expected, rtol=0, atol=1e-12)


def test_from_rest_the_flow_grows_to_the_laminar_state() -> None:
    """u = U (1 - exp(-(ν n² + μ) t)): the linear part is exact, whatever the step."""
    config = KolmogorovConfig(points=32, nu=0.01, dtype="float64", step=0.5)
    simulation = config.build(0)
    expected = laminar(config)
    simulation.start_from(torch.zeros_like(expected), simulation.grid)
    simulation.advance(2.0)
    grown = 1 - math.exp(-2.0 * (config.nu * 16 + config.drag))
    torch.testing.assert_close(simulation.fields(), grown * expected, rtol=0, atol=1e-13)


def test_taylor_green_eddies_decay_as_they_should() -> None:
    """ω = 2 cos x cos y: its nonlinear term vanishes, so that it decays by exp(-(2ν + μ) t)."""
    config = KolmogorovConfig(points=32, nu=0.05, amplitude=0.0, dtype="float64", step=0.1)
    simulation = config.build(0)
    x = torch.from_numpy(simulation.grid.axes[0].points)
    start = (2 * torch.cos(x)[:, None] * torch.cos(x))[..., None]
    simulation.start_from(start, simulation.grid)
    assert simulation.energy() == pytest.approx(0.25, rel=1e-14)
    simulation.advance(3.0)
    torch.testing.assert_close(simulation.fields(), start * math.exp(-0.6), rtol=0, atol=1e-14)


def velocity(simulation: Kolmogorov) -> tuple[np.ndarray, np.ndarray]:
    """By another way: the derivative matrices of the grid, from the streamfunction solved for with them."""
    vorticity = simulation.fields()[..., 0].double().numpy()
    n = len(vorticity)
    derivative = simulation.grid.axes[0].derivative
    k = np.fft.fftfreq(n, 1 / n)
    squared = k[:, None] ** 2 + k**2
    squared[0, 0] = 1
    streamfunction = np.fft.ifft2(np.fft.fft2(vorticity) / squared).real
    return streamfunction @ derivative.T, -derivative @ streamfunction


def test_energy_and_enstrophy_are_conserved_without_viscosity() -> None:
    config = KolmogorovConfig(points=48, nu=1e-12, drag=0.0, amplitude=0.0, dtype="float64", step=0.005)
    simulation = config.build(3)
    energy, enstrophy = simulation.energy(), simulation.enstrophy()
    simulation.advance(0.5)
    assert simulation.energy() == pytest.approx(energy, rel=1e-9)
    assert simulation.enstrophy() == pytest.approx(enstrophy, rel=1e-7)


def test_energy_and_enstrophy_budgets() -> None:
    """dE/dt = <f·u> - 2νZ - 2μE and dZ/dt = <ω curl f> - ν<|∇ω|²> - 2μZ, with E = <u²>/2 and Z = <ω²>/2."""
    config = KolmogorovConfig(points=48, nu=0.01, dtype="float64", step=0.001)
    simulation = config.build(5)
    simulation.advance(2.0)
    before = simulation.energy(), simulation.enstrophy()
    h = 0.001
    simulation.advance(2.0 + h)
    u, v = velocity(simulation)
    vorticity = simulation.fields()[..., 0].numpy()
    assert simulation.energy() == pytest.approx((u**2 + v**2).mean() / 2, rel=1e-12)
    derivative = simulation.grid.axes[0].derivative
    slope = (derivative @ vorticity) ** 2 + (vorticity @ derivative.T) ** 2
    y = simulation.grid.axes[1].points
    energy, enstrophy = simulation.energy(), simulation.enstrophy()
    power = (u * np.sin(4 * y)).mean() - 2 * config.nu * enstrophy - 2 * config.drag * energy
    palinstrophy = (vorticity * -4 * np.cos(4 * y)).mean() - config.nu * slope.mean() - 2 * config.drag * enstrophy
    simulation.advance(2.0 + 2 * h)
    after = simulation.energy(), simulation.enstrophy()
    assert (after[0] - before[0]) / (2 * h) == pytest.approx(power, rel=1e-5)
    assert (after[1] - before[1]) / (2 * h) == pytest.approx(palinstrophy, rel=1e-5)


def test_fourth_order_in_time() -> None:
    fields = []
    for step in (0.04, 0.02, 0.01):
        simulation = KolmogorovConfig(points=32, nu=0.02, dtype="float64", step=step).build(1)
        simulation.advance(1.0)
        fields.append(simulation.fields())
    ratio = (fields[0] - fields[1]).norm() / (fields[1] - fields[2]).norm()
    assert 13 < ratio < 20  # 16


def test_double_precision_tells_the_error_of_single() -> None:
    fields = []
    for dtype in ("float32", "float64"):
        simulation = KolmogorovConfig(points=32, nu=0.02, dtype=dtype).build(1)  # type: ignore[arg-type]
        simulation.advance(1.0)
        fields.append(simulation.fields().double())
    assert (fields[0] - fields[1]).abs().max() < 2e-5 * fields[1].abs().max()


def test_it_does_not_matter_where_the_way_is_cut() -> None:
    whole, cut = (KolmogorovConfig(points=32, step=1 / 80).build(2) for _ in range(2))
    whole.advance(1.0)
    for time in (0.25, 0.5, 0.75, 1.0):
        cut.advance(time)
    assert torch.equal(whole.fields(), cut.fields())
    assert whole.time == 1.0


def test_a_state_goes_on_to_the_bit() -> None:
    config = KolmogorovConfig(points=32, subgrid=SubgridConfig(model="dynamic"))
    simulation, other = config.build(2), config.build(3)
    simulation.advance(0.5)
    other.restore(simulation.state())
    simulation.advance(1.0)
    other.advance(1.0)
    assert torch.equal(simulation.fields(), other.fields())


def test_the_start_is_the_seeds_and_not_the_grids() -> None:
    fine, coarse, other = (
        KolmogorovConfig(points=points, dtype="float64").build(seed) for points, seed in ((64, 1), (32, 1), (64, 2))
    )
    grid = box(32, "xy")
    torch.testing.assert_close(fine.fields(grid), coarse.fields(), rtol=0, atol=1e-12)
    assert (fine.fields(grid) - other.fields(grid)).norm() > coarse.fields().norm()
    assert coarse.energy() == pytest.approx(0.5, rel=1e-12)


def test_filtered_frames_start_a_run_again() -> None:
    """96 points compute 31 wavenumbers, as many as 64 points hold."""
    simulation = KolmogorovConfig(dtype="float64").build(1)
    simulation.advance(0.5)
    grid = box(64, "xy")
    again = KolmogorovConfig(dtype="float64").build(9)
    again.start_from(simulation.fields(grid), grid)
    torch.testing.assert_close(again.fields(), simulation.fields(), rtol=0, atol=1e-12)
    assert again.time == 0


@pytest.mark.parametrize("model", ["smagorinsky", "dynamic"])
def test_a_subgrid_model_only_takes_energy(model: str) -> None:
    """Without force, drag and viscosity the model alone is at work."""
    subgrid = SubgridConfig(model=model)  # type: ignore[arg-type]
    config = KolmogorovConfig(points=32, nu=1e-9, drag=0, amplitude=0, dtype="float64", step=0.02, subgrid=subgrid)
    simulation = config.build(4)
    energies = []
    for k in range(8):
        simulation.advance(0.25 * k)
        energies.append(simulation.energy())
    assert energies[-1] < 0.999 * energies[0]
    assert all(after < before for before, after in itertools.pairwise(energies))


def test_too_long_a_step_is_named() -> None:
    simulation = KolmogorovConfig(points=64, step=0.2).build(1)
    with pytest.raises(BlownUp, match=r"Kolmogorov flow: .*time step 0\.2.*allows a step of about 0\.0"):
        simulation.advance(100.0)
    assert simulation.time == 0 and bool(simulation.fields().isfinite().all())


def test_refusals() -> None:
    with pytest.raises(ConfigError, match="WALE has no viscosity in two dimensions"):
        KolmogorovConfig(subgrid=SubgridConfig(model="wale"))
    with pytest.raises(ConfigError, match=r"forcing_wavenumber from 1 to below points / 3, got 4 with 12"):
        KolmogorovConfig(points=12)
    with pytest.raises(ConfigError, match="same periodic box"):
        KolmogorovConfig(points=32).build(0).fields(box(16, "xyz"))


@pytest.mark.slow
def test_statistics_are_those_of_the_published_set() -> None:
    """Energy 0.9 and enstrophy 9 (8.87 from the standard deviation 4.21 of its vorticity)."""
    energy, enstrophy = [], []
    for seed in range(4):
        simulation = KolmogorovConfig().build(seed)
        simulation.advance(20.0)
        for k in range(48):
            simulation.advance(20 + 0.25 * k)
            energy.append(simulation.energy())
            enstrophy.append(simulation.enstrophy())
    assert np.mean(energy) == pytest.approx(0.9, rel=0.1)
    assert np.mean(enstrophy) == pytest.approx(8.87, rel=0.1)
