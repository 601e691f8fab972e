"""Measures of one backbone against the geometry it was built from, mdtraj, and plain double loops."""

from dataclasses import replace

import numpy as np
import pytest

from data.batch import UNKNOWN, Backbone
from data.errors import PenstockError
from modules.protein.controls import ANGLES, BONDS, from_torsions, ideal_helix, mirrored, prior, random_walk
from modules.protein.measures import measure, torsion
from tests.modules.protein.chains import made_up_chains, moved, piece, secondary


def walk(length: int = 60, seed: int = 0) -> Backbone:
    return random_walk(length, np.random.default_rng(seed))


def joined(*parts: Backbone) -> Backbone:
    """One backbone of several chains, each shifted by 30 Å from the one before."""
    return Backbone(
        atoms=np.concatenate([part.atoms + np.array([30 * k, 0, 0]) for k, part in enumerate(parts)]),
        present=np.concatenate([part.present for part in parts]),
        chain=np.concatenate([np.full(len(part), k) for k, part in enumerate(parts)]),
        residue_index=np.concatenate([part.residue_index for part in parts]),
        residue_type=np.full(sum(map(len, parts)), UNKNOWN),
    )


def test_a_chain_built_from_torsions_gives_them_back():
    rng = np.random.default_rng(1)
    phi, psi = rng.uniform(-179, 179, (2, 40))
    found = measure(from_torsions(phi, psi)).samples
    np.testing.assert_allclose(found["phi"], phi[1:-1], atol=2e-3)
    np.testing.assert_allclose(found["psi"], psi[1:-1], atol=2e-3)
    np.testing.assert_allclose(180 - np.abs(found["omega"]), 0, atol=2e-3)
    for name, bond in (("n_ca", "N-CA"), ("ca_c", "CA-C"), ("c_n", "C-N"), ("c_o", "C-O")):
        np.testing.assert_allclose(found[name], BONDS[bond], atol=1e-5)
    for name, angle in (("n_ca_c", "N-CA-C"), ("ca_c_n", "CA-C-N"), ("c_n_ca", "C-N-CA")):
        np.testing.assert_allclose(found[name], ANGLES[angle], atol=1e-3)
    # The law of cosines over the peptide plane: all trans CA are as far apart.
    np.testing.assert_allclose(found["ca_ca"], found["ca_ca"][0], atol=1e-5)
    assert found["ca_ca"][0] == pytest.approx(3.81, abs=0.01)


def test_torsions_agree_with_mdtraj():
    import mdtraj

    backbone = made_up_chains()[3]
    topology = mdtraj.Topology()
    chain = topology.add_chain()
    for _ in range(len(backbone)):
        residue = topology.add_residue("ALA", chain)
        for name in ("N", "CA", "C", "O"):
            topology.add_atom(name, mdtraj.element.get_by_symbol(name[0]), residue)
    trajectory = mdtraj.Trajectory(backbone.atoms.reshape(1, -1, 3) / 10, topology)
    found = measure(backbone).samples
    for name, compute in (("phi", mdtraj.compute_phi), ("psi", mdtraj.compute_psi), ("omega", mdtraj.compute_omega)):
        expected = np.degrees(compute(trajectory)[1][0])
        inner = {"phi": expected[:-1], "psi": expected[1:], "omega": expected}[name]
        assert np.abs((found[name] - inner + 180) % 360 - 180).max() < 0.01
    radius = 10 * mdtraj.compute_rg(trajectory.atom_slice(topology.select("name CA")), masses=np.ones(len(backbone)))[0]
    assert measure(backbone).numbers["rg"] == pytest.approx(radius, rel=1e-5)


def test_moving_changes_nothing_and_a_mirror_turns_every_sign():
    backbone = made_up_chains()[5]
    here, there, mirror = measure(backbone), measure(moved(backbone)), measure(mirrored(backbone))
    for name in here.samples:
        np.testing.assert_allclose(there.samples[name], here.samples[name], atol=2e-3)
        sign = -1 if name in ("phi", "psi", "omega", "helix_turn") else 1
        np.testing.assert_allclose(np.cos(np.radians(mirror.samples[name] - sign * here.samples[name])), 1, atol=1e-6)
    for name, value in here.numbers.items():
        assert there.numbers[name] == pytest.approx(value, rel=1e-5)
        assert mirror.numbers[name] == pytest.approx(value, rel=1e-5)


