"""Intervals that cover: ranks against sorting, coverage where theory knows it, and nothing taken from the future."""

import numpy as np
import pytest

import modules.forecast.conformal as conformal
import modules.forecast.trailing as trailing
from data.errors import ConfigError, PenstockError
from modules.forecast.backtest import Backtest
from modules.forecast.conformal import SOURCES, TrailingConformal, split_conformal
from modules.forecast.metrics import interval_scores
from modules.forecast.trailing import compressed, lower_rank, trailing_quantile, upper_rank

LEVELS = (0.05, 0.1, 0.5, 0.9, 0.95)


def made(
    origins: np.ndarray, residuals: np.ndarray, items: np.ndarray | None = None, clock: np.ndarray | None = None
) -> Backtest:
    """A backtest with these residuals around forecasts that are not zero."""
    forecast = np.random.default_rng(len(origins)).normal(size=residuals.shape)
    items = np.zeros(len(origins), int) if items is None else items
    return Backtest(items, origins, forecast, forecast + residuals, clock)


def plainly(history: Backtest, backtest: Backtest, row: int, step: int, target: int, window: int) -> np.ndarray:
    """The errors that count for one forecast, collected one by one."""
    found = []
    for part in (history, backtest):
        for i in range(len(part)):
            known = part.items[i] == backtest.items[row] and part.origins[i] + step < backtest.origins[row]
            if known and not np.isnan(part.residuals[i, step, target]):
                found.append((part.origins[i], part.residuals[i, step, target]))
    return np.array([error for _, error in sorted(found)])[-window:]


@pytest.mark.parametrize("level", [0.02, 0.1, 0.5, 0.8, 0.975])
@pytest.mark.parametrize("window", [1, 2, 7, 16, 64])
@pytest.mark.parametrize("block", [30, 4_000_000])
def test_trailing_quantiles_are_those_of_sorting(
    level: float, window: int, block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trailing, "_BLOCK", block)
    generator = np.random.default_rng(0)
    values = generator.normal(size=(6, 40)).round(1)
    stops = np.sort(generator.integers(0, 41, size=(6, 25)), axis=1)
    found = trailing_quantile(values, stops, level, window)
    for column, stop in np.ndindex(6, 25):
        last = np.sort(values[column, : stops[column, stop]][-window:])
        ends = np.concatenate([[-np.inf], last, [np.inf]])
        low, high = ends[lower_rank(len(last), level)], ends[upper_rank(len(last), level)]
        middle = (low + high) / 2 if len(last) else 0.0
        expected = {-1: low, 0: middle, 1: high}[int(np.sign(level - 0.5))]
        assert found[column, stop] == expected


def test_ranks_are_those_of_split_conformal_prediction() -> None:
    assert [upper_rank(n, 0.9) for n in (8, 9, 10, 19, 99)] == [9, 9, 10, 18, 90]
    assert [lower_rank(n, 0.1) for n in (8, 9, 10, 19, 99)] == [0, 1, 1, 2, 10]


def test_measured_values_move_to_the_front() -> None:
    values, seen = compressed(np.array([[np.nan, 1, 2, np.nan, 3], [4, 5, 6, 7, np.nan]]))
    assert values.tolist() == [[1, 2, 3, np.inf, np.inf], [4, 5, 6, 7, np.inf]]
    assert seen.tolist() == [[0, 0, 1, 2, 2, 3], [0, 1, 2, 3, 4, 4]]


