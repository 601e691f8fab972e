"""What the channel computes in physical space: the convective term in rotational form and the subgrid stress."""

import numpy as np
import torch
from jaxtyping import Complex, Float
from torch import Tensor

from data.synthetic.turbulence.channel_modes import Modes
from data.synthetic.turbulence.chebyshev import WallNormal
from data.synthetic.turbulence.subgrid import (
    FilterScales,
    SubgridConfig,
    dynamic_coefficient,
    eddy_viscosity,
    magnitude,
    strain,
    subgrid_stress,
)

SLAB_POINTS = 2**15
"""Points of one field that are in work at a time on a CPU, so that the fields of a slab stay in its cache."""
VAN_DRIEST = 25.0
"""Depth in wall units over which the width of the Smagorinsky model is damped."""
VISCOUS = (4.4, 0.5, 4.4)
"""What an eddy viscosity adds along x, y, z to the rate that limits the time step, in viscosity/spacing².

The three-stage scheme bears rates of 1.73/dt for waves, π speed/spacing on Fourier modes, and of 2.51/dt for diffusion,
2π² viscosity/spacing² on Fourier modes and 2.3 viscosity/spacing² on Chebyshev points with the spacing at the wall."""


class Products:
    """The source of momentum that is computed point by point, in planes of constant y, a few at a time."""

    def __init__(
        self,
        modes: Modes,
        wall: WallNormal,
        subgrid: SubgridConfig,
        nu: float,
        frame_velocity: float,
        dtype: torch.dtype,
    ) -> None:
        self.modes, self.wall, self.subgrid, self.frame_velocity = modes, wall, subgrid, frame_velocity
        self.dtype = torch.complex64 if dtype == torch.float32 else torch.complex128
        self.planes = len(wall.axis)
        x, z = modes.product_points
        device = wall.derivative.device
        self.slab = self.planes if device.type == "cuda" else min(self.planes, max(1, SLAB_POINTS // (x * z)))
        spacing = [length / n for length, n in zip(modes.lengths, modes.points, strict=True)]
        normal = torch.from_numpy(wall.axis.weights).to(device, dtype)[:, None, None]
        self.spacing = (spacing[0], normal, spacing[1])
        self.width = (spacing[0] * spacing[1] * normal) ** (1 / 3)
        if subgrid.model == "smagorinsky":
            # Van Driest (1956), with the nominal friction velocity: this model alone has viscosity at a wall.
            y = torch.from_numpy(np.minimum(wall.axis.points, 2 - wall.axis.points)).to(normal)[:, None, None]
            self.width = self.width * (1 - torch.exp(-y / (nu * VAN_DRIEST)))
        self.coefficient = torch.zeros_like(normal)
        """C_s² of the dynamic model at every height, found at the first stage of a step and kept for the others."""
        low_z = modes.kz.abs() <= modes.highest_z // 2 * 2 * np.pi / modes.lengths[1] + 1e-9
        low_x = modes.kx <= modes.highest_x // 2 * 2 * np.pi / modes.lengths[0] + 1e-9
        self.low = low_z & low_x

    def __call__(
        self, velocity: Complex[Tensor, "3 y z x"], slope: Complex[Tensor, "3 y z x"], *, first: bool
    ) -> tuple[Complex[Tensor, "3 y z x"], Float[Tensor, "2"]]:
        """The source of momentum of a velocity with the derivative `slope` along y; complex128.

        With it, where `first` asks for them (at the first stage of a step; else 0): the inverse of the step in which
        something crosses a cell, and the greatest speed along an axis.
        """
        source = torch.empty_like(velocity)
        stress = velocity.new_empty(6, *velocity.shape[1:]) if self.subgrid.model != "none" else None
        measured = self.width.new_zeros(2)
        work = self._rotational if stress is None else self._with_stress
        for start in range(0, self.planes, self.slab):
            part = slice(start, start + self.slab)
            products, found = work(velocity[:, part], slope[:, part], part, first)
            if found is not None:
                measured = torch.maximum(measured, found)
            spectra = self.modes.spectral(products)
            source[:, part] = spectra[:3]
            if stress is not None:
                stress[:, part] = spectra[3:]
        if stress is not None:
            source += self._divergence(stress)
        return source, measured

    def _rotational(
        self, velocity: Complex[Tensor, "3 s z x"], slope: Complex[Tensor, "3 s z x"], part: slice, first: bool
    ) -> tuple[Float[Tensor, "3 s pz px"], Float[Tensor, "2"] | None]:
        """(u - c) × ω."""
        modes = self.modes
        u, v, w = velocity
        spectra = torch.stack(
            [
                u,
                v,
                w,
                slope[2] - 1j * modes.kz * v,
                1j * (modes.kz * u - modes.kx * w),
                1j * modes.kx * v - slope[0],
            ]
        )
        fields = modes.physical(spectra.to(self.dtype), modes.product_points)
        fields[0] -= self.frame_velocity
        return _cross(fields[:3], fields[3:]), self._measured(fields[:3], None, part) if first else None

    def _with_stress(
        self, velocity: Complex[Tensor, "3 s z x"], slope: Complex[Tensor, "3 s z x"], part: slice, first: bool
    ) -> tuple[Float[Tensor, "9 s pz px"], Float[Tensor, "2"] | None]:
        """(u - c) × ω and the stress 11, 12, 13, 22, 23, 33 of the subgrid model."""
        modes = self.modes
        along_x, along_z = 1j * modes.kx * velocity, 1j * modes.kz * velocity
        spectra = torch.cat([velocity, torch.stack([along_x, slope, along_z], 1).flatten(0, 1)])
        fields = modes.physical(spectra.to(self.dtype), modes.product_points)
        moving, gradient = fields[:3], fields[3:].unflatten(0, (3, 3))
        moving[0] -= self.frame_velocity
        viscosity = self._viscosity(moving, gradient, part, first)
        stress = subgrid_stress(gradient, viscosity)
        vorticity = torch.stack([gradient[k, j] - gradient[j, k] for j, k in ((1, 2), (2, 0), (0, 1))])
        measured = self._measured(moving, viscosity, part) if first else None
        upper = [stress[i, j] for i in range(3) for j in range(i, 3)]
        return torch.cat([_cross(moving, vorticity), torch.stack(upper)]), measured

    def _viscosity(
        self, velocity: Float[Tensor, "3 s pz px"], gradient: Float[Tensor, "3 3 s pz px"], part: slice, first: bool
    ) -> Float[Tensor, "s pz px"]:
        # Widths and the frame's velocity are constant in a plane: Germano's identity does not see the latter.
        scales = FilterScales(
            width=self.width[part],
            ratio=4 ** (1 / 3),  # the test filter doubles two of three widths
            test_filter=self._test_filter,
            average=lambda values: values.mean((-2, -1), keepdim=True),
        )
        if self.subgrid.model != "dynamic":
            return eddy_viscosity(self.subgrid, velocity, gradient, scales)
        if first:
            self.coefficient[part] = dynamic_coefficient(velocity, gradient, scales)
        return self.coefficient[part] * scales.width**2 * magnitude(strain(gradient))

    def _test_filter(self, values: Float[Tensor, "*batch pz px"]) -> Float[Tensor, "*batch pz px"]:
        """Sharp cut-off at half of the highest wavenumbers along x and z."""
        return self.modes.physical(self.modes.spectral(values) * self.low, self.modes.product_points)

    def _divergence(self, stress: Complex[Tensor, "6 y z x"]) -> Complex[Tensor, "3 y z x"]:
        modes = self.modes
        xx, xy, xz, yy, yz, zz = stress
        normal = along(self.wall.derivative, torch.stack([xy, yy, yz]))
        level = torch.stack(
            [modes.kx * xx + modes.kz * xz, modes.kx * xy + modes.kz * yz, modes.kx * xz + modes.kz * zz]
        )
        return normal + 1j * level

    def _measured(
        self, velocity: Float[Tensor, "3 s pz px"], viscosity: Float[Tensor, "s pz px"] | None, part: slice
    ) -> Float[Tensor, "2"]:
        dx, dy, dz = self.spacing[0], self.spacing[1][part], self.spacing[2]
        u, v, w = speeds = velocity.abs()
        crossing = u / dx + v / dy + w / dz
        if viscosity is not None:
            crossing += viscosity * (VISCOUS[0] / dx**2 + VISCOUS[1] / dy**2 + VISCOUS[2] / dz**2)
        return torch.stack([crossing.amax(), speeds.amax()])


def along(
    matrix: Float[Tensor, "out in"], spectra: Complex[Tensor, "*batch in z x"]
) -> Complex[Tensor, "*batch out z x"]:
    """A real matrix along y of complex coefficients: one product for all wavenumbers."""
    parts = torch.view_as_real(spectra).flatten(-3)
    found = (matrix @ parts).unflatten(-1, (*spectra.shape[-2:], 2))
    return torch.view_as_complex(found)


def _cross(a: Float[Tensor, "3 s pz px"], b: Float[Tensor, "3 s pz px"]) -> Float[Tensor, "3 s pz px"]:
    return torch.stack([a[1] * b[2] - a[2] * b[1], a[2] * b[0] - a[0] * b[2], a[0] * b[1] - a[1] * b[0]])
