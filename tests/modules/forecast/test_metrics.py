"""Scores against their definitions, computed the plain way, and against closed forms."""

import numpy as np
import pytest
from scipy.stats import norm

import modules.forecast.metrics as metrics
from data.errors import PenstockError
from modules.forecast.metrics import (
    interval_scores,
    point_scores,
    quantile_scores,
    seasonal_scale,
    skill,
    window_errors,
)


@pytest.fixture(autouse=True, params=[7, 10**6])
def block(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks of rows change nothing."""
    monkeypatch.setattr(metrics, "_BLOCK", request.param)


def example(rows: int = 50) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    generator = np.random.default_rng(3)
    forecast, truth = generator.normal(size=(2, rows, 4, 3)).astype(np.float32)
    truth[generator.random(truth.shape) < 0.2] = np.nan
    truth[:, :, 2] = np.nan
    return forecast, truth, generator.integers(0, 5, rows)


def test_point_scores_by_their_definitions() -> None:
    forecast, truth, items = example()
    scales = np.random.default_rng(4).uniform(0.5, 2, (5, 3))
    scales[3] = 0
    scores = point_scores(forecast, truth, items, scales)
    error = (forecast - truth).astype(np.float64)
    assert scores.mse == pytest.approx(np.nanmean(error**2))
    assert scores.rmse == pytest.approx(np.sqrt(np.nanmean(error**2)))
    assert scores.mae == pytest.approx(np.nanmean(np.abs(error)))
    assert scores.count == (~np.isnan(truth)).sum()
    np.testing.assert_allclose(scores.square.by_horizon, np.nanmean(error**2, axis=(0, 2)), rtol=1e-6)
    np.testing.assert_allclose(
        scores.absolute.by_target[:2], np.nanmean(np.abs(error[..., :2]), axis=(0, 1)), rtol=1e-6
    )
    assert np.isnan(scores.absolute.by_target[2])
    known = items != 3
    expected = np.nanmean(np.abs(error[known]) / scales[items[known]][:, None])
    assert scores.mase == pytest.approx(expected)
    assert point_scores(forecast, truth).mase is None


def test_a_seasonal_naive_forecast_of_what_continues_has_a_mase_of_one() -> None:
    values = np.cumsum(np.random.default_rng(5).normal(size=(40_000, 1)), axis=0)
    scale = seasonal_scale(values[:20_000], 7)
    test = values[20_000:]
    forecast, truth = test[:-7, None], test[7:, None]
    scores = point_scores(forecast, truth, np.zeros(len(truth), int), scale[None])
    assert scores.mase == pytest.approx(1, abs=0.05)


def test_seasonal_scale_leaves_gaps_out() -> None:
    values = np.array([[1.0], [np.nan], [4.0], [3.0], [np.nan], [9.0]])
    assert seasonal_scale(values, 2).tolist() == [4.5]
    assert np.isnan(seasonal_scale(values, 6)).all() and np.isnan(seasonal_scale(values[:0], 1)).all()


def test_a_forecast_of_nan_is_no_missing_truth() -> None:
    forecast, truth, _ = example()
    forecast[0, 0, 2] = np.nan
    point_scores(forecast, truth)
    forecast[np.unravel_index(np.argmin(np.isnan(truth)), truth.shape)] = np.nan
    with pytest.raises(PenstockError, match="not finite"):
        point_scores(forecast, truth)


def test_window_errors_average_to_the_score() -> None:
    forecast, truth, _ = example()
    truth[7] = np.nan
    mean, count = window_errors(forecast, truth)
    assert np.isnan(mean[7]) and count[7] == 0
    kept = count > 0
    assert (mean[kept] * count[kept]).sum() / count.sum() == pytest.approx(point_scores(forecast, truth).mse)


def test_crps_of_normal_quantiles_is_the_closed_form() -> None:
    levels = tuple(((np.arange(400) + 0.5) / 400).tolist())
    truth = np.array([-1.3, 0.0, 0.4, 2.2])[:, None, None]
    quantiles = np.broadcast_to(norm.ppf(levels), (4, 1, 1, 400)).copy()
    scores = quantile_scores(quantiles, levels, truth)
    z = truth[:, 0, 0]
    # Gneiting and Raftery 2007, for a standard normal distribution.
    closed = z * (2 * norm.cdf(z) - 1) + 2 * norm.pdf(z) - 1 / np.sqrt(np.pi)
    assert scores.crps == pytest.approx(closed.mean(), abs=1e-3)


def test_the_median_alone_has_the_absolute_error_as_crps() -> None:
    forecast, truth, _ = example()
    assert quantile_scores(forecast[..., None], (0.5,), truth).crps == pytest.approx(point_scores(forecast, truth).mae)


def test_true_quantiles_have_the_least_pinball_loss() -> None:
    truth = np.random.default_rng(6).normal(size=(5000, 1, 1))
    levels = (0.1, 0.5, 0.9)
    best = norm.ppf(levels)
    own = quantile_scores(np.broadcast_to(best, (5000, 1, 1, 3)).copy(), levels, truth).pinball
    for shift in (-0.3, 0.3):
        other = quantile_scores(np.broadcast_to(best + shift, (5000, 1, 1, 3)).copy(), levels, truth).pinball
        assert (own < other).all()


def test_interval_scores_by_their_definitions() -> None:
    forecast, truth, _ = example()
    low, high = forecast - 1, forecast + 0.5
    scores = interval_scores(low, high, truth, 0.8)
    value = truth[~np.isnan(truth)]
    bottom, top = low[~np.isnan(truth)], high[~np.isnan(truth)]
    assert scores.coverage == pytest.approx(np.mean((value >= bottom) & (value <= top)))
    assert scores.width == pytest.approx(1.5, abs=1e-6)
    below = np.where(value < bottom, 10 * (bottom - value), 0)
    above = np.where(value > top, 10 * (value - top), 0)
    assert scores.winkler == pytest.approx(np.mean(top - bottom + below + above), rel=1e-6)
    assert scores.covered.by_horizon.shape == (4,)
    assert scores.is_off


def test_skill() -> None:
    assert skill(0.3, 0.4) == pytest.approx(0.25)
    assert skill(0.4, 0.4) == 0
    assert np.isnan(skill(0.1, 0.0))
