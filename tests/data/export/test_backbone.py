"""Written backbones: gemmi, Biopython, mdtraj, mkdssp and our own reader find the same atoms under the same numbers."""

import gzip
import shutil
import subprocess
from dataclasses import replace
from functools import cache
from pathlib import Path

import gemmi
import mdtraj
import numpy as np
import pytest
from Bio.PDB import MMCIFParser, PDBParser

from data.batch import RESIDUE_TYPES, UNKNOWN, Backbone
from data.errors import PenstockError
from data.export.backbone import ATOMS, FORMATS, chain_name, write_backbone, write_trajectory
from data.protein.reading import read_chains
from data.synthetic.protein import SyntheticProteinConfig, generate

needs_mkdssp = pytest.mark.skipif(shutil.which("mkdssp") is None, reason="no mkdssp (apt install dssp)")
KINDS = [("pdb", "GLY"), ("pdb", "UNK"), ("pdb.gz", "ALA"), ("cif", "GLY"), ("cif", "UNK"), ("cif.gz", "ALA")]
Atoms = dict[tuple[str, int, str, str], tuple[float, float, float]]
"""(chain, number, residue, atom) → position, Å."""
MDTRAJ_WARNING = "ignore:Unlikely unit cell"


@cache
def _chain(index: int = 0) -> Backbone:
    return generate(SyntheticProteinConfig(), index)[1]


def _piece(length: int = 12) -> Backbone:
    """The beginning of a chain, where many are needed."""
    whole = _chain()
    names = ("atoms", "present", "chain", "residue_index", "residue_type")
    return Backbone(**{name: getattr(whole, name)[:length] for name in names})


def _join(*parts: Backbone) -> Backbone:
    """Several chains as one backbone, 40 Å apart."""
    names = ("present", "residue_index", "residue_type")
    joined = {name: np.concatenate([getattr(part, name) for part in parts]) for name in names}
    atoms = np.concatenate([part.atoms + 40.0 * place for place, part in enumerate(parts)])
    chain = np.repeat(np.arange(len(parts)), [len(part) for part in parts])
    return Backbone(atoms=atoms.astype(np.float32), chain=chain, **joined)


def _hard_case() -> Backbone:
    """Two chains with a gap in the numbering, absent atoms, an absent residue, and a motif of known types."""
    backbone = _join(_chain(0), _chain(1))
    rows, number = np.arange(len(backbone)), backbone.residue_index.copy()
    first = backbone.chain == 0
    number[first] += 4 * (number[first] > 11)
    present = backbone.present.copy()
    present[3, 3] = present[7, 0] = False
    present[5] = False
    motif = (rows >= 20) & (rows < 26)
    motif[-3:] = True
    kind = np.where(motif, rows % (len(RESIDUE_TYPES) - 1), UNKNOWN)
    atoms = np.where(present[..., None], backbone.atoms, 0)
    return replace(backbone, atoms=atoms, residue_index=number, present=present, residue_type=kind, motif=motif)


def _expected(backbone: Backbone, name: str = "GLY", shift=(0.0, 0.0, 0.0)) -> Atoms:
    found: Atoms = {}
    for row, column in np.argwhere(backbone.present):
        kind = backbone.residue_type[row]
        residue = name if kind == UNKNOWN else RESIDUE_TYPES[kind]
        key = (chain_name(int(backbone.chain[row])), int(backbone.residue_index[row]), residue, ATOMS[column])
        found[key] = tuple(np.asarray(backbone.atoms[row, column], np.float64) + shift)
    return found


def _by_gemmi(path: Path) -> list[Atoms]:
    structure = gemmi.read_structure(str(path))
    return [
        {
            (chain.name, residue.seqid.num, residue.name, atom.name): tuple(atom.pos)
            for chain in model for residue in chain for atom in residue
        }
        for model in structure
    ]  # fmt: skip


def _by_biopython(path: Path) -> list[Atoms]:
    parser = (MMCIFParser if ".cif" in path.name else PDBParser)(QUIET=True)
    with gzip.open(path, "rt") if path.suffix == ".gz" else path.open() as file:
        structure = parser.get_structure("x", file)
    return [
        {
            (chain.id, residue.id[1], residue.resname, atom.name): tuple(atom.coord)
            for chain in model for residue in chain for atom in residue
        }
        for model in structure
    ]  # fmt: skip


def _by_mdtraj(path: Path) -> list[Atoms]:
    trajectory = mdtraj.load(str(path))
    keys = [
        (atom.residue.chain.chain_id, atom.residue.resSeq, atom.residue.name, atom.name)
        for atom in trajectory.topology.atoms
    ]
    return [dict(zip(keys, map(tuple, 10 * frame), strict=True)) for frame in trajectory.xyz]


