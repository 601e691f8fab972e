"""Solvers against analytic solutions, schedules against their formula."""

import math
from itertools import pairwise

import pytest
import torch

from data.errors import ConfigError, PenstockError
from modules.geometry.manifold import Euclidean
from modules.transport.solver import (
    Euler,
    Heun,
    Solver,
    integrate,
    shifted_times,
    solver_named,
    trajectory,
    uniform_times,
)

SOLVERS = pytest.mark.parametrize("solver", [Euler(), Heun()], ids=["euler", "heun"])


def random_points(seed: int) -> torch.Tensor:
    return torch.randn(5, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@SOLVERS
def test_solver_converges_at_its_order(space, solver: Solver):
    """dx/dt = log_x(x1) is solved exactly by exp_{x0}((1 - e^-t) log_{x0} x1), on every manifold."""
    on, x0, x1 = space.on, space.points(0), space.points(1)
    exact = on.exp(x0, (1 - math.exp(-1)) * on.log(x0, x1))

    def error(steps: int) -> float:
        end = integrate(lambda x, t: on.log(x, x1), on, x0, uniform_times(steps), solver)
        return on.log(end, exact).norm().item()

    assert math.log2(error(32) / error(64)) == pytest.approx(solver.order, abs=0.15)


@SOLVERS
def test_solver_converges_at_its_order_where_the_field_depends_on_time(space, solver: Solver):
    """dx/dt = 2 t log_x(x1) is solved by exp_{x0}((1 - e^-t^2) log_{x0} x1).

    A wrong time argument in a stage would lower the order.
    """
    on, x0, x1 = space.on, space.points(0), space.points(1)
    exact = on.exp(x0, (1 - math.exp(-1)) * on.log(x0, x1))

    def error(steps: int) -> float:
        end = integrate(lambda x, t: 2 * t * on.log(x, x1), on, x0, uniform_times(steps), solver)
        return on.log(end, exact).norm().item()

    assert math.log2(error(64) / error(128)) == pytest.approx(solver.order, abs=0.15)


def swirl(space, x: torch.Tensor, t: float) -> torch.Tensor:
    """A field whose direction turns as it is followed, so that rotations of successive steps do not commute."""
    fast = torch.sin(3 * t + x.roll(1, dims=-1))
    return space.pick(torch.cat([fast, fast], dim=-1)[..., :6], 3)


@SOLVERS
def test_solver_converges_at_its_order_where_rotations_do_not_commute(space, solver: Solver):
    on, x0 = space.on, space.points(0)

    def end(steps: int) -> torch.Tensor:
        return integrate(lambda x, t: swirl(space, x, t), on, x0, uniform_times(steps), solver)

    coarse, middle, fine = end(64), end(128), end(256)
    ratio = on.log(middle, coarse).norm() / on.log(fine, middle).norm()
    assert math.log2(ratio) == pytest.approx(solver.order, abs=0.15)


@SOLVERS
def test_straight_paths_need_one_step(space, solver: Solver):
    """The velocity of a coupling with one target is constant on each path."""
    x0, x1 = space.points(0), space.points(1)
    chord = space.on.log(x0, x1)
    space.assert_same_points(integrate(lambda x, t: chord, space.on, x0, uniform_times(1), solver), x1)


@SOLVERS
def test_integration_backwards_undoes_integration(space, solver: Solver):
    x0 = space.points(0)
    there = integrate(lambda x, t: swirl(space, x, t), space.on, x0, uniform_times(512), solver)
    back = integrate(lambda x, t: swirl(space, x, t), space.on, there, uniform_times(512)[::-1], solver)
    space.assert_same_points(back, x0, rtol=0, atol={1: 3e-2, 2: 1e-4}[solver.order])


def test_trajectory_shows_every_state_and_ends_where_integrate_does():
    x0, times = random_points(0), shifted_times(7, 3.0)
    states = list(trajectory(lambda x, t: x * t, Euclidean(), x0, times, Heun()))
    assert [t for t, _ in states] == times
    assert torch.equal(states[0][1], x0)
    assert torch.equal(states[-1][1], integrate(lambda x, t: x * t, Euclidean(), x0, times, Heun()))


@pytest.mark.parametrize("shift", [0.5, 1.0, 3.0, math.exp(0.7)])
@pytest.mark.parametrize("steps", [1, 2, 5, 50])
def test_shifted_times_follow_the_formula(steps: int, shift: float):
    times = shifted_times(steps, shift)
    levels = [shift * s / (1 + (shift - 1) * s) for s in (1 - i / steps for i in range(steps + 1))]
    assert times[0] == 0.0
    assert times[-1] == 1.0
    assert len(times) == steps + 1
    assert times == pytest.approx([1 - s for s in levels], abs=6e-8)
    assert all(a < b for a, b in pairwise(times))


def test_a_dynamic_shift_is_a_shift_by_its_exponential():
    """sigma <- e^mu / (e^mu + 1 / sigma - 1), the other form in which schedules are published."""
    mu = 0.7
    levels = [math.exp(mu) / (math.exp(mu) + 1 / s - 1) for s in (1 - i / 6 for i in range(6))]
    assert shifted_times(6, math.exp(mu))[:-1] == pytest.approx([1 - s for s in levels], abs=6e-8)


def test_user_mistakes_are_named():
    with pytest.raises(ConfigError, match="steps=0"):
        shifted_times(0)
    with pytest.raises(ConfigError, match="shift=-1"):
        shifted_times(4, -1.0)
    with pytest.raises(ConfigError, match="euler, heun"):
        solver_named("rk45")
    with pytest.raises(PenstockError, match="finite"):
        integrate(lambda x, t: x, Euclidean(), random_points(0), [0.0, math.nan], Euler())
