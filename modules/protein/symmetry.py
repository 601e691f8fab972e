"""Cyclic and dihedral assemblies by tied noise: one chain is drawn, the others are its images at every step."""

import math
import re
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from data.errors import ConfigError
from modules.geometry import quaternion
from modules.geometry.superposition import rmsd


@dataclass(frozen=True)
class Symmetry:
    """A point group of rotations: "C3" is three chains around the z axis, "D2" two pairs of such, turned about x."""

    name: str

    def __post_init__(self) -> None:
        found = re.fullmatch(r"([CDcd])(\d+)", self.name.strip())
        if not found or not 1 <= int(found[2]) <= 60 or (found[1] in "Dd" and int(found[2]) < 2):
            raise ConfigError(
                f"unknown symmetry '{self.name}'; write C2, C3, ... for cyclic and D2, D3, ... for dihedral ones, up "
                "to 60 around the axis."
            )
        object.__setattr__(self, "name", found[1].upper() + str(int(found[2])))

    @property
    def around(self) -> int:
        """Chains around the main axis."""
        return int(self.name[1:])

    @property
    def order(self) -> int:
        """Chains in all."""
        return self.around * (2 if self.name[0] == "D" else 1)

    @cached_property
    def rotations(self) -> Float[Tensor, "copy 4"]:
        """Unit quaternions of the group, the identity first; float64."""
        half = torch.arange(self.around, dtype=torch.float64) * (math.pi / self.around)
        zero = torch.zeros_like(half)
        turns = torch.stack([half.cos(), zero, zero, half.sin()], dim=-1)
        if self.name[0] == "D":
            flip = torch.tensor([0.0, 1.0, 0.0, 0.0], dtype=torch.float64)
            turns = torch.cat([turns, quaternion.multiply(turns, flip)])
        return turns

    def images(self, unit: Float[Tensor, "*batch residue 7"]) -> Float[Tensor, "*batch all_residues 7"]:
        """The whole assembly from the frames of one chain: its images one after another, itself first, untouched."""
        turns, chain = self.rotations[1:, None].to(unit), unit.unsqueeze(-3)  # copy, residue, component
        rotations = quaternion.normalise(quaternion.multiply(turns, chain[..., :4]))
        others = torch.cat([rotations, quaternion.rotate(turns, chain[..., 4:])], dim=-1)
        return torch.cat([unit, others.flatten(-3, -2)], dim=-2)


@dataclass(frozen=True)
class SymmetricSampling:
    """A constraint on sampling: `length` residues in each chain of an assembly, at every moment symmetric.

    State and prediction are those of the first chain and its images. The axis goes through the origin, where the noise
    has its centre; a cyclic assembly is centred along the axis too.
    """

    symmetry: Symmetry
    length: int
    """Residues of one chain."""

    def __post_init__(self) -> None:
        if self.length < 1:
            raise ConfigError(f"a chain of an assembly needs at least one residue, got {self.length}.")

    @property
    def residues(self) -> int:
        """Residues in all."""
        return self.length * self.symmetry.order

    @property
    def generated(self) -> Bool[Tensor, " residue"]:
        return torch.ones(self.residues, dtype=torch.bool)

    @property
    def chain(self) -> Int[Tensor, " residue"]:
        """Chain of each residue, from 0."""
        return torch.arange(self.symmetry.order).repeat_interleave(self.length)

    @property
    def residue_index(self) -> Int[Tensor, " residue"]:
        """From 1 in each chain."""
        return torch.arange(1, self.length + 1).repeat(self.symmetry.order)

    @property
    def follows(self) -> Bool[Tensor, " residue"]:
        """True where the next residue is of the same chain."""
        return self.residue_index < self.length

    def start(self, noise: Float[Tensor, "*batch residue 7"]) -> Float[Tensor, "*batch residue 7"]:
        """The noise of the first chain and its images; what was drawn for the others is not used."""
        unit = noise[..., : self.length, :]
        height = unit[..., 6] - unit[..., 6].mean(-1, keepdim=True)
        cyclic = self.symmetry.name[0] == "C"
        return self.symmetry.images(torch.cat([unit[..., :6], height[..., None]], dim=-1) if cyclic else unit)

    def project(self, frames: Float[Tensor, "*batch residue 7"], t: float) -> Float[Tensor, "*batch residue 7"]:
        """The first chain of `frames` and its images."""
        return self.symmetry.images(frames[..., : self.length, :])

    def guide(self, prediction: Float[Tensor, "*batch residue 7"], t: float) -> Float[Tensor, "*batch residue 7"]:
        """As `project`."""
        return self.project(prediction, t)


def asymmetry(frames: Float[Tensor, "residue 7"], symmetry: Symmetry) -> float:
    """How far a rotation of the group moves the CA of an assembly off themselves, Å; the worst rotation counts."""
    positions = frames[:, 4:].double().unflatten(0, (symmetry.order, -1))
    turned = quaternion.rotate(symmetry.rotations[:, None, None].to(positions.device), positions)
    # A rotation carries chains onto chains: of all chains in the place of the first, the nearest counts.
    worst = 0.0
    for image in turned:
        apart = [min(rmsd(chain, other, superposed=False).item() for other in positions) for chain in image]
        worst = max(worst, *apart)
    return worst
