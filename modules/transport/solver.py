"""Solvers for dx/dt = v(x, t) that know neither the network behind v nor the manifold under x."""

import math
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from typing import Protocol, runtime_checkable

import numpy as np

from data.errors import ConfigError, PenstockError
from modules.geometry.manifold import Manifold, Point, Tangent

VelocityField = Callable[[Point, float], Tangent]
"""v(x, t): the velocity of every sample at one common time t."""


@runtime_checkable
class Solver(Protocol):
    """One step of a one-step method; stateless, so that a step can be read without its past."""

    @property
    def order(self) -> int:
        """Global order of convergence."""
        ...

    def step(self, velocity: VelocityField, on: Manifold, x: Point, t: float, dt: float) -> Point:
        """The state at `t + dt`, given the state `x` at `t`."""
        ...


class Euler:
    """Explicit Euler: one evaluation per step, order 1."""

    order = 1

    def step(self, velocity: VelocityField, on: Manifold, x: Point, t: float, dt: float) -> Point:
        return on.exp(x, dt * velocity(x, t))


class Heun:
    """Heun's method (explicit trapezoid): two evaluations per step, order 2."""

    order = 2

    def step(self, velocity: VelocityField, on: Manifold, x: Point, t: float, dt: float) -> Point:
        v0 = velocity(x, t)
        v1 = velocity(on.exp(x, dt * v0), t + dt)
        return on.exp(x, dt * 0.5 * (v0 + v1))


SOLVERS: dict[str, Callable[[], Solver]] = {"euler": Euler, "heun": Heun}


def solver_named(name: str) -> Solver:
    """The solver called `name` in configs. Raises ConfigError when there is none."""
    if name not in SOLVERS:
        raise ConfigError(f"unknown solver '{name}'; available: {', '.join(sorted(SOLVERS))}.")
    return SOLVERS[name]()


def trajectory(
    velocity: VelocityField, on: Manifold, x0: Point, times: Sequence[float], solver: Solver
) -> Iterator[tuple[float, Point]]:
    """Every (time, state) from (times[0], x0) on, lazily, so that a caller can show progress or stop early."""
    if not len(times) or any(not math.isfinite(t) for t in times):
        raise PenstockError(f"a trajectory needs at least one finite time, got {list(times)}; see uniform_times.")
    x = x0
    yield times[0], x
    for t, t_next in pairwise(times):
        x = solver.step(velocity, on, x, t, t_next - t)
        yield t_next, x


def integrate(velocity: VelocityField, on: Manifold, x0: Point, times: Sequence[float], solver: Solver) -> Point:
    """The state at times[-1] of the trajectory that starts at `x0` at times[0]; times may run either way."""
    # A deque of length one drops every state but the last as soon as the next one is there.
    ((_, x),) = deque(trajectory(velocity, on, x0, times, solver), maxlen=1)
    return x


def shifted_times(steps: int, shift: float = 1.0) -> list[float]:
    """`steps` + 1 times from 0 to 1, denser near the noise for shift > 1 (Esser et al. 2024, eq. 23).

    The noise levels 1 - t are rounded to float32, as published samplers keep them, so that their schedules are met bit
    for bit; the differences of the times are exact in float64. A dynamic shift mu is shift = exp(mu).
    """
    if steps < 1 or shift <= 0:
        raise ConfigError(f"a schedule needs steps >= 1 and shift > 0, got steps={steps} and shift={shift}.")
    levels = 1.0 - np.arange(steps) / steps
    levels = shift * levels / (1.0 + (shift - 1.0) * levels)
    return [*(1.0 - levels.astype(np.float32).astype(np.float64)).tolist(), 1.0]


def uniform_times(steps: int) -> list[float]:
    """`steps` + 1 times from 0 to 1 at equal distances (up to float32 rounding of the noise level)."""
    return shifted_times(steps, 1.0)
