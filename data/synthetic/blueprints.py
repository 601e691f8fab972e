"""Folds as they are meant: which pieces of structure follow each other, and which strands lie side by side."""

from collections.abc import Callable

import numpy as np

from data.synthetic.folding import Blueprint

HELIX = np.radians((-63.0, -42.0))
STRAND = np.radians((-118.0, 133.0))
TURNS = (np.radians([(55.0, 38.0), (78.0, 20.0)]), np.radians([(60.0, -125.0), (-85.0, -5.0)]))
"""φ, ψ of the two residues between the strands of a hairpin: types I' and II', the usual ones there."""


class _Draft:
    """A chain written piece by piece."""

    def __init__(self, rng: np.random.Generator) -> None:
        self.rng = rng
        self.kinds = ""
        self.torsions: list[tuple[float, float]] = []
        self.bonds: list[tuple[int, int]] = []

    def _add(self, kind: str, basins: np.ndarray, spread: float) -> None:
        drawn = basins + np.radians(spread) * np.clip(self.rng.standard_normal(basins.shape), -2, 2)
        self.torsions += [(float(a), float(b)) for a, b in drawn]
        self.kinds += kind * len(basins)

    def helix(self, length: int) -> None:
        first = len(self.kinds)
        self._add("H", np.tile(HELIX, (length, 1)), 2)
        self.bonds += [(first + k, first + k + 4) for k in range(length - 4)]

    def loop(self, length: int) -> None:
        """Free: `fold` draws its torsions."""
        self._add("L", np.tile(STRAND, (length, 1)), 0)

    def meander(self, strands: int, length: int) -> None:
        """Strands of an even `length`, each antiparallel to the one before, joined by turns of two residues."""
        last = 0
        for k in range(strands):
            if k:
                self._add("T", TURNS[int(self.rng.random() < 0.3)], 5)
            first = len(self.kinds)
            self._add("E", np.tile(STRAND, (length, 1)), 8)
            if k:
                # Every second pair of facing residues is bonded both ways, beginning at the turn. The other pairs
                # point away from each other, and towards the next strand.
                for step in range(0, length, 2):
                    self.bonds += [(last - step, first + step), (first + step, last - step)]
            last = len(self.kinds) - 1

    def finish(self, length: int, *, compact: bool = True) -> Blueprint | None:
        """With loose ends to fill `length`; None where they would not take two to eight residues."""
        left = length - len(self.kinds)
        if not 2 <= left <= 8:
            return None
        start = int(self.rng.integers(max(1, left - 4), min(left - 1, 4) + 1))
        phi, psi = np.array([tuple(STRAND)] * start + self.torsions + [tuple(STRAND)] * (left - start)).T
        bonds = [(a + start, d + start) for a, d in self.bonds]
        return Blueprint("L" * start + self.kinds + "L" * (left - start), phi, psi, bonds, compact)


def helix(rng: np.random.Generator, length: int) -> Blueprint | None:
    """One helix."""
    draft = _Draft(rng)
    draft.helix(length - int(rng.integers(2, 5)))
    return draft.finish(length, compact=False)


def hairpin(rng: np.random.Generator, length: int) -> Blueprint | None:
    """Two long strands side by side."""
    draft = _Draft(rng)
    draft.meander(2, (length - 4) // 4 * 2)
    return draft.finish(length, compact=False)


def bundle(rng: np.random.Generator, length: int) -> Blueprint | None:
    """Two to five helices, each turning back on the one before."""
    count = int(rng.integers(max(2, length // 32), max(3, min(5, length // 15)) + 1))
    loops = rng.integers(3, 7, count - 1)
    mean = (length - 4 - loops.sum()) / count
    draft = _Draft(rng)
    for k in range(count):
        if k:
            draft.loop(int(loops[k - 1]))
        draft.helix(max(8, round(mean * rng.uniform(0.8, 1.2))))
    return draft.finish(length) if mean >= 8 else None


def sheet(rng: np.random.Generator, length: int) -> Blueprint | None:
    """A meander, or several that lie on each other."""
    draft = _Draft(rng)
    count = int(rng.integers(1, 3)) if length > 40 else 1
    for k in range(max(count, -(-length // 70))):
        if k:
            draft.loop(int(rng.integers(4, 8)))
        draft.meander(int(rng.integers(2, 7)), int(rng.choice([4, 6, 8, 10])))
    return draft.finish(length)


def mixed(rng: np.random.Generator, length: int) -> Blueprint | None:
    """A meander with helices before it, after it, or on both ends."""
    draft = _Draft(rng)
    # As many helices as bring the chain near its length, a third of it left to the strands.
    helices = int(np.clip(round(length / rng.uniform(24, 42)), 1, 4))
    before = int(rng.integers(0, helices + 1))
    after = helices - before
    for _ in range(before):
        draft.helix(int(rng.integers(9, 22)))
        draft.loop(int(rng.integers(3, 7)))
    draft.meander(int(rng.integers(2, 7)), int(rng.choice([4, 6, 8])))
    for _ in range(after):
        draft.loop(int(rng.integers(3, 7)))
        draft.helix(int(rng.integers(9, 22)))
    return draft.finish(length)


FAMILIES: dict[str, Callable[[np.random.Generator, int], Blueprint | None]] = {
    "helix": helix,
    "hairpin": hairpin,
    "bundle": bundle,
    "sheet": sheet,
    "mixed": mixed,
}
