"""Losses of predicted frames, one number per sample."""

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from data.errors import ConfigError
from data.grid import Grid
from modules.turbulence.fields import fluctuation, point_weights, velocity_of
from modules.turbulence.metrics import relative_l2

SPECTRAL_FLOOR = 1e-4
"""Energies of modes below this share of the mean one are not told apart in the spectral loss."""


@dataclass(frozen=True, kw_only=True)
class LossConfig:
    """How a predicted frame is judged; the default is the published loss."""

    kind: Literal["relative_l2", "fluctuation", "increment"] = "relative_l2"
    """`relative_l2`: norm of the error over that of the frame, in which a mean flow hides all else. `fluctuation`: in
    units of what each component fluctuates at each height. `increment`: in units of the change of each component from
    frame to frame."""
    quadrature: bool = False
    """Points count by the volume they stand for, in place of all alike."""
    spectral: float = 0.0
    """Weight of the spectral loss: how far the energy of each mode is off, in orders of e, whatever its phase."""
    velocity: float = 0.0
    """Weight of the error of the velocity that belongs to a vorticity, as a share of the velocity: the largest eddies
    have most of the energy and little vorticity, and drift where only that is asked for."""

    def __post_init__(self) -> None:
        if self.kind not in ("relative_l2", "fluctuation", "increment"):
            raise ConfigError(f"unknown loss '{self.kind}'; available: relative_l2, fluctuation, increment.")
        for name in ("spectral", "velocity"):
            if getattr(self, name) < 0:
                raise ConfigError(f"loss weight '{name}' must not be negative, got {getattr(self, name)}.")

    def per_sample(
        self,
        found: Float[Tensor, "batch *grid component"],
        truth: Float[Tensor, "batch *grid component"],
        grid: Grid,
        unit: Float[Tensor, "height_or_1 component"],
    ) -> Float[Tensor, " batch"]:
        """The loss of each sample.

        Args:
            unit: what an error of each component, at each height or at all alike, is measured in; `relative_l2` has its
                own and does not look.
        """
        weights = point_weights(grid, truth) if self.quadrature else None
        if self.kind == "relative_l2":
            loss = relative_l2(found, truth, weights)
        else:
            loss = scaled_error(found, truth, grid, unit, weights)
        if self.spectral:
            loss = loss + self.spectral * spectral_error(found, truth, grid)
        if self.velocity:
            loss = loss + self.velocity * relative_l2(velocity_of(found, grid), velocity_of(truth, grid))
        return loss


def scaled_error(
    found: Float[Tensor, "batch *grid component"],
    truth: Float[Tensor, "batch *grid component"],
    grid: Grid,
    unit: Float[Tensor, "height_or_1 component"],
    weights: Float[Tensor, "*grid"] | None = None,
) -> Float[Tensor, " batch"]:
    """Root of the mean square error over points and components, in units of `unit` at each height.

    Where `unit` is zero (at walls, where nothing moves) an error counts in the unit of the component's mean square.
    """
    whole = unit.square().mean(dim=0, keepdim=True).sqrt()
    scale = torch.where(unit > 1e-3 * whole, unit, whole).to(truth)
    if grid.walls is not None and len(scale) > 1:
        scale = scale.reshape(-1, *([1] * (len(grid.axes) - grid.walls - 1)), scale.shape[-1])
    error = (found - truth) / scale
    # Over the root of what the weights sum to: a norm has a gradient of zero, not of nan, where there is no error.
    if weights is None:
        share = torch.full_like(error[0], error[0].numel() ** -0.5)
    else:
        share = (weights / error.shape[-1]).sqrt()[..., None]
    return torch.linalg.vector_norm((error * share).flatten(1), dim=1)


def spectral_error(
    found: Float[Tensor, "batch *grid component"], truth: Float[Tensor, "batch *grid component"], grid: Grid
) -> Float[Tensor, " batch"]:
    """Mean distance of the logarithms of the energy spectra along each periodic axis.

    A spectrum is that of the fluctuation, mean over the other periodic axes, for each component and height. Nothing is
    asked of the phases, so a frame that is only shifted has no error. Zero on a grid without periodic axes.
    """
    errors = []
    fluctuations = [fluctuation(field, grid) for field in (found, truth)]
    for axis in grid.homogeneous:
        others = [other + 1 for other in grid.homogeneous if other != axis]
        spectra = []
        for field in fluctuations:
            energy = torch.view_as_real(torch.fft.rfft(field, dim=axis + 1, norm="forward")).square().sum(dim=-1)
            energy = energy.mean(dim=others, keepdim=True) if others else energy
            spectra.append(energy.narrow(axis + 1, 1, energy.shape[axis + 1] - 1))
        # The mean of the component over modes and heights: where a wall leaves nothing, nothing is asked.
        floor = SPECTRAL_FLOOR * spectra[1].flatten(1, -2).mean(dim=1)
        floor = floor.clamp_min(torch.finfo(floor.dtype).tiny).reshape(len(floor), *([1] * len(grid.axes)), -1)
        errors.append(((spectra[0] + floor) / (spectra[1] + floor)).log().abs().flatten(1).mean(dim=1))
    return torch.stack(errors).mean(dim=0) if errors else found.new_zeros(len(found))