@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("stride", [1, 5])
def test_intervals_rest_on_the_errors_known_at_the_origin_alone(symmetric: bool, stride: int) -> None:
    generator = np.random.default_rng(1)
    history, backtest = (
        made(
            origins,
            np.where(generator.random((len(origins), 4, 2)) < 0.2, np.nan, generator.normal(size=(len(origins), 4, 2))),
        )
        for origins in (np.arange(10, 40, stride), np.arange(60, 120, stride))
    )
    method = TrailingConformal(window=13, least=2, pool=13, symmetric=symmetric, locality=0.0)
    found = method.intervals(history, backtest, (0.1, 0.5, 0.85))
    for row, step, target in np.ndindex(*backtest.forecast.shape):
        errors = plainly(history, backtest, row, step, target, 13)
        n, middle = len(errors), backtest.forecast[row, step, target]
        if symmetric:
            ends = np.append(np.sort(np.abs(errors)), np.inf)
            expected = [-ends[upper_rank(n, 0.8) - 1], 0.0, ends[upper_rank(n, 0.7) - 1]]
        else:
            ends = np.concatenate([[-np.inf], np.sort(errors), [np.inf]])
            expected = [ends[lower_rank(n, 0.1)], np.median(errors) if n else 0.0, ends[upper_rank(n, 0.85)]]
        if n and np.isfinite(expected).all() and n >= 2:
            np.testing.assert_allclose(found.quantiles[row, step, target] - middle, expected, atol=1e-12)


@pytest.mark.parametrize("locality", [0.0, 0.5])
def test_a_truth_changes_no_interval_before_it_is_known(locality: float) -> None:
    """Overwriting every truth from step 90 on leaves the quantiles of origins up to 90 as they are, bit by bit."""
    generator = np.random.default_rng(2)
    history = made(np.arange(0, 40), generator.normal(size=(40, 6, 2)))
    backtest = made(np.arange(50, 120), generator.normal(size=(70, 6, 2)))
    method = TrailingConformal(window=20, least=5, pool=20, locality=locality)
    late = (backtest.origins[:, None] + np.arange(6) >= 90)[..., None]
    spoiled = Backtest(backtest.items, backtest.origins, backtest.forecast, np.where(late, np.inf, backtest.truth))
    clean, other = (method.intervals(history, part, LEVELS).quantiles for part in (backtest, spoiled))
    early = backtest.origins <= 90
    assert clean[early].tobytes() == other[early].tobytes()
    assert (clean[backtest.origins == 91] != other[backtest.origins == 91]).any()


@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("window", [50, 300])
def test_independent_errors_are_covered_as_promised(symmetric: bool, window: int) -> None:
    """Skewed and heavy-tailed errors: exchangeable ones are covered with at least the nominal probability, and at most
    2 / (n + 1) more for two sides (Lei et al. 2018)."""
    generator = np.random.default_rng(3)
    errors = generator.standard_t(3, size=(6000, 3, 2)) + generator.exponential(2, size=(6000, 3, 2))
    history, backtest = made(np.arange(500), errors[:500]), made(np.arange(600, 6100), errors[500:])
    found = TrailingConformal(window=window, symmetric=symmetric, locality=0.0).intervals(history, backtest, LEVELS)
    for nominal in (0.8, 0.9):
        coverage = interval_scores(*found.band(nominal), backtest.truth, nominal).coverage
        assert nominal - 0.01 < coverage < nominal + 2 / (window + 1) + 0.01
    assert (np.diff(found.quantiles, axis=-1) >= 0).all()


def test_a_change_of_the_noise_is_followed_where_split_conformal_is_not() -> None:
    generator = np.random.default_rng(4)
    spread = np.where(np.arange(4000) < 1500, 1.0, 3.0)[:, None, None]
    errors = spread * generator.normal(size=(4000, 2, 1))
    history, backtest = made(np.arange(1000), errors[:1000]), made(np.arange(1010, 4010), errors[1000:])
    late = slice(1500, None)

    def coverage(intervals: conformal.Intervals) -> float:
        low, high = intervals.band(0.9)
        return interval_scores(low[late], high[late], backtest.truth[late], 0.9).coverage

    assert coverage(split_conformal(history, backtest, LEVELS)) < 0.5
    assert coverage(TrailingConformal(window=500).intervals(history, backtest, LEVELS)) == pytest.approx(0.9, abs=0.02)


