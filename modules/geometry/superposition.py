"""The rigid motion that lays one set of points over another."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from modules.geometry.precision import exact


def superpose(
    x: Float[Tensor, "*batch point 3"],
    y: Float[Tensor, "*batch point 3"],
    mask: Bool[Tensor, "*batch point"] | None = None,
) -> tuple[Float[Tensor, "*batch 3 3"], Float[Tensor, "*batch 3"]]:
    """The proper rotation R and translation t with the least sum of |R x + t - y|^2 (Kabsch 1976).

    Only points where `mask` is True count. Never a reflection; where points lie on a line the rotation is one of many.
    Computed in float64 and returned in the dtype of `y`.
    """
    a, b = exact(x), exact(y)
    weight = torch.ones_like(a[..., :1]) if mask is None else exact(mask[..., None])
    total = weight.sum(-2, keepdim=True).clamp_min(1.0)
    centre_a, centre_b = (weight * a).sum(-2, keepdim=True) / total, (weight * b).sum(-2, keepdim=True) / total
    u, _, vt = torch.linalg.svd(((b - centre_b) * weight).mT @ (a - centre_a))
    # Where the best orthogonal matrix is a reflection, the axis of least spread is turned.
    sign = torch.ones_like(u[..., 0])
    sign[..., 2] = torch.linalg.det(u @ vt).sign()
    rotation = (u * sign[..., None, :]) @ vt
    translation = centre_b.squeeze(-2) - (rotation @ centre_a.mT).squeeze(-1)
    return rotation.to(y), translation.to(y)


def apply_motion(
    rotation: Float[Tensor, "*batch 3 3"], translation: Float[Tensor, "*batch 3"], x: Float[Tensor, "*batch point 3"]
) -> Float[Tensor, "*batch point 3"]:
    """R x + t for each point."""
    return x @ rotation.mT + translation.unsqueeze(-2)


def rmsd(
    x: Float[Tensor, "*batch point 3"],
    y: Float[Tensor, "*batch point 3"],
    mask: Bool[Tensor, "*batch point"] | None = None,
    *,
    superposed: bool = True,
) -> Float[Tensor, "*batch"]:
    """Root of the mean squared distance of matching points, ångström for ångström.

    After the best superposition, or as they lie where `superposed` is False; float64. Zero where no point counts.
    """
    a, b = exact(x), exact(y)
    if superposed:
        a = apply_motion(*superpose(a, b, mask), a)
    weight = torch.ones_like(a[..., 0]) if mask is None else exact(mask)
    return ((weight * (a - b).square().sum(-1)).sum(-1) / weight.sum(-1).clamp_min(1.0)).sqrt()
