"""Backbones written as PDB and mmCIF, as gemmi, Biopython, mdtraj and mkdssp read them."""

import gzip
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
from jaxtyping import Float

from data.atomic import written_file
from data.batch import RESIDUE_TYPES, UNKNOWN, Backbone
from data.errors import PenstockError
from data.extras import require

if TYPE_CHECKING:
    import gemmi

FORMATS = ("pdb", "pdb.gz", "cif", "cif.gz")
"""What is written, by the ending of the file name."""
ResidueName = Literal["GLY", "ALA", "UNK"]
"""What a residue is called whose type was never chosen."""
ATOMS = ("N", "CA", "C", "O")
CHAIN_NAMES = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789"
"""One character per chain, all that the PDB format has room for."""
RANGES = {"pdb": (-999.999, 9999.999), "cif": (-999999.0, 999999.0)}
"""Positions, Å, that are written to the third decimal: the eight columns of a PDB file, nine digits in mmCIF."""
PDB_RESIDUES, PDB_SERIALS, PDB_MODELS = 9999, 99999, 9999
HIGHEST_NUMBER = 99_999
"""Of a residue: each number below that is not used is an unobserved residue in the file."""
MOTIF_DETAILS = "motif: given, not generated"


@dataclass(frozen=True)
class BackboneReport:
    """What a written structure file holds."""

    path: Path
    num_models: int
    num_chains: int
    num_residues: int
    """Of one model, with at least one atom each."""
    num_atoms: int
    """Of one model."""
    shift: tuple[float, float, float]
    """Å, added to every position before writing: zero unless the positions did not fit the columns of the file."""


def write_backbone(
    backbone: Backbone,
    path: Path,
    *,
    residue_name: ResidueName = "GLY",
    title: str = "",
    seed: int | None = None,
    b_factors: Float[np.ndarray, " residue"] | None = None,
    overflow: Literal["recentre", "refuse"] = "recentre",
) -> BackboneReport:
    """Write a backbone as PDB or mmCIF by the ending of `path` (`.gz` too); whole or not at all.

    Chains are named A, B, C, …, residues by their `residue_index`; what is absent is left out, and a gap in the
    numbering appears as unobserved residues of the sequence. Residues of a known type keep their name. Residues of a
    motif have B-factor 1 and others 0, unless `b_factors` says other values; they are listed in REMARK 400 of a PDB
    file or in the category `struct_site` of an mmCIF file. `seed` is in REMARK 400 or `_struct.pdbx_model_details`.
    Positions have three decimals.

    Args:
        backbone: positions in Å.
        path: ends in .pdb, .cif, .pdb.gz or .cif.gz.
        residue_name: the name of residues whose type was never chosen.
        title: one line for the reader.
        seed: what the backbone was generated from.
        b_factors: one value per residue, for example a confidence.
        overflow: what to do where positions do not fit the eight columns of a PDB coordinate (-999.999 to 9999.999 Å)
            or reach 1e6 Å: move the whole structure by full ångströms and say so in file and report, or refuse.

    Raises:
        PenstockError: another ending, nothing to write, positions that are not finite, or what the format cannot hold.
        DiskFullError: no space left.
    """
    return write_trajectory(
        [backbone],
        path,
        residue_name=residue_name,
        title=title,
        seed=seed,
        b_factors=b_factors,
        overflow=overflow,
    )


