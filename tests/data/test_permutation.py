"""The shuffle that is never written down: every number once, and no order to be seen in it."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data.forecast.permutation import Permutation, mixed


@given(st.integers(1, 3000), st.integers(0, 2**63 - 1))
def test_every_number_comes_once(size: int, seed: int) -> None:
    assert sorted(Permutation(size, seed)(np.arange(size)).tolist()) == list(range(size))


@given(st.integers(1, 2**50), st.integers(0, 99))
def test_places_of_a_huge_set_are_answered_one_by_one(size: int, seed: int) -> None:
    places = np.unique(np.random.default_rng(0).integers(0, size, 500))
    shuffle = Permutation(size, seed)
    found = shuffle(places)
    assert len(np.unique(found)) == len(places)
    assert found.min() >= 0
    assert found.max() < size
    assert shuffle(places[:1])[0] == found[0]


@pytest.mark.parametrize("size", [8449, 100_000, 12])
def test_looks_like_a_uniform_shuffle(size: int) -> None:
    """Where a number lands, over many seeds, and how far neighbours land from one another, once: as of chance.

    Counts in 12 bins of 6000 draws: chi-squared of 11 degrees of freedom, 99.99 % quantile 37.4.
    """
    landed = np.array([Permutation(size, seed)(np.array([0, size // 2])) for seed in range(6000)])
    for place in range(2):
        counts = np.bincount(landed[:, place] * 12 // size, minlength=12)
        assert ((counts - 500) ** 2 / 500).sum() < 37.4
    pairs = np.bincount((landed[:, 0] * 3 // size) * 4 + landed[:, 1] * 4 // size, minlength=12)
    expected = np.zeros(12)
    thirds, quarters = (np.bincount(np.arange(size) * k // size) / size for k in (3, 4))
    expected = 6000 * np.outer(thirds, quarters).ravel()
    limit = 37.4 if size > 1000 else 200.0  # two of twelve cannot meet: their bins are not independent
    assert ((pairs - expected) ** 2 / expected).sum() < limit


def test_neighbours_are_not_neighbours_any_more() -> None:
    found = Permutation(50_000, 3)(np.arange(50_000)).astype(float)
    for lag in (1, 2, 7, 223, 224):
        correlation = np.corrcoef(found[:-lag], found[lag:])[0, 1]
        assert abs(correlation) < 5 / np.sqrt(50_000)


def test_other_seeds_give_other_orders() -> None:
    orders = {tuple(Permutation(30, seed)(np.arange(30)).tolist()) for seed in range(200)}
    assert len(orders) == 200


def test_mixing_spreads_every_bit() -> None:
    """A flipped input bit flips each output bit half of the time (binomial, 64 × 64 bits)."""
    numbers = np.random.default_rng(0).integers(0, 2**63, 4000).astype(np.uint64)
    for bit in (0, 17, 62):
        changed = mixed(numbers) ^ mixed(numbers ^ np.uint64(1 << bit))
        share = np.unpackbits(changed.view(np.uint8).reshape(-1, 8), axis=1).mean(axis=0)
        assert abs(share - 0.5).max() < 5 * 0.5 / np.sqrt(4000)
    assert mixed(1, 2) != mixed(2, 1)
