"""Motif scaffolding: given residues that a design is built around.

A motif is a constraint on sampling, as a symmetry is: something with `generated`, `start`, `project` and `guide`. The
hard one keeps the given residues where they are and shows them to the network as given; the guided one leaves all
residues to the network and draws its predictions towards the motif.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from data.batch import UNKNOWN, Backbone
from data.errors import ConfigError
from modules.geometry import quaternion
from modules.geometry.frames import backbone_from_frames, frames_from_backbone, place_oxygen
from modules.geometry.manifold import FRAMES
from modules.geometry.superposition import rmsd, superpose
from modules.protein.contig import Contig, GivenChain, parse_contig

MotifMode = Literal["hard", "guided"]

CARRIED = 3.0
"""Residues along the chain over which a guided motif's displacement fades out, so that it bends instead of breaking."""


@dataclass(frozen=True)
class Motif:
    """Given residues in their places in a design."""

    atoms: Float[Tensor, "residue 4 3"]
    """N, CA, C, O of the given residues in the coordinates of their file (Å); zero elsewhere and where absent."""
    present: Bool[Tensor, "residue 4"]
    fixed: Bool[Tensor, " residue"]
    """True where the residue is given."""
    chain: Int[Tensor, " residue"]
    """Chain of the design, from 0."""
    residue_index: Int[Tensor, " residue"]
    """From 1 in each chain of the design."""
    residue_type: Int[Tensor, " residue"]
    """Position in RESIDUE_TYPES; UNKNOWN where generated."""

    def __len__(self) -> int:
        return len(self.fixed)

    @property
    def origin(self) -> Float[Tensor, "3"]:
        """Mean CA of the given residues, Å: where sampling has its origin. Zero where none is given."""
        return self.atoms[self.fixed, 1].double().sum(0).div(self.fixed.sum().clamp_min(1)).float()

    @property
    def frames(self) -> Float[Tensor, "residue 7"]:
        """Frames of the given residues around the origin; the identity elsewhere."""
        return frames_from_backbone(torch.where(self.fixed[:, None, None], self.atoms - self.origin, 0.0))

    @property
    def follows(self) -> Bool[Tensor, " residue"]:
        """True where the next residue is of the same chain."""
        same = self.chain[1:] == self.chain[:-1]
        return torch.cat([same, same.new_zeros(1)])

    def atoms_of(self, frames: Float[Tensor, "residue 7"]) -> Float[Tensor, "residue 4 3"]:
        """The atoms of a sample, in the coordinates of the motif's file (Å), by its frames alone."""
        return place_oxygen(backbone_from_frames(frames), self.follows) + self.origin.to(frames)

    def backbone(self, atoms: Float[Tensor, "residue 4 3"]) -> Backbone:
        """A backbone of these `atoms` with the numbering, residue types and flags of the design."""
        return Backbone(
            atoms=atoms.detach().cpu().numpy().astype(np.float32),
            present=np.ones((len(self), 4), dtype=bool),
            chain=self.chain.numpy(),
            residue_index=self.residue_index.numpy(),
            residue_type=self.residue_type.numpy(),
            motif=self.fixed.numpy(),
        )


def place_motif(
    contig: Contig | str, given: Sequence[GivenChain], *, seed: int = 0, total: tuple[int, int] | None = None
) -> Motif:
    """The residues of `given` chains in the places that the contig puts them; free lengths are drawn from `seed`.

    Raises:
        ConfigError: a contig that cannot be read, or that does not fit the given chains.
    """
    contig = parse_contig(contig) if isinstance(contig, str) else contig
    layout = contig.layout(given, seed=seed, total=total)
    length = len(layout)
    atoms, present = np.zeros((length, 4, 3), dtype=np.float32), np.zeros((length, 4), dtype=bool)
    residue_type = np.full(length, UNKNOWN, dtype=np.int64)
    for row in np.flatnonzero(layout.fixed):
        backbone, place = given[layout.given[row]].backbone, layout.place[row]
        atoms[row], present[row] = backbone.atoms[place], backbone.present[place]
        residue_type[row] = backbone.residue_type[place]
    return Motif(
        atoms=torch.from_numpy(np.where(present[..., None], atoms, 0.0)),
        present=torch.from_numpy(present),
        fixed=torch.from_numpy(layout.fixed.copy()),
        chain=torch.from_numpy(layout.chain),
        residue_index=torch.from_numpy(layout.residue_index),
        residue_type=torch.from_numpy(residue_type),
    )


