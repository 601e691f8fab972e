"""Backbones for inverse folding: the parsed form that ProteinMPNN reads, with the positions it must not change."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from data.atomic import written_file
from data.batch import Backbone
from data.errors import PenstockError
from data.export.backbone import ATOMS, CHAIN_NAMES, check_finite, check_numbering

LETTERS = "ARNDCQEGHILKMFPSTWYVX"
"""One letter per entry of RESIDUE_TYPES; X where the type was never chosen."""


def write_mpnn_jsonl(backbones: Mapping[str, Backbone], path: Path, fixed_positions: Path | None = None) -> None:
    """Write backbones by name as ProteinMPNN's `--jsonl_path`, and their motifs as its `--fixed_positions_jsonl`.

    One line per backbone: `name`, `num_of_chains`, `seq`, and for each chain `seq_chain_A` and `coords_chain_A` with
    `N_chain_A`, `CA_chain_A`, `C_chain_A`, `O_chain_A`, in Å. A chain begins at its first residue; residues that its
    numbering leaves out are `-`, and an atom without a position is NaN, as in ProteinMPNN's own parser.
    The fixed positions are one line for all: name → chain → places in the chain's sequence, from 1, of the motif.

    Raises:
        PenstockError: no backbone, more chains than have a one-character name, or positions that are not finite.
        DiskFullError: no space left.
    """
    if not backbones:
        raise PenstockError(f"nothing to write to {path}: no backbones.")
    lines, fixed = [], {}
    for name, backbone in backbones.items():
        entry, fixed[name] = _entry(name, backbone, path)
        lines.append(json.dumps(entry) + "\n")
    with written_file(path) as temporary:
        temporary.write_text("".join(lines), encoding="ascii")
    if fixed_positions is not None:
        with written_file(fixed_positions) as temporary:
            temporary.write_text(json.dumps(fixed) + "\n", encoding="ascii")


def _entry(name: str, backbone: Backbone, path: Path) -> tuple[dict[str, Any], dict[str, list[int]]]:
    check_finite(backbone, path)
    check_numbering(backbone, path)
    values = np.unique(backbone.chain)
    if len(values) > len(CHAIN_NAMES):
        raise PenstockError(
            f"cannot write {path}: '{name}' has {len(values)} chains, "
            f"ProteinMPNN tells {len(CHAIN_NAMES)} apart by name."
        )
    entry: dict[str, Any] = {"name": name, "num_of_chains": len(values), "seq": ""}
    fixed = {}
    for letter, value in zip(CHAIN_NAMES, values, strict=False):
        rows = np.flatnonzero(backbone.chain == value)
        places = np.asarray(backbone.residue_index[rows]) - backbone.residue_index[rows[0]]
        sequence = np.full(places[-1] + 1, "-")
        sequence[places] = [LETTERS[kind] for kind in backbone.residue_type[rows]]
        atoms = np.full((len(sequence), len(ATOMS), 3), np.nan)
        known = np.where(backbone.present[rows, :, None], np.asarray(backbone.atoms, np.float64)[rows], np.nan)
        atoms[places] = known.round(3)
        entry[f"seq_chain_{letter}"] = "".join(sequence)
        entry[f"coords_chain_{letter}"] = {
            f"{atom}_chain_{letter}": atoms[:, column].tolist() for column, atom in enumerate(ATOMS)
        }
        entry["seq"] += entry[f"seq_chain_{letter}"]
        motif = [] if backbone.motif is None else places[backbone.motif[rows]]
        fixed[letter] = [int(place) + 1 for place in motif]
    return entry, fixed
