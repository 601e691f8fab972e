"""What the backbone network is trained on: the terms of the published training, and structural ones beside them.

The network predicts the frames at t = 1. Errors are divided by s = 1 - min(t, `time_clip`), so that at every time they
weigh as errors of the velocity would (Yim et al. 2023, FrameFlow; Yue et al. 2025, ReQFlow).
"""

from dataclasses import dataclass, fields
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from data.errors import ConfigError
from modules.geometry import quaternion
from modules.geometry.frames import backbone_from_frames
from modules.geometry.manifold import SO3

Frames = Float[Tensor, "batch residue 7"]
PerSample = Float[Tensor, " batch"]
Times = Float[Tensor, " batch"]
Mask = Bool[Tensor, "batch residue"]

PEPTIDE_BOND = (2.429, 3.804, 1.328, 2.435)
"""CA-N, CA-CA, C-N and C-CA from one residue to the next, ångström: means over 210 chains of the PDB, of whose
bonds nearly all are trans."""
STRUCTURAL = ("bond", "local", "clash")
WEIGHTS = ("translation", "rotation", "backbone", "pairs", *STRUCTURAL)


@dataclass(frozen=True, kw_only=True)
class ProteinLossConfig:
    """Weights of the terms; the defaults are those of the published training."""

    translation: float = 2.0
    """Squared error of CA."""
    rotation: float = 1.0
    """Squared difference of the two rotation vectors that lead from the noised rotation to the true and to the
    predicted one."""
    backbone: float = 1.0
    """Squared error of N, CA and C; late times only."""
    pairs: float = 1.0
    """Squared error of all distances between backbone atoms; late times only."""
    auxiliary_from: float = 0.5
    """`backbone` and `pairs` count at times after this one (0.5 published for PDB, 0.25 for SCOPe)."""
    length_scale: float = 0.1
    """Ångström times this is the unit of length of `translation`, `backbone` and `pairs`."""
    time_clip: float = 0.9
    """Errors are divided by 1 - min(t, time_clip)."""
    clamp: float | None = 5.0
    """Greatest value of `translation` and of `backbone` + `pairs`, weights included; beyond it their gradient is zero.
    Null: no limit."""
    bond: float = 0.0
    """Distances between the atoms of neighbours in the chain: CA-CA, C-N, CA-N and C-CA. Together they hold the length
    and angles of the peptide bond, and its plane."""
    bond_target: Literal["data", "ideal"] = "data"
    """`ideal`: distances across a planar trans bond, for generated targets, whose own are not quite right."""
    bond_width: float = 0.2
    """Ångström: errors smaller than this count squared, greater ones linearly, in units of it."""
    local: float = 0.0
    """Error, in ångström, of N, CA and C of each residue as seen from the frames of its neighbours in the chain."""
    local_window: int = 4
    """Neighbours of `local`: up to so many residues away."""
    local_limit: float = 10.0
    """Ångström: greater errors of `local` count as this one."""
    clash: float = 0.0
    """How far CA of residues that are not neighbours are closer than `clash_distance`, in ångström, summed per
    residue."""
    clash_distance: float = 4.0
    clash_from: float = 0.5
    """`clash` counts at times after this one: early predictions are means of many structures, and dense."""

    def __post_init__(self) -> None:
        for name in WEIGHTS:
            if not getattr(self, name) >= 0:
                raise ConfigError(f"loss weight '{name}' must not be negative, got {getattr(self, name)}.")
        for name in ("length_scale", "bond_width", "local_limit", "clash_distance"):
            if not getattr(self, name) > 0:
                raise ConfigError(f"'{name}' must be positive, got {getattr(self, name)}.")
        if self.bond_target not in ("data", "ideal"):
            raise ConfigError(f"bond_target must be 'data' or 'ideal', got '{self.bond_target}'; choose one of them.")
        for name in ("auxiliary_from", "clash_from"):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(f"'{name}' is a time in [0, 1], got {getattr(self, name)}.")
        if not 0 <= self.time_clip < 1:
            raise ConfigError(f"time_clip must lie in [0, 1), got {self.time_clip}; it keeps the errors finite.")
        if self.clamp is not None and not self.clamp > 0:
            raise ConfigError(f"clamp must be positive, got {self.clamp}; null means no limit.")
        if self.local_window < 1:
            raise ConfigError(f"local_window must be at least 1 residue, got {self.local_window}.")


