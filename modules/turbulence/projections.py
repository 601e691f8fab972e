"""What a predicted flow must obey: no divergence, no slip, its mass flux, an energy as in the training.

Each is a map of physical fields to the nearest one (or a near one) that obeys; maps that already hold change nothing.
Applied in the order walls, divergence, mass flux, energy band, none undoes what the ones before it did.
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from jaxtyping import Complex, Float
from torch import Tensor

from data.errors import ConfigError
from data.grid import Axis, Grid
from modules.turbulence.fields import fluctuation, fluctuation_energy, point_weights, profile

KEPT_GRIDS = 8
"""Grids whose tables are kept."""


@dataclass(frozen=True, kw_only=True)
class ProjectionConfig:
    """Which laws every predicted frame is made to obey."""

    walls: bool = False
    """No slip: zero at the walls."""
    divergence: bool = False
    """The nearest field without divergence and without slip; components are velocities along the axes, in order."""
    mass_flux: bool = False
    """The mean flow of the frame before: along the first periodic axis between walls, of every component without."""
    energy_band: bool = False
    """The energy of the fluctuation within what the training frames have."""

    def apply(
        self,
        field: Float[Tensor, "batch *grid component"],
        before: Float[Tensor, "batch *grid component"],
        grid: Grid,
        band: Float[Tensor, " 2"],
    ) -> Float[Tensor, "batch *grid component"]:
        """The predicted `field`, which comes after the frame `before`, made to obey.

        Args:
            band: least and greatest energy of the fluctuation.

        Raises:
            ConfigError: divergence of other than one velocity per axis.
        """
        if self.walls:
            field = no_slip(field, grid)
        if self.divergence:
            field = divergence_free(field, grid)
        if self.mass_flux:
            field = with_flux(field, flux(before, grid), grid)
        if self.energy_band:
            field = within_band(field, grid, band)
        return field


# ------------------------------------------------------------------------------------------ walls, flux and energy


def no_slip(field: Float[Tensor, "batch *grid component"], grid: Grid) -> Float[Tensor, "batch *grid component"]:
    """The field with zeros at the walls; the field itself where there are none."""
    if grid.walls is None:
        return field
    inside = torch.ones(grid.shape[grid.walls], dtype=field.dtype, device=field.device)
    inside[0] = inside[-1] = 0
    return field * _along(inside, grid.walls, field.ndim)


def flux(field: Float[Tensor, "batch *grid component"], grid: Grid) -> Float[Tensor, "batch component"]:
    """The mean of each component over the volume, by the grid's quadrature."""
    return (field * point_weights(grid, field)[..., None]).flatten(1, -2).sum(dim=1)


def with_flux(
    field: Float[Tensor, "batch *grid component"], wanted: Float[Tensor, "batch component"], grid: Grid
) -> Float[Tensor, "batch *grid component"]:
    """The field with the mean flow that is wanted.

    Without walls a constant is added to every component. Between walls the component along the first periodic axis gets
    a multiple of the parabola that a uniform force drives in a viscous fluid: it has no divergence and is zero at the
    walls.
    """
    missing = wanted - flux(field, grid)
    if grid.walls is None:
        return field + missing.reshape(len(field), *([1] * len(grid.axes)), -1)
    axis = grid.axes[grid.walls]
    height = (axis.points - axis.points[0]) / axis.length
    parabola = height * (1 - height)
    parabola = parabola * axis.length / (axis.weights @ parabola)
    shape = _along(torch.as_tensor(parabola, dtype=field.dtype, device=field.device), grid.walls, field.ndim)
    streamwise = torch.zeros(field.shape[-1], dtype=field.dtype, device=field.device)
    streamwise[grid.homogeneous[0]] = 1
    return field + shape * (missing * streamwise).reshape(len(field), *([1] * len(grid.axes)), -1)


