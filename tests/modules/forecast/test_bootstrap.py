"""Comparisons of models: honest intervals, a known difference found, and silence inside the noise."""

import numpy as np
import pytest

from data.errors import ConfigError, PenstockError
from modules.forecast.bootstrap import compare

HORIZON = 12


def noise(generator: np.random.Generator, series: int, length: int, shared: float = 0.0) -> np.ndarray:
    """Errors of overlapping windows [series, origin]: running means over the horizon of an AR(1), plus a part that all
    series share."""
    steps = length + HORIZON - 1
    walk = np.zeros((series + 1, steps))
    draws = generator.normal(size=walk.shape)
    for i in range(1, steps):
        walk[:, i] = 0.6 * walk[:, i - 1] + draws[:, i]
    mixed = walk[1:] + shared * walk[:1]
    sums = np.cumsum(np.pad(mixed, ((0, 0), (1, 0))), axis=1)
    return (sums[:, HORIZON:] - sums[:, :-HORIZON]) / HORIZON


def rows(series: int, length: int, first: int = 100, stride: int = 1) -> tuple[np.ndarray, np.ndarray]:
    return np.repeat(np.arange(series), length), np.tile(first + stride * np.arange(length), series)


@pytest.mark.parametrize(("series", "shared"), [(1, 0.0), (3, 1.0), (40, 0.0), (40, 1.0)])
def test_the_interval_holds_the_true_difference_as_often_as_it_says(series: int, shared: float) -> None:
    generator = np.random.default_rng(series)
    items, origins = rows(series, 600)
    base = np.zeros(len(items))
    hits = []
    for trial in range(200):
        errors = 1.0 + noise(generator, series, 600, shared).reshape(-1)
        found = compare(errors, base, items, origins, 2 * HORIZON, resamples=100, seed=trial)
        hits.append(found.low <= 1.0 <= found.high)
    # 0.95 with a standard error of 0.015; on the safe side where series and moments are both drawn.
    assert np.mean(hits) >= 0.9
    assert np.mean(hits) <= 0.995 or series >= 30


def test_windows_taken_for_independent_would_be_too_sure() -> None:
    """What the blocks are for: blocks of one window miss the truth far too often."""
    generator = np.random.default_rng(0)
    items, origins = rows(1, 600)
    base = np.zeros(len(items))
    hits = []
    for trial in range(100):
        errors = noise(generator, 1, 600).reshape(-1)
        found = compare(errors, base, items, origins, 1, resamples=100, seed=trial)
        hits.append(found.low <= 0 <= found.high)
    assert np.mean(hits) < 0.6


def test_a_known_difference_is_found_and_its_sign_is_right() -> None:
    generator = np.random.default_rng(1)
    items, origins = rows(2, 1000)
    shared = noise(generator, 2, 1000).reshape(-1)
    own = 0.1 * noise(generator, 2, 1000).reshape(-1)
    a, b = 5 + shared, 5.2 + shared + own
    found = compare(a, b, items, origins, HORIZON)
    assert found.verdict == "better" and found.low < found.difference < found.high < 0
    assert found.difference == pytest.approx((a - b).mean())
    assert compare(b, a, items, origins, HORIZON).verdict == "worse"


def test_identical_models_cannot_be_told_apart() -> None:
    items, origins = rows(3, 200)
    errors = np.random.default_rng(2).random(600)
    found = compare(errors, errors.copy(), items, origins, HORIZON)
    assert (found.difference, found.low, found.high, found.verdict) == (0, 0, 0, "not distinguishable")


def test_the_seed_decides_everything() -> None:
    generator = np.random.default_rng(3)
    items, origins = rows(40, 50)
    a, b = generator.random((2, 2000))
    first, second, other = (compare(a, b, items, origins, HORIZON, seed=seed) for seed in (5, 5, 6))
    assert first == second
    assert first.difference == other.difference and first.low != other.low


def test_few_blocks_decide_nothing() -> None:
    items, origins = rows(1, 40)
    found = compare(np.zeros(40), np.ones(40), items, origins, 20)
    assert found.blocks == 2 and found.verdict == "not distinguishable"
    assert compare(np.zeros(40), np.ones(40), items, origins, 4).verdict == "better"


def test_many_series_decide_even_with_a_few_origins() -> None:
    generator = np.random.default_rng(4)
    items, origins = rows(400, 2, stride=HORIZON)
    a = generator.normal(size=800)
    assert compare(a, a + 0.5 + 0.1 * generator.normal(size=800), items, origins, HORIZON).verdict == "better"
    assert compare(a, generator.permutation(a), items, origins, HORIZON).verdict == "not distinguishable"


def test_windows_count_by_what_was_measured_in_them() -> None:
    items, origins = rows(1, 100)
    errors = np.where(np.arange(100) < 50, 1.0, 3.0)
    weights = np.where(np.arange(100) < 50, 3, 1)
    zero = np.zeros(100)
    assert compare(errors, zero, items, origins, 5, weights=weights).difference == pytest.approx(1.5)
    gaps = np.where(np.arange(100) % 10 == 0, np.nan, errors)
    assert compare(gaps, zero + 0 * gaps, items, origins, 5).difference == pytest.approx(np.nanmean(gaps))


def test_what_cannot_be_compared_is_refused() -> None:
    items, origins = rows(1, 10)
    zero = np.zeros(10)
    with pytest.raises(PenstockError, match="same windows"):
        compare(zero, np.append(zero[:9], np.nan), items, origins, 2)
    with pytest.raises(PenstockError, match="nothing to compare"):
        compare(zero * np.nan, zero * np.nan, items, origins, 2)
    with pytest.raises(ConfigError, match="block"):
        compare(zero, zero, items, origins, 0)
