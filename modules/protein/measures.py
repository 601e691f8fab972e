"""What can be measured on one backbone without a folding model.

Lengths in ångström, angles in degrees. Two residues follow each other where the chain is the same and the numbering
goes up by one: what lies across a gap of the numbering is no bond, and a bond that is too long is.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy.spatial import cKDTree

from data.batch import Backbone
from data.errors import PenstockError

CA_BOND = (3.6, 4.0)
"""Where two CA that follow each other belong; outside is a break."""
PEPTIDE_BOND = (1.2, 1.5)
"""The same for C and the next N."""
CONTACT = 8.0
"""CA closer than this, three residues apart or more, are in contact."""
CA_CLOSE, CA_CLASH, ATOM_CLASH, ATOM_OVERLAP = 3.6, 3.0, 2.6, 2.0
"""Distances below which CA, or backbone atoms, two residues apart or more are too near. At 2.6 Å short hydrogen bonds
count too: the median real chain has none, the mean one 1.9; below 2.0 Å no real chain has any but for one in 200."""
RG_LAW = (2.2, 0.38)
"""Radius of gyration of a globular protein: 2.2 L^0.38 Å."""
HELIX_TURN, HELIX_RISE = (35.0, 75.0), 6.2
"""CA torsion (either sign) and largest distance from the first to the fourth CA of a helical turn."""
_MOST_PAIRS = 2_000_000
"""Beyond this many near pairs they are not listed: such a heap has collapsed, and its counts are capped."""


@dataclass(frozen=True)
class Measures:
    """What `measure` found on one backbone."""

    residues: int
    """Those with N, CA and C."""
    samples: Mapping[str, Float[np.ndarray, " found"]]
    """Per residue or bond: n_ca, ca_c, c_n, c_o, ca_ca (Å), n_ca_c, ca_c_n, c_n_ca, omega, phi, psi (degrees; phi and
    psi are of the same residues), helix_turn (CA torsions of the windows that turn like a helix, negative: left)."""
    numbers: Mapping[str, float]
    """Per chain: see `modules.protein.table.ROWS`. helix, strand and coil only where secondary structure was given."""


def measure(backbone: Backbone, secondary: np.ndarray | None = None) -> Measures:
    """Everything that the structure table needs of one backbone.

    `secondary` holds "H", "E" or "C" for each residue (as `data.protein.secondary_structure.assign` gives it).

    Raises:
        PenstockError: fewer than four residues have N, CA and C, a position is not finite, or `secondary` does not fit.
    """
    kept = backbone.resolved
    if secondary is not None and len(secondary) != len(backbone):
        raise PenstockError(
            f"expected the secondary structure of {len(backbone)} residues, got {len(secondary)} letters."
        )
    atoms = backbone.atoms[kept].astype(np.float64)
    present = backbone.present[kept]
    if len(atoms) < 4:
        raise PenstockError(
            f"expected a backbone with at least 4 residues that have N, CA and C, got {len(atoms)}; leave it out."
        )
    if not np.isfinite(atoms[present]).all():
        raise PenstockError("expected finite positions, got NaN or infinity; leave this backbone out.")
    chain = backbone.chain[kept]
    follows = (np.diff(backbone.residue_index[kept]) == 1) & (np.diff(chain) == 0)
    samples = _local(atoms, present, follows)
    numbers = _shape(atoms[:, 1], chain) | _clashes(atoms, present, chain)
    ca_broken = _outside(samples["ca_ca"], CA_BOND)
    numbers["breaks"] = float(ca_broken.sum())
    numbers["whole"] = float(not (ca_broken.any() or _outside(samples["c_n"], PEPTIDE_BOND).any()))
    if secondary is not None:
        letters = np.asarray(secondary)[kept]
        for name, letter in (("helix", "H"), ("strand", "E"), ("coil", "C")):
            numbers[name] = float((letters == letter).mean())
    return Measures(residues=len(atoms), samples=samples, numbers=numbers)


def torsion(a: np.ndarray, b: np.ndarray, c: np.ndarray, d: np.ndarray) -> np.ndarray:
    """Torsion angle about b-c of points [..., 3] in degrees, IUPAC sign; within (-180, 180]."""
    axis = c - b
    left, right = np.cross(b - a, axis), np.cross(axis, d - c)
    sine = np.linalg.norm(axis, axis=-1) * ((b - a) * right).sum(axis=-1)
    return np.degrees(np.arctan2(sine, (left * right).sum(axis=-1)))


def angle(a: np.ndarray, b: np.ndarray, c: np.ndarray) -> np.ndarray:
    """Angle at b of points [..., 3] in degrees."""
    u, v = a - b, c - b
    return np.degrees(np.arctan2(np.linalg.norm(np.cross(u, v), axis=-1), (u * v).sum(axis=-1)))


def _local(
    atoms: Float[np.ndarray, "residue 4 3"],
    present: Bool[np.ndarray, "residue 4"],
    follows: Bool[np.ndarray, " bond"],
) -> dict[str, np.ndarray]:
    n, ca, c, o = np.moveaxis(atoms, 1, 0)
    here, there = np.flatnonzero(follows), np.flatnonzero(follows) + 1
    middle = np.flatnonzero(follows[:-1] & follows[1:]) + 1
    start = np.flatnonzero(follows[:-2] & follows[1:-1] & follows[2:])
    turns = torsion(ca[start], ca[start + 1], ca[start + 2], ca[start + 3])
    near = np.linalg.norm(ca[start + 3] - ca[start], axis=-1) < HELIX_RISE
    return {
        "n_ca": np.linalg.norm(ca - n, axis=-1),
        "ca_c": np.linalg.norm(c - ca, axis=-1),
        "c_n": np.linalg.norm(n[there] - c[here], axis=-1),
        "c_o": np.linalg.norm(o - c, axis=-1)[present[:, 3]],
        "ca_ca": np.linalg.norm(ca[there] - ca[here], axis=-1),
        "n_ca_c": angle(n, ca, c),
        "ca_c_n": angle(ca[here], c[here], n[there]),
        "c_n_ca": angle(c[here], n[there], ca[there]),
        "omega": torsion(ca[here], c[here], n[there], ca[there]),
        "phi": torsion(c[middle - 1], n[middle], ca[middle], c[middle]),
        "psi": torsion(n[middle], ca[middle], c[middle], n[middle + 1]),
        "helix_turn": turns[near & ~_outside(np.abs(turns), HELIX_TURN)],
    }


def _shape(ca: Float[np.ndarray, "residue 3"], chain: Int[np.ndarray, " residue"]) -> dict[str, float]:
    """Radius of gyration and contacts, of all chains together; contact order within chains."""
    rg = float(np.sqrt(np.square(ca - ca.mean(axis=0)).sum(axis=-1).mean()))
    i, j = _pairs(ca, CONTACT)
    same = chain[i] == chain[j]
    apart = np.abs(j - i)
    contact = ~same | (apart >= 3)
    inner = same & contact
    lengths = np.bincount(chain)[chain[i[inner]]]
    return {
        "rg": rg,
        "rg_ratio": rg / (RG_LAW[0] * len(ca) ** RG_LAW[1]),
        "contacts": float(contact.sum() / len(ca)),
        "contact_order": float((apart[inner] / lengths).mean()) if inner.any() else 0.0,
    }


def _clashes(
    atoms: Float[np.ndarray, "residue 4 3"], present: Bool[np.ndarray, "residue 4"], chain: Int[np.ndarray, " residue"]
) -> dict[str, float]:
    def count(points: np.ndarray, of: np.ndarray, radius: float) -> float:
        i, j = _pairs(points, radius)
        return float(((np.abs(of[i] - of[j]) >= 2) | (chain[of[i]] != chain[of[j]])).sum())

    residue = np.arange(len(atoms))
    owner = np.broadcast_to(residue[:, None], present.shape)[present]
    points, ca = atoms[present], atoms[:, 1]
    found = {
        "ca_close": count(ca, residue, CA_CLOSE),
        "ca_clashes": count(ca, residue, CA_CLASH),
        "atom_clashes": count(points, owner, ATOM_CLASH),
        "atom_overlaps": count(points, owner, ATOM_OVERLAP),
    }
    return found | {"clash_free": float(found["ca_clashes"] == 0 and found["atom_overlaps"] == 0)}


def _pairs(points: Float[np.ndarray, "point 3"], radius: float) -> tuple[np.ndarray, np.ndarray]:
    """Positions of all pairs of points closer than `radius`, the first before the second."""
    tree = cKDTree(points)
    near = int(tree.count_neighbors(tree, radius))
    if near > 2 * _MOST_PAIRS:
        # A heap of thousands of atoms on one spot: enough of its pairs tell what it is.
        keep = np.arange(0, len(points), int(np.ceil(np.sqrt(near / _MOST_PAIRS))))
        found = keep[cKDTree(points[keep]).query_pairs(radius, output_type="ndarray")]
    else:
        found = tree.query_pairs(radius, output_type="ndarray")
    found = np.sort(found.reshape(-1, 2), axis=1)
    return found[:, 0], found[:, 1]


def _outside(values: np.ndarray, bounds: tuple[float, float]) -> np.ndarray:
    return (values < bounds[0]) | (values > bounds[1])
