"""Backbones from PDB and mmCIF files as they come: what is there is read, what is missing is masked, not invented."""

import gzip
import re
import zlib
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from data.batch import RESIDUE_TYPES, UNKNOWN, Backbone
from data.errors import StructureError
from data.extras import require

PDB_SUFFIXES = (".pdb", ".ent", ".pdb1")
MMCIF_SUFFIXES = (".cif", ".mmcif")
STRUCTURE_SUFFIXES = tuple(s + z for s in (*PDB_SUFFIXES, *MMCIF_SUFFIXES) for z in ("", ".gz"))
"""File names that are taken for structures; other files in a data folder are left alone."""
BOND_LIMIT = 2.0
"""Å between C and the next N; farther apart, the chain is broken there."""
CA_LIMIT = 4.3
"""Å between neighbouring CA, used where C or N is missing (3.8 trans, 2.9 cis)."""
FARTHEST = 1e5
"""Å from the origin; beyond it single precision loses the third decimal, and no structure is that large."""
LARGEST = 2**30
"""Bytes of one file, unpacked."""
ATOMS = ("N", "CA", "C", "O")
_OTHER_NAMES = {"OT1": "O", "O1": "O"}  # the last residue's oxygen, as CHARMM and GROMACS write it
_ASCII = bytes(k if 0 < k < 128 else ord("?") for k in range(256))  # one column stays one column
_NUMBER = re.compile(r" *[-+]?(\d+\.?\d*|\.\d+) *")


@dataclass(frozen=True)
class Chain:
    """One protein chain of a file."""

    name: str
    """As the file's author calls it (mmCIF: auth_asym_id), case kept, of any length; "_" where the file has none."""
    backbone: Backbone
    """In the file's coordinates (Å), `chain` all 0. `residue_index` grows by one along each peptide bond; over a break
    by what the numbering says is missing, by 2 at least."""
    numbers: tuple[str, ...]
    """The author's residue numbers with insertion code: "163", "-3", "100A"."""
    resolution: float | None
    """Å; None where the file gives none."""
    source: str
    """Name of the file."""

    def __len__(self) -> int:
        return len(self.backbone)


def is_structure(path: Path) -> bool:
    """True where the name says PDB or mmCIF, packed by gzip or not."""
    return path.name.lower().endswith(STRUCTURE_SUFFIXES)


def read_chains(path: Path) -> list[Chain]:
    """Every protein chain of the first model of a PDB or mmCIF file, in the file's order.

    Waters, ligands, nucleic acids and caps without a CA are left out; a modified residue counts as its parent (MSE as
    MET). Of alternative locations one conformer is kept over each run of neighbouring residues that have any: the one
    of the highest summed occupancy, then the first by its letter.

    Raises:
        StructureError: not readable, truncated, columns overflow, coordinates not finite, or no protein in it.
    """
    path = Path(path)
    if not path.is_file():
        raise StructureError(f"expected a PDB or mmCIF file, but {path} is missing or not a file.")
    if not is_structure(path):
        raise StructureError(f"expected a file name ending in {', '.join(STRUCTURE_SUFFIXES)}, got {path.name}.")
    gemmi = require("gemmi", "protein")
    name = path.name.lower().removesuffix(".gz")
    text = _text(path)
    structure = _from_pdb(gemmi, text) if name.endswith(PDB_SUFFIXES) else _from_mmcif(gemmi, text)
    structure.setup_entities()
    resolution = structure.resolution if structure.resolution > 0 else None  # NMR files say 0 or nothing
    chains = []
    for chain in structure[0] if len(structure) else []:
        residues = list(_amino_acids(gemmi, chain))
        if residues:
            backbone, numbers = _backbone(gemmi, residues)
            chains.append(Chain(chain.name.strip() or "_", backbone, numbers, resolution, path.name))
    if not chains:
        raise StructureError(
            "no protein chain in it (ligands, waters or nucleic acids only, or atoms without a backbone)."
            if any(len(chain) for chain in (structure[0] if len(structure) else []))
            else "no atoms in it; the file may have been cut off."
        )
    return chains


def _text(path: Path) -> str:
    try:
        if path.name.lower().endswith(".gz"):
            with gzip.open(path) as file:
                raw = file.read(LARGEST + 1)
        else:
            with path.open("rb") as file:
                raw = file.read(LARGEST + 1)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise StructureError(f"the gzip file is damaged or cut off ({error}); fetch it again.") from error
    except OSError as error:
        raise StructureError(f"cannot be read: {error}") from error
    if len(raw) > LARGEST:
        raise StructureError(f"more than {LARGEST // 2**20} MiB unpacked; split it into smaller files.")
    if not raw.strip():
        raise StructureError("the file is empty.")
    return raw.translate(_ASCII).decode("ascii")


