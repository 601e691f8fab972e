"""Filters, secondary structure and the radius curve, on chains whose properties are known."""

import csv
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from data.batch import UNKNOWN, Backbone
from data.errors import ConfigError
from data.protein.filters import (
    ProteinFilterConfig,
    count_breaks,
    expected_radius,
    radius_curve,
    radius_of_gyration,
    refusal,
)
from data.protein.reading import read_chains
from data.protein.secondary_structure import assign, decode, encode
from tests.data.protein_files import helix

REAL = Path(__file__).resolve().parents[3] / "shared" / "datasets" / "protein"


def backbone(atoms: np.ndarray, index: np.ndarray | None = None) -> Backbone:
    n = len(atoms)
    index = np.arange(1, n + 1) if index is None else index
    return Backbone(atoms.astype(np.float32), np.ones((n, 4), bool), np.zeros(n, np.int64), index, np.full(n, UNKNOWN))


def bundle(length: int = 80) -> Backbone:
    """Two helices side by side: compact, one break between them."""
    half = length // 2
    return backbone(np.concatenate([helix(half), helix(half) + np.array([9.5, 0, 0])]))


def states(chain: Backbone, coil: int = 0) -> np.ndarray:
    return np.array(["C"] * coil + ["H"] * (len(chain) - coil))


def test_a_fit_chain_passes():
    assert refusal(bundle(), states(bundle(), 40), 1.8, ProteinFilterConfig()) is None
    assert refusal(bundle(), states(bundle()), None, ProteinFilterConfig()) is None


def with_holes(chain: Backbone, holes: int) -> Backbone:
    present = chain.present.copy()
    present[2 : 2 + holes, 0] = False
    return replace(chain, present=present)


@pytest.mark.parametrize(
    ("chain", "coil", "resolution", "words"),
    [
        (bundle(30), 0, None, "30 residues with N, CA and C, expected 40 to 512"),
        (bundle(514), 0, None, "514 residues"),
        (with_holes(bundle(), 41), 0, None, "39 residues"),
        (with_holes(bundle(), 20), 0, None, "25% of its residues are missing"),
        (replace(bundle(), residue_index=np.r_[1:41, 101:141]), 0, None, "43% of its residues are missing"),
        (replace(bundle(), residue_index=np.r_[1:11, 12:82]), 0, None, "interrupted at 2 places"),
        (bundle(), 49, None, "61% coil"),
        (bundle(), 0, 6.5, "resolution 6.5 Å"),
        (backbone(helix(80)), 0, None, "radius of gyration 34.7 Å, more than 18.6 Å for 80 residues"),
    ],
)
def test_reasons(chain, coil, resolution, words):
    assert words in (refusal(chain, states(chain, coil), resolution, ProteinFilterConfig()) or "")


def test_coil_of_residues_without_frame_does_not_count():
    chain = with_holes(bundle(), 10)
    letters = states(chain)
    letters[2:12] = "C"
    assert refusal(chain, letters, None, ProteinFilterConfig(max_coil=0.0, max_breaks=2)) is None


def test_radius_of_a_straight_helix():
    # A rod of n points at distance d: Rg^2 = d^2 (n^2 - 1) / 12; the helix adds its own radius squared.
    expected = np.sqrt(1.5**2 * (80**2 - 1) / 12 + 2.28**2)
    assert radius_of_gyration(backbone(helix(80))) == pytest.approx(expected, abs=0.02)


def test_breaks():
    assert count_breaks(backbone(helix(40))) == 0 and count_breaks(bundle()) == 1
    assert count_breaks(replace(bundle(), residue_index=np.r_[1:41, 50:90])) == 1  # numbering and geometry agree
    assert count_breaks(with_holes(backbone(helix(40)), 3)) == 1


def test_curve_follows_the_law_and_lies_above_the_rest():
    rng = np.random.default_rng(0)
    lengths = rng.integers(60, 400, 4000)
    radii = np.array([expected_radius(length) for length in lengths]) * np.exp(0.1 * rng.standard_normal(4000))
    curve = radius_curve(lengths, radii, 0.9)
    at = np.arange(80, 380, 20)
    assert np.allclose(curve(at), [expected_radius(length) * np.exp(0.1 * 1.28) for length in at], rtol=0.03)
    assert (radii > curve(lengths)).mean() == pytest.approx(0.12, abs=0.02)  # a dozen per length: biased low
    assert radius_curve([100], [12.0], 0.96)(np.array([100])) == pytest.approx(12.0)


def test_bad_values():
    for values, words in (
        ({"min_length": 0}, "min_length"),
        ({"min_length": 50, "max_length": 40}, "min_length"),
        ({"max_coil": 1.2}, "shares"),
        ({"radius": "polynomial"}, "law, quantile or none"),
        ({"max_resolution": 0}, "max_resolution"),
    ):
        with pytest.raises(ConfigError, match=words):
            ProteinFilterConfig(**values)


def test_a_helix_is_helix_in_any_position():
    found = assign(backbone(helix(30)))
    assert (found[2:-2] == "H").all() and (found[[0, -1]] == "C").all()
    turn, _ = np.linalg.qr(np.random.default_rng(0).standard_normal((3, 3)))
    turn *= np.sign(np.linalg.det(turn))
    assert np.array_equal(assign(backbone(helix(30) @ turn.T + 100)), found)
    assert np.array_equal(decode(encode(found)), found) and encode(found).dtype == np.uint8


def test_missing_atoms_and_gaps_end_a_helix():
    chain = backbone(helix(30))
    present = chain.present.copy()
    present[15, 3] = False
    found = assign(replace(chain, present=present))
    assert found[15] == "C" and (found[3:11] == "H").all() and (found[20:27] == "H").all()
    cut = assign(replace(chain, residue_index=np.r_[1:11, 21:41]))
    assert cut[9] == "C" and cut[10] == "C"
    assert (assign(replace(chain, present=np.zeros((30, 4), bool))) == "C").all()


@pytest.mark.skipif(not REAL.is_dir(), reason="the real chains are not here")
def test_real_chains_as_the_file_itself_is_assigned():
    mdtraj = pytest.importorskip("mdtraj")
    for path in sorted((REAL / "pdb").iterdir())[::30]:
        chain = max(read_chains(path), key=len)
        whole = mdtraj.load_pdb(str(path))
        letters = mdtraj.compute_dssp(whole, simplified=True)[0]
        expected = {str(r.resSeq): letters[r.index] for r in whole.topology.residues if r.is_protein}
        if len(expected) != len(chain) or tuple(expected) != chain.numbers or not chain.backbone.present.all():
            continue  # another parser's view of insertion codes and gaps
        assert "".join(assign(chain.backbone)) == "".join(expected.values()), path.name


@pytest.mark.skipif(not REAL.is_dir(), reason="the real chains are not here")
def test_real_chains_against_their_table():
    with (REAL / "metadata.csv").open() as file:
        rows = list(csv.DictReader(file))[::10]
    shares = []
    for row in rows:
        chain = max(read_chains(REAL / row["file"]), key=len).backbone
        assert count_breaks(chain) == int(row["chain_breaks"])
        assert radius_of_gyration(chain) == pytest.approx(float(row["rg_A"]), abs=0.011)
        found = assign(chain)[chain.resolved]
        shares.append(
            [(found == "H").mean() - float(row["dssp_helix"]), (found == "E").mean() - float(row["dssp_strand"])]
        )
    # The table counts backbones without side chains and hence without prolines: a residue or two differ.
    assert np.abs(shares).max() < 0.04 and np.abs(np.mean(shares, axis=0)).max() < 0.005
