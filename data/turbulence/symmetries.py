"""Symmetries of a flow: shifts and reflections that take solutions of its equations to solutions, on grid points."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from data.grid import Grid

STILL = 0.1
"""A mean velocity below this share of its standard deviation counts as none."""


@dataclass(frozen=True)
class Motion:
    """A reflection of some axes, then a shift by whole points."""

    flips: tuple[bool, ...]
    shifts: tuple[int, ...]


@dataclass(frozen=True)
class Symmetries:
    """The motions of a grid that leave the equations of a flow as they are.

    Periodic axes: every shift and, where `reflected`, x → -x; an axis between walls is reflected about its middle. A
    vector changes the sign of the components along reflected axes, vorticity in two dimensions that of the reflection.

    `forcing` limits the shifts along one axis: the force sin(k·y) e_x, in the vorticity equation -k cos(k·y), has
    period 2π/k, and changes its sign after half of it. An odd number of reflections changes its sign too: ω(x, y) →
    -ω(-x, y) and -ω(x, -y) are no symmetries, but with a shift by π/k along y they are.
    """

    grid: Grid
    components: tuple[str, ...]
    reflected: tuple[bool, ...]
    """Axes that may be reflected."""
    forcing: tuple[int, int] | None = None
    """Axis of the force's wave, and waves in the length of the axis."""

    def draw(self, seed: int) -> Motion:
        """A random motion, each with the same probability."""
        rng = np.random.default_rng([seed & 0xFFFFFFFFFFFFFFFF, 0x5F1D])
        flips = tuple(bool(rng.integers(2)) and may for may in self.reflected)
        shifts = [int(rng.integers(len(axis))) if axis.periodic else 0 for axis in self.grid.axes]
        if self.forcing is not None:
            axis, waves = self.forcing
            allowed = shifts_of_wave(len(self.grid.axes[axis]), waves, half=sum(flips) % 2 == 1)
            if not allowed:  # half a wave is no whole number of points: only an even number of reflections is left
                flips, allowed = (False,) * len(flips), shifts_of_wave(len(self.grid.axes[axis]), waves, half=False)
            shifts[axis] = allowed[int(rng.integers(len(allowed)))]
        return Motion(flips, tuple(shifts))

    def apply(
        self, motion: Motion, frames: Float[np.ndarray, "time *grid component"]
    ) -> Float[np.ndarray, "time *grid component"]:
        """The frames after a motion."""
        for k, axis in enumerate(self.grid.axes):
            shift = motion.shifts[k]
            if motion.flips[k]:
                frames = np.flip(frames, 1 + k)
                shift += axis.periodic  # the point at the origin stays where it is
            if shift:
                frames = np.roll(frames, shift, 1 + k)
        signs = [self._sign(name, motion.flips) for name in self.components]
        return frames * np.asarray(signs, frames.dtype) if any(motion.flips) else frames

    def _sign(self, component: str, flips: Sequence[bool]) -> int:
        if component == "vorticity":
            return (-1) ** sum(flips)
        along = dict(zip(self.grid.names, flips, strict=True))
        return -1 if component.startswith("velocity_") and along.get(component[9:]) else 1


def shifts_of_wave(points: int, waves: int, half: bool) -> list[int]:
    """Shifts by whole points of a periodic axis that keep cos(2π·waves·j/points), or with `half` change its sign."""
    wanted = points if half else 0
    return [shift for shift in range(points) if (2 * waves * shift - wanted) % (2 * points) == 0]


def symmetries_of(
    grid: Grid,
    components: Sequence[str],
    mean: Float[np.ndarray, " component"],
    std: Float[np.ndarray, " component"],
    forcing_wavenumber: float | None = None,
) -> Symmetries | None:
    """The symmetries of a flow that is known by what its files say; None where nothing can be said.

    Velocity (with or without pressure) in a channel or in a periodic box, driven evenly: every shift, and reflections
    of the axes along which no mean velocity goes. With `forcing_wavenumber`, also for the vorticity: Kolmogorov's flow.
    """
    names = set(components) - {"pressure"}
    velocity = names == {f"velocity_{axis}" for axis in grid.names}
    plane = names == {"vorticity"} and len(grid.axes) == 2
    if forcing_wavenumber is not None and (velocity or plane) and len(grid.axes) == 2 and grid.walls is None:
        wave = grid.axes[1]
        waves = forcing_wavenumber * wave.length / (2 * math.pi)
        centred = np.allclose([axis.points[0] for axis in grid.axes], 0)
        if abs(waves - round(waves)) > 1e-4 or round(waves) < 1:
            return None
        return Symmetries(grid, tuple(components), (centred, centred), (1, round(waves)))
    if not velocity or len(grid.homogeneous) < len(grid.axes) - 1:
        return None
    moving = {name: abs(m) > STILL * s for name, m, s in zip(components, mean, std, strict=True)}
    return Symmetries(
        grid,
        tuple(components),
        tuple(not moving[f"velocity_{axis.name}"] and _symmetric(axis.points) for axis in grid.axes),
    )


def _symmetric(points: Float[np.ndarray, " point"]) -> bool:
    """Whether points lie evenly about their middle."""
    return bool(np.allclose(np.diff(points), np.diff(points)[::-1], atol=1e-5 * (points[-1] - points[0])))
