"""Sets of backbones whose faults are known: what a metric of backbones has to tell from real chains."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
from jaxtyping import Float

from data.batch import UNKNOWN, Backbone

BONDS = {"N-CA": 1.460, "CA-C": 1.525, "C-N": 1.329, "C-O": 1.232}
"""Å."""
ANGLES = {"N-CA-C": 111.1, "CA-C-N": 116.6, "C-N-CA": 121.6, "CA-C-O": 120.3}
"""Degrees."""
ALPHA = (-63.0, -43.0)
"""Torsions phi and psi of the ideal alpha helix in degrees."""
NOISE = 0.5
"""Å, standard deviation of each coordinate."""
PRIOR = 10.0

SEPARATES: Mapping[str, tuple[str, ...]] = {
    "noisy": (
        "bonds",
        "angles",
        "ca_ca",
        "breaks",
        "planarity",
        "ramachandran",
        "ca_clashes",
        "atom_clashes",
        "secondary",
    ),
    "helices": ("ramachandran", "rg", "contacts", "contact_order", "secondary"),
    "walks": (
        "ramachandran",
        "handedness",
        "rg",
        "contacts",
        "contact_order",
        "ca_clashes",
        "atom_clashes",
        "secondary",
    ),
    "mirrored": ("ramachandran", "handedness"),
    "prior": ("bonds", "ca_ca", "breaks", "planarity", "ramachandran", "rg", "contacts", "ca_clashes", "atom_clashes"),
}
"""Which of `modules.protein.metrics.DISTANCES` must tell each control from real chains."""


def make_controls(real: Sequence[Backbone], seed: int = 0) -> dict[str, list[Backbone]]:
    """The controls, each as many chains and as long as the real ones:

    "real" themselves; "noisy" with 0.5 Å of noise on every atom; "helices", straight and ideal; "walks", random in φ
    and ψ with ideal bonds; "mirrored"; "prior", what a flow starts from: residues scattered by 10 Å, turned at random.
    """
    rng = np.random.default_rng(seed)
    return {
        "real": list(real),
        "noisy": [noisy(backbone, rng) for backbone in real],
        "helices": [ideal_helix(len(backbone)) for backbone in real],
        "walks": [random_walk(len(backbone), rng) for backbone in real],
        "mirrored": [mirrored(backbone) for backbone in real],
        "prior": [prior(len(backbone), rng) for backbone in real],
    }


def noisy(backbone: Backbone, rng: np.random.Generator, deviation: float = NOISE) -> Backbone:
    """The backbone with Gaussian noise of `deviation` Å on every coordinate that is there."""
    noise = deviation * rng.standard_normal(backbone.atoms.shape) * backbone.present[..., None]
    return replace(backbone, atoms=(backbone.atoms + noise).astype(backbone.atoms.dtype))


def mirrored(backbone: Backbone) -> Backbone:
    """The mirror image: every distance as it was, every hand the other."""
    return replace(backbone, atoms=backbone.atoms * np.array([1, 1, -1], dtype=backbone.atoms.dtype))


def ideal_helix(length: int) -> Backbone:
    """A straight right-handed α-helix."""
    return from_torsions(np.full(length, ALPHA[0]), np.full(length, ALPHA[1]))


def random_walk(length: int, rng: np.random.Generator) -> Backbone:
    """A chain with ideal bonds and trans peptides whose φ and ψ are uniform."""
    return from_torsions(*rng.uniform(-180, 180, (2, length)))


def prior(length: int, rng: np.random.Generator) -> Backbone:
    """Residues of ideal form, centres drawn with a standard deviation of 10 Å, orientations uniform."""
    residue = from_torsions(np.zeros(1), np.zeros(1)).atoms[0].astype(np.float64)
    turns = np.linalg.qr(rng.standard_normal((length, 3, 3)))[0]
    turns *= np.sign(np.linalg.det(turns))[:, None, None]
    centres = PRIOR * rng.standard_normal((length, 3))
    atoms = np.einsum("kij,aj->kai", turns, residue - residue[1]) + (centres - centres.mean(axis=0))[:, None]
    return _backbone(atoms)


def from_torsions(phi: Float[np.ndarray, " residue"], psi: Float[np.ndarray, " residue"]) -> Backbone:
    """The backbone with these torsions (degrees), ideal bonds and angles, trans peptide bonds (Parsons et al. 2005).

    Each bond carries a frame: its x axis along the bond, the bond before it in the xy plane. The next frame follows by
    a turn about x by the torsion and a bend in the plane by the bond angle.
    """
    length = len(phi)
    torsions, bends, bonds = np.zeros((3, 3 * length))
    # Bonds in the order C-N, N-CA, CA-C; the turn that leads to each is that about the bond before it.
    torsions[0::3], torsions[1::3], torsions[2::3] = np.roll(psi, 1), 180.0, phi
    bends[0::3], bends[1::3], bends[2::3] = (ANGLES[name] for name in ("CA-C-N", "C-N-CA", "N-CA-C"))
    bonds[0::3], bonds[1::3], bonds[2::3] = (BONDS[name] for name in ("C-N", "N-CA", "CA-C"))
    steps = _turns(torsions, bends)
    frames = np.empty_like(steps)
    frames[0] = np.eye(3)
    for k in range(1, len(steps)):
        np.matmul(frames[k - 1], steps[k], out=frames[k])
    trace = np.cumsum(bonds[:, None] * frames[:, :, 0], axis=0).reshape(length, 3, 3)
    # O lies opposite to the next N: its torsion about CA-C is that of N turned by half a circle.
    beside = frames[2::3] @ _turns(psi + 180.0, np.full(length, ANGLES["CA-C-O"]))
    oxygen = trace[:, 2] + BONDS["C-O"] * beside[:, :, 0]
    atoms = np.concatenate([trace, oxygen[:, None]], axis=1)
    return _backbone(atoms - atoms[:, 1].mean(axis=0))


def _turns(torsions: Float[np.ndarray, " bond"], bends: Float[np.ndarray, " bond"]) -> Float[np.ndarray, "bond 3 3"]:
    """Frame of a bond in that of the one before it, from torsion and bond angle in degrees."""
    turn, bend = np.radians(torsions), np.radians(180.0 - bends)
    zero = np.zeros_like(turn)
    rows = [
        [np.cos(bend), -np.sin(bend), zero],
        [np.cos(turn) * np.sin(bend), np.cos(turn) * np.cos(bend), -np.sin(turn)],
        [np.sin(turn) * np.sin(bend), np.sin(turn) * np.cos(bend), np.cos(turn)],
    ]
    return np.moveaxis(np.array(rows), 2, 0)


def _backbone(atoms: np.ndarray) -> Backbone:
    length = len(atoms)
    return Backbone(
        atoms=atoms.astype(np.float32),
        present=np.ones((length, 4), dtype=bool),
        chain=np.zeros(length, dtype=np.int64),
        residue_index=np.arange(1, length + 1),
        residue_type=np.full(length, UNKNOWN),
    )