def _from_pdb(gemmi: Any, text: str) -> Any:
    lines = []
    for number, line in enumerate(text.splitlines(), 1):
        if line.startswith(("ATOM  ", "HETATM")):
            _check_columns(number, line)
            line = line.ljust(80)
        lines.append(line)
        if line.startswith("ENDMDL"):  # the first model is all that is read
            break
    try:
        return gemmi.read_pdb_string("\n".join(lines) + "\n")
    except (RuntimeError, ValueError) as error:
        raise StructureError(f"not readable as PDB: {_one_line(error)}") from error


def _check_columns(number: int, line: str) -> None:
    """Refuse what a parser of fixed columns would read as other numbers than were written."""
    if len(line.rstrip()) < 54:
        raise StructureError(f"line {number} ends before its coordinates do; the file is cut off or not PDB.")
    fields = [line[30:38], line[38:46], line[46:54]]
    if any(field.strip().lower().lstrip("+-") in ("nan", "inf", "infinity") for field in fields):
        raise StructureError(f"line {number}: the coordinates are not finite numbers ({line[30:54].strip()}).")
    fine = all(_NUMBER.fullmatch(field) for field in fields)
    if not fine or (line[54:60].strip() and not _NUMBER.fullmatch(line[54:60])) or line[26:27].isdigit():
        raise StructureError(
            f"line {number}: the columns do not hold single numbers ({line[22:60].strip()}): a value too wide for PDB "
            "has pushed the others aside, or the file is damaged. Write it as mmCIF, or nearer to the origin."
        )


def _from_mmcif(gemmi: Any, text: str) -> Any:
    try:
        document = gemmi.cif.read_string(text)
        blocks = [block for block in document if block.find_values("_atom_site.Cartn_x")]
        if not blocks:
            raise StructureError("no atoms in it (_atom_site is missing); the file may have been cut off.")
        structure = gemmi.make_structure_from_block(blocks[0])
    except StructureError:
        raise
    except (RuntimeError, ValueError, IndexError) as error:
        raise StructureError(f"not readable as mmCIF (cut off, perhaps): {_one_line(error)}") from error
    _check_complete(blocks[0])
    if not structure.resolution:
        structure.resolution = _resolution(gemmi, blocks[0])
    return structure


def _resolution(gemmi: Any, block: Any) -> float:
    """Å, 0 where none of the places that hold it does."""
    for tag in ("_refine.ls_d_res_high", "_em_3d_reconstruction.resolution", "_reflns.d_resolution_high"):
        values = [gemmi.cif.as_number(text) for text in block.find_values(tag)]
        worst = max((value for value in values if np.isfinite(value)), default=0.0)
        if worst > 0:
            return float(worst)
    return 0.0


def _check_complete(block: Any) -> None:
    """A file cut between two atoms is sound mmCIF; only its own list of modelled residues tells."""
    listed = block.find("_pdbx_poly_seq_scheme.", ["asym_id", "seq_id", "auth_mon_id"])
    if not len(listed):
        return
    there = {(row[0], row[1]) for row in block.find("_atom_site.", ["label_asym_id", "label_seq_id"])}
    missing = [(row[0], row[1]) for row in listed if row[2] not in ("?", ".") and (row[0], row[1]) not in there]
    if missing:
        raise StructureError(
            f"{len(missing)} residues that the file lists as modelled have no atoms (the first: chain {missing[0][0]}, "
            f"position {missing[0][1]}): it is cut off or was edited; fetch it again."
        )


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())


def _amino_acids(gemmi: Any, chain: Any) -> Iterator[Any]:
    """The residues of the chain's polypeptide."""
    polymer = chain.get_polymer()
    if len(polymer):
        kind = polymer.check_polymer_type()
        if kind not in (gemmi.PolymerType.PeptideL, gemmi.PolymerType.PeptideD, gemmi.PolymerType.Unknown):
            return
        residues: Iterable[Any] = polymer
    else:
        residues = (r for r in chain if r.het_flag != "H" and r.entity_type != gemmi.EntityType.Water)
    for residue in residues:
        names = {atom.name for atom in residue}
        if "CA" in names and not ({"N", "C"} & names or gemmi.find_tabulated_residue(residue.name).is_amino_acid()):
            continue
        if names & {"N", "CA", "C"} and ("CA" in names or gemmi.find_tabulated_residue(residue.name).is_amino_acid()):
            yield residue


