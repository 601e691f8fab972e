"""Chains for the tests of backbone metrics: real ones where ../shared is there, made-up ones anywhere."""

from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from data.batch import Backbone
from data.protein.reading import read_chains
from data.protein.secondary_structure import assign
from modules.protein.controls import from_torsions, noisy

REAL = Path(__file__).resolve().parents[4] / "shared" / "datasets" / "protein"


@cache
def real_chains() -> tuple[Backbone, ...]:
    """The 210 real chains; of a file with two, the longer."""
    if not (REAL / "pdb").is_dir():
        pytest.skip(f"no real chains at {REAL}")
    return tuple(
        max((chain.backbone for chain in read_chains(path)), key=len) for path in sorted((REAL / "pdb").glob("*.pdb"))
    )


@cache
def made_up_chains(count: int = 40) -> tuple[Backbone, ...]:
    """Helices, strands and turns strung together, with the spread of bonds of real chains; not compact."""
    rng = np.random.default_rng(7)
    basins = {"helix": (-63.0, -43.0, 6.0), "strand": (-115.0, 135.0, 12.0), "turn": (-80.0, 60.0, 60.0)}
    made = []
    for _ in range(count):
        parts = []
        while sum(map(len, parts)) < 40:
            for kind in (rng.choice(["helix", "strand"]), "turn"):
                phi, psi, spread = basins[kind]
                length = int(rng.integers(2, 5) if kind == "turn" else rng.integers(6, 20))
                parts.append(np.array([phi, psi]) + spread * rng.standard_normal((length, 2)))
        made.append(noisy(from_torsions(*np.concatenate(parts).T), rng, 0.008))
    return tuple(made)


def secondary(chains) -> list[np.ndarray]:
    return [assign(chain) for chain in chains]


def moved(backbone: Backbone, seed: int = 0) -> Backbone:
    """Turned and shifted."""
    rng = np.random.default_rng(seed)
    turn = np.linalg.qr(rng.standard_normal((3, 3)))[0]
    turn *= np.sign(np.linalg.det(turn))
    return replace(backbone, atoms=backbone.atoms.astype(np.float64) @ turn.T + rng.uniform(-50, 50, 3))


def piece(backbone: Backbone, start: int, stop: int) -> Backbone:
    parts = {
        name: getattr(backbone, name)[start:stop]
        for name in ("atoms", "present", "chain", "residue_index", "residue_type")
    }
    return Backbone(**parts)
