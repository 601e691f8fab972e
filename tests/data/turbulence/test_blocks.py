"""Block means and their intervals against processes of known mean."""

import itertools

import numpy as np
import pytest

from data.errors import ConfigError
from data.turbulence.blocks import BLOCKS, BlockSums, Estimate

SERIES = 400


def autoregressive(steps: int, memory: float, seed: int) -> np.ndarray:
    """Stationary AR(1) series of mean 3 and variance 1, [step, series]."""
    noise = np.random.default_rng(seed).standard_normal((steps, SERIES))
    values = np.empty_like(noise)
    values[0] = noise[0]
    for k in range(1, steps):
        values[k] = memory * values[k - 1] + np.sqrt(1 - memory**2) * noise[k]
    return values + 3


def summed(values: np.ndarray, length: int) -> BlockSums:
    sums = BlockSums(length)
    for row in values:
        sums.add(0, {"x": row, "square": row**2})
    return sums


@pytest.mark.parametrize("memory", [0.0, 0.9])
def test_intervals_hold_the_truth_in_95_of_100_cases(memory: float) -> None:
    blocks = summed(autoregressive(2400, memory, seed=1), 8).finished()
    mean = blocks.estimate(lambda m: m["x"])
    rms = blocks.estimate(lambda m: np.sqrt(m["square"] - m["x"] ** 2))
    for found, truth in ((mean, 3.0), (rms, 1.0)):
        covered = np.mean(np.abs(found.value - truth) <= found.plus_minus)
        # 400 series: two standard errors of a share of 0.95 are 0.022.
        assert 0.92 < covered < 0.98


def test_doubling_tells_blocks_that_are_too_short() -> None:
    independent = summed(autoregressive(1024, 0.0, seed=2), 16).finished()
    slow = summed(autoregressive(1024, 0.998, seed=2), 16).finished()
    assert independent.doubling(lambda m: m["x"]) == pytest.approx(1.0, abs=0.08)
    assert slow.doubling(lambda m: m["x"]) > 1.25


def test_of_a_mean_the_jackknife_is_the_batch_means_formula() -> None:
    values = autoregressive(80, 0.5, seed=3)
    blocks = summed(values, 8).finished()
    batches = values.reshape(10, 8, SERIES).mean(axis=1)
    half_width = 2.262157 * batches.std(axis=0, ddof=1) / np.sqrt(10)  # Student's t, 9 degrees of freedom
    np.testing.assert_allclose(blocks.estimate(lambda m: m["x"]).plus_minus, half_width, rtol=1e-6)


@pytest.mark.parametrize("steps", [1, 7, 640, 1999])
def test_any_number_of_frames_gives_their_mean_in_few_blocks(steps: int) -> None:
    values = autoregressive(steps, 0.5, seed=4)
    blocks = summed(values, 2).finished()
    np.testing.assert_allclose(blocks.mean("x"), values.mean(axis=0), rtol=1e-12)
    assert blocks.counts.sum() == steps
    assert len(blocks.counts) <= BLOCKS + 1


def test_joined_blocks_are_means_of_successive_frames() -> None:
    values = autoregressive(1000, 0.5, seed=5)
    blocks = summed(values, 3).finished()
    assert blocks.length > 3
    starts = np.concatenate([[0], np.cumsum(blocks.counts)])
    for k, (a, b) in enumerate(itertools.pairwise(starts)):
        np.testing.assert_allclose(blocks.means["x"][k], values[a:b].mean(axis=0), rtol=1e-12)


def test_trajectories_may_take_turns_and_never_share_a_block() -> None:
    values = autoregressive(90, 0.5, seed=6)
    turns = BlockSums(4)
    for k in range(30):
        for trajectory in range(3):
            turns.add(trajectory, {"x": values[30 * trajectory + k]})
    one_by_one = BlockSums(4)
    for k in range(90):
        one_by_one.add(k // 30, {"x": values[k]})
    first, second = turns.finished(), one_by_one.finished()
    np.testing.assert_array_equal(first.counts, second.counts)
    np.testing.assert_array_equal(first.means["x"], second.means["x"])
    np.testing.assert_array_equal(np.unique(first.trajectories), [0, 1, 2])


def test_finished_in_between_changes_nothing() -> None:
    values = autoregressive(50, 0.5, seed=7)
    sums = summed(values[:23], 4)
    sums.finished()
    for row in values[23:]:
        sums.add(0, {"x": row, "square": row**2})
    np.testing.assert_array_equal(sums.finished().means["x"], summed(values, 4).finished().means["x"])


def test_one_block_says_nothing_about_its_error() -> None:
    found = summed(autoregressive(3, 0.0, seed=8), 8).finished().estimate(lambda m: m["x"])
    assert np.isnan(found.plus_minus).all()
    assert not Estimate.exact(np.ones(2)).plus_minus.any()


def test_refuses_no_frames_and_empty_blocks() -> None:
    with pytest.raises(ConfigError, match="at least one frame"):
        BlockSums(4).finished()
    with pytest.raises(ConfigError, match="at least 1 frame"):
        BlockSums(0)
