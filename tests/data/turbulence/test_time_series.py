"""When a series settles and when it leaves a band."""

import numpy as np
import pytest

from data.errors import ConfigError
from data.turbulence.time_series import leaves, settled

TIMES = 0.1 * np.arange(1000)


def test_settled_leaves_out_the_start_up() -> None:
    noise = 0.05 * np.random.default_rng(0).standard_normal(1000)
    # Below the noise of a batch (0.02) after 3.9 time constants of 5.
    assert 10 < settled(TIMES, 1 + np.exp(-TIMES / 5) + noise) < 35
    assert settled(TIMES, 1 + noise) < 10


def test_settled_needs_enough_values() -> None:
    with pytest.raises(ConfigError, match="at least 20 values"):
        settled(TIMES[:19], TIMES[:19])


def test_leaves_wants_several_values_in_a_row() -> None:
    values = np.zeros(1000)
    assert leaves(TIMES, values, -1, 1) is None
    values[100:104] = 2
    assert leaves(TIMES, values, -1, 1) is None
    values[300:] = -3
    assert leaves(TIMES, values, -1, 1) == pytest.approx(30.0)
    assert leaves(TIMES, values, -1, 1, patience=4) == pytest.approx(10.0)


def test_what_ends_outside_or_is_not_finite_has_left() -> None:
    values = np.zeros(1000)
    values[-2:] = np.inf, np.nan
    assert leaves(TIMES, values, -1, 1) == pytest.approx(99.8)
