"""The structure table against stored figures of 210 real chains; distances against what they must see and must not."""

import json

import numpy as np
import pytest

from data.errors import PenstockError
from modules.protein.controls import SEPARATES, make_controls, noisy
from modules.protein.metrics import (
    DISTANCES,
    ROWS,
    StructureTable,
    distances,
    floor,
    score_interval,
    score_terms,
    structure_score,
    structure_table,
)
from tests.modules.protein.chains import REAL, made_up_chains, moved, real_chains, secondary


def table_of(chains) -> StructureTable:
    return structure_table(chains, secondary(chains))


@pytest.fixture(scope="module")
def made_up() -> StructureTable:
    return table_of(made_up_chains())


# ------------------------------------------------------------------------------------------------- the table


def test_figures_of_the_real_chains():
    """Measured on the same files with other code (gemmi, mdtraj and plain NumPy); single precision against double."""
    stored = json.loads((REAL / "real_pdb_statistics.json").read_text()) if REAL.is_dir() else {}
    chains = real_chains()
    table = table_of(chains)
    assert (table.chains, table.residues) == (stored["n_chains"], stored["n_res"])
    names = {
        "n_ca": "N-CA", "ca_c": "CA-C", "c_n": "C-N", "n_ca_c": "N-CA-C", "ca_c_n": "CA-C-N", "c_n_ca": "C-N-CA",
        "ca_ca": "CA-CA", "rg": "chain_rg", "rg_ratio": "chain_rg_ratio", "contact_order": "chain_rel_contact_order",
        "contacts": "chain_contacts8", "ca_close": "chain_caca_lt36", "ca_clashes": "chain_caca_lt30",
        "atom_clashes": "chain_bbclash26", "helix": "chain_dssp_h", "strand": "chain_dssp_e", "coil": "chain_dssp_c",
    }  # fmt: skip
    for name, key in names.items():
        slack = 4e-3 if name in ("helix", "strand", "coil") else 1e-6  # DSSP saw whole side chains there
        assert table.values[name] == pytest.approx(stored[key]["mean"], rel=1e-4, abs=slack), name
        assert table.values[f"{name}_sd"] == pytest.approx(stored[key]["sd"], rel=1e-3, abs=slack), name
    # One chain of the stored figures lacks its two last oxygens.
    assert table.values["c_o"] == pytest.approx(1.23264, abs=2e-5)
    for name, key in (("alpha", "alpha"), ("beta", "beta"), ("bridge", "bridge"), ("left_alpha", "left")):
        assert table.values[name] == pytest.approx(stored["rama"][key], abs=1e-9)
    assert table.values["phi_positive"] == pytest.approx(stored["rama"]["phi_pos"], abs=1e-9)
    assert table.values["cis"] == pytest.approx(stored["omega"]["cis_frac"], abs=1e-9)
    assert table.values["twisted"] == pytest.approx(stored["omega"]["twisted_frac"], abs=1e-9)
    assert table.values["trans_deviation"] == pytest.approx(stored["omega"]["trans_abs_dev_mean"], rel=1e-3)
    for quantile in ("p01", "p99"):
        assert table.values[f"ca_ca_{quantile}"] == pytest.approx(stored["CA-CA"][quantile], abs=1e-3)


def test_table_is_the_plain_mean_of_pooled_values(made_up):
    for name in ("n_ca", "n_ca_c", "ca_ca"):
        pooled = made_up.pooled(name)
        assert made_up.values[name] == pytest.approx(pooled.mean())
        assert made_up.values[f"{name}_sd"] == pytest.approx(pooled.std(), abs=1e-9)
    assert made_up.values["rg"] == pytest.approx(made_up.per_chain("rg").mean())
    assert set(made_up.values) == {
        *ROWS, *(f"{name}_sd" for name, row in ROWS.items() if row.spread), "ca_ca_p01", "ca_ca_p99"
    }  # fmt: skip


def test_intervals_cover_the_truth_as_often_as_they_say():
    """Chains are drawn from a known population; its mean must lie in 95 % of the intervals, give or take."""
    chains = made_up_chains(90)
    everyone = structure_table(chains)
    rng = np.random.default_rng(0)
    draws, held = 100, 0
    for k in range(draws):
        table = everyone.subset(rng.integers(0, everyone.chains, 30))
        low, high = table.intervals(resamples=200, seed=k)["rg"]
        held += low <= everyone.values["rg"] <= high
    # Standard error of the share 2 %; the percentile bootstrap of 30 chains runs short by a few percent.
    assert 0.86 <= held / draws <= 1.0


def test_groups_by_length_share_all_chains(made_up):
    groups = made_up.by_length([50, 60])
    assert list(groups) == ["<50", "50-59", "≥60"]
    assert sum(group.chains for group in groups.values()) == made_up.chains
    assert groups["50-59"].per_chain("residues").min() >= 50 and groups["50-59"].per_chain("residues").max() < 60


