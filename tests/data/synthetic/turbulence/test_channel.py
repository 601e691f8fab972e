"""The channel solver against laminar solutions, conservation laws and the equations themselves."""

import math

import numpy as np
import pytest
import torch

from data.errors import CheckpointError, ConfigError
from data.synthetic.turbulence.channel import ChannelConfig
from data.synthetic.turbulence.simulation import BlownUp, Simulation, run
from data.synthetic.turbulence.subgrid import SubgridConfig

SMALL = ChannelConfig(points=(16, 25, 16), dtype="float64")
LAMINAR = ChannelConfig(
    points=(4, 33, 4),
    nu=0.05,
    bulk_velocity=1.0,
    start="laminar",
    perturbation=0.0,
    frame_velocity=0.0,
    dtype="float64",
)


def derivative(values: np.ndarray, grid, axis: int) -> np.ndarray:
    return np.moveaxis(np.tensordot(grid.axes[axis].derivative, values, (1, axis)), 0, axis)


def divergence(field: np.ndarray, grid) -> np.ndarray:
    return sum(derivative(field[..., k], grid, k) for k in range(3))


def curl(field: np.ndarray, grid) -> np.ndarray:
    pairs = ((1, 2), (2, 0), (0, 1))
    return np.stack([derivative(field[..., k], grid, j) - derivative(field[..., j], grid, k) for j, k in pairs], -1)


def profile(channel) -> np.ndarray:
    return channel.fields()[..., 0].double().mean((0, 2)).numpy()


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_turbulence_has_no_divergence_slips_nowhere_and_keeps_its_mass_flux(dtype):
    channel = ChannelConfig(points=(16, 25, 16), dtype=dtype).build(3)
    channel.dtype = torch.float64  # of the fields alone: the state is double in either case
    for _ in range(2):
        field = channel.fields().numpy()
        assert np.abs(divergence(field, channel.grid)).max() < 1e-12
        assert np.all(field[:, [0, -1]] == 0)
        assert np.average(field[..., 0], weights=np.broadcast_to(channel.grid.weights, channel.grid.shape)) == (
            pytest.approx(15.63, abs=1e-12)
        )
        channel.advance(channel.time + 0.02)


def test_is_a_simulation():
    channel: Simulation = SMALL.build(0)
    assert channel.components == ("velocity_x", "velocity_y", "velocity_z")
    assert channel.parameters == {"nu": 1 / 180, "Re_tau_nominal": 180, "U_bulk": 15.63}
    assert channel.fields().shape == (*channel.grid.shape, 3)
    half = (channel.fields() ** 2).sum(-1).numpy() / 2
    assert channel.energy() == pytest.approx((half * channel.grid.weights).sum(), rel=1e-12)


def test_start_of_a_flow_at_rest_under_a_constant_pressure_gradient():
    """The analytic series of plane Poiseuille flow that sets out from rest."""
    nu, gradient, until = 0.05, 0.3, 2.0
    channel = ChannelConfig(
        points=(4, 33, 4),
        nu=nu,
        drive="pressure_gradient",
        pressure_gradient=gradient,
        bulk_velocity=0.0,
        perturbation=0.0,
        frame_velocity=0.0,
        time_step=0.005,
        dtype="float64",
    ).build(0)
    channel.advance(until)
    y = channel.grid.axes[1].points
    series = sum(
        16 / (n * math.pi) ** 3 * np.sin(n * math.pi * y / 2) * math.exp(-nu * (n * math.pi / 2) ** 2 * until)
        for n in range(1, 60, 2)
    )
    exact = gradient / nu * (y * (2 - y) / 2 - series)
    np.testing.assert_allclose(profile(channel), exact, atol=2e-6 * exact.max())
    assert channel.pressure_gradient == pytest.approx(gradient, rel=1e-12)


def test_poiseuille_flow_stays_and_its_pressure_gradient_balances_the_walls():
    channel = LAMINAR.build(0)
    y = channel.grid.axes[1].points
    channel.advance(1.0)
    np.testing.assert_allclose(profile(channel), 1.5 * y * (2 - y), atol=1e-12)
    assert channel.pressure_gradient == pytest.approx(3 * 0.05 * 1.0, rel=1e-9)
    assert channel.friction_velocity**2 == pytest.approx(channel.pressure_gradient, rel=1e-9)


