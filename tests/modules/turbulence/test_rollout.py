"""Rollouts: the frames of a loop by hand, restarts bit for bit, ends with a reason, and memory that does not grow."""

import gc
import math
import weakref

import pytest
import torch
from torch import Tensor

from data.errors import ConfigError
from data.grid import Grid
from modules.turbulence.fields import fluctuation_energy
from modules.turbulence.ifactformer import IFactFormerConfig
from modules.turbulence.projections import divergence
from modules.turbulence.rollout import Guard, ensemble, rollout
from modules.turbulence.stepper import Stepper, StepperConfig
from tests.modules.turbulence.field_makers import GRIDS, WALLED, PointwiseConfig, field

GRID = GRIDS["square"]


def stepper(history: int = 2) -> Stepper:
    return PointwiseConfig(components=2, axes=2, history=history, increment=True).build()


def start(trajectories: int = 3, history: int = 2, grid: Grid = GRID) -> Tensor:
    return field(grid, batch=trajectories * history).float().unflatten(0, (trajectories, history))


def test_frames_are_those_of_a_loop_and_carry_no_gradients() -> None:
    model, past = stepper(), start()
    frames = list(rollout(model, past, GRID, steps=4))
    window = [past[:, 0], past[:, 1]]
    for number, frame in enumerate(frames, start=1):
        window.append(model(torch.stack(window[-2:], dim=1), GRID).detach())
        assert (frame.step, frame.trajectories, frame.stopped) == (number, (0, 1, 2), {})
        assert torch.equal(frame.fields, window[-1])
        assert not frame.fields.requires_grad
    assert len(frames) == 4


def test_the_callers_gradients_stay_as_they_are_between_frames() -> None:
    for _ in rollout(stepper(), start(), GRID, steps=2):
        assert torch.is_grad_enabled()


@pytest.mark.parametrize("done", [1, 3])
@pytest.mark.parametrize("network", ["pointwise", "operator"])
def test_a_restart_goes_on_bit_for_bit(done: int, network: str) -> None:
    if network == "operator":
        small = IFactFormerConfig(dim=24, heads=2, dim_head=4, iterations=2)
        model = StepperConfig(components=2, axes=2, history=2, network=small).build()
    else:
        model = stepper()
    past = start()
    whole = list(rollout(model, past, GRID, steps=6))
    last = torch.cat([past, *(frame.fields[:, None] for frame in whole[:done])], dim=1)[:, -2:]
    rest = list(rollout(model, last, GRID, steps=6, done=done))
    assert [frame.step for frame in rest] == [frame.step for frame in whole[done:]]
    assert all(torch.equal(a.fields, b.fields) for a, b in zip(rest, whole[done:], strict=True))


def growing(past: Tensor, grid: Grid) -> Tensor:
    """Trajectory k, told from its first value, is multiplied by 1, 2, 0.5, or turned into nan at its fourth step."""
    newest = past[:, -1].clone()
    kind = newest[:, 0, 0, 0].sign() * 2 + newest[:, 0, 0, 1].sign()
    factor = torch.where(kind == 3, 1.0, torch.where(kind == 1, 2.0, 0.5))
    return newest * factor[:, None, None, None]


def kinds() -> Tensor:
    past = start(3, 1)
    for trajectory, (a, b) in enumerate([(1.0, 1.0), (1.0, -1.0), (-1.0, 1.0)]):
        past[trajectory, :, 0, 0] = torch.tensor([a, b])
    return past


def test_each_trajectory_ends_for_itself_with_a_reason() -> None:
    past = kinds()
    energies = fluctuation_energy(past[:, -1].double(), GRID)
    guard = Guard.around([float(energies.min()), float(energies.max())], factor=5.0)
    frames = list(rollout(growing, past, GRID, steps=6, guard=guard))
    stopped = {trajectory: stop for frame in frames for trajectory, stop in frame.stopped.items()}
    # Twice the velocity is four times the energy: beyond five times at the second step.
    assert stopped[1].step == stopped[2].step == 2
    assert stopped[1].reason.startswith("blown up: energy of the fluctuation")
    assert stopped[2].reason.startswith("died out: energy of the fluctuation")
    assert [frame.trajectories for frame in frames] == [(0, 1, 2)] + 5 * [(0,)]
    assert all(torch.equal(frame.fields[0], past[0, -1]) for frame in frames)
    assert len(frames[1].fields) == 1


