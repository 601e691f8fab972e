"""Preparation of proteins: what comes out, what is refused and why, and that a killed one goes on where it was."""

import csv
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from data.errors import ConfigError, PenstockError
from data.preparing import read_refused
from data.protein import (
    ProteinFilterConfig,
    ProteinPreparationConfig,
    ProteinSamples,
    preparation_key,
    prepare,
)
from data.protein.kinds import PROTEIN_BACKBONES
from data.store import Reader
from data.synthetic.protein import SyntheticProteinConfig, generate, synthetic_ids
from tests.data.protein_files import Atom, helix_atoms, mmcif, pdb, write

LONE = ProteinPreparationConfig(filter=ProteinFilterConfig(min_length=12, radius="none"), processes=1)
"""Takes a single helix."""
REPOSITORY = Path(__file__).resolve().parents[2]
LETTERS = "ACDEFGHIKLMNPQRSTVWY"


def sequence(seed: int, length: int = 16) -> str:
    return "".join(np.random.default_rng(seed).choice(list(LETTERS), length))


def write_folder(folder: Path) -> Path:
    """Four good chains in three files, and chains and files that cannot be used."""
    write(folder / "one.pdb", pdb(helix_atoms(sequence(1, 20), first=7)))
    two = helix_atoms(sequence(2), "A") + helix_atoms(sequence(3), "a", 101, 30.0) + helix_atoms("GGG", "B", 1, 60.0)
    write(folder / "deep" / "two.cif.gz", mmcif(two))
    write(folder / "deep" / "one.pdb", pdb(helix_atoms(sequence(4))))
    write(folder / "empty.pdb", "")
    write(folder / "cut.cif", mmcif(helix_atoms(sequence(5)))[:-200])
    write(
        folder / "nan.pdb",
        pdb(helix_atoms(sequence(6))).replace("   1.536   0.000   0.000", "     nan   0.000   0.000"),
    )
    write(folder / "ligand.pdb", pdb([Atom("PA", "GTP", "A", 1, (0.0, 0.0, 0.0), het=True)]))
    write(folder / "alphas.pdb", pdb([a for a in helix_atoms(sequence(7)) if a.name == "CA"]))
    write(folder / "notes.txt", "not looked at")
    write(folder / ".hidden.pdb", "")
    return folder


def test_folder_of_structures(tmp_path):
    states = []
    found = prepare(write_folder(tmp_path / "in"), LONE, tmp_path / "out", states.append)
    assert found.ids == ("deep-one", "deep-two_A", "deep-two_a", "one")
    assert found.groups == found.ids and not found.reused
    assert set(found.refused) == {
        "empty.pdb", "cut.cif", "nan.pdb", "ligand.pdb", "alphas.pdb", "deep/two.cif.gz chain B",
    }  # fmt: skip
    for name, words in {
        "empty.pdb": "empty", "cut.cif": "mmCIF", "nan.pdb": "not finite", "ligand.pdb": "no protein chain",
        "alphas.pdb": "N, CA and C", "deep/two.cif.gz chain B": "3 residues",
    }.items():  # fmt: skip
        assert words in found.refused[name] and "\n" not in found.refused[name]
    with (tmp_path / "out" / "refused.csv").open() as file:
        assert {row["item"]: row["reason"] for row in csv.DictReader(file)} == found.refused
    assert [s.done for s in states] == list(range(9)) and states[-1].refused == 5
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["backbones.h5", "refused.csv"]
    assert "4 chains in 4 clusters, 6 refused" in found.summary()
    samples = ProteinSamples(found.path)
    assert samples.numbers(3) == tuple(str(k) for k in range(7, 27))
    assert samples.source(2) == "two.cif.gz chain a" and samples.resolution(2) is None
    # Chains of one complex keep their places.
    between = samples.backbone(2).atoms - samples.backbone(1).atoms
    assert np.allclose(between, [30, 0, 0], atol=1e-4)