def test_a_disturbed_profile_decays_as_the_slowest_modes_say():
    channel = ChannelConfig(
        points=(4, 33, 4), nu=0.05, drive="pressure_gradient", pressure_gradient=0.15, bulk_velocity=1.0,
        start="laminar", perturbation=0.0, frame_velocity=0.0, time_step=0.005, dtype="float64",
    ).build(0)  # fmt: skip
    y = channel.grid.axes[1].points
    laminar, first, second = 1.5 * y * (2 - y), np.sin(np.pi / 2 * y), np.sin(np.pi * y)
    frame = np.zeros((*channel.grid.shape, 3))
    frame[..., 0] = (laminar + 0.3 * first)[:, None]
    frame[..., 2] = 0.2 * second[:, None]
    channel.start_from(torch.from_numpy(frame), channel.grid)
    channel.advance(1.0)
    slow, fast = (math.exp(-0.05 * (n * math.pi / 2) ** 2) for n in (1, 2))
    np.testing.assert_allclose(profile(channel), laminar + 0.3 * slow * first, atol=1e-7)
    np.testing.assert_allclose(channel.fields()[0, :, 0, 2].numpy(), 0.2 * fast * second, atol=1e-7)


def test_energy_changes_by_the_work_of_the_pressure_less_the_dissipation():
    channel = ChannelConfig(points=(16, 49, 16), nu=0.02, perturbation=2.0, time_step=5e-4, dtype="float64").build(1)
    grid = channel.grid
    times, energies, dissipations, works = [], [], [], []
    for k in range(1, 10):
        channel.advance(0.02 + k * 5e-4)
        field = channel.fields().numpy()
        times.append(channel.time)
        energies.append(channel.energy())
        dissipations.append(0.02 * ((curl(field, grid) ** 2).sum(-1) * grid.weights).sum())
        works.append(channel.pressure_gradient * 15.63)
    change = np.gradient(energies, times)[2:-2]
    # The force is the mean over the step that has ended.
    work = (np.array(works)[2:-2] + np.array(works)[3:-1]) / 2
    np.testing.assert_allclose(change, (work - np.array(dissipations)[2:-2]), rtol=2e-3)


def test_vorticity_changes_as_its_equation_says():
    """∂ω/∂t = ∇×(u×ω) + nu ∇²ω, with derivatives on the grid, where the products are resolved."""
    step = 1e-5
    channel = ChannelConfig(points=(32, 33, 32), nu=1e-3, perturbation=2.0, time_step=step, dtype="float64").build(2)
    grid, vorticities = channel.grid, []
    field = channel.fields().numpy()
    for k in range(3):
        channel.advance(k * step)
        vorticities.append(curl(channel.fields().numpy(), grid)[..., 1])
    found = (-3 * vorticities[0] + 4 * vorticities[1] - vorticities[2]) / (2 * step)
    omega = curl(field, grid)
    laplacian = sum(derivative(derivative(omega[..., 1], grid, k), grid, k) for k in range(3))
    expected = curl(np.cross(field, omega), grid)[..., 1] + 1e-3 * laplacian
    inside = slice(6, -6)  # next to the walls ω_y at once follows its condition there
    scale = np.abs(expected).max()
    np.testing.assert_allclose(found[:, inside] / scale, expected[:, inside] / scale, atol=1e-4)


def test_a_moving_frame_changes_nothing():
    fields = []
    for speed in (0.0, 11.0):
        channel = ChannelConfig(
            points=(16, 25, 16), frame_velocity=speed, time_step=5e-4, perturbation=1.5, dtype="float64"
        ).build(0)
        channel.advance(0.02)
        fields.append(channel.fields().numpy())
    assert np.abs(fields[0] - fields[1]).max() < 2e-6 * np.abs(fields[0]).max()
    assert np.abs(fields[0] - ChannelConfig(points=(16, 25, 16), perturbation=1.5).build(0).fields().numpy()).max() > 1


def test_single_precision_products_change_little():
    fields = []
    for dtype in ("float32", "float64"):
        channel = ChannelConfig(points=(16, 25, 16), dtype=dtype, time_step=2e-3).build(0)
        channel.advance(0.04)
        fields.append(channel.fields().double().numpy())
    assert np.abs(fields[0] - fields[1]).max() < 1e-5 * np.abs(fields[1]).max()