@pytest.mark.parametrize("wrong", [math.nan, math.inf, 1e38])
def test_values_that_are_not_finite_end_a_trajectory_and_the_last_one_the_rollout(wrong: float) -> None:
    """Also beyond what float32 can square, and on the mean alone, which has no energy of fluctuation."""

    def step(past: Tensor, grid: Grid) -> Tensor:
        newest = past[:, -1].clone()
        newest[:, 0, 0, 0] = wrong
        return newest

    frames = list(rollout(step, start(2), GRID, steps=5, guard=Guard(greatest=1e6)))
    assert len(frames) == 1
    assert frames[0].trajectories == ()
    assert frames[0].fields.shape == (0, *GRID.shape, 2)
    expected = "blown up" if wrong == 1e38 else "a value is not finite"
    assert all(stop.step == 1 and stop.reason.startswith(expected) for stop in frames[0].stopped.values())


def test_goes_on_with_those_that_still_run() -> None:
    past = kinds()
    guard = Guard(greatest=float(fluctuation_energy(past[:, -1].double(), GRID).max()) * 5)
    whole = list(rollout(growing, past, GRID, steps=6, guard=guard))
    assert whole[2].trajectories == (0, 2)
    rest = list(rollout(growing, whole[2].fields[:, None], GRID, 6, guard, done=3, trajectories=whole[2].trajectories))
    assert [frame.trajectories for frame in rest] == [frame.trajectories for frame in whole[3:]]
    assert all(torch.equal(a.fields, b.fields) for a, b in zip(rest, whole[3:], strict=True))


def test_nothing_is_kept_of_many_steps() -> None:
    model, alive = stepper(), []
    for frame in rollout(model, start(2), GRID, steps=400):
        alive.append(weakref.ref(frame.fields))
        model.network.shown.clear()  # type: ignore[union-attr,operator]
        if frame.step % 100 == 0:
            gc.collect()
            # The frame at hand; the history is a copy of its own.
            assert sum(reference() is not None for reference in alive) <= 2


def test_guards() -> None:
    guard = Guard.around(torch.tensor([2.0, 4.0]), factor=10.0)
    assert (guard.least, guard.greatest) == pytest.approx((0.2, 40.0))
    assert guard.reason(39.0) is None
    assert guard.reason(0.21) is None
    assert "at most 40" in str(guard.reason(41.0))
    assert "at least 0.2" in str(guard.reason(0.1))
    assert Guard().reason(1e300) is None
    assert Guard().reason(math.inf) == "a value is not finite"
    with pytest.raises(ConfigError, match="factor of at least 1"):
        Guard.around([1.0, 2.0], factor=0.5)


@pytest.mark.parametrize("name", GRIDS)
@pytest.mark.parametrize("scalar", [False, True])
def test_members_begin_a_little_apart(name: str, scalar: bool) -> None:
    grid = GRIDS[name]
    past = field(grid, batch=4, components=1 if scalar else None).unflatten(0, (2, 2))
    found = ensemble(past, grid, members=3, amplitude=0.01, seed=7).unflatten(0, (2, 3))
    assert torch.equal(found[:, 0], past)
    apart = found[:, 1:] - past[:, None]
    torch.testing.assert_close(apart[:, :, 0], apart[:, :, 1])
    size = fluctuation_energy(apart[:, :, -1].flatten(0, 1), grid).unflatten(0, (2, 2))
    expected = 1e-4 * fluctuation_energy(past[:, -1], grid)
    torch.testing.assert_close(size, expected[:, None].expand(2, 2), rtol=1e-6, atol=0)
    first, second = apart[0, 0, 0], apart[0, 1, 0]
    assert abs((first * second).sum() / (first.norm() * second.norm())) < 0.9
    if not scalar:
        assert divergence(apart[:, :, 0].flatten(0, 1), grid).abs().max() < 1e-10
        if name in WALLED:
            assert grid.walls is not None
            assert apart[:, :, 0].movedim(grid.walls + 2, 0)[[0, -1]].abs().max() < 1e-12


def test_a_member_follows_from_seed_and_number_alone() -> None:
    past = start(2)
    few, many = (ensemble(past, GRID, members, 0.1, seed=1).unflatten(0, (2, members)) for members in (2, 4))
    assert torch.equal(few, many[:, :2])
    other = ensemble(past, GRID, 2, 0.1, seed=2).unflatten(0, (2, 2))
    assert not torch.allclose(other[:, 1], few[:, 1])


def test_refuses_an_ensemble_of_nobody() -> None:
    with pytest.raises(ConfigError, match="members >= 1"):
        ensemble(start(), GRID, 0, 0.1, seed=0)
