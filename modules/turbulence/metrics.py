"""Errors of predicted frames: one number per sample, or per sample and component."""

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from data.grid import Grid
from modules.turbulence.fields import fluctuation, point_weights

VARIANCE_FLOOR = 1e-7
"""Added to the variance in VRMSE, as The Well does (Ohana et al. 2024)."""


def relative_l2(
    found: Float[Tensor, "batch *grid component"],
    truth: Float[Tensor, "batch *grid component"],
    weights: Float[Tensor, "*grid"] | None = None,
) -> Float[Tensor, " batch"]:
    """Norm of the error over all points and components, as a share of the norm of the truth.

    Args:
        weights: quadrature weights of the points; None counts all points alike, as published.
    """
    share = 1.0 if weights is None else weights.sqrt()[..., None]
    missed, whole = ((part * share).flatten(1) for part in (found - truth, truth))
    return torch.linalg.vector_norm(missed, dim=1) / torch.linalg.vector_norm(whole, dim=1)


def vrmse(
    found: Float[Tensor, "batch *grid component"],
    truth: Float[Tensor, "batch *grid component"],
    weights: Float[Tensor, "*grid"] | None = None,
) -> Float[Tensor, "batch component"]:
    """Root of the mean square error of each component over its variance in space: 1 says no more than the mean does.

    Args:
        weights: quadrature weights of the points, their sum 1; None counts all points alike, with the variance of The
            Well (over points less one).
    """
    square, values = (found - truth).square().flatten(1, -2), truth.flatten(1, -2)
    if weights is None:
        error, variance = square.mean(dim=1), values.var(dim=1)
    else:
        w = weights.reshape(-1, 1)
        error = (w * square).sum(dim=1)
        variance = (w * (values - (w * values).sum(dim=1, keepdim=True)).square()).sum(dim=1)
    return (error / (variance + VARIANCE_FLOOR)).sqrt()


def correlation(
    found: Float[Tensor, "batch *grid component"], truth: Float[Tensor, "batch *grid component"], grid: Grid
) -> Float[Tensor, "batch component"]:
    """Correlation of what fluctuates about the means over the periodic axes, by the grid's quadrature.

    Of the fluctuations, because a mean profile alone correlates with itself to nearly 1. NaN where nothing fluctuates.
    """
    w = point_weights(grid, truth).reshape(-1, 1)
    a, b = (fluctuation(field, grid).flatten(1, -2) for field in (found, truth))
    product, first, second = ((w * part).sum(dim=1) for part in (a * b, a * a, b * b))
    return product / (first * second).sqrt()


def steps_until(values: Sequence[float], level: float, *, falling: bool = False) -> float | None:
    """After how many steps an error first exceeds `level` (or, `falling`, a correlation drops below it).

    `values` are those after steps 1, 2, …; in between they go straight, from 0 at the start (or 1 where `falling`). One
    that is not finite counts as beyond the level at once. None: never.
    """
    sign, before = (-1.0, 1.0) if falling else (1.0, 0.0)
    for step, value in enumerate(values):
        if not sign * value <= sign * level:
            share = (level - before) / (value - before) if math.isfinite(value) else 0.0
            return step + max(share, 0.0)
        before = value
    return None
