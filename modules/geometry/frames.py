"""Residue frames and the backbone atoms that they carry.

A frame is a unit quaternion (w, x, y, z) and the position of CA in ångström, [..., 7]. Its x axis points from CA to C;
N lies in the xy plane with y > 0.
"""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from modules.geometry import quaternion

Frames = Float[Tensor, "*batch 7"]

NITROGEN = (-0.525, 1.363, 0.0)
CARBON = (1.526, 0.0, 0.0)
BETA_CARBON = (-0.529, -0.774, -1.205)
"""Ideal positions in the frame, ångström (the rigid groups of alanine of Jumper et al. 2021, suppl. table 2)."""
CARBONYL = 1.23
"""Length of the bond C=O, ångström."""


def direction(x: Float[Tensor, "*batch 3"]) -> Float[Tensor, "*batch 3"]:
    """`x` at unit length; zero stays zero, with a finite gradient."""
    squared = x.square().sum(-1, keepdim=True)
    return x * torch.where(squared < 1e-16, 1.0, squared).rsqrt()


def frames_from_backbone(atoms: Float[Tensor, "*batch atom 3"]) -> Float[Tensor, "*batch 7"]:
    """The frames of residues from their atoms N, CA, C and any that follow; ångström.

    Where atoms are absent and their positions zero, the frame is the identity.
    """
    if atoms.shape[-2] < 3:
        raise ValueError(f"a frame needs N, CA and C, got {atoms.shape[-2]} atoms per residue.")
    nitrogen, alpha, carbon = atoms[..., 0, :], atoms[..., 1, :], atoms[..., 2, :]
    x = direction(carbon - alpha)
    towards = nitrogen - alpha
    y = direction(towards - (towards * x).sum(-1, keepdim=True) * x)
    matrix = torch.stack([x, y, torch.linalg.cross(x, y)], dim=-1)
    return torch.cat([quaternion.from_matrix(matrix), alpha], dim=-1)


def backbone_from_frames(frames: Float[Tensor, "*batch 7"]) -> Float[Tensor, "*batch 3 3"]:
    """N, CA and C of ideal geometry, ångström."""
    w, x, y, z = frames[..., :4, None].unbind(-2)
    alpha = frames[..., 4:]
    # Only the first two columns of the rotation matrix are needed: the atoms lie in the xy plane.
    first = torch.cat([1 - 2 * (y * y + z * z), 2 * (x * y + w * z), 2 * (x * z - w * y)], dim=-1)
    second = torch.cat([2 * (x * y - w * z), 1 - 2 * (x * x + z * z), 2 * (y * z + w * x)], dim=-1)
    nitrogen = alpha + NITROGEN[0] * first + NITROGEN[1] * second
    return torch.stack([nitrogen, alpha, alpha + CARBON[0] * first], dim=-2)


def beta_carbon(frames: Float[Tensor, "*batch 7"]) -> Float[Tensor, "*batch 3"]:
    """CB of ideal geometry, ångström."""
    return quaternion.rotate(frames[..., :4], frames.new_tensor(BETA_CARBON)) + frames[..., 4:]


def place_oxygen(
    backbone: Float[Tensor, "*batch residue 3 3"], follows: Bool[Tensor, "*batch residue"] | None = None
) -> Float[Tensor, "*batch residue 4 3"]:
    """N, CA, C and O, from N, CA and C; ångström.

    O lies 1.23 Å from C in the plane of the peptide bond, on the bisector away from CA and the next N. Where no residue
    `follows` (the last of a chain, or before a gap; by default only the last of all) it takes the direction CA to C
    plus CA to N.
    """
    nitrogen, alpha, carbon = backbone.unbind(-2)
    outward = direction(carbon - alpha)
    from_next = direction(carbon - nitrogen.roll(-1, dims=-2))
    at_end = direction(nitrogen - alpha)
    bonded = torch.ones_like(backbone[..., 0, 0], dtype=torch.bool) if follows is None else follows.clone()
    bonded[..., -1] = False
    oxygen = carbon + CARBONYL * direction(outward + torch.where(bonded[..., None], from_next, at_end))
    return torch.cat([backbone, oxygen.unsqueeze(-2)], dim=-2)
