"""Fourier modes along the two periodic axes of a channel: wavenumbers, transforms with the 3/2 rule, truncation.

Coefficients have the layout [..., z modes, x modes]: x from 0 up, z from 0 up and then from the lowest negative one,
without the Nyquist mode, so that the coefficient of mode 0 is the mean.
"""

from functools import cached_property

import numpy as np
import torch
from jaxtyping import Complex, Float
from torch import Tensor


def cutoff(points: int) -> int:
    """The highest mode that so many points hold, without the Nyquist mode."""
    return (points - 1) // 2


class Modes:
    """The modes that `points` = (x, z) collocation points hold on a domain of the given lengths."""

    def __init__(self, points: tuple[int, int], lengths: tuple[float, float], device: torch.device) -> None:
        self.points, self.lengths = points, lengths
        self.highest_x, self.highest_z = cutoff(points[0]), cutoff(points[1])
        self.kx: Float[Tensor, " mode"] = (
            torch.arange(self.highest_x + 1, dtype=torch.float64, device=device) * 2 * np.pi / lengths[0]
        )
        order = np.r_[0 : self.highest_z + 1, -self.highest_z : 0].astype(np.float64)
        self.kz: Float[Tensor, "mode 1"] = torch.from_numpy(order * 2 * np.pi / lengths[1]).to(device)[:, None]

    @property
    def shape(self) -> tuple[int, int]:
        return len(self.kz), len(self.kx)

    @property
    def product_points(self) -> tuple[int, int]:
        """Points along (x, z) on which a product of two fields is free of aliasing: the 3/2 rule, even numbers."""
        x, z = (3 * (highest + 1) for highest in (self.highest_x, self.highest_z))
        return x + x % 2, z + z % 2

    @cached_property
    def squared(self) -> Float[Tensor, "z x"]:
        """k² = kx² + kz²."""
        return self.kx.square() + self.kz.square()

    @cached_property
    def inverse_squared(self) -> Float[Tensor, "z x"]:
        """1/k², and 0 for the mean."""
        found = self.squared.clone()
        found[0, 0] = torch.inf
        return 1 / found

    def physical(self, spectra: Complex[Tensor, "... z x"], points: tuple[int, int]) -> Float[Tensor, "... pz px"]:
        """Values on (x, z) = `points` equally spaced points, at least as many as hold the modes."""
        nx, nz = points
        padded = spectra.new_zeros(*spectra.shape[:-2], nz, spectra.shape[-1])
        split = self.highest_z + 1
        padded[..., :split, :] = spectra[..., :split, :]
        padded[..., nz - self.highest_z :, :] = spectra[..., split:, :]
        # Along z first, while there are few x modes.
        lines = torch.fft.ifft(padded, dim=-2, norm="forward")
        return torch.fft.irfft(lines, n=nx, dim=-1, norm="forward")

    def spectral(self, values: Float[Tensor, "... pz px"]) -> Complex[Tensor, "... z x"]:
        """Coefficients of the modes held here, of values on at least as many points."""
        lines = torch.fft.rfft(values, dim=-1, norm="forward")[..., : self.highest_x + 1]
        found = torch.fft.fft(lines, dim=-2, norm="forward")
        split = self.highest_z + 1
        return torch.cat([found[..., :split, :], found[..., found.shape[-2] - self.highest_z :, :]], -2)

    def resized(self, spectra: Complex[Tensor, "... z x"], points: tuple[int, int]) -> Complex[Tensor, "... cz cx"]:
        """The same field on the modes of (x, z) = `points`: cut off sharply, or with zeros added."""
        x, z = cutoff(points[0]), cutoff(points[1])
        keep_x, keep_z = min(x, self.highest_x), min(z, self.highest_z)
        found = spectra.new_zeros(*spectra.shape[:-2], 2 * z + 1, x + 1)
        found[..., : keep_z + 1, : keep_x + 1] = spectra[..., : keep_z + 1, : keep_x + 1]
        if keep_z:
            found[..., -keep_z:, : keep_x + 1] = spectra[..., -keep_z:, : keep_x + 1]
        return found
