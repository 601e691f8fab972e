"""A protein backbone from its torsion angles, and back the gradient: rotations multiplied up along the chain.

Angles are in radians here, lengths in ångström. Torsions follow IUPAC: φ of C-N-CA-C, ψ of N-CA-C-N, ω of CA-C-N-CA,
positive where the far bond turns clockwise seen along the middle one.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

BONDS = (1.460, 1.525, 1.328)
"""N-CA, CA-C, C-N of real chains, Å (mean over 29,519 residues of the PDB)."""
ANGLES = tuple(np.radians((111.1, 116.6, 121.6)))
"""N-CA-C, CA-C-N, C-N-CA of real chains."""
CARBONYL = 1.233
"""C-O, Å."""
CARBONYL_ANGLE = float(np.radians(120.4))
"""CA-C-O; O lies in the plane of CA, C and the next N, away from N."""
BETA = (-0.58273431, 0.56802827, -0.54067466)
"""CB - CA in terms of three vectors: the cross product of CA - N and C - CA, CA - N, C - CA; all in Å."""


@dataclass(frozen=True)
class Stiff:
    """What torsion does not change: bond lengths and bond angles of one chain."""

    bonds: Float[np.ndarray, "residue 3"]
    """N-CA, CA-C, C-N(next)."""
    angles: Float[np.ndarray, "residue 3"]
    """N-CA-C, CA-C-N(next), C-N-CA(next)."""

    @classmethod
    def draw(cls, length: int, rng: np.random.Generator) -> "Stiff":
        """Real means with a little less than their real spread, cut at two and a half deviations."""
        noise = np.clip(rng.standard_normal((2, length, 3)), -2.5, 2.5)
        return cls(np.array(BONDS) + 0.008 * noise[0], np.array(ANGLES) + np.radians((1.8, 1.0, 1.2)) * noise[1])


@dataclass(frozen=True)
class Built:
    """A chain in space."""

    trace: Float[np.ndarray, "atom 3"]
    """N, CA, C of every residue in turn, and the N after the last."""
    oxygen: Float[np.ndarray, "residue 3"]
    beta: Float[np.ndarray, "residue 3"]
    """CB, on every residue."""

    @property
    def atoms(self) -> Float[np.ndarray, "residue 4 3"]:
        """N, CA, C, O."""
        return np.concatenate([self.trace[:-1].reshape(-1, 3, 3), self.oxygen[:, None]], axis=1)


def build(
    phi: Float[np.ndarray, " residue"],
    psi: Float[np.ndarray, " residue"],
    omega: Float[np.ndarray, " residue"],
    stiff: Stiff,
) -> Built:
    """The chain with these torsions; the first N lies at the origin and the first CA on the x axis.

    `omega[i]` turns about the bond from residue i to i + 1. φ of the first residue and ω of the last have no effect,
    ψ of the last one places its oxygen only.
    """
    # Step k goes from atom k to atom k + 1. Its frame has x along the bond; the turn from one frame to the next is the
    # torsion about the old bond, then the supplement of the bond angle. The torsion about the bond from atom k - 1 to
    # atom k acts when atom k + 1 is placed: φ places C, ψ the next N, ω the next CA.
    torsion = np.stack([phi, psi, omega], axis=1).reshape(-1)[:-1]
    bend = np.pi - stiff.angles.reshape(-1)[:-1]
    turns = _turns(torsion, bend)
    frames = _cumulative(np.concatenate([np.eye(3)[None], turns]))
    steps = frames[:, :, 0] * stiff.bonds.reshape(-1)[:, None]
    trace = np.concatenate([np.zeros((1, 3)), np.cumsum(steps, axis=0)])
    n, ca, c, following = trace[0:-1:3], trace[1::3], trace[2::3], trace[3::3]
    return Built(trace, _oxygen(ca, c, following), _beta(n, ca, c))


def _turns(torsion: Float[np.ndarray, " step"], bend: Float[np.ndarray, " step"]) -> Float[np.ndarray, "step 3 3"]:
    """Rx(torsion) Rz(bend) for every step; at torsion 0 the two outer bonds are on the same side (cis)."""
    ct, st, cb, sb = np.cos(torsion), np.sin(torsion), np.cos(bend), np.sin(bend)
    zero = np.zeros_like(ct)
    rows = [[cb, -sb, zero], [ct * sb, ct * cb, -st], [st * sb, st * cb, ct]]
    return np.stack([np.stack(row, axis=-1) for row in rows], axis=-2)


def _cumulative(matrices: Float[np.ndarray, "step 3 3"]) -> Float[np.ndarray, "step 3 3"]:
    """Running products from the left, by doubling: ten passes for a thousand steps."""
    out, shift = matrices.copy(), 1
    while shift < len(out):
        out[shift:] = out[:-shift] @ out[shift:]
        shift *= 2
    return out


def _oxygen(ca: np.ndarray, c: np.ndarray, following: np.ndarray) -> Float[np.ndarray, "residue 3"]:
    back = _unit(ca - c)
    across = following - c
    across = _unit(across - (across * back).sum(-1, keepdims=True) * back)
    return c + CARBONYL * (np.cos(CARBONYL_ANGLE) * back - np.sin(CARBONYL_ANGLE) * across)


def _beta(n: np.ndarray, ca: np.ndarray, c: np.ndarray) -> Float[np.ndarray, "residue 3"]:
    first, second = ca - n, c - ca
    return ca + BETA[0] * np.cross(first, second) + BETA[1] * first + BETA[2] * second


def _unit(x: np.ndarray) -> np.ndarray:
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


SITES = 5
"""Points of a residue that forces act on: N, CA, C, side chain, O; in the order in which torsions move them."""
SIDE_CHAIN = 2.4
"""From CA towards CB to the stand-in of a side chain's middle, Å."""


def sites(built: Built) -> Float[np.ndarray, "residue 5 3"]:
    """N, CA, C, side chain and O of every residue."""
    chain = built.trace[:-1].reshape(-1, 3, 3)
    side = chain[:, 1] + SIDE_CHAIN * _unit(built.beta - chain[:, 1])
    return np.concatenate([chain, side[:, None], built.oxygen[:, None]], axis=1)


def torsion_gradient(
    points: Float[np.ndarray, "residue 5 3"], gradient: Float[np.ndarray, "residue 5 3"]
) -> tuple[Float[np.ndarray, " residue"], Float[np.ndarray, " residue"]]:
    """Derivative by every φ and ψ of an energy whose derivative by the sites is `gradient`.

    A torsion turns all that comes after it as one body about its bond: with u the bond's direction and p a point on it,
    dE = u · Σ (x - p) × g over what comes after.
    """
    moment = np.cross(points, gradient)
    force_after, moment_after = (_after(v.sum(axis=1)) for v in (gradient, moment))
    n, ca, c = points[:, 0], points[:, 1], points[:, 2]
    out = []
    for start, end, own in ((n, ca, slice(2, 5)), (ca, c, slice(4, 5))):
        force = force_after + gradient[:, own].sum(axis=1)
        total = moment_after + moment[:, own].sum(axis=1)
        out.append(((total - np.cross(start, force)) * _unit(end - start)).sum(axis=-1))
    return out[0], out[1]


def _after(values: Float[np.ndarray, "residue 3"]) -> Float[np.ndarray, "residue 3"]:
    """Sum over all later residues."""
    return np.cumsum(values[::-1], axis=0)[::-1] - values