def test_goes_on_from_its_state_as_if_nothing_had_happened():
    config = ChannelConfig(points=(16, 17, 16), subgrid=SubgridConfig(model="dynamic"))
    whole = config.build(0)
    for until in (0.05, 0.1, 0.15):
        whole.advance(until)
        if until == 0.05:
            kept = whole.state()
    again = config.build(7)
    again.restore(kept)
    assert again.time == 0.05
    again.advance(0.1)
    again.advance(0.15)
    assert torch.equal(whole.fields(), again.fields())
    assert all(torch.equal(value, again.state()[name]) for name, value in whole.state().items())


def test_fixed_steps_are_the_same_however_the_way_is_cut():
    fields = []
    for times in ([0.03], [0.01, 0.02, 0.03]):
        channel = ChannelConfig(points=(8, 17, 8), time_step=0.0025).build(0)
        for until in times:
            channel.advance(until)
        fields.append(channel.fields())
    assert torch.equal(*fields)


def test_seeds_make_the_start():
    first, same, other = (SMALL.build(seed).fields() for seed in (1, 1, 2))
    assert torch.equal(first, same)
    assert (first - other).abs().max() > 1


def test_a_blown_up_run_keeps_its_last_good_state(tmp_path):
    config = ChannelConfig(points=(16, 17, 16), time_step=0.02, perturbation=8.0)
    times = [0.02 * (k + 1) for k in range(200)]
    frames = []
    with pytest.raises(BlownUp, match=r"channel: .*Choose a smaller cfl or time_step.*last good state") as caught:
        run(config.build(0), times, lambda k, t, f: frames.append(f), checkpoint=tmp_path / "state", every=50)
    assert frames and all(bool(frame.isfinite().all()) for frame in frames)
    kept = config.build(1)
    with pytest.raises(BlownUp):
        run(kept, times, lambda *_: None, checkpoint=tmp_path / "state")
    assert caught.value.time >= times[len(frames) - 1]


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"points": (15, 17, 16)}, "even numbers"),
        ({"points": (16, 5, 16)}, "at least"),
        ({"nu": 0.0}, r"channel\.nu: expected a positive number"),
        ({"time_step": -1.0}, "time_step"),
        ({"bulk_velocity": 0.0}, "bulk_velocity"),
        ({"cfl": float("nan")}, "cfl"),
        ({"drive": "gravity"}, "mass_flux"),
    ],
)
def test_refuses_what_is_no_channel(wrong, message):
    with pytest.raises(ConfigError, match=message):
        ChannelConfig(**wrong)


def test_refuses_the_state_of_another_channel():
    with pytest.raises(CheckpointError, match="expected a state of"):
        SMALL.build(0).restore(ChannelConfig(points=(16, 17, 16)).build(0).state())


@pytest.mark.slow
def test_a_minimal_channel_stays_turbulent():
    """Friction four times that of laminar flow; a box just wide enough for one streak (Jiménez and Moin 1991)."""
    channel = ChannelConfig(points=(16, 33, 16), length_x=math.pi, length_z=0.4 * math.pi).build(0)
    channel.advance(6.0)
    friction = []
    for k in range(40):
        channel.advance(6.0 + 0.1 * (k + 1))
        friction.append(channel.friction_velocity**2)
    assert 0.75 < np.mean(friction) < 1.25
    laminar = 3 * 15.63 / 180
    assert np.mean(friction) > 2.5 * laminar


@pytest.mark.long
def test_a_coarse_channel_has_the_statistics_of_moser_kim_and_mansour():
    """32 x 33 x 16 points at Re_tau 180 without a model, 10 h/u_tau: within what that grid allows."""
    channel = ChannelConfig(points=(32, 33, 16)).build(0)
    channel.advance(8.0)
    mean, square, friction = [], [], []
    for k in range(100):
        channel.advance(8.0 + 0.1 * (k + 1))
        field = channel.fields().double()
        mean.append(field.mean((0, 2)))
        square.append(field.square().mean((0, 2)))
        friction.append(channel.friction_velocity**2)
    u_tau = np.sqrt(np.mean(friction))
    profile = torch.stack(mean).mean(0)
    rms = (torch.stack(square).mean(0) - profile.square()).sqrt() / u_tau
    assert u_tau == pytest.approx(1.0, abs=0.04)
    assert float(profile[16, 0]) / u_tau == pytest.approx(18.30, rel=0.05)
    # Peaks of u', v', w' in the tables; the spanwise one comes out a third too high on this grid.
    for k, (peak, allowed) in enumerate(((2.658, 0.1), (0.836, 0.12), (1.087, 0.4))):
        assert float(rms[:, k].max()) == pytest.approx(peak, rel=allowed)