def write_trajectory(
    backbones: Sequence[Backbone],
    path: Path,
    *,
    residue_name: ResidueName = "GLY",
    title: str = "",
    seed: int | None = None,
    times: Sequence[float] | None = None,
    b_factors: Float[np.ndarray, " residue"] | None = None,
    overflow: Literal["recentre", "refuse"] = "recentre",
) -> BackboneReport:
    """Write states of one backbone as the models 1, 2, … of one file; as `write_backbone` in all else.

    Args:
        backbones: of the same chains, residues and present atoms.
        times: of each state, 0 (noise) to 1; listed in the file.

    Raises:
        PenstockError: as `write_backbone`, or states that are not of the same atoms.
        DiskFullError: no space left.
    """
    kind = _kind(path)
    _check(backbones, path, residue_name, times, b_factors)
    first = backbones[0]
    if kind.startswith("pdb"):
        _check_fits_pdb(first, len(backbones), b_factors, path)
    shift = _shift(backbones, path, kind, overflow)
    values = _b_factors(first, b_factors)
    names = [residue_name if kind == UNKNOWN else RESIDUE_TYPES[kind] for kind in np.asarray(first.residue_type)]
    structure = _structure(backbones, shift, values, names, residue_name, title, path)
    notes = _Notes(seed, tuple(times or ()), shift)
    text = _pdb_text(structure, first, notes) if kind.startswith("pdb") else _cif_text(structure, first, notes, names)
    content = text.encode("ascii")
    if kind.endswith(".gz"):
        content = gzip.compress(content, mtime=0)  # equal backbones give equal bytes
    with written_file(path) as temporary:
        temporary.write_bytes(content)
    return BackboneReport(
        path,
        num_models=len(backbones),
        num_chains=len(np.unique(first.chain)),
        num_residues=int(first.present.any(axis=1).sum()),
        num_atoms=int(first.present.sum()),
        shift=(float(shift[0]), float(shift[1]), float(shift[2])),
    )


