"""Reading of structures: files made by hand with every trouble that real ones have, and real ones."""

import csv
import gzip
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from data.batch import RESIDUE_TYPES, UNKNOWN
from data.errors import PenstockError, StructureError
from data.extras import require
from data.protein.reading import read_chains
from tests.data.protein_files import THREE, Atom, changed, helix, helix_atoms, mmcif, pdb, pdb_line, write

SEQUENCE = "ACDEFGHIKLMNPQRSTVWY"
REAL = Path(__file__).resolve().parents[3] / "shared" / "datasets" / "protein"
DNA = [
    Atom(name, residue, "D", number, (40.0 + 3 * number, 3.0 * k, 0.0))
    for number, residue in enumerate(("DA", "DC", "DG", "DT"), 1)
    for k, name in enumerate(("P", "C4'", "C3'", "O3'"))
]
WATERS = [Atom("O", "HOH", "A", 900 + k, (30.0, 3.0 * k, 0.0), het=True) for k in range(3)]
CALCIUM = [Atom("CA", "CA", "A", 800, (20.0, 0.0, 0.0), het=True)]
LIGAND = [Atom(name, "GTP", "A", 801, (25.0, k, 0.0), het=True) for k, name in enumerate(("PA", "O1A", "N1", "C2"))]


def read_pdb(folder: Path, atoms: list[Atom], **how: bool):
    return read_chains(write(folder / "x.pdb", pdb(atoms, **how)))


@pytest.mark.parametrize("name", ["x.pdb", "x.ent", "X.PDB", "x.pdb.gz", "x.cif", "x.mmcif", "x.cif.gz"])
def test_what_is_written_is_read(tmp_path, name):
    atoms = helix_atoms(SEQUENCE, first=-3)
    text = mmcif(atoms) if "cif" in name else pdb(atoms)
    (chain,) = read_chains(write(tmp_path / name, text))
    assert chain.name == "A" and chain.source == name and chain.resolution is None
    assert np.array_equal(chain.backbone.atoms, helix(20).astype(np.float32))
    assert chain.backbone.present.all() and chain.backbone.resolved.all()
    assert chain.backbone.residue_index.tolist() == list(range(1, 21))
    assert [RESIDUE_TYPES[k] for k in chain.backbone.residue_type] == [THREE[letter] for letter in SEQUENCE]
    assert chain.numbers == tuple(str(k) for k in range(-3, 17))
    assert not chain.backbone.chain.any()


def alternatives(atoms: list[Atom], number: int, **occupancies: float) -> list[Atom]:
    """Residue `number` in several conformers; letter k is moved by k + 1 Å along y."""
    out = []
    for atom in atoms:
        if atom.number != number:
            out.append(atom)
            continue
        x, y, z = atom.position
        for k, (letter, occupancy) in enumerate(occupancies.items()):
            out.append(replace(atom, altloc=letter, occupancy=occupancy, position=(x, y + k + 1, z)))
    return out


@pytest.mark.parametrize("form", ["pdb", "cif"])
def test_one_conformer_over_each_run(tmp_path, form):
    atoms = helix_atoms("A" * 12)
    # One run of three, in which residue 6 alone would choose A; and residue 10, for itself, A.
    for number, (a, b) in {5: (0.2, 0.8), 6: (0.6, 0.4), 7: (0.3, 0.7), 10: (0.55, 0.45)}.items():
        atoms = alternatives(atoms, number, A=a, B=b)
    (chain,) = read_chains(write(tmp_path / f"x.{form}", pdb(atoms) if form == "pdb" else mmcif(atoms)))
    moved = (chain.backbone.atoms - helix(12))[:, :, 1].round(3)
    expected = np.zeros((12, 4))
    expected[4:7], expected[9] = 2, 1
    assert len(chain) == 12 and np.allclose(moved, expected, atol=1e-3)


