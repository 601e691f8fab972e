"""Weights on validation: never worse than the best member, and a known mixture found again."""

import numpy as np
import pytest

from data.errors import ConfigError, PenstockError
from modules.forecast.ensemble import Ensemble, combine


def members(count: int, seed: int = 0, shape: tuple[int, ...] = (60, 6, 2)) -> dict[str, np.ndarray]:
    generator = np.random.default_rng(seed)
    return {f"m{i}": generator.normal(size=shape).astype(np.float32) for i in range(count)}


def error(forecast: np.ndarray, truth: np.ndarray) -> float:
    return float(np.nanmean((forecast.astype(np.float64) - truth) ** 2))


def test_a_known_mixture_is_found_again() -> None:
    forecasts = members(4)
    weights = np.array([0.5, 0.0, 0.3, 0.2])
    truth = sum(w * f for w, f in zip(weights, forecasts.values(), strict=True)).astype(np.float32)
    truth[np.random.default_rng(1).random(truth.shape) < 0.3] = np.nan
    found = combine(forecasts, truth)
    np.testing.assert_allclose(found.weights, weights[None], atol=1e-6)
    assert error(found.apply(forecasts), truth) < 1e-12


def test_mixtures_that_change_over_the_horizon_are_found_in_blocks() -> None:
    forecasts = members(2)
    a, b = forecasts.values()
    truth = np.concatenate([0.9 * a[:, :3] + 0.1 * b[:, :3], 0.2 * a[:, 3:] + 0.8 * b[:, 3:]], axis=1)
    found = combine(forecasts, truth, blocks=2)
    np.testing.assert_allclose(found.weights, [[0.9, 0.1], [0.2, 0.8]], atol=1e-6)
    assert error(found.apply(forecasts), truth) < 1e-12


@pytest.mark.parametrize("seed", range(20))
def test_it_is_never_worse_on_validation_than_its_best_member(seed: int) -> None:
    generator = np.random.default_rng(seed)
    truth = generator.normal(size=(30, 4, 2)).astype(np.float32) * 10 ** generator.uniform(-4, 4)
    spread = np.abs(truth).mean()
    forecasts = {
        f"m{i}": (truth * generator.uniform(0, 1.5) + spread * generator.normal(scale=s, size=truth.shape)).astype("f4")
        for i, s in enumerate(generator.uniform(0.01, 2, 5))
    }
    forecasts["copy"] = forecasts["m0"]
    found = combine(forecasts, truth)
    assert (found.weights >= 0).all()
    np.testing.assert_allclose(found.weights.sum(axis=1), 1)
    best = min(error(forecast, truth) for forecast in forecasts.values())
    assert error(found.apply(forecasts), truth) <= best * (1 + 1e-5)


def test_the_weights_are_the_minimum_over_the_simplex() -> None:
    """Against a fine grid of all weights."""
    forecasts = members(3, seed=2)
    truth = members(1, seed=3)["m0"] + 0.5 * forecasts["m1"]
    found = combine(forecasts, truth)
    least = min(
        error(sum(w * f for w, f in zip((a, b, 1 - a - b), forecasts.values(), strict=True)), truth)
        for a in np.linspace(0, 1, 41)
        for b in np.linspace(0, 1 - a, 41)
    )
    assert error(found.apply(forecasts), truth) <= least + 1e-9


def test_a_member_that_is_right_takes_all() -> None:
    forecasts = members(3)
    assert combine(forecasts, forecasts["m1"]).weights.tolist() == [[0, 1, 0]]


def test_quantiles_are_mixed_level_by_level() -> None:
    ensemble = Ensemble(("a", "b"), np.array([[0.25, 0.75]]), 3)
    a, b = np.random.default_rng(4).normal(size=(2, 5, 3, 2, 7))
    np.testing.assert_allclose(ensemble.apply({"a": a, "b": b, "other": b}), 0.25 * a + 0.75 * b)


def test_what_cannot_be_combined_is_refused() -> None:
    forecasts = members(2)
    truth = forecasts["m0"] + 1
    with pytest.raises(PenstockError, match="no forecasts of m1"):
        combine(forecasts, truth).apply({"m0": truth})
    with pytest.raises(PenstockError, match="shape"):
        combine({**forecasts, "short": truth[:, :2]}, truth)
    with pytest.raises(PenstockError, match="not"):
        combine({**forecasts, "broken": truth * np.nan}, truth)
    with pytest.raises(PenstockError, match="measured"):
        combine(forecasts, truth * np.nan)
    with pytest.raises(PenstockError, match="at least one"):
        combine({}, truth)
    with pytest.raises(ConfigError, match="blocks"):
        combine(forecasts, truth, blocks=7)
