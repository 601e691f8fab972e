"""Velocity fields made from velocity fields: classifier-free guidance."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from modules.geometry.manifold import Point, Tangent
from modules.transport.solver import VelocityField

Condition = Float[Tensor, "batch *tokens"]
ConditionalVelocity = Callable[[Point, float, Condition], Tangent]


def extrapolate(unconditional: Tangent, conditional: Tangent, scale: float) -> Tangent:
    """u + scale (c - u): 0 gives the unconditional velocity, 1 the conditional (Ho & Salimans 2022, eq. 6)."""
    return unconditional + scale * (conditional - unconditional)


@dataclass(frozen=True)
class Guidance:
    """Classifier-free guidance from two fields.

    Use it where the unconditional field has a cheaper form than the conditional one, as with an all-zero condition. At
    scale 1 and 0 only the one field that matters is evaluated.
    """

    conditional: VelocityField
    unconditional: VelocityField
    scale: float

    def __call__(self, x: Point, t: float) -> Tangent:
        if self.scale == 1.0:
            return self.conditional(x, t)
        if self.scale == 0.0:
            return self.unconditional(x, t)
        return extrapolate(self.unconditional(x, t), self.conditional(x, t), self.scale)


@dataclass(frozen=True)
class BatchedGuidance:
    """Classifier-free guidance from one call of a conditional field on a batch of twice the size, [null, condition]."""

    velocity: ConditionalVelocity
    condition: Condition
    null: Condition
    scale: float

    def __call__(self, x: Point, t: float) -> Tangent:
        both = self.velocity(torch.cat([x, x]), t, torch.cat([self.null, self.condition]))
        unconditional, conditional = both.chunk(2)
        return extrapolate(unconditional, conditional, self.scale)