@dataclass(frozen=True)
class _AroundMotif:
    """What both constraints know of their motif."""

    motif: Motif

    @property
    def chain(self) -> Int[Tensor, " residue"]:
        return self.motif.chain

    @property
    def residue_index(self) -> Int[Tensor, " residue"]:
        return self.motif.residue_index


@dataclass(frozen=True)
class HardMotif(_AroundMotif):
    """The given residues stand still, to the last bit; the network is told that they are given."""

    @property
    def generated(self) -> Bool[Tensor, " residue"]:
        return ~self.motif.fixed

    def start(self, noise: Float[Tensor, "*batch residue 7"]) -> Float[Tensor, "*batch residue 7"]:
        """Noise around the motif: both are centred at the origin, as in training."""
        return self.project(noise, 0.0)

    def project(self, frames: Float[Tensor, "*batch residue 7"], t: float) -> Float[Tensor, "*batch residue 7"]:
        """`frames` with the given residues in their places."""
        motif, fixed = self.motif.frames.to(frames), self.motif.fixed.to(frames.device)
        return torch.where(fixed[:, None], motif, frames)

    def guide(self, prediction: Float[Tensor, "*batch residue 7"], t: float) -> Float[Tensor, "*batch residue 7"]:
        """As `project`: what is predicted for given residues is known better."""
        return self.project(prediction, t)

    def finish(self, frames: Float[Tensor, "residue 7"]) -> Backbone:
        """The sample in the coordinates of the motif's file; the motif's atoms are those of the file, bit for bit."""
        motif = self.motif
        plain = motif.atoms_of(self.project(frames, 1.0))[:, :3]
        plain = torch.where(motif.fixed.to(plain.device)[:, None, None], motif.atoms[:, :3].to(plain), plain)
        # Oxygens only now: that before the motif looks at the motif's own N.
        atoms = place_oxygen(plain, motif.follows.to(plain.device)).cpu()
        return motif.backbone(torch.where((motif.fixed[:, None] & motif.present)[..., None], motif.atoms, atoms))