READERS = {"gemmi": _by_gemmi, "Biopython": _by_biopython, "mdtraj": _by_mdtraj}


def _mkdssp(path: Path, form: str = "mmcif") -> Path:
    out = path.with_suffix(f".{form}")
    done = subprocess.run(["mkdssp", "--output-format", form, path, out], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "not valid" not in done.stderr
    return out


def _same(found: Atoms, expected: Atoms, tolerance: float = 1e-3) -> None:
    assert list(found) == list(expected)
    worst = np.abs(np.array(list(found.values())) - np.array(list(expected.values()))).max()
    assert worst <= tolerance


@pytest.mark.filterwarnings(MDTRAJ_WARNING)
@pytest.mark.parametrize(("ending", "residue_name"), KINDS)
def test_every_reader_finds_the_same_atoms(tmp_path, ending, residue_name):
    backbone = _hard_case()
    path = tmp_path / f"sample_7.{ending}"
    report = write_backbone(backbone, path, residue_name=residue_name, title="A 'title' of a \"sample\"", seed=7)
    expected = _expected(backbone, residue_name)
    for name, read in READERS.items():
        models = read(path)
        assert len(models) == 1, name
        _same(models[0], expected)
    assert (report.num_atoms, report.num_chains, report.shift) == (len(expected), 2, (0.0, 0.0, 0.0))
    assert [left.name for left in tmp_path.iterdir()] == [path.name]


@needs_mkdssp
@pytest.mark.parametrize(("ending", "residue_name"), KINDS)
def test_mkdssp_finds_every_complete_residue_where_it_is(tmp_path, ending, residue_name):
    backbone = _hard_case()
    path = tmp_path / f"sample.{ending}"
    write_backbone(backbone, path, residue_name=residue_name, seed=1)
    out = _mkdssp(path)
    _same(_by_gemmi(out)[0], _expected(backbone, residue_name))
    rows = _dssp_rows(path)
    complete = backbone.present.all(axis=1)
    assert [row[5:10].strip() + row[11] for row in rows] == [
        f"{number}{chain_name(int(chain))}"
        for number, chain in zip(backbone.residue_index[complete], backbone.chain[complete], strict=True)
    ]
    found = np.array([row[115:136].split() for row in rows], float)
    assert np.abs(found - backbone.atoms[complete, 1]).max() <= 0.051  # this form has one decimal


def _dssp_rows(path: Path) -> list[str]:
    """The residues' lines of mkdssp's older form, without those that mark a break."""
    lines = _mkdssp(path, "dssp").read_text().splitlines()
    start = next(number for number, line in enumerate(lines) if line.startswith("  #  RESIDUE"))
    return [line for line in lines[start + 1 :] if line[13] != "!"]


@needs_mkdssp
@pytest.mark.filterwarnings(MDTRAJ_WARNING)
def test_secondary_structure_is_the_same_from_both_formats_and_by_mdtraj(tmp_path):
    backbone = _chain(2)
    states = []
    for ending in ("pdb", "cif"):
        write_backbone(backbone, tmp_path / f"a.{ending}", residue_name="ALA")
        states.append("".join(row[16] for row in _dssp_rows(tmp_path / f"a.{ending}")))
    assert states[0] == states[1]
    assert states[0].count("H") + states[0].count("E") > len(backbone) / 3
    coarse = str.maketrans("HGIEBTSP ", "HHHEECCCC")
    assert states[0].translate(coarse) == "".join(mdtraj.compute_dssp(mdtraj.load(str(tmp_path / "a.pdb")))[0])


def test_our_own_reader_gets_the_backbone_back(tmp_path):
    backbone = _hard_case()
    for ending in FORMATS:
        write_backbone(backbone, tmp_path / f"a.{ending}")
        chains = read_chains(tmp_path / f"a.{ending}")
        assert len(chains) == 2
        for place, chain in enumerate(chains):
            rows = (backbone.chain == place) & backbone.present.any(axis=1)
            assert np.array_equal(chain.backbone.present, backbone.present[rows])
            assert np.abs(chain.backbone.atoms - backbone.atoms[rows]).max() <= 5.1e-4
            assert [int(number) for number in chain.numbers] == backbone.residue_index[rows].tolist()


def test_the_sequence_has_the_gap_and_equal_chains_share_an_entity(tmp_path):
    backbone = _hard_case()
    write_backbone(backbone, tmp_path / "a.cif", residue_name="ALA")
    structure = gemmi.read_structure(str(tmp_path / "a.cif"))
    assert [entity.subchains for entity in structure.entities] == [["A"], ["B"]]
    first = backbone.chain == 0
    assert len(structure.entities[0].full_sequence) == backbone.residue_index[first].max()
    unobserved = set(range(1, len(structure.entities[0].full_sequence) + 1))
    unobserved -= {residue.label_seq for residue in structure[0]["A"]}
    assert unobserved == {6, 12, 13, 14, 15}
    twin = _chain(0)
    write_backbone(_join(twin, twin, twin), tmp_path / "b.cif")
    structure = gemmi.read_structure(str(tmp_path / "b.cif"))
    assert [entity.subchains for entity in structure.entities] == [["A", "B", "C"]]


def test_motif_and_seed_are_in_the_file(tmp_path):
    backbone = _hard_case()
    last = int(backbone.residue_index[-1])
    for ending in ("pdb", "cif"):
        write_backbone(backbone, tmp_path / f"a.{ending}", seed=123)
        chains = gemmi.read_structure(str(tmp_path / f"a.{ending}"))[0]
        motif = {(chain.name, residue.seqid.num) for chain in chains for residue in chain if residue[0].b_iso == 1}
        assert motif == {("A", number) for number in range(25, 31)} | {("B", last - k) for k in range(3)}
    text = (tmp_path / "a.pdb").read_text()
    assert "REMARK 400 seed 123" in text
    assert "REMARK 400   A 25-30" in text
    assert f"REMARK 400   B {last - 2}-{last}" in text
    assert all(len(line) <= 80 for line in text.splitlines())
    block = gemmi.cif.read(str(tmp_path / "a.cif")).sole_block()
    assert block.find_value("_struct.pdbx_model_details") == "'seed 123'"
    assert len(block.find("_struct_site_gen.", ["auth_seq_id"])) == backbone.motif.sum()


def test_b_factors_of_the_caller(tmp_path):
    backbone = _chain()
    values = np.linspace(0, 100, len(backbone))
    for ending in ("pdb", "cif"):
        write_backbone(backbone, tmp_path / f"a.{ending}", b_factors=values)
        chain = gemmi.read_structure(str(tmp_path / f"a.{ending}"))[0]["A"]
        assert np.abs([residue["CA"][0].b_iso for residue in chain] - values).max() <= 5.1e-3
    with pytest.raises(PenstockError, match=r"B-factors.*mmCIF"):
        write_backbone(backbone, tmp_path / "b.pdb", b_factors=10 * values)
    with pytest.raises(PenstockError, match="one finite B-factor for each"):
        write_backbone(backbone, tmp_path / "b.pdb", b_factors=values[1:])


# -- what does not fit


@pytest.mark.filterwarnings(MDTRAJ_WARNING)
@pytest.mark.parametrize("offset", [[-1000.5, 0, 0], [0, 9990.0, 3], [5e5, -2e6, 7.25], [0, 4e6, 0]])
def test_positions_beyond_the_columns_are_recentred_and_said_so(tmp_path, offset):
    near = _chain()
    far = replace(near, atoms=near.atoms.astype(np.float64) + np.array(offset))
    for ending, too_far in (("pdb", True), ("cif", np.abs(offset).max() >= 1e6)):
        path = tmp_path / f"a.{ending}"
        report = write_backbone(far, path)
        assert (report.shift != (0.0, 0.0, 0.0)) == too_far
        for read in READERS.values():
            expected = _expected(far, shift=report.shift)  # which Biopython and mdtraj read in float32
            _same(read(path)[0], expected, max(1e-3, 3e-7 * np.abs(list(expected.values())).max()))
        _same(_by_gemmi(path)[0], _expected(far, shift=report.shift))
        if too_far:
            said = path.read_text().split("moved by")[1].replace("REMARK 400", "").split()
            assert [float(value) for value in said[:3]] == list(report.shift)
            with pytest.raises(PenstockError, match=r"do not fit the columns.*Allow recentring"):
                write_backbone(far, tmp_path / f"b.{ending}", overflow="refuse")


@pytest.mark.filterwarnings(MDTRAJ_WARNING)
def test_positions_at_the_edge_of_the_columns_stay(tmp_path):
    near = _chain()
    atoms = near.atoms.astype(np.float64)
    atoms[0, 0], atoms[-1, 3] = (-999.9994, 9999.9994, 0), (9999.999, -999.999, -0.0001)
    edge = replace(near, atoms=atoms)
    assert write_backbone(edge, tmp_path / "a.pdb").shift == (0.0, 0.0, 0.0)
    for read in READERS.values():
        _same(read(tmp_path / "a.pdb")[0], _expected(edge))


def test_what_the_pdb_format_has_no_room_for_is_refused(tmp_path):
    one = _chain()
    wide = one.atoms.astype(np.float64)
    wide[0] -= 20_000
    cases = {
        r"spans .*cannot hold": replace(one, atoms=wide),
        r"residue number 10\d\d\d ": replace(one, residue_index=one.residue_index + 10_000 - one.residue_index[0]),
        r"63 chains": _join(*[_piece()] * 63),
    }
    for message, backbone in cases.items():
        with pytest.raises(PenstockError, match=rf"{message}.*mmCIF"):
            write_backbone(backbone, tmp_path / "a.pdb")
        write_backbone(backbone, tmp_path / "a.cif")
        _same(_by_gemmi(tmp_path / "a.cif")[0], _expected(backbone))
    names = [chain.name for chain in gemmi.read_structure(str(tmp_path / "a.cif"))[0]]
    assert names[61:] == ["9", "AA"]
    assert len({chain_name(k) for k in range(5000)}) == 5000


def test_mistakes_are_named_and_leave_nothing(tmp_path):
    one = _chain()
    bad = one.atoms.copy()
    bad[4, 1, 2] = np.nan
    cases = [
        (one, "a.xyz", {}, "pdb, pdb.gz, cif, cif.gz"),
        (replace(one, atoms=bad), "a.pdb", {}, r"finite positions.*CA of residue 5"),
        (replace(one, present=np.zeros_like(one.present)), "a.cif", {}, "no atom is present"),
        (replace(one, residue_index=one.residue_index - 1), "a.pdb", {}, "upwards from 1"),
        (replace(one, residue_index=one.residue_index[::-1].copy()), "a.pdb", {}, "upwards from 1"),
        (replace(one, residue_index=one.residue_index * 2000), "a.cif", {}, "at most 99999"),
        (one, "a.pdb", {"residue_name": "XXX"}, "GLY, ALA, UNK"),
    ]
    for backbone, name, options, message in cases:
        with pytest.raises(PenstockError, match=message):
            write_backbone(backbone, tmp_path / name, **options)
    assert not list(tmp_path.iterdir())
    absent = one.present.copy()
    absent[4, 1] = False
    write_backbone(replace(one, atoms=bad, present=absent), tmp_path / "a.pdb")  # what is absent may be anything


def test_a_full_disk_leaves_the_earlier_file(small_disk):
    path = small_disk / "a.cif"
    write_backbone(_chain(), path)
    before = path.read_bytes()
    with pytest.raises(PenstockError, match="disk full"):
        write_backbone(_join(*[_piece()] * 500), path)
    assert path.read_bytes() == before
    assert [left.name for left in small_disk.iterdir()] == ["a.cif"]


def test_equal_backbones_give_equal_bytes(tmp_path):
    for ending in FORMATS:
        files = [tmp_path / name / f"a.{ending}" for name in "xy"]
        for path in files:
            write_backbone(_chain(), path, seed=3)
        assert files[0].read_bytes() == files[1].read_bytes()


# -- trajectories


@pytest.mark.filterwarnings(MDTRAJ_WARNING)
@pytest.mark.parametrize("ending", ["pdb", "cif.gz"])
def test_a_trajectory_is_one_model_per_state(tmp_path, ending):
    end, random = _hard_case(), np.random.default_rng(0)
    states = [replace(end, atoms=end.atoms + random.normal(0, scale, end.atoms.shape)) for scale in (500, 3, 1, 0)]
    path = tmp_path / f"path.{ending}"
    report = write_trajectory(states, path, times=[0, 0.3, 0.65, 1], seed=4)
    for name, read in READERS.items():
        models = read(path)
        assert len(models) == len(states) == report.num_models, name
        for model, state in zip(models, states, strict=True):
            _same(model, _expected(state, shift=report.shift))
    text = gzip.decompress(path.read_bytes()).decode() if path.suffix == ".gz" else path.read_text()
    assert "model 3 time 0.65" in text


@needs_mkdssp
def test_mkdssp_reads_a_trajectory(tmp_path):
    write_trajectory([_piece(), _piece()], tmp_path / "path.cif")
    assert _by_gemmi(_mkdssp(tmp_path / "path.cif"))[0]


def test_states_are_moved_together(tmp_path):
    near = _chain()
    far = replace(near, atoms=near.atoms - np.float32(1500))
    report = write_trajectory([near, far], tmp_path / "a.pdb")
    first, second = _by_gemmi(tmp_path / "a.pdb")
    _same(first, _expected(near, shift=report.shift))
    _same(second, _expected(far, shift=report.shift))


def test_states_of_other_atoms_are_refused(tmp_path):
    one, other = _chain(), _chain(1)
    with pytest.raises(PenstockError, match="state 1 differs"):
        write_trajectory([one, other], tmp_path / "a.pdb")
    with pytest.raises(PenstockError, match="one time per state"):
        write_trajectory([one, one], tmp_path / "a.pdb", times=[0.0])
    with pytest.raises(PenstockError, match="nothing to write"):
        write_trajectory([], tmp_path / "a.pdb")
