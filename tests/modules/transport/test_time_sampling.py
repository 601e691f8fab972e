"""Training times against the distributions they claim."""

import math

import numpy as np
import pytest
import torch
from scipy import stats

from data.errors import ConfigError
from modules.transport.time_sampling import TimeSamplingConfig, shift_towards_noise

SEEDS = torch.arange(4000)


def noise_level_shift(t: np.ndarray, shift: float) -> np.ndarray:
    level = 1 - t
    return 1 - shift * level / (1 + (shift - 1) * level)


@pytest.mark.parametrize("shift", [1.0, 2.5])
def test_uniform_times_follow_their_distribution(shift: float):
    times = TimeSamplingConfig(distribution="uniform", shift=shift).build()(SEEDS).numpy()
    unshifted = noise_level_shift(times, 1 / shift)
    assert stats.kstest(unshifted, "uniform").pvalue > 1e-3


@pytest.mark.parametrize(("mean", "std", "shift"), [(0.0, 1.0, 1.0), (-0.8, 1.4, 1.0), (0.3, 1.0, 3.0)])
def test_logit_normal_times_follow_their_distribution(mean: float, std: float, shift: float):
    """A shift by k moves the logit of t by -log k, so the shifted times are logit-normal again."""
    times = TimeSamplingConfig(mean=mean, std=std, shift=shift).build()(SEEDS).numpy()
    logits = np.log(times / (1 - times))
    assert stats.kstest(logits, stats.norm(mean - math.log(shift), std).cdf).pvalue > 1e-3


def test_a_positive_mean_looks_nearer_to_the_data():
    times = TimeSamplingConfig(mean=1.0).build()(SEEDS)
    assert times.median().item() == pytest.approx(1 / (1 + math.exp(-1.0)), abs=0.02)


def test_shift_agrees_with_its_form_in_noise_levels_and_composes():
    t = torch.linspace(0, 1, 101, dtype=torch.float64)
    torch.testing.assert_close(
        shift_towards_noise(t, 3.0), torch.from_numpy(noise_level_shift(t.numpy(), 3.0)), rtol=1e-12, atol=1e-12
    )
    torch.testing.assert_close(shift_towards_noise(shift_towards_noise(t, 3.0), 2.0), shift_towards_noise(t, 6.0))
    assert (shift_towards_noise(t[1:-1], 3.0) < t[1:-1]).all()


def test_a_time_depends_on_its_own_seed_alone():
    sampler = TimeSamplingConfig().build()
    together = sampler(SEEDS[:16], stream=5)
    assert torch.equal(together[7:9], sampler(SEEDS[7:9], stream=5))
    assert not torch.equal(together, sampler(SEEDS[:16], stream=6))


def test_user_mistakes_are_named():
    with pytest.raises(ConfigError, match="std=0"):
        TimeSamplingConfig(std=0.0)
    # The shape checks of the tests refuse the word before the config does.
    with pytest.raises(Exception, match="lognormal"):
        TimeSamplingConfig(distribution="lognormal")  # type: ignore[arg-type]