def test_no_chains_and_wrong_letters_are_said():
    with pytest.raises(PenstockError, match="at least one backbone"):
        structure_table([])
    with pytest.raises(PenstockError, match="40 backbones, got that of 2"):
        structure_table(made_up_chains(), secondary(made_up_chains()[:2]))


# --------------------------------------------------------------------------------------------- the distances


def test_a_set_is_no_distance_from_itself_nor_from_itself_moved(made_up):
    assert max(distances(made_up, made_up).values()) < 1e-6
    assert structure_score(made_up, made_up) < 1e-6
    elsewhere = table_of([moved(chain, seed=k) for k, chain in enumerate(made_up_chains())])
    assert structure_score(elsewhere, made_up) < 0.01


def test_distances_of_known_size(made_up):
    """Wasserstein distance of a shifted sample is the shift; Jensen-Shannon distance of disjoint samples is 1."""
    from dataclasses import replace

    def changed(one, **samples):
        return replace(one, samples={**one.samples, **samples})

    far = StructureTable(tuple(changed(m, ca_ca=m.samples["ca_ca"] + 0.25) for m in made_up.measures))
    assert distances(far, made_up)["ca_ca"] == pytest.approx(0.25, abs=1e-9)
    a = StructureTable(tuple(changed(m, phi=0 * m.samples["phi"] - 65) for m in made_up.measures))
    b = StructureTable(tuple(changed(m, phi=0 * m.samples["phi"] + 65) for m in made_up.measures))
    assert distances(a, b)["ramachandran"] == pytest.approx(1)
    wide = StructureTable(tuple(replace(m, numbers={**m.numbers, "rg": 1.3 * m.numbers["rg"]}) for m in a.measures))
    assert distances(wide, made_up)["rg"] == pytest.approx(np.log(1.3), rel=1e-6)
    helical = StructureTable(tuple(replace(m, numbers={**m.numbers, "helix": 1.0, "strand": 0.0}) for m in a.measures))
    bare = StructureTable(tuple(replace(m, numbers={**m.numbers, "helix": 0.0, "strand": 0.0}) for m in a.measures))
    assert distances(helical, bare)["secondary"] == pytest.approx(np.sqrt(2))  # point masses one apart


def test_more_noise_is_a_higher_score(made_up):
    rng = np.random.default_rng(0)
    scores = [
        structure_score(table_of([noisy(chain, rng, deviation) for chain in made_up_chains()]), made_up)
        for deviation in (0.0, 0.1, 0.5, 3.0)
    ]
    assert scores == sorted(scores) and scores[-1] - scores[0] > 0.5
    assert scores[-1] < 1


def test_the_score_is_the_mean_of_its_terms(made_up):
    other = table_of(make_controls(made_up_chains()[:20])["walks"])
    terms = score_terms(other, made_up)
    assert set(terms) == set(DISTANCES)
    assert all(0 <= value < 1 for value in terms.values())
    for name, gap in distances(other, made_up).items():
        assert (terms[name] > 0.5) == (gap > DISTANCES[name].half)
    assert structure_score(other, made_up) == pytest.approx(np.mean(list(terms.values())))
    low, high = score_interval(other, made_up, resamples=20)
    assert low < structure_score(other, made_up) < high


def test_the_secondary_structure_of_one_set_alone_is_refused(made_up):
    bare = structure_table(made_up_chains())
    with pytest.raises(PenstockError, match="both sets or of neither"):
        structure_score(bare, made_up)
    assert "secondary" not in distances(bare, bare)


# ---------------------------------------------------------------------------------------------- the controls


@pytest.fixture(scope="module")
def controls() -> tuple[dict[str, StructureTable], StructureTable]:
    """Tables of the controls made from a quarter of the real chains, and of another half."""
    members = real_chains()
    return {name: table_of(made) for name, made in make_controls(members[::4]).items()}, table_of(members[1::2])


def test_every_metric_tells_its_controls_from_real_chains(controls):
    """Three times what as many held-out chains give at least, in every metric that is meant to see a control."""
    made, held = controls
    near, base = distances(made["real"], held), floor(held, made["real"].chains)
    for name, metrics in SEPARATES.items():
        far = distances(made[name], held)
        for metric in metrics:
            assert far[metric] > 3 * max(near[metric], base[metric]), (name, metric)


def test_a_mirror_image_differs_in_hand_alone(made_up):
    mirror = table_of(make_controls(made_up_chains())["mirrored"])
    blind = {name: gap for name, gap in distances(mirror, made_up).items() if name not in SEPARATES["mirrored"]}
    assert max(blind[name] for name in ("bonds", "angles", "ca_ca", "rg", "contacts", "contact_order")) < 1e-3


def test_scores_of_real_chains_and_controls_in_order(controls):
    made, held = controls
    scores = {name: structure_score(table, held) for name, table in made.items()}
    assert scores["real"] < 0.1
    assert 1.8 * scores["real"] < scores["mirrored"] < scores["helices"] < scores["noisy"] < scores["prior"]
    assert scores["walks"] > scores["helices"] and scores["prior"] > 0.7