def _backbone(gemmi: Any, residues: Sequence[Any]) -> tuple[Backbone, tuple[str, ...]]:
    positions = list(_positions(residues))
    conformers = _conformers(positions)
    atoms = np.zeros((len(positions), 4, 3))
    present = np.zeros((len(positions), 4), dtype=bool)
    types, numbers = [], []
    for k, (position, label) in enumerate(zip(positions, conformers, strict=True)):
        chosen = position[0]
        for residue in position:
            for atom in residue:
                name = _OTHER_NAMES.get(atom.name, atom.name)
                if name not in ATOMS or (atom.has_altloc() and atom.altloc != label):
                    continue
                chosen = residue if atom.has_altloc() else chosen
                column = ATOMS.index(name)
                if not present[k, column]:
                    atoms[k, column], present[k, column] = atom.pos.tolist(), True
        types.append(_type(gemmi, chosen.name))
        numbers.append(f"{chosen.seqid.num}{chosen.seqid.icode.strip()}")
    _check_finite(atoms, numbers)
    sequence = [position[0].label_seq for position in positions]
    ordinals = [position[0].seqid.num for position in positions] if None in sequence else sequence
    backbone = Backbone(
        atoms=atoms.astype(np.float32),
        present=present,
        chain=np.zeros(len(positions), dtype=np.int64),
        residue_index=_residue_index(atoms, present, np.array(ordinals)),
        residue_type=np.array(types, dtype=np.int64),
    )
    return backbone, tuple(numbers)


def _check_finite(atoms: np.ndarray, numbers: Sequence[str]) -> None:
    bad = ~(np.isfinite(atoms) & (np.abs(atoms) < FARTHEST)).all(axis=(1, 2))
    if bad.any():
        raise StructureError(
            f"{int(bad.sum())} residues have coordinates that are not finite numbers (NaN, '?') or lie beyond "
            f"{FARTHEST:g} Å; the first is residue {numbers[int(bad.argmax())]}."
        )


def _positions(residues: Sequence[Any]) -> Iterator[list[Any]]:
    """Residues gathered by place in the chain: two names at one place are alternatives (microheterogeneity)."""
    group: list[Any] = []
    for residue in residues:
        if (
            group
            and residue.seqid == group[0].seqid
            and all(atom.has_altloc() for r in (*group, residue) for atom in r)
        ):
            group.append(residue)
            continue
        if group:
            yield group
        group = [residue]
    if group:
        yield group


def _conformers(positions: Sequence[Sequence[Any]]) -> list[str]:
    """The letter of the conformer to take at each position, "" where the backbone has only one."""
    offered: list[dict[str, tuple[int, float]]] = []
    for position in positions:
        core: dict[str, int] = defaultdict(int)
        occupancy: dict[str, float] = defaultdict(float)
        for atom in (atom for residue in position for atom in residue if atom.name in ATOMS and atom.has_altloc()):
            core[atom.altloc] += atom.name in ("N", "CA", "C")
            occupancy[atom.altloc] += atom.occ
        offered.append({label: (core[label], occupancy[label]) for label in core})
    chosen = [""] * len(positions)
    start = 0
    while start < len(positions):
        stop = start + 1
        if offered[start]:
            while stop < len(positions) and offered[stop]:
                stop += 1
            total: dict[str, float] = defaultdict(float)
            for choices in offered[start:stop]:
                for label, (_, weight) in choices.items():
                    total[label] += weight
            for k in range(start, stop):
                # A whole residue before a likely one: a frame needs N, CA and C.
                best = {label: (-core, -round(total[label], 6), label) for label, (core, _) in offered[k].items()}
                chosen[k] = min(best, key=best.__getitem__)
        start = stop
    return chosen


def _type(gemmi: Any, name: str) -> int:
    """Position in RESIDUE_TYPES of the residue or of its standard parent."""
    letter = gemmi.find_tabulated_residue(name).one_letter_code.upper()
    parent = gemmi.expand_one_letter(letter, gemmi.ResidueKind.AA) if letter.strip() else None
    return RESIDUE_TYPES.index(parent) if parent in RESIDUE_TYPES else UNKNOWN


def _residue_index(atoms: np.ndarray, present: np.ndarray, ordinals: np.ndarray) -> np.ndarray:
    """From 1; a step of one where the geometry shows a bond, else what the numbering says, at least 2.

    Numbering alone misleads both ways: insertion codes repeat a number, antibody and protease schemes leave numbers out
    where no residue is missing, and merged chains go on counting.
    """
    differences = np.diff(ordinals)
    bonded = np.linalg.norm(atoms[1:, 0] - atoms[:-1, 2], axis=-1) < BOND_LIMIT
    near = np.linalg.norm(atoms[1:, 1] - atoms[:-1, 1], axis=-1) < CA_LIMIT
    both, alphas = present[1:, 0] & present[:-1, 2], present[1:, 1] & present[:-1, 1]
    adjacent = np.where(both, bonded, np.where(alphas, near, differences <= 1))
    steps = np.where(adjacent, 1, np.maximum(differences, 2))
    return 1 + np.concatenate([[0], np.cumsum(steps)]).astype(np.int64)
