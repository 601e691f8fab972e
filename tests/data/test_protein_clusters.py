"""Clusters of sequences whose kinship is known because it was made."""

from pathlib import Path

import numpy as np
import pytest

from data.batch import RESIDUE_TYPES, UNKNOWN
from data.errors import ConfigError
from data.protein.clusters import ClusterConfig, chance_identity, cluster_sequences, identity
from data.protein.reading import read_chains

REAL = Path(__file__).resolve().parents[3] / "shared" / "datasets" / "protein" / "pdb"


def strangers(count: int, length: int = 120, seed: int = 0) -> list[np.ndarray]:
    return list(np.random.default_rng(seed).integers(0, UNKNOWN, (count, length)))


def relative(sequence: np.ndarray, kept: float, rng: np.random.Generator, gaps: int = 2) -> np.ndarray:
    """`kept` of the residues equal, the others surely different; a few residues left out and put in."""
    changed = (sequence + rng.integers(1, UNKNOWN, len(sequence))) % UNKNOWN
    out = list(np.where(rng.permutation(len(sequence)) < round(kept * len(sequence)), sequence, changed))
    for _ in range(gaps):
        del out[int(rng.integers(5, len(out) - 5))]
        out.insert(int(rng.integers(5, len(out) - 5)), int(rng.integers(UNKNOWN)))
    return np.array(out)


def test_strangers_stay_apart_and_families_together():
    rng = np.random.default_rng(1)
    heads = strangers(40)
    families = [[head, *(relative(head, kept, rng) for kept in (0.9, 0.6, 0.5))] for head in heads]
    sequences = [sequence for family in families for sequence in family]
    truth = np.repeat(np.arange(40), 4)
    order = rng.permutation(len(sequences))
    found = cluster_sequences([sequences[k] for k in order])
    same = found[:, None] == found[None]
    assert np.array_equal(same, truth[order][:, None] == truth[order][None])
    # A cluster is named by its first member.
    assert all(found[name] == name and name <= k for k, name in enumerate(found))


def test_share_of_relatives_that_the_prefilter_lets_pass(monkeypatch):
    """What the docstring of ClusterConfig promises, on 50 pairs each."""
    monkeypatch.setattr("data.protein.clusters.EVERY_PAIR", 0)
    rng = np.random.default_rng(2)
    heads = strangers(50, 150, seed=3)
    for kept, least in ((0.5, 50), (0.4, 47)):
        found = cluster_sequences([*heads, *(relative(head, kept, rng) for head in heads)])
        assert sum(found[k] == found[50 + k] for k in range(50)) >= least


def test_chains_of_kinship_are_not_parted():
    """B is like A, C is like B, C is hardly like A: still one cluster, or C in the test set would betray B."""
    rng = np.random.default_rng(4)
    (first,) = strangers(1, 200)
    second = relative(first, 0.5, rng, gaps=0)
    third = relative(second, 0.5, rng, gaps=0)
    assert identity(first, third)[0] < 0.32
    assert len(set(cluster_sequences([third, *strangers(5, 200, seed=9), first, second])[[0, 6, 7]])) == 1


def test_identity_of_substitutions_alone_is_their_share():
    rng = np.random.default_rng(5)
    (head,) = strangers(1, 200)
    for kept in (1.0, 0.9, 0.7):
        share, covered = identity(head, relative(head, kept, rng, gaps=0))
        assert share == pytest.approx(kept, abs=0.02) and covered > 0.95


def test_a_domain_within_a_longer_chain():
    rng = np.random.default_rng(6)
    (domain, before, after) = strangers(3, 100)
    long = np.concatenate([before, relative(domain, 0.8, rng), after])
    assert len(set(cluster_sequences([long, domain, *strangers(8, 100, seed=7)])[:2])) == 1
    # A short common stretch is not enough: coverage.
    assert (
        len(set(cluster_sequences([np.concatenate([before, domain[:30]]), np.concatenate([domain[:30], after])]))) == 2
    )


def test_sequences_that_say_nothing_are_alone():
    unknown, alanine = np.full(80, UNKNOWN), np.full(80, RESIDUE_TYPES.index("ALA"))
    half = np.where(np.arange(80) % 3 > 0, UNKNOWN, strangers(1, 80)[0])
    short = np.array([1, 2])
    sequences = [unknown, unknown, alanine, alanine, half, half, short, short]
    assert cluster_sequences(sequences).tolist() == list(range(8))
    assert cluster_sequences([]).tolist() == [] and cluster_sequences([unknown]).tolist() == [0]


def test_bad_values():
    with pytest.raises(ConfigError, match="identity"):
        ClusterConfig(identity=0)


@pytest.mark.skipif(not REAL.is_dir(), reason="the real chains are not here")
def test_real_chains_of_two_clusters_are_not_alike():
    """Every pair aligned, without the prefilter: none of two clusters is as similar as the configuration says."""
    paths = sorted(REAL.iterdir())
    sequences = [max(read_chains(path), key=len).backbone.residue_type for path in paths[60:90] + paths[-20:]]
    found = cluster_sequences(sequences)
    assert len(set(found)) < len(found)  # globins
    for k, first in enumerate(sequences):
        for j in range(k):
            share, covered = identity(first, sequences[j])
            assert found[k] == found[j] or share < 0.3 or covered < 0.5 or len(first) < 110


def test_short_sequences_are_alike_by_chance():
    # Values read off the published curve.
    assert chance_identity(1) == 1 and chance_identity(11) == pytest.approx(1, abs=0.06)
    assert chance_identity(80) == pytest.approx(0.32, abs=0.01) and chance_identity(450) == pytest.approx(
        0.195, abs=0.01
    )
    short = strangers(60, 16, seed=11)
    assert len(set(cluster_sequences(short))) == 60
    assert cluster_sequences([short[0], short[0]]).tolist() == [0, 0]