@dataclass(frozen=True)
class GuidedMotif(_AroundMotif):
    """Every prediction is drawn towards the motif, wherever in space it begins to form.

    The motif is laid over the predicted residues by the best motion, and they move towards it along geodesics, by the
    share `strength` at t = 1 and less before: strength · t ** `onset`. Residues near the motif along the chain move
    along in part. The network is not told, so a model never trained on motifs serves too.
    """

    strength: float = 1.0
    onset: float = 0.5

    def __post_init__(self) -> None:
        if not 0 < self.strength <= 1 or self.onset < 0:
            raise ConfigError(
                f"a guided motif needs a strength in (0, 1] and an onset of at least 0, got strength={self.strength} "
                f"and onset={self.onset}."
            )

    @property
    def generated(self) -> Bool[Tensor, " residue"]:
        return torch.ones_like(self.motif.fixed)

    def start(self, noise: Float[Tensor, "*batch residue 7"]) -> Float[Tensor, "*batch residue 7"]:
        return noise

    def project(self, frames: Float[Tensor, "*batch residue 7"], t: float) -> Float[Tensor, "*batch residue 7"]:
        return frames

    def guide(self, prediction: Float[Tensor, "*batch residue 7"], t: float) -> Float[Tensor, "*batch residue 7"]:
        """The prediction for time 1 made at time `t`, drawn towards the motif."""
        fixed = self.motif.fixed.to(prediction.device)
        if not fixed.any():
            return prediction
        target = self._laid_over(prediction)
        nearest, share = self._carriers(prediction)
        # On the motif its own displacement; beyond it that of the nearest motif residue, fading along the chain.
        moved = FRAMES.log(prediction, target)
        world = moved[..., nearest, 3:]
        turned = torch.where(fixed[:, None], moved[..., :3], 0.0)
        share = share * self.strength * t**self.onset
        step = share[:, None] * torch.cat([turned, world], dim=-1)
        return FRAMES.exp(prediction, step)

    def finish(self, frames: Float[Tensor, "residue 7"]) -> Backbone:
        """The sample, laid over the motif's file by the best motion of the given residues; no atom replaced."""
        atoms = self.motif.atoms_of(frames).cpu()
        if self.motif.fixed.any():
            rotation, translation = superpose(*_matching(atoms, self.motif))
            atoms = (atoms.double() @ rotation.mT + translation).float()
        return self.motif.backbone(atoms)

    def _laid_over(self, prediction: Float[Tensor, "*batch residue 7"]) -> Float[Tensor, "*batch residue 7"]:
        """The motif's frames moved onto the prediction; elsewhere the prediction."""
        fixed = self.motif.fixed.to(prediction.device)
        given = self.motif.frames.to(prediction)[fixed]
        points = backbone_from_frames(given).flatten(0, 1).expand(*prediction.shape[:-2], -1, 3)
        predicted = backbone_from_frames(prediction[..., fixed, :]).flatten(-3, -2)
        rotation, translation = superpose(points, predicted)
        turn = quaternion.from_matrix(rotation)[..., None, :]
        rotations = quaternion.multiply(turn, given[:, :4].expand(*prediction.shape[:-2], -1, 4))
        translations = quaternion.rotate(turn, given[:, 4:]) + translation[..., None, :]
        target = prediction.clone()
        target[..., fixed, :] = torch.cat([rotations, translations], dim=-1)
        return target

    def _carriers(self, like: Tensor) -> tuple[Int[Tensor, " residue"], Float[Tensor, " residue"]]:
        """For each residue the nearest given one of its chain, and the share of its displacement: 1 on the motif."""
        fixed, chain = self.motif.fixed, self.motif.chain
        at = torch.arange(len(fixed))
        apart = (at[:, None] - at[None]).abs().double()
        apart[~(fixed[None] & (chain[:, None] == chain[None]))] = torch.inf
        distance, nearest = apart.min(dim=1)
        return nearest.to(like.device), torch.exp(-distance / CARRIED).to(like)


MotifConstraint = HardMotif | GuidedMotif


def motif_constraint(motif: Motif, mode: MotifMode) -> MotifConstraint:
    """The constraint on sampling that keeps to `motif`."""
    if mode not in get_args(MotifMode):
        raise ConfigError(f"unknown motif mode '{mode}'; available: {', '.join(get_args(MotifMode))}.")
    return HardMotif(motif) if mode == "hard" else GuidedMotif(motif)


def motif_rmsd(backbone: Backbone, motif: Motif, *, superposed: bool = True) -> float:
    """Root mean square distance of the motif's N, CA and C in a sample from the given ones, Å.

    After the best motion, or as they lie where `superposed` is False. 0 for a motif without residues.
    """
    sample, given = _matching(torch.from_numpy(np.asarray(backbone.atoms)), motif)
    return rmsd(sample, given, superposed=superposed).item() if len(sample) else 0.0


def _matching(atoms: Float[Tensor, "residue 4 3"], motif: Motif) -> tuple[Tensor, Tensor]:
    """N, CA and C of the given residues: in the sample and as given; float64."""
    fixed = motif.fixed
    return atoms[fixed, :3].flatten(0, 1).double(), motif.atoms[fixed, :3].flatten(0, 1).double()
