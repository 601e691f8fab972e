"""Chains folded in torsion space: hydrogen bonds of strands, room for every atom, compactness; then a check.

Bond lengths, angles and peptide planes never change. The energy is a tool to make sound chains, not physics.
"""

from dataclasses import dataclass, field, replace

import numpy as np
from jaxtyping import Float, Int
from scipy.optimize import minimize
from scipy.spatial import cKDTree

from data.synthetic.torsions import SITES, Stiff, build, sites, torsion_gradient

N, CA, C, SIDE, OXYGEN = range(SITES)

CONTACT = np.array(
    # N     CA    C     side  O
    [
        [3.10, 3.40, 3.30, 3.60, 2.90],
        [3.40, 4.00, 3.60, 4.00, 3.20],
        [3.30, 3.60, 3.50, 3.80, 3.15],
        [3.60, 4.00, 3.80, 4.90, 3.40],
        [2.90, 3.20, 3.15, 3.40, 3.10],
    ]
)
"""Å below which two sites of residues at least two apart push each other away."""
MARGIN = 2.0
"""Å beyond the contact distances in the list of neighbours, which is made anew when a site has moved half of it."""


@dataclass(frozen=True)
class Blueprint:
    """A fold as it is meant: secondary structure, its torsions, and which strands lie side by side."""

    kinds: str
    """One letter per residue: H, E, or L for loops and tails."""
    phi: Float[np.ndarray, " residue"]
    psi: Float[np.ndarray, " residue"]
    """Basin of each residue, radians; loops are drawn anew by `fold`."""
    bonds: list[tuple[int, int]] = field(default_factory=list)
    """(acceptor, donor) residues of hydrogen bonds in helices and between strands, from O to N."""
    compact: bool = True
    """False where the fold is long and thin: then nothing draws it together."""

    def __len__(self) -> int:
        return len(self.kinds)

    @property
    def loops(self) -> list[tuple[int, int]]:
        """First and end residue of each free loop between two pieces of structure."""
        out, start = [], None
        for k, kind in enumerate(self.kinds + "E"):
            if kind == "L":
                start = k if start is None else start
            elif start is not None:
                out.append((start, k))
                start = None
        return out


def radius_law(length: int) -> float:
    """Radius of gyration of CA atoms, Å, that real chains of this length have on average."""
    return float(2.36 * length**0.373)


def radius_of_gyration(ca: Float[np.ndarray, "residue 3"]) -> float:
    """Root mean square distance of the CA atoms from their mean, Å."""
    return float(np.sqrt(np.square(ca - ca.mean(axis=0)).sum(axis=-1).mean()))