def chain_name(place: int) -> str:
    """A, B, …, Z, a, …, z, 0, …, 9, then two characters each."""
    count = len(CHAIN_NAMES)
    return CHAIN_NAMES[place] if place < count else chain_name(place // count - 1) + CHAIN_NAMES[place % count]


@dataclass(frozen=True)
class _Notes:
    """What a file says of itself beside its atoms."""

    seed: int | None
    times: tuple[float, ...]
    shift: np.ndarray

    def lines(self) -> list[str]:
        lines = [] if self.seed is None else [f"seed {self.seed}"]
        if self.shift.any():
            x, y, z = self.shift
            lines += ["positions did not fit the columns; moved by", f"{x:.3f} {y:.3f} {z:.3f} angstrom"]
        return lines + [f"model {number} time {time:.6g}" for number, time in enumerate(self.times, start=1)]


def _kind(path: Path) -> str:
    name = path.name.lower()
    for ending in FORMATS:
        if name.endswith("." + ending):
            return ending
    raise PenstockError(f"expected a structure file name ending in {', '.join(FORMATS)}, got '{path.name}'.")


def check_finite(backbone: Backbone, path: Path) -> None:
    """Raise PenstockError where a present atom has no finite position."""
    atoms = np.asarray(backbone.atoms)
    bad = backbone.present & ~np.isfinite(atoms).all(axis=-1)
    if bad.any():
        residue, atom = np.argwhere(bad)[0]
        raise PenstockError(
            f"cannot write {path}: expected finite positions, got {atoms[residue, atom]} at atom {ATOMS[atom]} of "
            f"residue {backbone.residue_index[residue]} ({int(bad.sum())} such atoms). "
            "Mark them absent, or generate again."
        )


def _check(
    backbones: Sequence[Backbone],
    path: Path,
    residue_name: str,
    times: Sequence[float] | None,
    b_factors: np.ndarray | None,
) -> None:
    if residue_name not in get_args(ResidueName):
        raise PenstockError(
            f"expected a residue name of {', '.join(get_args(ResidueName))} for residues without a type, "
            f"got '{residue_name}'."
        )
    if not backbones or not backbones[0].present.any():
        raise PenstockError(f"nothing to write to {path}: no atom is present.")
    first = backbones[0]
    for place, other in enumerate(backbones):
        same = len(other) == len(first) and all(
            np.array_equal(getattr(other, name), getattr(first, name)) for name in ("present", "chain", "residue_index")
        )
        if not same:
            raise PenstockError(
                f"cannot write {path}: expected states of the same chains, residues and atoms, but state {place} "
                "differs from the first. Write it to a file of its own."
            )
        check_finite(other, path)
    check_numbering(first, path)
    if times is not None and len(times) != len(backbones):
        raise PenstockError(f"cannot write {path}: expected one time per state, got {len(times)} for {len(backbones)}.")
    if b_factors is not None and (np.shape(b_factors) != (len(first),) or not np.isfinite(b_factors).all()):
        raise PenstockError(
            f"cannot write {path}: expected one finite B-factor for each of {len(first)} residues, got an array of "
            f"shape {np.shape(b_factors)}."
        )


def check_numbering(backbone: Backbone, path: Path) -> None:
    """Raise PenstockError where chains are not in order or residues not numbered upwards, from 1 to HIGHEST_NUMBER."""
    chain, number = np.asarray(backbone.chain, np.int64), np.asarray(backbone.residue_index, np.int64)
    step = np.diff(number)[np.diff(chain) == 0]
    if (np.diff(chain) < 0).any() or (number < 1).any() or (step < 1).any() or (number > HIGHEST_NUMBER).any():
        raise PenstockError(
            f"cannot write {path}: expected chains in order and residues of a chain numbered upwards from 1 to at most "
            f"{HIGHEST_NUMBER}, got chains {chain[:8].tolist()}… and residues {number[:8].tolist()}…"
        )


def _check_fits_pdb(backbone: Backbone, models: int, b_factors: np.ndarray | None, path: Path) -> None:
    """Refuse what the columns of the format cannot hold."""
    chains = len(np.unique(backbone.chain))
    serials = int(backbone.present.sum()) + chains
    wrong = ""
    if chains > len(CHAIN_NAMES):
        wrong = f"{chains} chains (at most {len(CHAIN_NAMES)} names of one character)"
    elif backbone.residue_index.max() > PDB_RESIDUES:
        wrong = f"residue number {backbone.residue_index.max()} (at most {PDB_RESIDUES})"
    elif serials > PDB_SERIALS:
        wrong = f"{serials} atoms and chain ends (at most {PDB_SERIALS})"
    elif models > PDB_MODELS:
        wrong = f"{models} models (at most {PDB_MODELS})"
    elif b_factors is not None and (np.max(b_factors) > 999.99 or np.min(b_factors) < -99.99):
        wrong = f"B-factors from {np.min(b_factors)} to {np.max(b_factors)} (-99.99 to 999.99)"
    if wrong:
        raise PenstockError(f"cannot write {path}: the PDB format has no room for {wrong}. Write mmCIF (.cif) instead.")


def _shift(backbones: Sequence[Backbone], path: Path, kind: str, overflow: str) -> np.ndarray:
    """Full ångströms that bring all positions of all states into the range of the format; zero where they fit."""
    limits = RANGES[kind[:3]]
    positions = np.concatenate([np.asarray(b.atoms, np.float64)[b.present] for b in backbones])
    low, high = positions.min(axis=0).round(3), positions.max(axis=0).round(3)
    if _fits(low, high, limits):
        return np.zeros(3)
    advice = "Write mmCIF (.cif) instead." if kind.startswith("pdb") else "No structure is as large: generate it again."
    if overflow == "refuse":
        raise PenstockError(
            f"cannot write {path}: positions from {low.tolist()} to {high.tolist()} Å do not fit the columns of the "
            f"file ({limits[0]} to {limits[1]}). Allow recentring. {advice}"
        )
    middle = np.round((low + high) / 2)
    for centre in (0.0, round(sum(limits) / 2)):  # around the origin where that fits
        shift: np.ndarray = centre - middle
        if _fits(low + shift, high + shift, limits):
            return shift
    raise PenstockError(
        f"cannot write {path}: the structure spans {np.round(high - low, 3).tolist()} Å, which the columns of the file "
        f"cannot hold. {advice}"
    )


def _fits(low: np.ndarray, high: np.ndarray, limits: tuple[float, float]) -> bool:
    return bool((low >= limits[0]).all() and (high <= limits[1]).all())


def _b_factors(backbone: Backbone, given: np.ndarray | None) -> np.ndarray:
    if given is not None:
        return np.asarray(given, np.float64)
    return np.zeros(len(backbone)) if backbone.motif is None else np.asarray(backbone.motif, np.float64)


def _structure(
    backbones: Sequence[Backbone],
    shift: np.ndarray,
    b_factors: np.ndarray,
    names: list[str],
    filler: str,
    title: str,
    path: Path,
) -> "gemmi.Structure":
    """gemmi's model of it: entities of equal sequence shared, gaps filled in the sequence and not in the atoms."""
    gemmi = require("gemmi", "protein")
    structure = gemmi.Structure()
    structure.name = re.sub(r"[^A-Za-z0-9_.-]+", "_", path.name.split(".")[0]) or "backbone"
    structure.info["_entry.id"] = structure.name
    structure.info["_struct.title"] = " ".join(title.encode("ascii", "replace").decode().split()) or structure.name
    structure.info["_struct_keywords.pdbx_keywords"] = "DE NOVO PROTEIN"
    first = backbones[0]
    entities: dict[tuple[str, ...], Any] = {}
    owner: dict[int, str] = {}
    for place, value in enumerate(np.unique(first.chain)):
        rows = np.flatnonzero(first.chain == value)
        sequence = [filler] * int(first.residue_index[rows[-1]])
        for row in rows:
            sequence[int(first.residue_index[row]) - 1] = names[row]
        entity = entities.get(tuple(sequence))
        if entity is None:
            entity = gemmi.Entity(str(len(entities) + 1))
            entity.entity_type, entity.polymer_type = gemmi.EntityType.Polymer, gemmi.PolymerType.PeptideL
            entity.full_sequence = sequence
            entities[tuple(sequence)] = entity
        entity.subchains = [*entity.subchains, chain_name(place)]
        owner[int(value)] = entity.name
    structure.entities = gemmi.EntityList(entities.values())
    for number, backbone in enumerate(backbones, start=1):
        structure.add_model(_model(gemmi, number, backbone, shift, b_factors, names, owner))
    structure.assign_serial_numbers()
    return structure


def _model(
    gemmi: Any,
    number: int,
    backbone: Backbone,
    shift: np.ndarray,
    b_factors: np.ndarray,
    names: list[str],
    owner: dict[int, str],
) -> "gemmi.Model":
    model = gemmi.Model(number)
    positions = np.round(np.asarray(backbone.atoms, np.float64) + shift, 3) + 0.0  # no "-0"
    for place, value in enumerate(np.unique(backbone.chain)):
        chain = gemmi.Chain(chain_name(place))
        for row in np.flatnonzero((backbone.chain == value) & backbone.present.any(axis=1)):
            residue = gemmi.Residue()
            residue.name, residue.het_flag = names[row], "A"
            residue.seqid = gemmi.SeqId(int(backbone.residue_index[row]), " ")
            residue.label_seq = int(backbone.residue_index[row])
            residue.subchain, residue.entity_id = chain.name, owner[int(value)]
            residue.entity_type = gemmi.EntityType.Polymer
            for column in np.flatnonzero(backbone.present[row]):
                atom = gemmi.Atom()
                atom.name, atom.element = ATOMS[column], gemmi.Element(ATOMS[column][0])
                atom.pos = gemmi.Position(*positions[row, column])
                atom.occ, atom.b_iso = 1.0, float(b_factors[row])
                residue.add_atom(atom)
            chain.add_residue(residue)
        model.add_chain(chain)
    return model


def _pdb_text(structure: "gemmi.Structure", backbone: Backbone, notes: _Notes) -> str:
    """PDB text. The HEADER record, which mkdssp asks for, comes of the keywords."""
    structure.info["_entry.id"] = "XXXX"  # four columns, and not an accession code
    lines = notes.lines()
    if backbone.motif is not None and backbone.motif.any():
        lines += [MOTIF_DETAILS, *_ranges(backbone)]
    structure.raw_remarks = ["REMARK 400", *(f"REMARK 400 {line}" for line in lines)] if lines else []
    text: str = structure.make_pdb_string()
    return text


def _ranges(backbone: Backbone) -> list[str]:
    """The motif as "CHAIN FIRST-LAST", one line per run of consecutive residues."""
    assert backbone.motif is not None
    places = {int(value): place for place, value in enumerate(np.unique(backbone.chain))}
    runs: list[list[int]] = []
    for row in np.flatnonzero(backbone.motif):
        chain, number = places[int(backbone.chain[row])], int(backbone.residue_index[row])
        if runs and runs[-1][0] == chain and runs[-1][2] == number - 1:
            runs[-1][2] = number
        else:
            runs.append([chain, number, number])
    return [f"  {chain_name(chain)} {start}-{stop}" for chain, start, stop in runs]


COMPONENTS = dict(
    zip(
        RESIDUE_TYPES,
        (
            "ALANINE", "ARGININE", "ASPARAGINE", "'ASPARTIC ACID'", "CYSTEINE", "GLUTAMINE", "'GLUTAMIC ACID'",
            "GLYCINE", "HISTIDINE", "ISOLEUCINE", "LEUCINE", "LYSINE", "METHIONINE", "PHENYLALANINE", "PROLINE",
            "SERINE", "THREONINE", "TRYPTOPHAN", "TYROSINE", "VALINE", "UNKNOWN",
        ),
        strict=True,
    )
)  # fmt: skip
"""Chemical component → its name."""
SCHEME = (
    "asym_id", "entity_id", "seq_id", "mon_id", "ndb_seq_num", "pdb_seq_num", "auth_seq_num", "pdb_mon_id",
    "auth_mon_id", "pdb_strand_id", "pdb_ins_code", "hetero",
)  # fmt: skip


def _cif_text(structure: "gemmi.Structure", backbone: Backbone, notes: _Notes, names: list[str]) -> str:
    """mmCIF text, with the categories of the polymer's sequence, without which mkdssp finds no residues."""
    gemmi = require("gemmi", "protein")
    groups = gemmi.MmcifOutputGroups(True)
    groups.cell = groups.symmetry = groups.atom_type = groups.chem_comp = False
    groups.auth_all = True
    document = structure.make_mmcif_document(groups)
    block = document.sole_block()
    used = sorted({name for entity in structure.entities for name in entity.full_sequence})
    components = block.init_loop("_chem_comp.", ["id", "type", "mon_nstd_flag", "name"])
    for name in used:
        kind = "'PEPTIDE LINKING'" if name == "GLY" else "'L-PEPTIDE LINKING'"
        components.add_row([name, kind, "." if name == "UNK" else "y", COMPONENTS[name]])
    scheme = block.init_loop("_pdbx_poly_seq_scheme.", list(SCHEME))
    for chain in structure[0]:
        entity = structure.get_entity_of(chain.get_polymer())
        observed = {residue.label_seq for residue in chain}
        for number, name in enumerate(entity.full_sequence, start=1):
            seen = (str(number), name, name) if number in observed else ("?", "?", "?")
            row = [chain.name, entity.name, str(number), name, str(number), str(number), *seen, chain.name, ".", "n"]
            scheme.add_row(row)
    if lines := notes.lines():
        block.set_pair("_struct.pdbx_model_details", gemmi.cif.quote("\n".join(lines)))
        block.move_item(-1, block.get_index("_struct.title") + 1)  # beside the rest of its category
    _write_motif(block, backbone, names)
    text: str = document.as_string()
    return text


SITE = (
    "id", "site_id", "label_comp_id", "label_asym_id", "label_seq_id", "label_atom_id", "auth_comp_id", "auth_asym_id",
    "auth_seq_id",
)  # fmt: skip


def _write_motif(block: Any, backbone: Backbone, names: list[str]) -> None:
    """The motif as a structural site, which is the dictionary's way of pointing at residues."""
    if backbone.motif is None or not backbone.motif.any():
        return
    rows = np.flatnonzero(backbone.motif)
    places = {int(value): chain_name(place) for place, value in enumerate(np.unique(backbone.chain))}
    sites = block.init_loop("_struct_site.", ["id", "pdbx_num_residues", "details"])
    sites.add_row(["MOTIF", str(len(rows)), f"'{MOTIF_DETAILS}'"])
    members = block.init_loop("_struct_site_gen.", list(SITE))
    for number, row in enumerate(rows, start=1):
        chain, place = places[int(backbone.chain[row])], str(int(backbone.residue_index[row]))
        members.add_row([str(number), "MOTIF", names[row], chain, place, ".", names[row], chain, place])