@pytest.mark.parametrize("backbone", [walk(), prior(40, np.random.default_rng(0)), joined(walk(30), walk(25, 1))])
def test_contacts_and_clashes_agree_with_double_loops(backbone):
    atoms, length = backbone.atoms.astype(np.float64), len(backbone)
    contacts = close = clashes = apart = 0
    for i in range(length):
        for j in range(i + 1, length):
            other = backbone.chain[i] != backbone.chain[j]
            gap = np.linalg.norm(atoms[i, 1] - atoms[j, 1])
            if gap < 8 and (other or j - i >= 3):
                contacts += 1
                apart += 0 if other else (j - i) / (backbone.chain == backbone.chain[i]).sum()
            close += gap < 3.6 and (other or j - i >= 2)
            if other or j - i >= 2:
                clashes += (np.linalg.norm(atoms[i][:, None] - atoms[j][None], axis=-1) < 2.6).sum()
    inner = sum(
        np.linalg.norm(atoms[i, 1] - atoms[j, 1]) < 8
        for i in range(length)
        for j in range(i + 3, length)
        if backbone.chain[i] == backbone.chain[j]
    )
    found = measure(backbone).numbers
    assert found["contacts"] == pytest.approx(contacts / length)
    assert found["ca_close"] == close
    assert found["atom_clashes"] == clashes
    assert found["contact_order"] == pytest.approx(apart / inner)


def test_helices_turn_right_and_mirrored_ones_left():
    right = measure(ideal_helix(20)).samples["helix_turn"]
    assert len(right) == 17 and (right > 0).all()
    assert (measure(mirrored(ideal_helix(20))).samples["helix_turn"] < 0).all()
    # A straight strand has no helical turns.
    assert len(measure(from_torsions(np.full(20, -120.0), np.full(20, 130.0))).samples["helix_turn"]) == 0


def test_a_gap_in_the_numbering_is_no_bond_and_a_long_bond_is_a_break():
    backbone = ideal_helix(30)
    torn = replace(backbone, atoms=backbone.atoms + np.where(np.arange(30) >= 15, 5.0, 0.0)[:, None, None])
    assert measure(torn).numbers["breaks"] == 1 and measure(torn).numbers["whole"] == 0
    numbered = replace(torn, residue_index=np.arange(1, 31) + 4 * (np.arange(30) >= 15))
    found = measure(numbered)
    assert found.numbers["breaks"] == 0 and found.numbers["whole"] == 1
    assert len(found.samples["ca_ca"]) == 28
    # φ of the residue after the gap and ψ of the one before it are of no bond.
    assert len(found.samples["phi"]) == len(found.samples["psi"]) == 26


def test_chains_are_not_bonded_to_each_other():
    found = measure(joined(ideal_helix(20), ideal_helix(12)))
    assert len(found.samples["c_n"]) == 19 + 11 and found.numbers["whole"] == 1


def test_absent_atoms_take_no_part():
    backbone = made_up_chains()[0]
    present = backbone.present.copy()
    present[4, 3] = False  # an O
    present[9, 0] = False  # an N: the residue has no frame
    atoms = np.where(present[..., None], backbone.atoms, np.nan)
    found = measure(replace(backbone, atoms=atoms, present=present))
    assert found.residues == len(backbone) - 1
    assert len(found.samples["c_o"]) == len(backbone) - 2
    assert len(found.samples["c_n"]) == len(backbone) - 3


def test_secondary_structure_shares():
    backbone = made_up_chains()[2]
    letters = secondary([backbone])[0]
    numbers = measure(backbone, letters).numbers
    assert numbers["helix"] + numbers["strand"] + numbers["coil"] == pytest.approx(1)
    assert numbers["helix"] == pytest.approx((letters == "H").mean())
    assert "helix" not in measure(backbone).numbers


def test_what_cannot_be_measured_is_said():
    backbone = ideal_helix(12)
    with pytest.raises(PenstockError, match="at least 4 residues"):
        measure(piece(backbone, 0, 3))
    with pytest.raises(PenstockError, match="finite"):
        measure(replace(backbone, atoms=np.full_like(backbone.atoms, np.nan)))
    with pytest.raises(PenstockError, match="12 residues, got 5"):
        measure(backbone, np.full(5, "H"))


def test_a_collapsed_chain_is_measured_without_listing_every_pair():
    """2000 residues on one spot have 32 million near pairs; their count is capped, and still a heap of clashes."""
    heap = replace(
        ideal_helix(2000), atoms=np.random.default_rng(0).normal(size=(2000, 4, 3)).astype(np.float32) * 1e-3
    )
    found = measure(heap).numbers
    assert found["atom_clashes"] > 1e5 and found["clash_free"] == 0


def test_torsion_at_its_corners():
    a, b, c = np.array([1.0, 0, 0]), np.zeros(3), np.array([0, 0, 1.0])
    for degrees in (0.0, 60.0, -60.0, 120.0, 179.9):
        turn = np.radians(degrees)
        # Seen from b to c, clockwise is positive (IUPAC).
        d = c + np.array([np.cos(turn), np.sin(turn), 0])
        assert torsion(a[None], b[None], c[None], d[None])[0] == pytest.approx(degrees, abs=1e-6)