class Energy:
    """Of one chain, as a function of its torsions."""

    def __init__(self, plan: Blueprint, stiff: Stiff, omega: np.ndarray, target: float, weights: np.ndarray) -> None:
        self.plan, self.stiff, self.omega, self.target, self.weights = plan, stiff, omega, target, weights
        flat = [
            (a * SITES + p, d * SITES + q, r) for a, d in plan.bonds for p, q, r in ((OXYGEN, N, 2.9), (C, N, 3.85))
        ]
        self.bonds = np.array([(a, b) for a, b, _ in flat], np.int64).reshape(-1, 2)
        self.bond_lengths = np.array([r for _, _, r in flat])
        self._listed: np.ndarray | None = None
        self._pairs = np.zeros((0, 2), np.int64)

    def __call__(self, angles: Float[np.ndarray, " torsion"]) -> tuple[float, Float[np.ndarray, " torsion"]]:
        """Energy and its derivative by φ of all residues, then ψ of all residues."""
        phi, psi = angles.reshape(2, -1)
        built = sites(build(phi, psi, self.omega, self.stiff))
        points = built.reshape(-1, 3)
        gradient = np.zeros_like(points)
        value = self._push(points, gradient) + self._pull(points, gradient) + self._shrink(built, gradient)
        by_phi, by_psi = torsion_gradient(built, gradient.reshape(built.shape))
        away = np.stack([phi - self.plan.phi, psi - self.plan.psi])
        value += float((self.weights * (1 - np.cos(away))).sum())
        return value, np.concatenate([by_phi, by_psi]) + (self.weights * np.sin(away)).reshape(-1)

    def _push(self, points: np.ndarray, gradient: np.ndarray) -> float:
        """30 (contact - distance)² for every pair that is too close."""
        pairs = self._neighbours(points)
        apart = points[pairs[:, 0]] - points[pairs[:, 1]]
        distance = np.sqrt(np.square(apart).sum(axis=1)) + 1e-9
        depth = self._contacts - distance
        close = depth > 0
        pairs, apart, depth, distance = pairs[close], apart[close], depth[close], distance[close]
        force = (-60 * depth / distance)[:, None] * apart
        _scatter(gradient, pairs, force)
        return float(30 * np.square(depth).sum())

    def _neighbours(self, points: np.ndarray) -> Int[np.ndarray, "pair 2"]:
        if self._listed is None or np.square(points - self._listed).sum(axis=1).max() > (MARGIN / 2) ** 2:
            pairs = cKDTree(points).query_pairs(float(CONTACT.max()) + MARGIN, output_type="ndarray")
            first, second = pairs.T
            contacts = CONTACT[first % SITES, second % SITES]
            apart = np.abs(first // SITES - second // SITES)
            near = np.square(points[first] - points[second]).sum(axis=1) < (contacts + MARGIN) ** 2
            chosen = (apart >= 2) & near & ~((apart <= 3) & ((first % SITES == SIDE) | (second % SITES == SIDE)))
            self._pairs, self._contacts, self._listed = pairs[chosen], contacts[chosen], points.copy()
        return self._pairs

    def _pull(self, points: np.ndarray, gradient: np.ndarray) -> float:
        """6 (sqrt(1 + x²) - 1) for a hydrogen bond that is x Å too long or too short: its force has a limit."""
        if not len(self.bonds):
            return 0.0
        apart = points[self.bonds[:, 0]] - points[self.bonds[:, 1]]
        distance = np.sqrt(np.square(apart).sum(axis=1)) + 1e-9
        away = 2 * (distance - self.bond_lengths)
        root = np.sqrt(1 + away**2)
        _scatter(gradient, self.bonds, (12 * away / root / distance)[:, None] * apart)
        return float(6 * (root - 1).sum())

    def _shrink(self, built: np.ndarray, gradient: np.ndarray) -> float:
        """1 per residue and Å² of the radius of gyration beyond its target."""
        ca = built[:, CA]
        radius = radius_of_gyration(ca)
        beyond = max(radius - self.target, 0.0)
        weight = len(ca)
        gradient.reshape(built.shape)[:, CA] += 2 * weight * beyond / radius / len(ca) * (ca - ca.mean(axis=0))
        return weight * beyond**2


def _scatter(gradient: np.ndarray, pairs: np.ndarray, force: np.ndarray) -> None:
    for axis in range(3):
        gradient[:, axis] += np.bincount(pairs[:, 0], force[:, axis], len(gradient))
        gradient[:, axis] -= np.bincount(pairs[:, 1], force[:, axis], len(gradient))


BASINS = np.radians([(-65.0, -38.0), (-115.0, 130.0), (-72.0, 145.0), (57.0, 40.0)])
"""φ and ψ of a loop's residues: helical, extended, polyproline, left-handed helical."""
BASIN_SHARES = (0.34, 0.30, 0.32, 0.04)


def draw_loops(plan: Blueprint, rng: np.random.Generator, spans: list[tuple[int, int]]) -> Blueprint:
    """The blueprint with new basins for the residues in `spans`."""
    phi, psi = plan.phi.copy(), plan.psi.copy()
    for first, end in spans:
        basin = BASINS[rng.choice(len(BASINS), end - first, p=BASIN_SHARES)]
        phi[first:end], psi[first:end] = (basin + np.radians(8) * rng.standard_normal(basin.shape)).T
    return replace(plan, phi=phi, psi=psi)


def arrange(plan: Blueprint, stiff: Stiff, omega: np.ndarray, rng: np.random.Generator, draws: int) -> Blueprint:
    """Loop by loop the best of `draws` arrangements of the chain so far: compact, without overlap."""
    plan = draw_loops(plan, rng, plan.loops)
    ends = [first for first, _ in plan.loops[1:]] + [len(plan)]
    for loop, end in zip(plan.loops, ends, strict=False):
        if loop[0] == 0 or loop[1] == len(plan):
            continue
        tried = [draw_loops(plan, rng, [loop]) for _ in range(draws)]
        plan = min(tried, key=lambda t: _coarse(t, stiff, omega, end))
    return plan


def _coarse(plan: Blueprint, stiff: Stiff, omega: np.ndarray, end: int) -> float:
    """Of the first `end` residues: how much too wide, how often two CA of different pieces nearly meet."""
    part = Stiff(stiff.bonds[:end], stiff.angles[:end])
    ca = build(plan.phi[:end], plan.psi[:end], omega[:end], part).trace[1::3]
    square = np.square(ca[:, None] - ca[None]).sum(axis=-1)
    k = np.arange(end)
    overlap = np.maximum(49 - square, 0)[np.abs(k[:, None] - k) > 5].sum() / 49
    wide = sum(np.sqrt(square[a, d]) for a, d in plan.bonds if max(a, d) < end) / max(len(plan.bonds), 1)
    return float(4 * radius_of_gyration(ca) + overlap + 2 * wide)


def fold(plan: Blueprint, rng: np.random.Generator, *, draws: int = 30) -> np.ndarray | None:
    """N, CA, C, O `[residue, 4, 3]` of a sound chain that follows the blueprint; None where this draw gave none."""
    length = len(plan)
    stiff = Stiff.draw(length, rng)
    omega = np.pi + np.radians(2.5) * np.clip(rng.standard_normal(length), -3, 3)
    plan = arrange(plan, stiff, omega, rng, draws)
    kinds = np.array(list(plan.kinds))
    weights = np.where(kinds == "H", 60.0, np.where(kinds == "E", 12.0, np.where(kinds == "T", 25.0, 8.0)))
    target = radius_law(length) * float(np.exp(0.06 * rng.standard_normal() - 0.08)) if plan.compact else np.inf
    energy = Energy(plan, stiff, omega, target, np.stack([weights, weights]))
    start = np.concatenate([plan.phi, plan.psi])
    found = minimize(
        energy, start, jac=True, method="L-BFGS-B", options={"maxiter": 60 + 3 * length // 2, "maxcor": 20}
    )
    for _ in range(2):
        phi, psi = found.x.reshape(2, -1)
        atoms = build(phi, psi, omega, stiff).atoms
        if sound(plan, atoms, phi, psi):
            return atoms
        energy.target *= 1.08  # what is pressed too hard comes apart a little
        found = minimize(energy, found.x, jac=True, method="L-BFGS-B", options={"maxiter": 40})
    return None


def sound(plan: Blueprint, atoms: np.ndarray, phi: np.ndarray, psi: np.ndarray) -> bool:
    """No clash, strands bonded, torsions in their basins, as compact as real chains are."""
    length = len(plan)
    ca = atoms[:, 1]
    if plan.compact and not 0.8 < radius_of_gyration(ca) / radius_law(length) < 1.3:
        return False
    pairs = cKDTree(atoms.reshape(-1, 3)).query_pairs(2.62, output_type="ndarray")
    if (np.abs(pairs[:, 0] // 4 - pairs[:, 1] // 4) >= 2).any():
        return False
    pairs = cKDTree(ca).query_pairs(3.75, output_type="ndarray")
    if (np.abs(pairs[:, 0] - pairs[:, 1]) >= 2).any():
        return False
    lengths = [np.linalg.norm(atoms[a, 3] - atoms[d, 0]) for a, d in plan.bonds]
    if lengths and np.mean(np.array(lengths) < 3.4) < 0.85:
        return False
    away = np.cos(phi - plan.phi), np.cos(psi - plan.psi)
    return bool(away[0][1:].min() > np.cos(np.radians(60)) and away[1][:-1].min() > np.cos(np.radians(75)))
