"""Which noise belongs to which data sample of a minibatch."""

from typing import Literal, get_args

import torch
from jaxtyping import Float, Int
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from data.errors import ConfigError
from modules.geometry.manifold import Manifold, Point
from modules.transport.path import Mask

Coupling = Literal["independent", "optimal"]
"""How a minibatch pairs noise and data: as drawn, or by the least total squared distance (Pooladian et al. 2023)."""


@torch.no_grad()
def squared_distances(
    on: Manifold,
    x0: Point,
    x1: Point,
    *,
    mask: Mask | None = None,
    weights: Float[Tensor, " tangent_axis"] | None = None,
) -> Float[Tensor, "batch batch"]:
    """Entry [i, j]: squared geodesic distance from `x1[i]` to `x0[j]`.

    `mask` names the events of `x1` that count; `weights` scales the squares of each entry on the last axis of the
    tangents, where their units differ.
    """
    rows = []
    for i in range(len(x1)):
        tangent = on.log(x1[i].expand_as(x0), x0)
        squared = tangent.square() if weights is None else tangent.square() * weights.to(tangent)
        if mask is not None:
            counts = mask[i].reshape(*mask.shape[1:], *(1,) * (squared.ndim - mask.ndim))
            squared = torch.where(counts, squared, 0.0)
        rows.append(squared.flatten(start_dim=1).sum(1))
    return torch.stack(rows)


def optimal_assignment(cost: Float[Tensor, "data noise"]) -> Int[Tensor, " data"]:
    """For each row the column it is paired with, at the least total cost; a permutation for a square `cost`.

    Raises ValueError where a cost is not finite.
    """
    if not torch.isfinite(cost).all():
        raise ValueError("a cost between noise and data is not finite; look for NaN in the batch.")
    _, columns = linear_sum_assignment(cost.double().cpu().numpy())
    return torch.from_numpy(columns).to(cost.device)


def couple(
    coupling: Coupling,
    on: Manifold,
    x0: Point,
    x1: Point,
    *,
    mask: Mask | None = None,
    weights: Float[Tensor, " tangent_axis"] | None = None,
) -> Point:
    """The noise `x0` in the order in which it is paired with the data `x1`; see `squared_distances` for the rest.

    "optimal" reorders the noise within the batch, so a sample's noise then depends on what it travels with. The noise
    must be of one distribution over the batch: drawn for the data, as around each sample, it may not be reordered.
    """
    if coupling not in get_args(Coupling):
        raise ConfigError(f"unknown coupling '{coupling}'; available: {', '.join(get_args(Coupling))}.")
    if coupling == "independent" or len(x0) < 2:
        return x0
    return x0[optimal_assignment(squared_distances(on, x0, x1, mask=mask, weights=weights))]