def test_the_recent_level_gives_narrower_intervals_in_restless_times() -> None:
    """Volatility that lasts: equal coverage for a lower interval score."""
    generator = np.random.default_rng(5)
    walk = np.zeros(5000)
    for i in range(1, 5000):
        walk[i] = 0.99 * walk[i - 1] + 0.15 * generator.normal()
    errors = (np.exp(walk) * generator.normal(size=5000))[:, None, None]
    history, backtest = made(np.arange(1000), errors[:1000]), made(np.arange(1000, 5000), errors[1000:])
    plain, local = (
        interval_scores(
            *TrailingConformal(locality=locality).intervals(history, backtest, LEVELS).band(0.9), backtest.truth, 0.9
        )
        for locality in (0.0, 0.5)
    )
    assert local.winkler < 0.9 * plain.winkler
    assert local.coverage == pytest.approx(0.9, abs=0.02)


def test_intervals_scale_with_the_series() -> None:
    generator = np.random.default_rng(6)
    history, backtest = (made(np.arange(a, b), generator.normal(size=(b - a, 3, 1))) for a, b in ((0, 80), (90, 150)))
    big = [Backtest(part.items, part.origins, 1e3 * part.forecast, 1e3 * part.truth) for part in (history, backtest)]
    for method in (TrailingConformal(), TrailingConformal(symmetric=False)):
        own, scaled = (method.intervals(*parts, LEVELS).quantiles for parts in ((history, backtest), big))
        np.testing.assert_allclose(scaled, 1e3 * own, rtol=1e-9)


def test_short_series_take_the_scaled_errors_of_all() -> None:
    generator = np.random.default_rng(7)
    items, origins = np.repeat(np.arange(200), 6), np.tile(np.arange(50, 56), 200)
    size = 10 ** generator.uniform(-2, 2, 200)
    errors = size[items][:, None, None] * generator.normal(size=(1200, 2, 1))
    history = made(origins, errors, items)
    later = made(origins + 10, size[items][:, None, None] * generator.normal(size=(1200, 2, 1)), items)
    found = TrailingConformal().intervals(history, later, LEVELS, scales=size[:, None])
    assert found.shares == {"own": 0.0, "pooled": 1.0, "largest": 0.0, "none": 0.0}
    scores = interval_scores(*found.band(0.9), later.truth, 0.9)
    assert scores.coverage == pytest.approx(0.9, abs=0.025)
    # Without given scales they come from six errors each: wider for it, but as valid.
    own = TrailingConformal().intervals(history, later, LEVELS)
    assert interval_scores(*own.band(0.9), later.truth, 0.9).coverage == pytest.approx(0.9, abs=0.04)


def test_pooled_errors_of_later_moments_are_not_used() -> None:
    """Series that start at different times: what counts is the clock, not the row number."""
    generator = np.random.default_rng(8)
    items, origins = np.repeat([0, 1], 30), np.tile(np.arange(30), 2)
    clock = np.where(items == 0, origins, origins + 1000)
    errors = generator.normal(size=(60, 2, 1))
    method = TrailingConformal(least=20, window=25)
    clean = method.intervals(None, made(origins, errors, items, clock), LEVELS, np.ones((2, 1)))
    errors[items == 1] *= 100
    other = method.intervals(None, made(origins, errors, items, clock), LEVELS, np.ones((2, 1)))
    assert clean.quantiles[items == 0].tobytes() == other.quantiles[items == 0].tobytes()
    first = np.flatnonzero(items == 1)[0]
    assert SOURCES[clean.source[first, 0, 0]] == "pooled"


def test_too_few_errors_give_the_largest_known_or_an_infinite_interval_and_say_so() -> None:
    errors = np.array([1.0, -4.0, 2.0, 0.5])[:, None, None]
    found = TrailingConformal(locality=0.0).intervals(None, made(np.arange(4), errors), LEVELS)
    width = np.diff(found.band(0.9), axis=0)[0][:, 0, 0]
    np.testing.assert_allclose(width, [np.inf, 2, 8, 8])
    assert found.shares == {"own": 0.0, "pooled": 0.0, "largest": 0.75, "none": 0.25}
    np.testing.assert_allclose(found.quantiles[:, 0, 0, 2], made(np.arange(4), errors).forecast[:, 0, 0])


