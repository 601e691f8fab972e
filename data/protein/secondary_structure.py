"""Secondary structure by DSSP's rules, in three states."""

import numpy as np
from jaxtyping import UInt8

from data.batch import RESIDUE_TYPES, Backbone
from data.extras import require

STATES = "CHE"
"""Coil, helix, strand: a state's position here is how it is stored."""
ANGSTROM_PER_NM = 10.0


def assign(backbone: Backbone) -> np.ndarray:
    """ "H", "E" or "C" per residue (`[residue]`, one-letter strings): DSSP (Kabsch & Sander 1983) with its helices
    (G, H, I) as H, its strands (E, B) as E and the rest as C.

    Hydrogens are placed from the backbone alone. A residue that lacks one of N, CA, C and O is C, and a gap in
    `residue_index` ends a chain. DSSP calls a left-handed helix H too: look at its chirality elsewhere.

    Raises:
        PenstockError: mdtraj is not installed.
    """
    complete = backbone.present.all(axis=1)
    states = np.full(len(backbone), "C")
    if not complete.any():
        return states
    mdtraj = require("mdtraj", "protein")
    element = mdtraj.element
    topology = mdtraj.Topology()
    chain, last = None, -1
    for k in np.flatnonzero(complete):
        if chain is None or not _follows(backbone, last, int(k)):
            chain = topology.add_chain()
        residue = topology.add_residue(RESIDUE_TYPES[backbone.residue_type[k]], chain)
        for name, kind in (
            ("N", element.nitrogen),
            ("CA", element.carbon),
            ("C", element.carbon),
            ("O", element.oxygen),
        ):
            topology.add_atom(name, kind, residue)
        last = int(k)
    positions = backbone.atoms[complete].reshape(1, -1, 3) / ANGSTROM_PER_NM
    found = mdtraj.compute_dssp(mdtraj.Trajectory(positions, topology), simplified=True)[0]
    states[complete] = np.where(np.isin(found, ("H", "E")), found, "C")
    return states


def encode(states: np.ndarray) -> UInt8[np.ndarray, " residue"]:
    """Positions in STATES."""
    return np.array([STATES.index(state) for state in states], dtype=np.uint8)


def decode(codes: np.ndarray) -> np.ndarray:
    """Letters from positions in STATES."""
    return np.array(list(STATES))[codes]


def _follows(backbone: Backbone, before: int, after: int) -> bool:
    step = backbone.residue_index[after] - backbone.residue_index[before]
    return bool(step == 1 and backbone.chain[after] == backbone.chain[before])