def test_equal_occupancies_take_the_first_letter(tmp_path):
    (chain,) = read_pdb(tmp_path, alternatives(helix_atoms("AAAAAA"), 3, B=0.5, A=0.5))
    assert np.allclose((chain.backbone.atoms - helix(6))[2, :, 1], 2)  # A is the second written, moved by 2 Å


def test_a_whole_conformer_before_a_likely_one(tmp_path):
    atoms = alternatives(helix_atoms("AAAAAA"), 3, A=0.9, B=0.1)
    atoms = [a for a in atoms if not (a.number == 3 and a.altloc == "A" and a.name == "C")]
    (chain,) = read_pdb(tmp_path, atoms)
    assert chain.backbone.resolved.all() and np.allclose((chain.backbone.atoms - helix(6))[2, :, 1], 2)


def test_atoms_without_letter_belong_to_every_conformer(tmp_path):
    atoms = alternatives(helix_atoms("AAAAAA"), 3, A=0.4, B=0.6)
    atoms = [replace(a, altloc="") if a.number == 3 and a.name == "N" else a for a in atoms]
    atoms = [a for k, a in enumerate(atoms) if a.name != "N" or a not in atoms[:k]]
    (chain,) = read_pdb(tmp_path, atoms)
    assert np.allclose((chain.backbone.atoms - helix(6))[2, 1:, 1], 2) and chain.backbone.present.all()


@pytest.mark.parametrize("form", ["pdb", "cif"])
def test_two_residue_types_at_one_place_are_one_residue(tmp_path, form):
    atoms = helix_atoms("GGGGGG")
    third = [a for a in atoms if a.number == 3]
    both = [replace(a, altloc="A", occupancy=0.3, residue="SER") for a in third]
    both += [replace(a, altloc="B", occupancy=0.7, residue="THR") for a in third]
    atoms = [a for a in atoms if a.number < 3] + both + [a for a in atoms if a.number > 3]
    (chain,) = read_chains(write(tmp_path / f"x.{form}", pdb(atoms) if form == "pdb" else mmcif(atoms)))
    assert [RESIDUE_TYPES[k] for k in chain.backbone.residue_type] == ["GLY", "GLY", "THR", "GLY", "GLY", "GLY"]


def test_insertion_codes_and_left_out_numbers_are_no_gaps(tmp_path):
    places = [(99, ""), (100, ""), (100, "A"), (100, "B"), (101, ""), (105, "")]
    atoms = helix_atoms("AAAAAA")
    atoms = [replace(a, number=places[a.number - 1][0], icode=places[a.number - 1][1]) for a in atoms]
    (chain,) = read_pdb(tmp_path, atoms)
    assert chain.numbers == ("99", "100", "100A", "100B", "101", "105")
    assert chain.backbone.residue_index.tolist() == [1, 2, 3, 4, 5, 6]


def test_gaps(tmp_path):
    atoms = [a for a in helix_atoms("A" * 12) if not 5 <= a.number <= 7]
    (chain,) = read_pdb(tmp_path, atoms)
    assert chain.backbone.residue_index.tolist() == [1, 2, 3, 4, 8, 9, 10, 11, 12]
    counted_on = [replace(a, number=a.number - 3) if a.number > 7 else a for a in atoms]
    (chain,) = read_pdb(tmp_path, counted_on)
    assert chain.backbone.residue_index.tolist() == [1, 2, 3, 4, 6, 7, 8, 9, 10]
    assert chain.numbers == tuple("123456789")
    (chain,) = read_chains(write(tmp_path / "x.cif", mmcif(counted_on)))  # the sequence position knows better
    assert chain.backbone.residue_index.tolist() == [1, 2, 3, 4, 8, 9, 10, 11, 12]


def test_modified_residues_count_as_their_parent(tmp_path):
    atoms = helix_atoms("AAAAAA")
    for number, name in ((2, "MSE"), (3, "SEP"), (4, "XYZ")):
        atoms = changed(atoms, number, residue=name, het=True)
    (chain,) = read_pdb(tmp_path, atoms, ter=False)
    assert [RESIDUE_TYPES[k] for k in chain.backbone.residue_type] == ["ALA", "MET", "SER", "UNK", "ALA", "ALA"]
    assert chain.backbone.residue_type[3] == UNKNOWN and chain.backbone.present.all()


