"""Anomalies: injected ones are found, and clean data is flagged as often as alpha says."""

import numpy as np
import pytest

from data.errors import ConfigError
from modules.forecast.anomalies import find_anomalies, nearest_verdicts
from modules.forecast.backtest import Backtest
from modules.forecast.conformal import TrailingConformal
from modules.forecast.metrics import interval_scores


def made(first: int, values: np.ndarray, horizon: int) -> Backtest:
    """Forecasts of zero of a series [step, target] at every origin, and their truth."""
    truth = np.lib.stride_tricks.sliding_window_view(values, horizon, axis=0).transpose(0, 2, 1).copy()
    origins = first + np.arange(len(truth))
    return Backtest(np.zeros(len(truth), int), origins, np.zeros_like(truth), truth)


def clean(seed: int, steps: int = 3000) -> np.ndarray:
    return np.random.default_rng(seed).standard_t(5, size=(steps, 2)) * np.array([1.0, 1e4])


@pytest.mark.parametrize("alpha", [0.01, 0.1])
@pytest.mark.parametrize("locality", [0.0, 0.5])
def test_clean_data_is_flagged_at_the_rate_alpha(alpha: float, locality: float) -> None:
    values = clean(0, 8000)
    history, backtest = made(0, values[:1500], 3), made(1500, values[1500:], 3)
    found = find_anomalies(history, backtest, alpha, TrailingConformal(locality=locality))
    np.testing.assert_allclose(found.flagged.mean(axis=(0, 1)), alpha, rtol=0.25)
    if locality == 0:
        assert np.median(np.abs(found.scores)) == pytest.approx(1 / 1.4826, abs=0.03)


def test_injected_spikes_are_found() -> None:
    values = clean(1)
    at = np.arange(1600, 3000, 70)
    values[at] += np.array([15.0, -15e4])
    history, backtest = made(0, values[:1500], 3), made(1500, values[1500:], 3)
    findings = nearest_verdicts(backtest, find_anomalies(history, backtest, 0.02))
    hit = np.isin(findings.steps, at)
    assert findings.flagged[hit].mean() > 0.95
    assert findings.flagged[~hit].mean() < 0.02
    assert (np.sign(findings.scores[hit & (findings.targets == 0)]) == 1).all()
    assert (np.sign(findings.scores[hit & (findings.targets == 1)]) == -1).all()


def test_controlled_false_discoveries_find_spikes_and_leave_clean_data_alone() -> None:
    values = clean(2)
    method = TrailingConformal(window=1000, locality=0.0)

    def flagged(values: np.ndarray) -> np.ndarray:
        history, backtest = made(0, values[:1500], 1), made(1500, values[1500:], 1)
        return find_anomalies(history, backtest, 0.1, method, control=True).flagged[:, 0]

    assert flagged(values).mean() < 0.005
    at = np.arange(0, 1500, 50)
    values[1500 + at] += np.array([40.0, 40e4])
    found = flagged(values)
    assert found[at].mean() > 0.9
    assert found[at].sum() / found.sum() > 0.8


def test_a_flag_is_a_value_outside_the_interval() -> None:
    values = clean(3)
    history, backtest = made(0, values[:1500], 4), made(1500, values[1500:], 4)
    method = TrailingConformal(window=200)
    low, high = method.intervals(history, backtest, (0.05, 0.95)).band(0.9)
    outside = (backtest.truth < low) | (backtest.truth > high)
    flagged = find_anomalies(history, backtest, 0.1, method).flagged
    assert (flagged == outside).mean() > 0.999
    assert 1 - flagged.mean() == pytest.approx(interval_scores(low, high, backtest.truth, 0.9).coverage, abs=1e-3)


def test_p_values_are_ranks_among_the_errors_known() -> None:
    backtest = made(0, np.array([[1.0], [-2.0], [3.0], [np.nan], [2.0], [0.5], [-9.0]]), 1)
    found = find_anomalies(None, backtest, 0.2, TrailingConformal(window=3, least=1, pool=3, locality=0.0))
    np.testing.assert_allclose(found.p_values[:, 0, 0], [1, 1 / 2, 1 / 3, np.nan, 3 / 4, 1, 1 / 4])
    assert not found.flagged.any()
    assert np.isnan(found.scores[0]).all() and np.isnan(found.scores[3]).all()
    assert found.scores[1, 0, 0] == pytest.approx(-2 / 1.4826)


def test_each_value_is_judged_once_by_its_newest_forecast() -> None:
    values = clean(4, 60)
    values[30, 0] = np.nan
    backtest = made(7, values, 5)
    anomalies = find_anomalies(None, backtest, 0.1, TrailingConformal(least=5))
    findings = nearest_verdicts(backtest, anomalies)
    assert len(findings.steps) == 2 * 60 - 1
    assert len(set(zip(findings.steps.tolist(), findings.targets.tolist(), strict=True))) == 119
    middle = (findings.steps == 27) & (findings.targets == 1)
    assert findings.p_values[middle] == anomalies.p_values[20, 0, 1]
    last = (findings.steps == 66) & (findings.targets == 0)
    assert findings.p_values[last] == anomalies.p_values[55, 4, 0]


def test_alpha_is_a_probability() -> None:
    backtest = made(0, clean(5, 20), 1)
    with pytest.raises(ConfigError, match="alpha"):
        find_anomalies(None, backtest, 1.0)
