"""TM-scores: a copy, a piece, a fold family and chance; the gapless bound against a plain search."""

import sys

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from data.errors import PenstockError
from modules.protein.controls import ideal_helix, mirrored, noisy, random_walk
from modules.protein.similarity import diversity, gapless_score, nearest_training, tm_scale, tm_scores
from tests.modules.protein.chains import made_up_chains, moved, piece, real_chains


def walks(count: int, length: int = 50) -> list:
    rng = np.random.default_rng(0)
    return [random_walk(length, rng) for _ in range(count)]


def test_a_copy_scores_one_wherever_it_lies():
    chain = made_up_chains()[0]
    assert tm_scores(chain, moved(chain)) == pytest.approx((1, 1), abs=1e-6)
    assert gapless_score(chain.atoms[:, 1], moved(chain).atoms[:, 1]) == pytest.approx(1, abs=1e-6)


def test_each_normalisation_counts_its_own_chain():
    """A piece is all of itself and half of the whole."""
    whole = made_up_chains()[1]
    half = piece(whole, 0, len(whole) // 2)
    of_piece, of_whole = tm_scores(half, whole)
    assert of_piece == pytest.approx(1, abs=1e-6)
    assert of_whole == pytest.approx(len(half) / len(whole), abs=0.02)


@pytest.mark.parametrize("query_is_longer", [False, True])
def test_gapless_score_against_scipy_at_every_offset(query_is_longer):
    short, long = (chain.atoms[:, 1].astype(np.float64) for chain in (walks(1, 30)[0], made_up_chains()[2]))
    query, other = (long, short) if query_is_longer else (short, long)
    best = 0.0
    for start in range(len(long) - len(short) + 1):
        window = long[start : start + len(short)]
        first, second = short - short.mean(axis=0), window - window.mean(axis=0)
        turn, _ = Rotation.align_vectors(second, first)
        gaps = np.linalg.norm(turn.apply(first) - second, axis=1)
        best = max(best, float((1 / (1 + (gaps / tm_scale(len(query))) ** 2)).sum() / len(query)))
    assert gapless_score(query, other) == pytest.approx(best, rel=1e-6)


def test_gapless_score_is_a_lower_bound_and_sees_the_hand():
    chains = made_up_chains()[:6]
    for one in chains[:3]:
        for other in chains[3:]:
            assert gapless_score(one.atoms[:, 1], other.atoms[:, 1]) <= tm_scores(one, other)[0] + 0.02
        assert gapless_score(one.atoms[:, 1], mirrored(one).atoms[:, 1]) < 0.9


def test_the_training_chain_a_sample_was_copied_from_is_found():
    training = [*walks(20), *made_up_chains()]
    rng = np.random.default_rng(1)
    source = 30
    # A piece of 35 of its residues, turned, shifted and shaken.
    copy = noisy(moved(piece(training[source], 3, 38)), rng, 0.5)
    fresh = random_walk(40, rng)
    copied, new = nearest_training([copy, fresh], training, aligned=5)
    assert copied.training == source and copied.score > 0.8 and copied.aligned == 5
    assert new.score < 0.55
    with pytest.raises(PenstockError, match="no"):
        nearest_training([copy], [])


def test_diversity_of_one_fold_and_of_none():
    helices = diversity([ideal_helix(50) for _ in range(4)])
    assert helices.mean == pytest.approx(1, abs=1e-6) and helices.alike == 1 and helices.pairs == 6
    assert diversity(walks(5)).mean < 0.4
    # The pairs are capped, and the same for the same seed.
    some = diversity(walks(12), most_pairs=10, seed=3)
    assert some.pairs == 10 and some == diversity(walks(12), most_pairs=10, seed=3)
    assert diversity(walks(1)) is None


def test_real_chains_are_about_as_alike_as_they_are_said_to_be():
    """Stored: mean 0.285 and 1.6 % above 0.5 over pairs of 50 of these chains; 0.23 for random walks against them."""
    chains = real_chains()
    found = diversity([chain for chain in chains if len(chain) < 130], most_pairs=60)
    assert 0.24 < found.mean < 0.34 and found.alike < 0.1
    walk = random_walk(100, np.random.default_rng(0))
    assert np.mean([tm_scores(walk, chain)[0] for chain in chains[::20]]) == pytest.approx(0.23, abs=0.05)


def test_without_tmtools_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "tmtools", None)
    with pytest.raises(PenstockError, match=r"penstock\[protein\]"):
        tm_scores(ideal_helix(10), ideal_helix(10))


def test_progress_is_told():
    told: list[tuple[int, int]] = []
    diversity(walks(3), report=lambda done, total: told.append((done, total)))
    assert told == [(0, 3), (1, 3), (2, 3), (3, 3)]