def test_first_model_only(tmp_path):
    first, second = helix_atoms("AAAAAA"), helix_atoms("AAAAAA", shift=50.0)
    lines = [
        f"MODEL     {k}\n{pdb(atoms).removesuffix('END' + chr(10))}ENDMDL\n" for k, atoms in ((3, first), (4, second))
    ]
    (chain,) = read_chains(write(tmp_path / "x.pdb", "".join(lines) + "END\n"))
    assert np.array_equal(chain.backbone.atoms, helix(6).astype(np.float32))


def test_names_of_chains_are_kept(tmp_path):
    atoms = helix_atoms("AAAAAA", "A") + helix_atoms("GGGGGG", "a", shift=30.0)
    assert [c.name for c in read_pdb(tmp_path, atoms)] == ["A", "a"]
    long = helix_atoms("AAAAAA", "AAA") + helix_atoms("GGGGGG", "A-2", shift=30.0)
    upper, dashed = read_chains(write(tmp_path / "x.cif", mmcif(long)))
    assert (upper.name, dashed.name) == ("AAA", "A-2")
    # The complex keeps its arrangement.
    assert np.allclose(dashed.backbone.atoms - upper.backbone.atoms, [30, 0, 0], atol=1e-4)
    (unnamed,) = read_pdb(tmp_path, helix_atoms("AAAAAA", " "))
    assert unnamed.name == "_"


def test_missing_atoms_are_masked_and_not_invented(tmp_path):
    gone = {(2, "O"), (3, "C"), (4, "CA"), (5, "N"), (5, "C"), (5, "O")}
    (chain,) = read_pdb(tmp_path, [a for a in helix_atoms("AAAAAAA") if (a.number, a.name) not in gone])
    expected = np.ones((7, 4), bool)
    expected[1, 3] = expected[2, 2] = expected[3, 1] = expected[4, [0, 2, 3]] = False
    assert np.array_equal(chain.backbone.present, expected)
    assert not chain.backbone.atoms[~expected].any()
    assert np.array_equal(chain.backbone.atoms[expected], helix(7).astype(np.float32)[expected])
    assert chain.backbone.resolved.tolist() == [True, True, False, False, False, True, True]
    assert chain.backbone.residue_index.tolist() == list(range(1, 8))


@pytest.mark.parametrize("ter", [True, False])
def test_only_the_chain_itself(tmp_path, ter):
    caps = [Atom("C", "ACE", "A", 0, (-1.0, 0.5, -0.5)), Atom("O", "ACE", "A", 0, (-1.5, 1.0, -1.0))]
    end = [Atom("N", "NH2", "A", 21, (0.5, 1.4, 31.0), het=True)]
    atoms = caps + helix_atoms(SEQUENCE) + end + CALCIUM + LIGAND + WATERS + DNA
    (chain,) = read_pdb(tmp_path, atoms, ter=ter)
    assert chain.numbers == tuple(str(k) for k in range(1, 21))


def test_free_amino_acid_is_a_ligand(tmp_path):
    glutamate = [replace(a, chain="A", number=700, het=True, residue="GLU") for a in helix_atoms("E", shift=20.0)]
    (chain,) = read_pdb(tmp_path, helix_atoms(SEQUENCE) + glutamate + WATERS)
    assert len(chain) == 20


def test_resolution_from_the_header(tmp_path):
    text = "REMARK   2 RESOLUTION.    2.30 ANGSTROMS.\n" + pdb(helix_atoms("AAAAAA"))
    assert read_chains(write(tmp_path / "x.pdb", text))[0].resolution == pytest.approx(2.3)
    text = mmcif(helix_atoms("AAAAAA"), "_reflns.d_resolution_high 1.75\n_refine.ls_d_res_high 1.80")
    assert read_chains(write(tmp_path / "x.cif", text))[0].resolution == pytest.approx(1.8)


