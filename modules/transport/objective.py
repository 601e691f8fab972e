"""What a velocity network is trained on: regression of the path's velocity."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from data.errors import ConfigError
from modules.geometry.manifold import Point, Tangent
from modules.transport.path import GeodesicPath, Mask, Time

Weighting = Literal["uniform", "inverse-square", "cosine"]

WEIGHTINGS: dict[str, Callable[[Tensor], Tensor]] = {
    "uniform": torch.ones_like,
    "inverse-square": lambda t: (1.0 - t) ** -2.0,
    "cosine": lambda t: 2.0 / (math.pi * (1.0 - 2.0 * t + 2.0 * t**2)),
}
"""Weight as a function of t. With the noise level s = 1 - t, "inverse-square" is s^-2 (called sigma_sqrt elsewhere;
infinite at the data) and "cosine" is the cosmap of Esser et al. 2024 (eq. 21), symmetric in s and t."""


@dataclass(frozen=True)
class VelocityMatching:
    """Mean squared distance between predicted and path velocity (Liu et al. 2022, eq. 1), per sample."""

    path: GeodesicPath
    weighting: Weighting = "uniform"

    def __post_init__(self) -> None:
        if self.weighting not in WEIGHTINGS:
            raise ConfigError(f"unknown loss weighting '{self.weighting}'; available: {', '.join(WEIGHTINGS)}.")

    def __call__(
        self,
        velocity: Callable[[Point, Time], Tangent],
        x0: Point,
        x1: Point,
        t: Time,
        *,
        mask: Mask | None = None,
    ) -> Float[Tensor, " batch"]:
        """One loss per sample; their mean is what to minimise.

        `mask` names the events that count; a sample of which none counts has loss 0.
        """
        at = self.path.sample(x0, x1, t)
        squared = (velocity(at.x_t, t) - at.velocity).square()
        return WEIGHTINGS[self.weighting](t).to(squared.dtype) * mean_of_events(squared, mask)


def mean_of_events(values: Tangent, mask: Mask | None = None) -> Float[Tensor, " batch"]:
    """Mean over the events of each sample that `mask` leaves; 0 where none is left."""
    if mask is None:
        return values.flatten(start_dim=1).mean(dim=1)
    counts = mask.reshape(*mask.shape, *(1,) * (values.ndim - mask.ndim)).expand_as(values).flatten(start_dim=1)
    # A masked entry may be anything, NaN too: it is left out, not multiplied by zero.
    total = torch.where(counts, values.flatten(start_dim=1), 0.0).sum(dim=1)
    return total / counts.sum(dim=1).clamp_min(1)
