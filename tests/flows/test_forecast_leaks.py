"""The leak test passes what is honest and catches every kind of looking ahead."""

from collections.abc import Callable, Mapping

import numpy as np
import pytest

from data.errors import PenstockError
from flows.steps.forecast_leaks import LeakReport, check_fit, check_forecasts
from modules.forecast.backtest import Backtest
from modules.forecast.conformal import TrailingConformal

LOOK_BACK, HORIZON, TRAIN = 24, 4, 100


class InMemory:
    """Two series of two targets and a covariate known ahead; the second starts 40 steps after the first."""

    ids = ("a", "b")
    step, zone, gaps, static, fingerprint = "1", "", False, None, "test"
    lengths = np.array([200, 160])
    ahead = np.array([210, 170])
    starts = np.array([0, 40])
    columns: Mapping[str, tuple[str, ...]] = {"targets": ("x", "y"), "observed": (), "known": ("k",), "static": ()}

    def __init__(self) -> None:
        generator = np.random.default_rng(0)
        self.values = {
            "targets": [generator.normal(size=(n, 2)).cumsum(axis=0) for n in self.lengths],
            "known": [generator.normal(size=(n, 1)) for n in self.ahead],
        }

    def read(self, item: int, role: str, first: int, stop: int) -> np.ndarray:
        out = np.empty((1, stop - first, len(self.columns[role])))
        self.cut(role, np.array([item]), np.array([first]), out)
        return out[0]

    def cut(self, role: str, items: np.ndarray, firsts: np.ndarray, out: np.ndarray) -> bool:
        for k, (item, first) in enumerate(zip(items, firsts, strict=True)):
            rows = first + np.arange(out.shape[1])
            values = self.values[role][item]
            inside = (rows >= 0) & (rows < len(values))
            out[k] = np.where(inside[:, None], values[np.clip(rows, 0, len(values) - 1)], np.nan)
        return True


ITEMS, ORIGINS = np.array([0, 0, 1, 1]), np.array([120, 150, 110, 150])


def scaler(store, end: int = TRAIN) -> tuple[np.ndarray, np.ndarray]:
    """Fitted on what lies before row `end` of the first series, and at the same moments of the second."""
    rows = np.concatenate([store.read(item, "targets", 0, end - start) for item, start in ((0, 0), (1, 40))])
    return np.nanmean(rows, axis=0), np.nanstd(rows, axis=0)


def honest(store, items: np.ndarray, origins: np.ndarray) -> dict[str, np.ndarray]:
    """A scaled seasonal mean with a known covariate, and trailing intervals from its own past errors."""
    mean, spread = scaler(store)

    def forecast(item: int, origin: int) -> np.ndarray:
        past = (store.read(item, "targets", origin - LOOK_BACK, origin) - mean) / spread
        known = store.read(item, "known", origin, origin + HORIZON)
        return (past[-8:].reshape(2, 4, 2).mean(axis=0) + 0.1 * known) * spread + mean

    def backtest(item: int, first: int, stop: int) -> Backtest:
        at = np.arange(first, stop)
        truth = np.stack([store.read(item, "targets", t, t + HORIZON) for t in at])
        return Backtest(np.full(len(at), item), at, np.stack([forecast(item, t) for t in at]), truth)

    found = [
        TrailingConformal(window=40, least=10, pool=40).intervals(
            None, backtest(item, LOOK_BACK, origin + 1), (0.1, 0.9)
        )
        for item, origin in zip(items, origins, strict=True)
    ]
    points = np.stack([forecast(i, t) for i, t in zip(items, origins, strict=True)])
    return {"forecast": points.astype(np.float32), "quantiles": np.stack([f.quantiles[-1] for f in found])}


def with_leak(leak: Callable[[object, np.ndarray, np.ndarray], np.ndarray]):
    def forecast_at(store, items: np.ndarray, origins: np.ndarray) -> dict[str, np.ndarray]:
        return {"forecast": leak(store, items, origins)}

    return forecast_at


def global_scaler(store, items: np.ndarray, origins: np.ndarray) -> np.ndarray:
    mean, _ = scaler(store, 160)
    return np.tile(mean, (len(items), HORIZON, 1))


def peeking(store, items: np.ndarray, origins: np.ndarray) -> np.ndarray:
    """Moves the last step of target 'y' by a trillionth of its first truth."""
    answer = np.zeros((len(items), HORIZON, 2))
    for k, (item, origin) in enumerate(zip(items, origins, strict=True)):
        answer[k, 3, 1] = 1e-12 * store.read(item, "targets", origin, origin + 1)[0, 1]
    return answer


def early_conformal(store, items: np.ndarray, origins: np.ndarray) -> np.ndarray:
    """Widths from errors whose targets lie HORIZON - 1 steps too late."""
    width = np.zeros((len(items), HORIZON, 2))
    for k, (item, origin) in enumerate(zip(items, origins, strict=True)):
        rows = store.read(item, "targets", 0, origin + HORIZON - 1)
        width[k] = np.quantile(np.abs(rows[HORIZON:] - rows[:-HORIZON]), 0.9, axis=0)
    return width


def from_others(store, items: np.ndarray, origins: np.ndarray) -> np.ndarray:
    """Series a at row t looks at series b at row t, which is 40 steps later on the clock."""
    answer = np.zeros((len(items), HORIZON, 2))
    for k, (item, origin) in enumerate(zip(items, origins, strict=True)):
        if item == 0:
            answer[k, 0] = store.read(1, "targets", origin - 10, origin - 9)[0]
    return answer