GOOD = pdb(helix_atoms("AAAAAA"))
GOOD_CIF = mmcif(helix_atoms("AAAAAA"))
LINE = pdb_line(helix_atoms("A")[1])
LISTED = (
    "loop_\n_pdbx_poly_seq_scheme.asym_id\n_pdbx_poly_seq_scheme.seq_id\n_pdbx_poly_seq_scheme.auth_mon_id\n"
    + "".join(f"A {k} {'ALA' if k != 7 else '?'}\n" for k in range(1, 10))
)
HOSTILE = {
    "empty.pdb": ("", "empty"),
    "empty.cif": ("", "empty"),
    "blank.pdb": ("\n \n", "empty"),
    "text.pdb": ("To be, or not to be\n", "no atoms"),
    "text.cif": ("To be, or not to be\n", "mmCIF"),
    "binary.pdb": (bytes(range(256)) * 4, "no atoms"),
    "header.cif": ("data_x\n_entry.id x\n", "no atoms"),
    "cut.pdb": ("\n".join(GOOD.splitlines()[:12])[:-40], "ends before"),
    "cut.cif": (GOOD_CIF[: len(GOOD_CIF) * 3 // 4], "cut off"),
    "row_cut.cif": (mmcif(helix_atoms("AAAAAA"), LISTED), "2 residues that the file lists"),
    "cut.pdb.gz": (gzip.compress(GOOD.encode())[:-40], "damaged or cut off"),
    "plain.pdb.gz": (GOOD.encode(), "damaged or cut off"),
    "wide.pdb": (f"{LINE[:30]}-100.1234 12.3456 123.4567{LINE[54:]}\n", "too wide"),
    "wide_full.pdb": (f"{LINE[:30]}-100.1234123.4567123.4567{LINE[54:]}\n", "too wide"),
    "wide_y.pdb": (f"{LINE[:38]}-1000.123 123.456{LINE[54:]}\n", "too wide"),
    "stars.pdb": (f"{LINE[:30]}********{LINE[38:]}\n", "too wide"),
    "number.pdb": (f"{LINE[:22]}10000{LINE[27:]}\n", "too wide"),
    "serial.pdb": (f"ATOM  100000{LINE[11:]}\n", "too wide"),
    "nan.pdb": (f"{LINE[:30]}     nan{LINE[38:]}\n", "not finite"),
    "inf.pdb": (f"{LINE[:30]}    -inf{LINE[38:]}\n", "not finite"),
    "nan.cif": (GOOD_CIF.replace("1.536 0.000 0.000", "nan 0.000 0.000"), "not finite"),
    "unknown.cif": (GOOD_CIF.replace("1.536 0.000 0.000", "? 0.000 0.000"), "not finite"),
    "far.cif": (GOOD_CIF.replace("1.536 0.000 0.000", "1e9 0.000 0.000"), "beyond"),
    "ligand.pdb": (pdb(LIGAND + CALCIUM + WATERS), "no protein chain"),
    "dna.pdb": (pdb(DNA), "no protein chain"),
    "x.xyz": (GOOD, "file name ending"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_files_are_refused_with_one_clear_line(tmp_path, name):
    content, words = HOSTILE[name]
    path = tmp_path / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    with pytest.raises(StructureError, match=words) as caught:
        read_chains(path)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 400


def test_a_missing_file(tmp_path):
    with pytest.raises(StructureError, match=r"none\.pdb is missing"):
        read_chains(tmp_path / "none.pdb")


def test_what_is_listed_as_not_modelled_may_be_absent(tmp_path):
    atoms = [a for a in helix_atoms("A" * 9) if a.number != 7]
    (chain,) = read_chains(write(tmp_path / "x.cif", mmcif(atoms, LISTED)))
    assert chain.backbone.residue_index.tolist() == [1, 2, 3, 4, 5, 6, 8, 9]


def test_packages_of_an_extra():
    assert require("json.decoder", "protein").__name__ == "json.decoder"
    with pytest.raises(PenstockError, match=r"pip install 'penstock\[protein\]'"):
        require("no_such_package.part", "protein")


@pytest.mark.skipif(not REAL.is_dir(), reason="the real chains are not here")
def test_real_chains_against_their_table():
    with (REAL / "metadata.csv").open() as file:
        rows = list(csv.DictReader(file))
    for row in rows[::5]:
        chain = max(read_chains(REAL / row["file"]), key=len)
        assert chain.backbone.resolved.sum() == int(row["length"]), row["file"]
        assert (np.diff(chain.backbone.residue_index) > 1).sum() == int(row["chain_breaks"]), row["file"]


@pytest.mark.skipif(not REAL.is_dir(), reason="the real chains are not here")
def test_real_chains_against_another_parser():
    parser = pytest.importorskip("Bio.PDB").PDBParser(QUIET=True)
    for path in sorted((REAL / "pdb").iterdir())[3::40]:
        found = {}
        for residue in next(iter(parser.get_structure("x", path))).get_residues():
            if "CA" in residue and residue.id[0] in (" ", "H_MSE"):
                found[f"{residue.id[1]}{residue.id[2].strip()}"] = residue
        chain = max(read_chains(path), key=len)
        assert chain.numbers == tuple(found)
        for k, residue in enumerate(found.values()):
            for j, name in enumerate(("N", "CA", "C", "O")):
                assert chain.backbone.present[k, j] == (name in residue)
                if name in residue:
                    assert np.array_equal(chain.backbone.atoms[k, j], residue[name].coord)


@pytest.mark.parametrize("form", ["pdb", "cif"])
def test_damaged_files_are_read_or_refused_but_never_crash(tmp_path, form):
    rng = np.random.default_rng(0)
    atoms = helix_atoms(SEQUENCE)
    text = (pdb(atoms) if form == "pdb" else mmcif(atoms, LISTED)).encode()
    refused = 0
    for k in range(120):
        raw = bytearray(text)
        start = int(rng.integers(len(raw)))
        if k % 4 == 0:
            raw = raw[:start]
        elif k % 4 == 1:
            del raw[start : start + int(rng.integers(1, 100))]
        elif k % 4 == 2:
            raw[start:start] = rng.integers(0, 256, 20, dtype=np.uint8).tobytes()
        else:
            for place in rng.integers(len(raw), size=10):
                raw[place] = ord(rng.choice(list(" .-0123456789ABC\n'\"#;?_")))
        try:
            for chain in read_chains(write(tmp_path / f"x.{form}", bytes(raw))):
                assert np.isfinite(chain.backbone.atoms).all() and (np.diff(chain.backbone.residue_index) > 0).all()
        except StructureError as error:
            refused += 1
            assert "\n" not in str(error)
    assert refused > 40


@pytest.mark.skipif(not REAL.is_dir(), reason="the real chains are not here")
def test_real_chains_are_the_same_from_both_formats(tmp_path):
    gemmi = pytest.importorskip("gemmi")
    for path in sorted((REAL / "pdb").iterdir())[::35]:
        structure = gemmi.read_structure(str(path))
        structure.setup_entities()
        structure.assign_label_seq_id()
        structure.make_mmcif_document().write_file(str(tmp_path / "x.cif"))
        for one, other in zip(read_chains(path), read_chains(tmp_path / "x.cif"), strict=True):
            assert one.numbers == other.numbers and np.array_equal(one.backbone.present, other.backbone.present)
            assert np.allclose(one.backbone.atoms, other.backbone.atoms, atol=2e-3)
            assert np.array_equal(one.backbone.residue_type, other.backbone.residue_type)
            assert np.array_equal(np.diff(one.backbone.residue_index) > 1, np.diff(other.backbone.residue_index) > 1)
