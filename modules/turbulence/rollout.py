"""Rollouts: a stepper fed with its own frames, for as long as its flows stay what they were trained to be."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from data.errors import ConfigError
from data.grid import Grid
from modules.layers.random import generator, mix
from modules.turbulence.fields import fluctuation_energy
from modules.turbulence.projections import divergence_free

PERTURBATION_STREAM = 73
LARGEST_WAVES = 4
"""A perturbation has so many waves along each axis at most: finer ones a viscous flow, or a network, wipes out."""

Step = Callable[[Tensor, Grid], Tensor]
"""From past frames [batch, history, *grid, component] to the next one [batch, *grid, component], as a Stepper."""


@dataclass(frozen=True, kw_only=True)
class Guard:
    """When a trajectory is given up: by the energy of its fluctuation (`fields.fluctuation_energy`)."""

    least: float = 0.0
    greatest: float = math.inf

    @classmethod
    def around(cls, band: Sequence[float] | Float[Tensor, " 2"], factor: float = 10.0) -> "Guard":
        """Up to `factor` times more or less than `band` (least and greatest of the training, `Stepper.energy_band`).

        Raises:
            ConfigError: a factor below 1.
        """
        if factor < 1:
            raise ConfigError(f"guard: expected a factor of at least 1, got {factor}.")
        least, greatest = (float(value) for value in band)
        return cls(least=least / factor, greatest=greatest * factor)

    def reason(self, energy: float) -> str | None:
        """Why a frame of this energy ends its trajectory; None where it does not."""
        if not math.isfinite(energy):
            return "a value is not finite"
        if energy > self.greatest:
            return f"blown up: energy of the fluctuation {energy:.3g}, at most {self.greatest:.3g} is allowed"
        if energy < self.least:
            return f"died out: energy of the fluctuation {energy:.3g}, at least {self.least:.3g} is expected"
        return None


@dataclass(frozen=True)
class Stop:
    """The end of a trajectory before its time."""

    step: int
    """At which the frame was no longer good; it is not handed out."""
    reason: str


@dataclass(frozen=True)
class Frame:
    """One frame of all trajectories that still run."""

    step: int
    """From 1."""
    trajectories: tuple[int, ...]
    """Which of the trajectories begun these are, rising."""
    fields: Float[Tensor, "trajectory *grid component"]
    stopped: dict[int, Stop]
    """Trajectories that ended at this step."""


def rollout(
    step: Step,
    past: Float[Tensor, "trajectory history *grid component"],
    grid: Grid,
    steps: int,
    guard: Guard | None = None,
    *,
    done: int = 0,
    trajectories: Sequence[int] | None = None,
) -> Iterator[Frame]:
    """Frames after `past`, one at a time; nothing but the last `history` frames is kept.

    A trajectory whose frame is not finite, or beyond the guard, ends there for itself; when all have ended, so does the
    rollout. To go on after a frame, hand over the last `history` frames of the trajectories that still run, with
    `done` and `trajectories` as that frame has them: what follows is equal bit for bit.

    Args:
        steps: of the whole rollout, `done` included.
        guard: None stops only at values that are not finite.
        done: steps that `past` is away from the beginning.
        trajectories: numbers of the trajectories of `past`; None counts from 0.
    """
    guard = guard or Guard()
    running = list(range(len(past))) if trajectories is None else list(trajectories)
    for number in range(done + 1, steps + 1):
        with torch.no_grad():
            fields = step(past, grid)
            energies = fluctuation_energy(fields.double(), grid).tolist()
            # Energy does not see the mean; the sum sees every value, and is finite where all are in float64.
            whole = fields.double().flatten(1).sum(dim=1).isfinite().tolist()
        reasons = [guard.reason(energy if finite else math.nan) for energy, finite in zip(energies, whole, strict=True)]
        stopped = {
            trajectory: Stop(number, reason)
            for trajectory, reason in zip(running, reasons, strict=True)
            if reason is not None
        }
        if stopped:
            kept = [place for place, reason in enumerate(reasons) if reason is None]
            running = [running[place] for place in kept]
            past, fields = past[kept], fields[kept]
        yield Frame(number, tuple(running), fields, stopped)
        if not running:
            return
        past = torch.cat([past[:, 1:], fields[:, None]], dim=1)


def ensemble(
    past: Float[Tensor, "trajectory history *grid component"],
    grid: Grid,
    members: int,
    amplitude: float,
    seed: int,
) -> Float[Tensor, "member_of_trajectory history *grid component"]:
    """Copies of each trajectory that begin a little apart: member m of trajectory t is row t·members + m.

    Member 0 is the trajectory itself. The others get a smooth random field, the same on all frames of the history, that
    is zero at walls and, for velocities along all axes, without divergence; its root mean square is `amplitude` times
    that of the newest frame's fluctuation. It follows from (seed, member) alone.

    Raises:
        ConfigError: no member, or a negative amplitude.
    """
    if members < 1 or amplitude < 0:
        raise ConfigError(f"ensemble: expected members >= 1 and amplitude >= 0, got {members} and {amplitude}.")
    shape = past.shape[2:]
    fields = [torch.zeros(shape, dtype=torch.float64)]
    fields += [_smooth(grid, shape[-1], mix(seed, member, PERTURBATION_STREAM)) for member in range(1, members)]
    pattern = torch.stack(fields).to(past)
    size = amplitude * (2 * fluctuation_energy(past[:, -1].double(), grid)).sqrt().to(past)
    apart = size.reshape(-1, *([1] * (past.ndim - 1))) * pattern
    return (past[:, None] + apart[:, :, None]).flatten(0, 1)


def _smooth(grid: Grid, components: int, seed: int) -> Float[Tensor, "*grid component"]:
    """A random field of few waves, its energy of fluctuation 1/2; float64."""
    field = torch.randn(*grid.shape, components, generator=generator(seed), dtype=torch.float64)[None]
    for k, axis in enumerate(grid.axes):
        if axis.periodic:
            spectrum = torch.fft.rfft(field, dim=k + 1)
            waves = torch.arange(spectrum.shape[k + 1]).reshape(-1, *([1] * (field.ndim - k - 2)))
            field = torch.fft.irfft(spectrum * (waves <= LARGEST_WAVES), n=len(axis), dim=k + 1)
        else:
            height = torch.as_tensor((axis.points - axis.points[0]) / axis.length)
            sines = torch.sin(math.pi * height * torch.arange(1, LARGEST_WAVES + 1)[:, None])
            field = torch.tensordot(field, sines.T @ sines, dims=([k + 1], [1])).movedim(-1, k + 1)
    if components == len(grid.axes) and grid.homogeneous:
        field = divergence_free(field, grid)
    return (field / (2 * fluctuation_energy(field, grid)).sqrt())[0]
