"""The pair filter: real chains pass, controls do not, and each rule refuses what it is for."""

from dataclasses import replace

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from data.errors import ConfigError, PenstockError
from modules.protein.controls import from_torsions, ideal_helix, make_controls, mirrored
from modules.protein.filters import PairFilterConfig, judge, reference_ranges
from modules.protein.measures import measure
from tests.modules.protein.chains import made_up_chains, moved, piece, real_chains, secondary

CONFIG = PairFilterConfig()


def accepted(chains, ranges, config: PairFilterConfig = CONFIG) -> float:
    return float(
        np.mean([judge(one, ss, ranges, config).accepted for one, ss in zip(chains, secondary(chains), strict=True)])
    )


def test_held_out_real_chains_pass_and_controls_do_not():
    chains = real_chains()
    ranges = reference_ranges(chains[1::2], None, CONFIG)
    assert accepted(chains[::3], ranges) > 0.85
    for name, made in make_controls(chains[::9]).items():
        assert name == "real" or accepted(made, ranges) == 0, name


def test_each_fault_has_its_reason():
    """A helix that lies within the ranges of a reference of helices, and what is done to it."""
    helix = ideal_helix(60)
    ranges = reference_ranges([helix] * 3, None, CONFIG)
    assert judge(helix, None, ranges, CONFIG).reasons == ()

    def kinds(backbone, ss=None, config=CONFIG) -> set[str]:
        verdict = judge(backbone, ss, ranges, config)
        assert verdict.accepted == (not verdict.reasons)
        return {reason.split(":")[0] for reason in verdict.reasons}

    torn = replace(helix, atoms=helix.atoms + np.where(np.arange(60) % 10 >= 5, 0.7, 0.0)[:, None, None])
    assert "broken bonds" in kinds(torn)
    assert kinds(mirrored(helix)) == {"left-handed turns", "residues with φ above zero"}
    strand = from_torsions(np.full(60, -120.0), np.full(60, 130.0))
    assert kinds(strand) == {"radius of gyration", "contacts per residue"}
    folded = from_torsions(np.full(60, -63.0), np.where(np.arange(60) == 30, 140.0, -43.0))
    assert "radius of gyration" in kinds(folded)
    # Pressed flat, its turns run through each other.
    flat = replace(helix, atoms=helix.atoms * np.array([1, 1, 0.2], dtype=np.float32))
    assert {"clashing residues per 100", "clashing atoms per 100 residues"} <= kinds(flat)
    assert kinds(helix, np.full(60, "C")) == {"coil"}
    assert kinds(helix, np.full(60, "H"), PairFilterConfig(max_helix=0.6)) == {"helix"}


def test_bounds_that_are_null_are_not_looked_at():
    off = PairFilterConfig(
        max_breaks=None,
        max_ca_clashes=None,
        max_atom_clashes=None,
        max_left_turns=None,
        max_phi_positive=None,
        max_coil=None,
        radius=False,
        contacts=False,
        contact_order=False,
    )
    chains = made_up_chains()
    ranges = reference_ranges(chains, secondary(chains), off)
    for made in make_controls(chains[:3]).values():
        assert accepted(made, ranges, off) == 1


def test_a_cis_bond_is_no_break():
    """φ, ψ as before, one peptide bond turned to cis: the CA are 2.9 Å apart, and the chain is whole."""
    angles = np.full(40, -63.0), np.full(40, -43.0)
    trans = from_torsions(*angles)
    atoms = trans.atoms.astype(np.float64)
    # All that follows C of residue 20 is turned about the bond C-N by half a circle.
    origin = atoms[20, 2]
    axis = atoms[21, 0] - origin
    turn = Rotation.from_rotvec(np.pi * axis / np.linalg.norm(axis))
    atoms[21:] = turn.apply((atoms[21:] - origin).reshape(-1, 3)).reshape(-1, 4, 3) + origin
    cis = replace(trans, atoms=atoms)
    assert measure(cis).numbers["breaks"] == 1
    assert min(measure(cis).samples["ca_ca"]) == pytest.approx(2.9, abs=0.2)
    ranges = reference_ranges([trans], None, CONFIG)
    assert judge(cis, None, ranges, CONFIG).measures["broken"] == 0


def test_ranges_follow_the_length():
    """Radius of gyration by the law of globular proteins: chains of 50 and of 400 residues have their own bounds."""
    ranges = reference_ranges(real_chains()[::2], None, CONFIG)
    assert ranges["rg"].slope == pytest.approx(0.373, abs=0.03)  # stored fit: 2.36 L^0.373
    low, high = np.exp(ranges["rg"].at(150))
    assert low < 2.36 * 150**0.373 < high < 2 * low


def test_what_cannot_be_measured_is_refused():
    helix = ideal_helix(30)
    ranges = reference_ranges([helix], None, CONFIG)
    broken = judge(replace(helix, atoms=np.full_like(helix.atoms, np.nan)), None, ranges, CONFIG)
    assert not broken.accepted and broken.reasons[0].startswith("not measurable") and not broken.measures
    assert not judge(piece(helix, 0, 2), None, ranges, CONFIG).accepted


def test_the_verdict_does_not_depend_on_the_place():
    chain = made_up_chains()[4]
    ranges = reference_ranges(made_up_chains(), None, CONFIG)
    here, there = (judge(one, None, ranges, CONFIG) for one in (chain, moved(chain)))
    assert here.accepted == there.accepted
    assert there.measures == pytest.approx(here.measures, rel=1e-5)


def test_mistakes_are_said():
    with pytest.raises(ConfigError, match="max_breaks"):
        PairFilterConfig(max_breaks=-0.1)
    with pytest.raises(ConfigError, match="quantile"):
        PairFilterConfig(quantile=0.5)
    with pytest.raises(PenstockError, match="real chains"):
        reference_ranges([], None, CONFIG)