@dataclass(frozen=True)
class ProteinLosses:
    """The terms per sample, weights included; `total` is what to minimise."""

    translation: PerSample
    rotation: PerSample
    auxiliary: PerSample
    """`backbone` + `pairs`."""
    structural: PerSample
    """`bond` + `local` + `clash`."""

    @property
    def total(self) -> PerSample:
        return self.translation + self.rotation + self.auxiliary + self.structural

    def means(self) -> dict[str, Tensor]:
        """Mean of each term over the batch, and of their sum under "loss"."""
        terms = {field.name: getattr(self, field.name).mean() for field in fields(self)}
        return {"loss": self.total.mean(), **terms}


def protein_losses(
    config: ProteinLossConfig,
    predicted: Frames,
    target: Frames,
    noised: Frames,
    t_rotation: Times,
    t_translation: Times,
    *,
    resolved: Mask,
    generated: Mask,
    residue_index: Int[Tensor, "batch residue"],
) -> ProteinLosses:
    """The terms of one batch.

    Only residues that are resolved and generated count; a sample that has none costs nothing.

    Args:
        predicted, target, noised: frames at t = 1 by the network and in truth, and those it was shown; ångström.
        residue_index: numbers in the chain; only consecutive ones are taken for neighbours.
    """
    mask = (resolved & generated).to(predicted.dtype)
    count = mask.sum(dim=1).clamp(min=1.0)
    s_rotation = 1.0 - t_rotation.to(predicted.dtype).clamp(max=config.time_clip)
    s_translation = 1.0 - t_translation.to(predicted.dtype).clamp(max=config.time_clip)

    scale = (config.length_scale / s_translation)[:, None, None]
    moved = (target[..., 4:] - predicted[..., 4:]) * scale
    translation = config.translation * (moved.square().sum(-1) * mask).sum(1) / (3 * count)

    on = SO3()
    turned = on.log(noised[..., :4], target[..., :4]) - on.log(noised[..., :4], predicted[..., :4])
    turned = turned / s_rotation[:, None, None]
    rotation = config.rotation * (turned.square().sum(-1) * mask).sum(1) / (3 * count)

    atoms, true_atoms = backbone_from_frames(predicted), backbone_from_frames(target)
    auxiliary = torch.zeros_like(translation)
    if config.backbone:
        error = ((true_atoms - atoms) * scale[..., None]).square().sum((-1, -2))
        auxiliary = auxiliary + config.backbone * (error * mask).sum(1) / (3 * count)
    if config.pairs:
        auxiliary = auxiliary + config.pairs * _pair_error(
            atoms * scale[..., None], true_atoms * scale[..., None], mask
        )
    late = (t_rotation > config.auxiliary_from) & (t_translation > config.auxiliary_from)
    auxiliary = auxiliary * late.to(auxiliary.dtype)
    if config.clamp is not None:
        translation, auxiliary = translation.clamp(max=config.clamp), auxiliary.clamp(max=config.clamp)
    structural = _along_chain(config, predicted, target, atoms, true_atoms, resolved, generated, residue_index)
    if config.clash:
        late = (t_rotation > config.clash_from) & (t_translation > config.clash_from)
        clashes = clash_error(predicted[..., 4:], resolved, generated, residue_index, least=config.clash_distance)
        structural = structural + config.clash * late.to(clashes.dtype) * clashes
    return ProteinLosses(translation, rotation, auxiliary, structural)


def _pair_error(
    atoms: Float[Tensor, "batch residue 3 3"],
    true_atoms: Float[Tensor, "batch residue 3 3"],
    mask: Float[Tensor, "batch residue"],
) -> PerSample:
    """Mean squared error of all distances among the atoms of residues in `mask`."""
    counted = mask.repeat_interleave(3, dim=1)
    both = counted[:, :, None] * counted[:, None, :]
    error = distances(atoms.flatten(1, 2)) - distances(true_atoms.flatten(1, 2))
    return (error.square() * both).sum((1, 2)) / (both.sum((1, 2)) + 1)


def distances(x: Float[Tensor, "batch point 3"]) -> Float[Tensor, "batch point point"]:
    """All distances among the points of each sample; the gradient of a zero distance is zero."""
    return torch.cdist(x, x, compute_mode="donot_use_mm_for_euclid_dist")


