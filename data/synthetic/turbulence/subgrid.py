"""Subgrid models of large-eddy simulation: eddy viscosities as functions of the velocity gradient tensor.

Tensors have their components first and the grid last, as the spectral solvers hold them: velocity [i, *grid] and
gradient [i, j, *grid] = ∂u_i/∂x_j, at the collocation points. What depends on the grid (widths, the test filter, the
directions to average over) a solver hands in as `FilterScales`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from data.errors import ConfigError

Model = Literal["none", "smagorinsky", "dynamic", "wale"]

CONSTANTS = {"smagorinsky": 0.17, "wale": 0.5}
"""For isotropic turbulence: C_s by Lilly (1967), C_w by Nicoud and Ducros (1999)."""


@dataclass(frozen=True, kw_only=True)
class SubgridConfig:
    """Which model stands for the scales that the grid does not hold."""

    model: Model = "none"
    """none; smagorinsky and wale: a constant coefficient; dynamic: one found from the resolved flow."""
    constant: float | None = None
    """C_s or C_w; None for 0.17 and 0.5, those of isotropic turbulence (channels: 0.1 and 0.325). Not for dynamic."""

    def __post_init__(self) -> None:
        if self.constant is None:
            return
        if self.model not in CONSTANTS or self.constant < 0:
            raise ConfigError(
                f"subgrid.constant: expected None or a number from 0, and the model smagorinsky or wale; got "
                f"{self.constant:g} with the model {self.model}."
            )


@dataclass(frozen=True, kw_only=True)
class FilterScales:
    """What a solver tells a subgrid model about its grid."""

    width: Float[Tensor, "*grid"]
    """Width Δ of the grid filter; any shape that broadcasts over the grid (wall damping, if wanted, is in it)."""
    ratio: float
    """Width of the test filter over Δ: 2 for a cut-off at half the wavenumber in all directions."""
    test_filter: Callable[[Tensor], Tensor]
    """Filters the trailing grid axes of a tensor [..., *grid]."""
    average: Callable[[Tensor], Tensor]
    """Mean of [*grid] over the homogeneous directions, which stay as axes of length 1."""


def eddy_viscosity(
    config: SubgridConfig,
    velocity: Float[Tensor, " component *grid"],
    gradient: Float[Tensor, "component direction *grid"],
    scales: FilterScales,
    coefficient: Float[Tensor, "*homogeneous"] | None = None,
) -> Float[Tensor, "*grid"]:
    """The eddy viscosity ν_t of the configured model, never negative; none gives 0.

    `coefficient`: the C_s² that `dynamic_coefficient` found before, as at the beginning of the same time step.

    Raises:
        ConfigError: WALE in two dimensions.
    """
    if config.model == "none":
        return torch.zeros_like(velocity[0])
    if config.model == "dynamic":
        squared = dynamic_coefficient(velocity, gradient, scales) if coefficient is None else coefficient
        return squared * scales.width**2 * magnitude(strain(gradient))
    constant = CONSTANTS[config.model] if config.constant is None else config.constant
    model = smagorinsky if config.model == "smagorinsky" else wale
    return model(gradient, scales.width, constant)


def subgrid_stress(
    gradient: Float[Tensor, "component direction *grid"], viscosity: Float[Tensor, "*grid"]
) -> Float[Tensor, "component direction *grid"]:
    """2 ν_t S_ij: its divergence over j is what the model adds to ∂u_i/∂t."""
    return 2 * viscosity * strain(gradient)


def strain(gradient: Float[Tensor, "component direction *grid"]) -> Float[Tensor, "component direction *grid"]:
    """S_ij = (∂u_i/∂x_j + ∂u_j/∂x_i) / 2."""
    return (gradient + gradient.transpose(0, 1)) / 2


def magnitude(tensor: Float[Tensor, "component direction *grid"]) -> Float[Tensor, "*grid"]:
    """√(2 S_ij S_ij); in simple shear the shear rate."""
    return (2 * tensor.square().sum((0, 1))).sqrt()


def smagorinsky(
    gradient: Float[Tensor, "component direction *grid"], width: Float[Tensor, "*width"], constant: float
) -> Float[Tensor, "*grid"]:
    """ν_t = (C_s Δ)² |S| (Smagorinsky 1963)."""
    return (constant * width) ** 2 * magnitude(strain(gradient))


def wale(
    gradient: Float[Tensor, "component direction *grid"], width: Float[Tensor, "*width"], constant: float
) -> Float[Tensor, "*grid"]:
    """ν_t = (C_w Δ)² (S^d S^d)^{3/2} / ((S S)^{5/2} + (S^d S^d)^{5/4}), S^d the traceless symmetric part of g².

    Nicoud and Ducros (1999), equations 10 and 13: no viscosity in pure shear, of order y³ at a wall.

    Raises:
        ConfigError: two dimensions.
    """
    if len(gradient) != 3:
        raise ConfigError(
            "WALE needs three dimensions: of an incompressible flow in two, the square of the velocity gradient is a "
            "multiple of the identity, so that its viscosity is zero everywhere. Choose the model dynamic."
        )
    squared = torch.einsum("ij...,jk...->ik...", gradient, gradient)
    deviator = strain(squared)
    third = deviator.diagonal(dim1=0, dim2=1).sum(-1) / 3
    for k in range(3):
        deviator[k, k] -= third
    rotating = deviator.square().sum((0, 1))
    straining = strain(gradient).square().sum((0, 1))
    # Where nothing moves, both are 0: the least normal number below makes that 0 instead of 0/0.
    # Roots, because powers of fractions take as long as all the rest.
    root = rotating.sqrt()
    below = straining.square() * straining.sqrt() + rotating * root.sqrt() + torch.finfo(gradient.dtype).tiny
    return (constant * width) ** 2 * rotating * root / below


def dynamic_coefficient(
    velocity: Float[Tensor, " component *grid"],
    gradient: Float[Tensor, "component direction *grid"],
    scales: FilterScales,
) -> Float[Tensor, "*homogeneous"]:
    """C_s² of the resolved flow, averaged over the homogeneous directions and clipped at 0.

    Germano's identity (Germano, Piomelli, Moin and Cabot 1991) by Lilly's least squares (1992): with the hat for the
    test filter and α for the ratio of the widths, L_ij = hat(u_i u_j) - û_i û_j is fitted by C_s² M_ij with
    M_ij = 2 Δ² (hat(|S| S_ij) - α² |Ŝ| Ŝ_ij); C_s² = <L_ij M_ij> / <M_ij M_ij>.
    """
    # Of the symmetric tensors one of each pair, as rows; the others count by the weights.
    dimensions = len(velocity)
    i, j = torch.triu_indices(dimensions, dimensions, device=velocity.device)
    weights = torch.where(i == j, 1, 2).to(velocity).reshape(-1, *[1] * (velocity.ndim - 1))
    resolved = strain(gradient)[i, j]

    def rate(rows: Tensor) -> Tensor:
        return (2 * (weights * rows.square()).sum(0)).sqrt()

    given = [velocity, resolved, velocity[i] * velocity[j], rate(resolved) * resolved]
    hat_velocity, hat_strain, hat_products, hat_model = scales.test_filter(torch.cat(given)).split([*map(len, given)])
    stress = hat_products - hat_velocity[i] * hat_velocity[j]
    model = 2 * scales.width**2 * (hat_model - scales.ratio**2 * rate(hat_strain) * hat_strain)
    above, below = (weights * stress * model).sum(0), (weights * model.square()).sum(0)
    tiny = torch.finfo(velocity.dtype).tiny  # a flow at rest: 0 instead of 0/0
    return (scales.average(above) / (scales.average(below) + tiny)).clamp(min=0)
