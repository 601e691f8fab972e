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


def chi_squared(counts: np.ndarray, expected: np.ndarray | float) -> float:
    return float(((counts - expected) ** 2 / expected).sum())


@pytest.mark.parametrize("size", [8449, 100_000])
def test_two_numbers_land_anywhere_and_independently(size: int) -> None:
    """Over 3000 seeds, in 12 bins and in 3 × 4: chi-squared of 11 degrees of freedom, 99.99 % quantile 37.4."""
    landed = np.array([Permutation(size, seed)(np.array([0, size // 2])) for seed in range(3000)])
    for place in range(2):
        assert chi_squared(np.bincount(landed[:, place] * 12 // size, minlength=12), 250) < 37.4
    thirds, quarters = (np.bincount(np.arange(size) * k // size) / size for k in (3, 4))
    pairs = np.bincount((landed[:, 0] * 3 // size) * 4 + landed[:, 1] * 4 // size, minlength=12)
    assert chi_squared(pairs, 3000 * np.outer(thirds, quarters).ravel()) < 37.4


def test_all_pairs_of_places_of_a_small_set_are_equally_likely() -> None:
    """5 · 4 pairs over 3000 seeds: chi-squared of 19 degrees of freedom, 99.99 % quantile 50.8."""
    landed = np.array([Permutation(5, seed)(np.array([0, 3])) for seed in range(3000)])
    pairs = np.bincount(landed[:, 0] * 5 + landed[:, 1], minlength=25).reshape(5, 5)
    assert (np.diag(pairs) == 0).all()
    assert chi_squared(pairs[~np.eye(5, dtype=bool)], 150) < 50.8


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