def within_band(
    field: Float[Tensor, "batch *grid component"], grid: Grid, band: Float[Tensor, " 2"]
) -> Float[Tensor, "batch *grid component"]:
    """The field with its fluctuation scaled where its energy lies outside `band` (least, greatest).

    The means over the periodic axes stay. A field that does not fluctuate at all stays as it is.
    """
    energy = fluctuation_energy(field, grid)
    wanted = torch.minimum(torch.maximum(energy, band[0].to(energy)), band[1].to(energy))
    moves = energy > 0
    ratio = torch.where(moves, wanted / torch.where(moves, energy, 1.0), 1.0)
    scale = ratio.sqrt().reshape(-1, *([1] * (field.ndim - 1)))
    return profile(field, grid) + scale * fluctuation(field, grid)


# ---------------------------------------------------------------------------------------------------- divergence


def divergence(field: Float[Tensor, "batch *grid component"], grid: Grid) -> Float[Tensor, " batch *grid"]:
    """Sum of the derivative of each velocity along its axis, by the derivative matrices of the axes."""
    _one_velocity_per_axis(field, grid)
    parts = []
    for k, axis in enumerate(grid.axes):
        matrix = torch.as_tensor(axis.derivative, dtype=field.dtype, device=field.device)
        parts.append(torch.tensordot(field[..., k], matrix, dims=([k + 1], [1])).movedim(-1, k + 1))
    return torch.stack(parts).sum(dim=0)


def divergence_free(
    field: Float[Tensor, "batch *grid component"], grid: Grid
) -> Float[Tensor, "batch *grid component"]:
    """The nearest field, in energy, whose `divergence` is zero; between walls the nearest that is also zero at them.

    Without walls the Leray projection. Between walls, for each wavenumber k of the periodic axes: the velocity a along
    k and the velocity v across the walls obey i k a + D v = 0, so a follows from v, and v is any profile that vanishes
    at the walls together with D v. The nearest one solves a linear system (k² M + K) with symmetric M and K of the grid
    alone, which one generalised eigenvalue problem makes diagonal for all k.

    Computed in float64 whatever the type of the field. Nyquist modes have no derivative here and are left alone.

    Raises:
        ConfigError: other than one component per axis, or no periodic axis.
    """
    _one_velocity_per_axis(field, grid)
    if not grid.homogeneous:
        raise ConfigError("a projection on fields without divergence needs a periodic axis; the grid has none.")
    tables = _tables(_content(grid), str(field.device))
    dims = [axis + 1 for axis in grid.homogeneous]
    spectrum = torch.fft.rfftn(field.double(), dim=dims)
    along = torch.stack([spectrum[..., axis] for axis in grid.homogeneous])
    a = (tables.direction * along).sum(dim=0)  # the velocity along k
    if grid.walls is None:
        parts = list(along - tables.direction * a)
    else:
        across = grid.walls + 1
        between = tables.between
        assert between is not None
        a_new, v = between.nearest(a.movedim(across, -1), spectrum[..., grid.walls].movedim(across, -1))
        along = along + tables.direction * (a_new.movedim(-1, across) - a)
        parts = list(along * _along(between.inside, grid.walls, a.ndim))
        parts.insert(grid.walls, v.movedim(-1, across))
    sizes = [grid.shape[axis] for axis in grid.homogeneous]
    return torch.fft.irfftn(torch.stack(parts, dim=-1), s=sizes, dim=dims).to(field.dtype)