def test_an_honest_pipeline_passes() -> None:
    report = check_forecasts(honest, InMemory(), ITEMS, ORIGINS, offsets=np.array([0, 40]))
    assert report.passed and report.failures == ()
    assert report.checked == 4


@pytest.mark.parametrize("leak", [global_scaler, peeking, early_conformal])
def test_leaks_are_caught_and_named(leak) -> None:
    report = check_forecasts(with_leak(leak), InMemory(), ITEMS, ORIGINS)
    assert not report.passed
    assert report.checked == 4
    assert any("origin 120 of series 'a'" in failure and "target" in failure for failure in report.failures)


def test_the_message_says_where_and_by_how_much() -> None:
    report = check_forecasts(with_leak(peeking), InMemory(), ITEMS[:1], ORIGINS[:1])
    (failure,) = report.failures
    assert "forecast[3, 1] (step 3, target 'y') went from" in failure
    assert "1 of 8 numbers differ" in failure


def test_later_values_of_another_series_are_the_future_too() -> None:
    """Seen only on the common clock: by row numbers alone series b is allowed to be 40 steps ahead."""
    store = InMemory()
    assert check_forecasts(with_leak(from_others), store, ITEMS, ORIGINS).passed
    assert not check_forecasts(with_leak(from_others), store, ITEMS, ORIGINS, offsets=np.array([0, 40])).passed


def test_covariates_known_ahead_may_be_used() -> None:
    def known(store, items: np.ndarray, origins: np.ndarray) -> np.ndarray:
        return np.stack([store.read(i, "known", t, t + HORIZON) for i, t in zip(items, origins, strict=True)])

    assert check_forecasts(with_leak(known), InMemory(), ITEMS, ORIGINS).passed


def test_a_forecast_that_differs_from_run_to_run_is_said_to_do_so() -> None:
    generator = np.random.default_rng(1)

    def random(store, items: np.ndarray, origins: np.ndarray) -> np.ndarray:
        return generator.normal(size=(len(items), HORIZON, 2))

    report = check_forecasts(with_leak(random), InMemory(), ITEMS[:1], ORIGINS[:1])
    assert "was forecast twice" in report.failures[0]


def test_missing_forecasts_count_as_equal_and_signed_zeros_do_not() -> None:
    def nothing(store, items: np.ndarray, origins: np.ndarray) -> np.ndarray:
        return np.full((len(items), HORIZON, 2), np.nan)

    def signed(store, items: np.ndarray, origins: np.ndarray) -> np.ndarray:
        sign = [np.copysign(0.0, store.read(i, "targets", 0, 200)[-3:].sum()) for i in items]
        return np.array(sign)[:, None, None] * np.ones((1, HORIZON, 2))

    assert check_forecasts(with_leak(nothing), InMemory(), ITEMS, ORIGINS).passed
    reports = [check_forecasts(with_leak(signed), InMemory(), ITEMS, ORIGINS, seed=1000 * seed) for seed in range(3)]
    assert not all(report.passed for report in reports)


def test_fits_see_the_training_part_only() -> None:
    ends = np.array([TRAIN, TRAIN - 40])

    def fit(end: int):
        def made(store) -> dict[str, np.ndarray]:
            mean, spread = scaler(store, end)
            first = np.argmax(np.abs(np.fft.rfft(store.read(0, "targets", 0, TRAIN)[:, 0])))
            return {"mean": mean, "spread": spread, "season": np.array(first)}

        return made

    honest_fit = check_fit(fit(TRAIN), InMemory(), ends)
    assert honest_fit.passed and honest_fit.checked == 1
    leaking = check_fit(fit(TRAIN + 1), InMemory(), ends)
    assert not leaking.passed
    assert "mean" in leaking.failures[0] and "overwritten" in leaking.failures[0]
    assert not any("season" in failure for failure in leaking.failures)
    assert (honest_fit + leaking).checked == 2 and not (honest_fit + leaking).passed


def test_a_batch_order_that_depends_on_later_data_is_a_leak() -> None:
    def batches(store) -> dict[str, np.ndarray]:
        usable = ~np.isnan(store.read(0, "targets", 0, 200)).any(axis=1)
        return {"windows": np.random.default_rng(0).permutation(np.flatnonzero(usable))}

    report = check_fit(batches, InMemory(), np.array([TRAIN, TRAIN]))
    assert not report.passed and "'windows' became int64" in report.failures[0]


def test_only_so_many_failures_are_listed() -> None:
    items, origins = np.zeros(60, int), np.arange(100, 160)
    report = check_forecasts(with_leak(peeking), InMemory(), items, origins)
    assert report.checked == 60 and len(report.failures) == 20


def test_nothing_to_test_is_an_error_and_no_pass() -> None:
    with pytest.raises(PenstockError, match="expected origins"):
        check_forecasts(honest, InMemory(), ITEMS[:0], ORIGINS[:0])
    with pytest.raises(PenstockError, match="rows of 'forecast'"):
        check_forecasts(with_leak(lambda s, i, o: np.zeros((1, 2))), InMemory(), ITEMS, np.full(4, 120))
    assert LeakReport(1, ("x",)).passed is False