def test_a_series_that_stood_still_gets_intervals_again() -> None:
    """Perfect forecasts of a constant series: no division by zero, width zero, and wide ones once it moves."""
    errors = np.zeros((300, 2, 1))
    errors[200:] = np.random.default_rng(9).normal(size=(100, 2, 1))
    found = TrailingConformal(window=100, least=10, pool=100).intervals(None, made(np.arange(300), errors), LEVELS)
    low, high = found.band(0.9)
    assert (high - low)[150].max() < 1e-12
    assert (high - low)[290].min() > 1


def test_a_real_future_is_forecast_from_the_same_errors() -> None:
    """The next origin of a running backtest and a forecast without truth: the same interval."""
    generator = np.random.default_rng(10)
    whole = made(np.arange(301), generator.normal(size=(301, 3, 2)))
    known = whole.origins[:, None] + np.arange(3) < 300
    past = Backtest(
        whole.items[:300],
        whole.origins[:300],
        whole.forecast[:300],
        np.where(known[..., None], whole.truth, np.nan)[:300],
    )
    point = Backtest(whole.items[300:], whole.origins[300:], whole.forecast[300:], np.full((1, 3, 2), np.nan))
    method = TrailingConformal(locality=0.0)
    running = method.intervals(None, whole, LEVELS).quantiles[-1:]
    np.testing.assert_array_equal(method.forecast(past, point, LEVELS).quantiles, running)


def test_split_conformal_is_one_width_from_the_sorted_errors() -> None:
    generator = np.random.default_rng(11)
    history, backtest = (made(np.arange(a, b), generator.normal(size=(b - a, 2, 1))) for a, b in ((0, 99), (200, 230)))
    low, high = split_conformal(history, backtest, LEVELS).band(0.9)
    rank = np.sort(np.abs(history.residuals), axis=0)[89]
    np.testing.assert_allclose(high - backtest.forecast, np.broadcast_to(rank, high.shape))
    np.testing.assert_allclose(backtest.forecast - low, np.broadcast_to(rank, low.shape))


@pytest.mark.parametrize("block", [50, 4_000_000])
def test_blocks_change_nothing(block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    generator = np.random.default_rng(12)
    history, backtest = (made(np.arange(a, b), generator.normal(size=(b - a, 5, 3))) for a, b in ((0, 60), (70, 99)))
    whole = TrailingConformal().intervals(history, backtest, LEVELS).quantiles
    monkeypatch.setattr(conformal, "_BLOCK", block)
    monkeypatch.setattr(trailing, "_BLOCK", block)
    assert TrailingConformal().intervals(history, backtest, LEVELS).quantiles.tobytes() == whole.tobytes()


def test_what_makes_no_sense_is_refused() -> None:
    errors = np.ones((5, 2, 1))
    history, backtest = made(np.arange(5), errors), made(np.arange(10, 15), errors)
    for wrong in ({"window": 0}, {"least": 2000}, {"pool": 1}, {"memory": 0}, {"locality": 2.0}):
        with pytest.raises(ConfigError, match="conformal"):
            TrailingConformal(**wrong)
    with pytest.raises(ConfigError, match="levels"):
        TrailingConformal().intervals(history, backtest, (0.9, 0.1))
    with pytest.raises(PenstockError, match="each origin once"):
        TrailingConformal().intervals(history, history, LEVELS)
    with pytest.raises(PenstockError, match="same horizon"):
        TrailingConformal().intervals(made(np.arange(5), np.ones((5, 3, 1))), backtest, LEVELS)
    with pytest.raises(PenstockError, match="clock"):
        TrailingConformal().intervals(made(np.arange(5), errors, clock=np.arange(5)), backtest, LEVELS)
    with pytest.raises(PenstockError, match="series 3"):
        split_conformal(history, made(np.arange(5), errors, np.full(5, 3)), LEVELS)
    with pytest.raises(ConfigError, match=r"0\.25"):
        TrailingConformal().intervals(history, backtest, LEVELS).band(0.5)