class _Between:
    """The projection between walls for all wavenumbers of a grid."""

    def __init__(self, axis: Axis, k: Float[np.ndarray, "*wavenumber"], device: str) -> None:
        n = len(axis)
        if n < 5:
            raise ConfigError(f"axis {axis.name}: a projection between walls needs at least 5 points, got {n}.")
        derivative, weights = axis.derivative, axis.weights[1:-1]
        # Profiles that are zero at both walls together with their derivative, by their values inside.
        profiles = np.linalg.svd(derivative[[0, -1], 1:-1])[2][2:].T
        slopes = derivative[1:-1, 1:-1] @ profiles
        stiffness, mass = (part.T @ (weights[:, None] * part) for part in (slopes, profiles))
        root = np.linalg.inv(np.linalg.cholesky(mass))
        values, vectors = np.linalg.eigh(root @ stiffness @ root.T)
        vectors = root.T @ vectors

        def embedded(part: np.ndarray) -> Tensor:
            return torch.as_tensor(np.pad(part @ vectors, ((1, 1), (0, 0))), dtype=torch.complex128, device=device)

        self.profiles, self.slopes = embedded(profiles), embedded(slopes)
        self.k = torch.as_tensor(k[..., None], device=device)
        self.denominator = torch.as_tensor(k[..., None] ** 2 + values, device=device)
        self.weights = torch.as_tensor(np.pad(weights, 1), device=device)
        self.inside = torch.as_tensor(np.pad(np.ones(n - 2), 1), device=device)

    def nearest(
        self, a: Complex[Tensor, "batch *wavenumber height"], v: Complex[Tensor, "batch *wavenumber height"]
    ) -> tuple[Complex[Tensor, "batch *wavenumber height"], Complex[Tensor, "batch *wavenumber height"]]:
        """The nearest velocities along k and across the walls; at k = 0, where nothing is along k, (0, 0)."""
        right = self.k * ((self.weights * v) @ self.profiles) - 1j * ((self.weights * a) @ self.slopes)
        modes = right / self.denominator
        return 1j * (modes @ self.slopes.T), self.k * (modes @ self.profiles.T)


class _Tables:
    """What the projection needs of a grid, on one device."""

    def __init__(self, grid: Grid, device: str) -> None:
        periodic = [grid.axes[axis] for axis in grid.homogeneous]
        waves = [_wavenumbers(axis, half=axis is periodic[-1]) for axis in periodic]
        k = np.stack(np.meshgrid(*waves, indexing="ij"))
        length = np.sqrt((k**2).sum(axis=0))
        direction = k / np.where(length > 0, length, 1.0)
        if grid.walls is not None:
            direction = np.expand_dims(direction, grid.walls + 1)
        # A batch axis after the one of the components.
        self.direction = torch.as_tensor(direction[:, None], device=device)
        self.between = None if grid.walls is None else _Between(grid.axes[grid.walls], length, device)


def _wavenumbers(axis: Axis, half: bool) -> Float[np.ndarray, " mode"]:
    """As `Axis.derivative` has them: without the Nyquist mode."""
    n = len(axis)
    k = 2 * np.pi / axis.length * (np.fft.rfftfreq(n, 1 / n) if half else np.fft.fftfreq(n, 1 / n))
    if n % 2 == 0:
        k[n // 2] = 0
    return k


Content = tuple[tuple[str, bytes, float, bool], ...]


def _content(grid: Grid) -> Content:
    """What makes grids equal: one that came out of another process is another object."""
    return tuple((axis.name, axis.points.tobytes(), axis.length, axis.periodic) for axis in grid.axes)


@lru_cache(maxsize=KEPT_GRIDS)
def _tables(content: Content, device: str) -> _Tables:
    axes = [Axis(name, np.frombuffer(points), length, periodic) for name, points, length, periodic in content]
    with torch.inference_mode(False):  # tensors born in inference mode could not serve a training later
        return _Tables(Grid(tuple(axes)), device)


def _one_velocity_per_axis(field: Tensor, grid: Grid) -> None:
    if field.shape[-1] != len(grid.axes):
        raise ConfigError(
            f"divergence: expected one velocity for each axis {', '.join(grid.names)}, got {field.shape[-1]} "
            "component(s). Switch the projection off (a vorticity needs none)."
        )


def _along(values: Float[Tensor, " point"], axis: int, dimensions: int) -> Tensor:
    """`values` along grid axis `axis`, to be multiplied with [batch, *grid, …], which has so many `dimensions`."""
    return values.reshape(-1, *([1] * (dimensions - axis - 2)))
