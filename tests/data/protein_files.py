"""Structure files made by hand: every column written here, not by the library that reads them."""

import gzip
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from data.batch import RESIDUE_TYPES

THREE = dict(zip("ARNDCQEGHILKMFPSTWYV", RESIDUE_TYPES, strict=False))
COLUMNS = (
    "group_PDB id type_symbol label_atom_id label_alt_id label_comp_id label_asym_id label_entity_id label_seq_id "
    "pdbx_PDB_ins_code Cartn_x Cartn_y Cartn_z occupancy B_iso_or_equiv auth_seq_id auth_asym_id pdbx_PDB_model_num"
)


@dataclass(frozen=True)
class Atom:
    name: str
    residue: str
    chain: str
    number: int
    position: tuple[float, float, float]
    icode: str = ""
    altloc: str = ""
    occupancy: float = 1.0
    het: bool = False
    label: int | None = None
    """Place in the sequence, for mmCIF."""


def helix(length: int, start: int = 0) -> np.ndarray:
    """N, CA, C, O of an ideal α helix (cylinder coordinates of Arnott & Dover), `[residue, 4, 3]` in Å."""
    radius = np.array([1.536, 2.280, 1.638, 1.995])
    angle = np.radians([0.0, 27.3, 54.7, 47.3]) + np.radians(100.0) * (start + np.arange(length))[:, None]
    height = np.array([0.0, 0.87, 1.99, 3.22]) + 1.5 * (start + np.arange(length))[:, None]
    return np.stack([radius * np.cos(angle), radius * np.sin(angle), height], axis=-1).round(3)


def helix_atoms(sequence: str, chain: str = "A", first: int = 1, shift: float = 0.0) -> list[Atom]:
    """A helix of the sequence, numbered from `first`, moved along x by `shift` Å."""
    atoms = helix(len(sequence)) + np.array([shift, 0, 0])
    return [
        Atom(name, THREE[letter], chain, first + k, tuple(atoms[k, j]), label=k + 1)
        for k, letter in enumerate(sequence)
        for j, name in enumerate(("N", "CA", "C", "O"))
    ]


def pdb_line(atom: Atom, serial: int = 1) -> str:
    record = "HETATM" if atom.het else "ATOM  "
    name = f" {atom.name:<3}" if len(atom.name) < 4 else atom.name
    x, y, z = atom.position
    return (
        f"{record}{serial:>5} {name}{atom.altloc or ' '}{atom.residue:>3} {atom.chain}{atom.number:>4}"
        f"{atom.icode or ' '}   {x:8.3f}{y:8.3f}{z:8.3f}{atom.occupancy:6.2f}{10:6.2f}          {atom.name[0]:>2}"
    )


def pdb(atoms: list[Atom], ter: bool = True) -> str:
    lines = []
    for serial, atom in enumerate(atoms, 1):
        if ter and serial > 1 and not atoms[serial - 2].het and (atom.het or atom.chain != atoms[serial - 2].chain):
            lines.append("TER")
        lines.append(pdb_line(atom, serial))
    return "\n".join([*lines, "END", ""])


def mmcif(atoms: list[Atom], extra: str = "") -> str:
    rows = [
        f"{'HETATM' if a.het else 'ATOM'} {k} {a.name[0]} {a.name} {a.altloc or '.'} {a.residue} {a.chain} 1 "
        f"{'.' if a.label is None else a.label} {a.icode or '?'} {a.position[0]:.3f} {a.position[1]:.3f} "
        f"{a.position[2]:.3f} {a.occupancy:.2f} 10.00 {a.number} {a.chain} 1"
        for k, a in enumerate(atoms, 1)
    ]
    head = ["data_test", "_entity.id 1", "_entity.type polymer", extra, "loop_"]
    return "\n".join([*head, *(f"_atom_site.{c}" for c in COLUMNS.split()), *rows, "#", ""])


def changed(atoms: list[Atom], number: int, **values: object) -> list[Atom]:
    """The atoms with those of residue `number` changed."""
    return [replace(a, **values) if a.number == number else a for a in atoms]


def write(path: Path, text: str | bytes) -> Path:
    """The text as a file, packed where the name ends in .gz."""
    raw = text.encode() if isinstance(text, str) else text
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(raw) if path.name.endswith(".gz") and isinstance(text, str) else raw)
    return path
