"""Grids and random fields that several tests share."""

import numpy as np

from data.grid import Axis, Grid, between_walls, fourier
from data.turbulence.statistics import FlowStatistics, Statistics

XYZ = ("velocity_x", "velocity_y", "velocity_z")


def channel(nx: int = 8, ny: int = 9, nz: int = 6, wall: Axis | None = None) -> Grid:
    return Grid((fourier("x", nx, 4 * np.pi), wall or between_walls("y", ny), fourier("z", nz, 4 * np.pi / 3)))


def box(*points: int, length: float = 2 * np.pi) -> Grid:
    return Grid(tuple(fourier(name, n, length) for name, n in zip("xyz", points, strict=False)))


def noise(grid: Grid, frames: int, components: int, seed: int) -> np.ndarray:
    """Frames that remember a little of the one before, [time, *grid, component]."""
    fields = np.random.default_rng(seed).standard_normal((frames, *grid.shape, components))
    for k in range(1, frames):
        fields[k] += 0.5 * fields[k - 1]
    return fields


def of(frames: np.ndarray, grid: Grid, components: tuple[str, ...] = XYZ, **options: object) -> Statistics:
    """Statistics of one trajectory with the spacing 0.5."""
    statistics = FlowStatistics(grid, components, nu=0.01, **options)  # type: ignore[arg-type]
    for k, frame in enumerate(frames):
        statistics.add(frame, 0.5 * k)
    return statistics.finished()
