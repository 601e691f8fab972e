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
    """The backbone with these torsions (degrees), ideal bonds and angles, trans peptide bonds (Parsons et al. 2005)."""
    bend = {name: np.radians(value) for name, value in ANGLES.items()}
    trace = [np.zeros(3), np.array([BONDS["N-CA"], 0, 0])]
    trace.append(trace[1] + BONDS["CA-C"] * np.array([-np.cos(bend["N-CA-C"]), np.sin(bend["N-CA-C"]), 0]))
    for k in range(1, len(phi)):
        trace.append(_next(trace, BONDS["C-N"], bend["CA-C-N"], np.radians(psi[k - 1])))
        trace.append(_next(trace, BONDS["N-CA"], bend["C-N-CA"], np.pi))
        trace.append(_next(trace, BONDS["CA-C"], bend["N-CA-C"], np.radians(phi[k])))
    # O lies opposite to the next N: its torsion about CA-C is that of N turned by half a circle.
    oxygen = [
        _next(trace[3 * k : 3 * k + 3], BONDS["C-O"], bend["CA-C-O"], np.radians(psi[k]) + np.pi)
        for k in range(len(phi))
    ]
    atoms = np.concatenate([np.array(trace).reshape(-1, 3, 3), np.array(oxygen)[:, None]], axis=1)
    return _backbone(atoms - atoms[:, 1].mean(axis=0))


def _next(trace: list[np.ndarray], bond: float, bend: float, turn: float) -> np.ndarray:
    """The atom after the last three of `trace`, at a bond length, a bond angle and a torsion (radians)."""
    a, b, c = trace[-3:]
    along = (c - b) / np.linalg.norm(c - b)
    normal = np.cross(b - a, along)
    normal /= np.linalg.norm(normal)
    local = np.array([-np.cos(bend), np.sin(bend) * np.cos(turn), np.sin(bend) * np.sin(turn)])
    return c + bond * (local[0] * along + local[1] * np.cross(normal, along) + local[2] * normal)


def _backbone(atoms: np.ndarray) -> Backbone:
    length = len(atoms)
    return Backbone(
        atoms=atoms.astype(np.float32),
        present=np.ones((length, 4), dtype=bool),
        chain=np.zeros(length, dtype=np.int64),
        residue_index=np.arange(1, length + 1),
        residue_type=np.full(length, UNKNOWN),
    )
