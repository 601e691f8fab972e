"""Choosing points of a cloud."""

import torch
from jaxtyping import Float, Int
from torch import Tensor


def farthest_point_sampling(
    points: Float[Tensor, "batch point axis"], count: int, start: Int[Tensor, " batch"] | int = 0
) -> Int[Tensor, "batch count"]:
    """Indices of `count` points, each the farthest from those picked before it, in the order they were picked.

    Greedy (Eldar et al. 1997): begins with index `start`; of equally distant points the first wins. Squared distances
    in float64, so the picks do not depend on rounding. Raises ValueError where a cloud has fewer than `count` points.
    """
    batch, available, _ = points.shape
    if not 1 <= count <= available:
        raise ValueError(f"cannot pick {count} of {available} points; pass more points or ask for fewer.")
    exact = points.detach().double()
    rows = torch.arange(batch, device=points.device)
    latest = torch.as_tensor(start, device=points.device).expand(batch).long()
    picks = torch.empty(batch, count, dtype=torch.long, device=points.device)
    distances = torch.full((batch, available), torch.inf, dtype=torch.float64, device=points.device)
    for k in range(count):
        picks[:, k] = latest
        difference = exact - exact[rows, latest].unsqueeze(1)
        distances = torch.minimum(distances, difference.square().sum(-1))
        latest = distances.argmax(dim=1)
    return picks