def test_five_hundred_files_with_fifty_bad_ones(tmp_path):
    bad = {}
    for k in range(500):
        text = pdb(helix_atoms(sequence(k, 14)))
        if k % 10 == 3:
            kind = (k // 10) % 5
            text = ("", text[:200], pdb(helix_atoms("AAAA")), text.replace(" 1.00 ", "x1.00 "), "HEADER\nEND\n")[kind]
            bad[f"chain-{k:03d}.pdb"] = ("empty", "ends before", "4 residues", "too wide", "no atoms")[kind]
        write(tmp_path / "in" / f"chain-{k:03d}.pdb", text)
    found = prepare(tmp_path / "in", LONE, tmp_path / "out")
    assert len(found.ids) == 450 and set(found.refused) == set(bad) and len(bad) == 50
    assert all(words in found.refused[name] for name, words in bad.items())
    assert read_refused(found.path) == found.refused


def test_more_processes_change_nothing(tmp_path):
    source = write_folder(tmp_path / "in")
    one = prepare(source, LONE, tmp_path / "one")
    two = prepare(source, replace(LONE, processes=2), tmp_path / "two")
    assert one.key == two.key == preparation_key(source, LONE) and one.refused == two.refused
    assert Reader(one.path, PROTEIN_BACKBONES).fingerprint == Reader(two.path, PROTEIN_BACKBONES).fingerprint


def test_found_again_and_made_anew_when_anything_changes(tmp_path):
    source = write_folder(tmp_path / "in")
    first = prepare(source, LONE, tmp_path / "out")
    again = prepare(source, LONE, tmp_path / "out")
    assert again.reused and (again.ids, again.groups, again.refused) == (first.ids, first.groups, first.refused)
    assert "found prepared" in again.summary()
    stricter = replace(LONE, filter=replace(LONE.filter, min_length=18))
    assert prepare(source, stricter, tmp_path / "out").ids == ("one",)
    write(source / "one.pdb", pdb(helix_atoms(sequence(1, 20), first=8)))
    assert prepare(source, LONE, tmp_path / "out").key != first.key
    (tmp_path / "out" / "backbones.h5").write_bytes(b"damaged")
    assert not prepare(source, LONE, tmp_path / "out").reused


KILLED = """
import os, signal, sys
from pathlib import Path
from data.protein import ProteinFilterConfig, ProteinPreparationConfig, prepare
config = ProteinPreparationConfig(filter=ProteinFilterConfig(min_length=12, radius="none"), processes=1)
kill = lambda state: os.kill(os.getpid(), signal.SIGKILL) if state.done == 5 else None
prepare(Path(sys.argv[1]), config, Path(sys.argv[2]), kill)
"""


def test_killed_and_resumed(tmp_path):
    source = write_folder(tmp_path / "in")
    command = [sys.executable, "-c", KILLED, source, tmp_path / "out"]
    assert subprocess.run(command, cwd=REPOSITORY, env=os.environ).returncode == -signal.SIGKILL
    assert not (tmp_path / "out" / "backbones.h5").exists()
    states = []
    resumed = prepare(source, LONE, tmp_path / "out", states.append)
    assert states[0].done == states[0].resumed == 5 and states[-1].done == 8
    whole = prepare(source, LONE, tmp_path / "whole")
    assert resumed.refused == whole.refused
    assert Reader(resumed.path, PROTEIN_BACKBONES).fingerprint == Reader(whole.path, PROTEIN_BACKBONES).fingerprint


def test_near_copies_share_a_cluster(tmp_path):
    letters = sequence(8, 60)
    write(tmp_path / "in" / "a.pdb", pdb(helix_atoms(letters)))
    write(tmp_path / "in" / "b.pdb", pdb(helix_atoms(letters[:20] + sequence(9, 10) + letters[30:])))
    write(tmp_path / "in" / "c.pdb", pdb(helix_atoms(sequence(10, 60))))
    found = prepare(tmp_path / "in", LONE, tmp_path / "out")
    assert found.groups == ("a", "a", "c") and ProteinSamples(found.path).groups == found.groups


def test_one_chain_per_file_when_asked(tmp_path):
    config = replace(LONE, filter=replace(LONE.filter, single_chain=True))
    found = prepare(write_folder(tmp_path / "in"), config, tmp_path / "out")
    assert found.ids == ("deep-one", "one") and "3 protein chains" in found.refused["deep/two.cif.gz"]


def test_quantile_of_the_radius(tmp_path):
    for k in range(60):
        atoms = helix_atoms(sequence(k, 20 + k % 3))
        if k == 30:  # the second half far away: one break, but no compact chain
            atoms = [replace(a, position=(a.position[0] + 80.0 * (a.number > 10), *a.position[1:])) for a in atoms]
        write(tmp_path / "in" / f"{k:02d}.pdb", pdb(atoms))
    filters = ProteinFilterConfig(min_length=12, radius="quantile", radius_quantile=0.5)
    found = prepare(tmp_path / "in", replace(LONE, filter=filters), tmp_path / "out")
    assert set(found.refused) == {"30.pdb"} and "not compact" in found.refused["30.pdb"]


def test_single_file_and_names_that_agree(tmp_path):
    path = write(tmp_path / "x.pdb", pdb(helix_atoms(sequence(1))))
    assert prepare(path, LONE, tmp_path / "single").ids == ("x",)
    write(tmp_path / "in" / "x.pdb", pdb(helix_atoms(sequence(1))))
    write(tmp_path / "in" / "x.cif", mmcif(helix_atoms(sequence(2))))
    write(tmp_path / "in" / "x y.pdb", pdb(helix_atoms(sequence(3))))
    assert prepare(tmp_path / "in", LONE, tmp_path / "out").ids == ("x-y", "x.cif", "x.pdb")


def test_synthetic_chains_are_kept_as_they_are(tmp_path):
    config = SyntheticProteinConfig(count=3, seed=3)
    found = prepare(config, ProteinPreparationConfig(processes=1), tmp_path)
    assert found.ids == synthetic_ids(config) == found.groups and not found.refused
    samples = ProteinSamples(found.path)
    for k in range(3):
        assert np.array_equal(samples.backbone(k).atoms, generate(config, k)[1].atoms)
        assert set(samples.secondary_structure(k)) & {"H", "E"}


def test_what_cannot_begin(tmp_path):
    (tmp_path / "none").mkdir()
    write(tmp_path / "bad" / "x.pdb", "")
    write(tmp_path / "notes.txt", "")
    for source, words in (
        (tmp_path / "missing", "is missing"),
        (tmp_path / "none", "there are none"),
        (tmp_path / "notes.txt", "expected a structure file"),
        (tmp_path / "bad", "all 1 were refused; the first, x.pdb: the file is empty"),
    ):
        with pytest.raises(PenstockError, match=words):
            prepare(source, LONE, tmp_path / "out")
    with pytest.raises(ConfigError, match="processes"):
        ProteinPreparationConfig(processes=-1)


@pytest.mark.parametrize("package", ["gemmi", "mdtraj"])
def test_a_missing_package_is_said_once_and_names_the_extra(tmp_path, monkeypatch, package):
    source = write(tmp_path / "x.pdb", pdb(helix_atoms(sequence(1))))
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(PenstockError, match=rf"'{package}', which is not installed.*penstock\[protein\]"):
        prepare(source, LONE, tmp_path / "out")
    assert not (tmp_path / "out").exists()