def _along_chain(
    config: ProteinLossConfig,
    predicted: Frames,
    target: Frames,
    atoms: Float[Tensor, "batch residue 3 3"],
    true_atoms: Float[Tensor, "batch residue 3 3"],
    resolved: Mask,
    generated: Mask,
    residue_index: Int[Tensor, "batch residue"],
) -> PerSample:
    total = torch.zeros_like(predicted[:, 0, 0])
    if config.bond:
        total = total + config.bond * bond_error(
            atoms,
            true_atoms if config.bond_target == "data" else None,
            resolved,
            generated,
            residue_index,
            width=config.bond_width,
        )
    if config.local:
        total = total + config.local * local_error(
            predicted,
            target,
            atoms,
            true_atoms,
            resolved & generated,
            residue_index,
            window=config.local_window,
            limit=config.local_limit,
        )
    return total


def bond_error(
    atoms: Float[Tensor, "batch residue 3 3"],
    true_atoms: Float[Tensor, "batch residue 3 3"] | None,
    resolved: Mask,
    generated: Mask,
    residue_index: Int[Tensor, "batch residue"],
    *,
    width: float,
) -> PerSample:
    """√(1 + (e / width)²) - 1 of the errors e of four distances across a peptide bond, mean over bonds and distances.

    Bonds count where both residues are resolved and at least one of them is generated. Without `true_atoms` errors are
    those from a planar trans bond.
    """
    bonded = resolved[:, 1:] & resolved[:, :-1] & (residue_index[:, 1:] - residue_index[:, :-1] == 1)
    counted = (bonded & (generated[:, 1:] | generated[:, :-1])).to(atoms.dtype)
    wanted = atoms.new_tensor(PEPTIDE_BOND) if true_atoms is None else _across(true_atoms)
    error = (_across(atoms) - wanted) / width
    per_bond = ((1.0 + error.square()).sqrt() - 1.0).mean(-1)
    return (per_bond * counted).sum(1) / counted.sum(1).clamp(min=1.0)


def _across(atoms: Float[Tensor, "batch residue 3 3"]) -> Float[Tensor, "batch bond 4"]:
    """Distances from CA and C of a residue to N and CA of the next."""
    here, there = atoms[:, :-1, 1:], atoms[:, 1:, :2]
    between = here[:, :, :, None] - there[:, :, None, :]
    return (between.square().sum(-1) + 1e-8).sqrt().flatten(2)


def local_error(
    predicted: Frames,
    target: Frames,
    atoms: Float[Tensor, "batch residue 3 3"],
    true_atoms: Float[Tensor, "batch residue 3 3"],
    counted: Mask,
    residue_index: Int[Tensor, "batch residue"],
    *,
    window: int,
    limit: float,
) -> PerSample:
    """Mean distance (Å, at most `limit`) between true and predicted atoms of chain neighbours, seen from each frame.

    The frame-aligned error of Jumper et al. 2021 (suppl. 1.9.2), between residues at most `window` apart in the chain,
    either way. Unlike distances alone it tells a structure from its mirror image.
    """
    total = torch.zeros_like(predicted[:, 0, 0])
    pairs = torch.zeros_like(total)
    for offset in range(1, min(window, predicted.shape[1] - 1) + 1):
        first, second = slice(None, -offset), slice(offset, None)
        near = residue_index[:, second] - residue_index[:, first] == offset
        weight = (near & counted[:, first] & counted[:, second]).to(total.dtype)
        for seen_from, seen in ((first, second), (second, first)):
            error = _seen(predicted[:, seen_from], atoms[:, seen]) - _seen(target[:, seen_from], true_atoms[:, seen])
            length = (error.square().sum(-1) + 1e-4).sqrt().clamp(max=limit).mean(-1)
            total = total + (length * weight).sum(1)
            pairs = pairs + weight.sum(1)
    return total / pairs.clamp(min=1.0)


def _seen(
    frames: Float[Tensor, "batch pair 7"], atoms: Float[Tensor, "batch pair 3 3"]
) -> Float[Tensor, "batch pair 3 3"]:
    """`atoms` in the coordinates of `frames`."""
    return (atoms - frames[..., None, 4:]) @ quaternion.to_matrix(frames[..., :4])


def clash_error(
    alpha: Float[Tensor, "batch residue 3"],
    resolved: Mask,
    generated: Mask,
    residue_index: Int[Tensor, "batch residue"],
    *,
    least: float,
) -> PerSample:
    """By how much CA three or more residues apart are closer than `least` (Å): sum over pairs, mean over residues."""
    counted = resolved[:, :, None] & resolved[:, None, :] & (generated[:, :, None] | generated[:, None, :])
    apart = (residue_index[:, :, None] - residue_index[:, None, :]).abs() >= 3
    missing = (least - distances(alpha)).clamp(min=0.0) * (counted & apart)
    return missing.sum((1, 2)) / resolved.sum(1).clamp(min=1)
