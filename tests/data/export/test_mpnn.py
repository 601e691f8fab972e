"""The parsed form for ProteinMPNN says what its parser says of the PDB file, and which places to keep."""

import json
from dataclasses import replace

import numpy as np
import pytest

from data.batch import RESIDUE_TYPES, UNKNOWN, Backbone
from data.errors import PenstockError
from data.export.backbone import write_backbone
from data.export.mpnn import write_mpnn_jsonl
from data.synthetic.protein import SyntheticProteinConfig, generate

ONE_LETTER = dict(zip(RESIDUE_TYPES, "ARNDCQEGHILKMFPSTWYV-", strict=True))


def _two_chains() -> Backbone:
    first, second = (generate(SyntheticProteinConfig(), index)[1] for index in (0, 1))
    rows = len(first) + len(second)
    number = np.concatenate([first.residue_index, second.residue_index + 6])
    number[10 : len(first)] += 3
    kind = np.arange(rows) % (len(RESIDUE_TYPES) - 1)
    motif = np.zeros(rows, bool)
    motif[[0, 9, 10, len(first), rows - 1]] = True
    return Backbone(
        atoms=np.concatenate([first.atoms, second.atoms + 30]),
        present=np.ones((rows, 4), bool),
        chain=np.repeat([0, 1], [len(first), len(second)]),
        residue_index=number,
        residue_type=kind,
        motif=motif,
    )


def _parsed(text: str) -> dict:
    """What ProteinMPNN's parser makes of a PDB file: from the first to the last number, `-` and NaN for what lacks."""
    chains: dict[str, dict[int, tuple[str, dict[str, list[float]]]]] = {}
    for line in text.splitlines():
        if line.startswith("ATOM"):
            residues = chains.setdefault(line[21], {})
            atoms = residues.setdefault(int(line[22:26]), (line[17:20], {}))[1]
            atoms[line[12:16].strip()] = [float(line[start : start + 8]) for start in (30, 38, 46)]
    entry: dict = {"num_of_chains": len(chains), "seq": ""}
    for letter, residues in chains.items():
        whole = range(min(residues), max(residues) + 1)
        found = [residues.get(number, ("UNK", {})) for number in whole]
        entry[f"seq_chain_{letter}"] = "".join(ONE_LETTER[name] for name, _ in found)
        entry["seq"] += entry[f"seq_chain_{letter}"]
        entry[f"coords_chain_{letter}"] = {
            f"{atom}_chain_{letter}": [atoms.get(atom, [np.nan] * 3) for _, atoms in found]
            for atom in ("N", "CA", "C", "O")
        }
    return entry


def test_the_entry_is_what_the_parser_makes_of_the_pdb_file(tmp_path):
    backbone = _two_chains()
    present = backbone.present.copy()
    present[4, 3] = False
    present[6] = False
    backbone = replace(backbone, present=present)
    write_backbone(backbone, tmp_path / "a.pdb")
    write_mpnn_jsonl({"a": backbone}, tmp_path / "a.jsonl")
    (line,) = (tmp_path / "a.jsonl").read_text().splitlines()
    entry, expected = json.loads(line), _parsed((tmp_path / "a.pdb").read_text())
    assert entry.pop("name") == "a"
    # A residue without any atom is none for the parser; here it keeps its type.
    place = 6
    for key in ("seq_chain_A", "seq"):
        entry[key] = entry[key][:place] + "-" + entry[key][place + 1 :]
    assert entry.keys() == expected.keys()
    for key, value in expected.items():
        if key.startswith("coords"):
            assert entry[key].keys() == value.keys()
            for name, positions in value.items():
                assert np.allclose(entry[key][name], positions, rtol=0, atol=1e-9, equal_nan=True)
        else:
            assert entry[key] == value


def test_fixed_positions_are_places_in_the_chain_s_sequence(tmp_path):
    backbone = _two_chains()
    free = replace(backbone, motif=None, residue_type=np.full(len(backbone), UNKNOWN))
    write_mpnn_jsonl({"with": backbone, "without": free}, tmp_path / "a.jsonl", tmp_path / "fixed.jsonl")
    (line,) = (tmp_path / "fixed.jsonl").read_text().splitlines()
    fixed = json.loads(line)
    entries = {entry["name"]: entry for entry in map(json.loads, (tmp_path / "a.jsonl").read_text().splitlines())}
    assert fixed["without"] == {"A": [], "B": []}
    assert set(entries["without"]["seq"]) == {"X", "-"}
    rows = np.flatnonzero(backbone.motif)
    for letter, chain in (("A", 0), ("B", 1)):
        places = fixed["with"][letter]
        mine = rows[backbone.chain[rows] == chain]
        assert len(places) == len(mine)
        coordinates = np.array(entries["with"][f"coords_chain_{letter}"][f"CA_chain_{letter}"])
        assert np.abs(coordinates[np.array(places) - 1] - backbone.atoms[mine, 1]).max() <= 5.1e-4
        sequence = entries["with"][f"seq_chain_{letter}"]
        assert [sequence[place - 1] for place in places] == [
            ONE_LETTER[RESIDUE_TYPES[kind]] for kind in backbone.residue_type[mine]
        ]


def test_mistakes_are_named_and_leave_nothing(tmp_path):
    one = generate(SyntheticProteinConfig(), 0)[1]
    many = 63
    crowd = Backbone(
        atoms=np.zeros((many, 4, 3), np.float32),
        present=np.ones((many, 4), bool),
        chain=np.arange(many),
        residue_index=np.ones(many, int),
        residue_type=np.full(many, UNKNOWN),
    )
    with pytest.raises(PenstockError, match="'crowd' has 63 chains"):
        write_mpnn_jsonl({"crowd": crowd}, tmp_path / "a.jsonl")
    with pytest.raises(PenstockError, match="finite"):
        write_mpnn_jsonl({"bad": replace(one, atoms=one.atoms * np.inf)}, tmp_path / "a.jsonl")
    with pytest.raises(PenstockError, match="no backbones"):
        write_mpnn_jsonl({}, tmp_path / "a.jsonl")
    assert not list(tmp_path.iterdir())
