"""evaluation.json of sets whose faults are known."""

import json
import math
import sys
from dataclasses import replace

import numpy as np
import pytest

from data.batch import UNKNOWN, Backbone
from data.errors import PenstockError
from flows.steps.protein_evaluation import evaluate_sets
from modules.protein.controls import ideal_helix, mirrored, random_walk
from tests.modules.protein.chains import made_up_chains, moved, piece

QUICK = {"bootstrap": 20, "tm_pairs": 6, "tm_training": 3}
FEW = made_up_chains()[:10]
TRAINING = {f"chain-{k}": chain for k, chain in enumerate(made_up_chains())}


def named(chains) -> dict[str, Backbone]:
    return {f"sample-{k}": chain for k, chain in enumerate(chains)}


def all_numbers(values):
    if isinstance(values, dict):
        values = values.values()
    if isinstance(values, list | tuple) or not isinstance(values, str | int | float | None):
        for value in values:
            yield from all_numbers(value)
    elif isinstance(values, float):
        yield values


@pytest.fixture(scope="module")
def copies() -> dict:
    """What is said of samples that are training chains, turned and shifted."""
    return evaluate_sets(
        named(moved(chain, k) for k, chain in enumerate(made_up_chains()[:8])), made_up_chains(), TRAINING, **QUICK
    )


def test_copies_of_the_training_chains_look_real_and_are_found_out(copies):
    assert copies["score"]["value"] < 2 * copies["score"]["floor"]
    found = copies["memorisation"]
    assert found["max"] == pytest.approx(1, abs=1e-4) and found["same_fold"] == 1
    assert {sample: near["chain"] for sample, near in found["nearest"].items()} == {
        f"sample-{k}": f"chain-{k}" for k in range(8)
    }


def test_walks_are_told_from_copies(copies):
    rng = np.random.default_rng(0)
    walks = evaluate_sets(named(random_walk(45, rng) for _ in range(6)), FEW, TRAINING, **QUICK)
    assert walks["score"]["value"] > 2 * copies["score"]["value"]
    assert walks["memorisation"]["mean"] < 0.55
    assert walks["structure"]["values"]["clash_free"] < 0.5
    assert walks["distances"]["ramachandran"] > 2 * copies["distances"]["ramachandran"]


def test_it_says_that_designability_was_not_measured(copies):
    assert copies["designability"].startswith("not measured")


def test_everything_is_plain_finite_json(copies):
    assert json.loads(json.dumps(copies, allow_nan=False)) == copies
    assert all(math.isfinite(number) for number in all_numbers(copies))
    assert {"unit", "definition", "better"} == set(copies["definitions"]["ca_ca"])
    for name, (low, high) in copies["structure"]["intervals"].items():
        assert low <= copies["structure"]["values"][name] + 1e-9 or name.endswith("_sd"), name
        assert low <= high
    groups = copies["by_length"]
    assert sum(group["chains"] for group in groups.values()) == copies["samples"]["measured"] == 8


def test_controls_are_scored_beside_the_samples(copies):
    controls = copies["controls"]
    assert set(controls) == {"real", "noisy", "helices", "walks", "mirrored", "prior"}
    assert all(controls[name]["score"] > 2 * controls["real"]["score"] for name in ("noisy", "walks", "prior"))
    assert controls["noisy"]["told_apart"] and not set(controls["noisy"]["told_apart"]) & set(
        controls["noisy"]["missed"]
    )
    assert "handedness" in controls["mirrored"]["told_apart"]


def test_the_judge_has_its_place(tmp_path):
    script = tmp_path / "judge.py"
    script.write_text(
        "import json, sys\nn = sum(l[12:16] == ' CA ' for l in open(sys.argv[1]))\n"
        "print(json.dumps({'accept': n > 30, 'score': n}))\n"
    )
    samples = named([ideal_helix(20), ideal_helix(40)])
    found = evaluate_sets(samples, FEW, {}, judge=f"{sys.executable} {script} {{pdb}}", **QUICK)
    assert found["designability"]["accepted"] == 1 and found["designability"]["of"] == 2
    assert found["designability"]["mean_score"] == 30
    assert "memorisation" not in found


def test_samples_that_cannot_be_measured_are_named_and_the_others_measured():
    helix = ideal_helix(30)
    lost = replace(helix, atoms=np.full_like(helix.atoms, np.nan))
    found = evaluate_sets({"good": helix, "lost": lost}, FEW, TRAINING, **QUICK)
    assert found["samples"]["asked"] == 2 and found["samples"]["measured"] == 1
    assert "finite" in found["samples"]["unusable"]["lost"]
    assert found["diversity"]["samples"] is None
    none = evaluate_sets({"lost": lost}, FEW, TRAINING, **QUICK)
    assert none["samples"]["measured"] == 0 and "structure" not in none
    json.dumps(none, allow_nan=False)


def test_of_a_complex_one_chain_is_measured():
    """Two copies far apart are clash-free; the same two on one spot are not."""
    helix = ideal_helix(30)

    def pair(shift: float) -> Backbone:
        return Backbone(
            atoms=np.concatenate([helix.atoms, helix.atoms + np.float32(shift)]),
            present=np.ones((60, 4), bool),
            chain=np.repeat([0, 1], 30),
            residue_index=np.tile(np.arange(1, 31), 2),
            residue_type=np.full(60, UNKNOWN),
        )

    found = evaluate_sets({"far": pair(30), "near": pair(0.5)}, FEW, {}, **QUICK)
    assert found["complexes"] == {"count": 2, "clash_free": 0.5}
    single = evaluate_sets({"far": helix, "near": helix}, FEW, {}, **QUICK)
    assert found["structure"] == single["structure"]


def test_few_references_leave_the_controls_out_and_none_is_refused():
    few = evaluate_sets({"one": mirrored(ideal_helix(30))}, made_up_chains()[:3], {}, **QUICK)
    assert few["controls"] == {} and few["score"]["value"] > 0
    with pytest.raises(PenstockError, match="real chains"):
        evaluate_sets({"one": ideal_helix(30)}, [], {}, **QUICK)


def test_a_training_chain_too_short_to_align_is_passed_over():
    training = {"stub": piece(ideal_helix(20), 0, 2), **TRAINING}
    found = evaluate_sets({"one": made_up_chains()[0]}, FEW, training, **QUICK)
    assert found["memorisation"]["nearest"]["one"]["chain"] == "chain-0"
