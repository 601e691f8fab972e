"""Ridge regression against stacked least squares solved otherwise: gaps, covariates, series without windows."""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from data.batch import WindowBatch
from data.errors import ConfigError
from modules.forecast import normal_equations
from modules.forecast.heads import Head
from modules.forecast.interface import WindowShape
from modules.forecast.normal_equations import NormalEquations, sliding_products
from modules.forecast.ridge import Offset, RidgeConfig, choose_ridge, choose_ridge_on_series

SHAPE = WindowShape(look_back=10, horizon=4, targets=3, season=5)
COVARIATES = replace(SHAPE, observed=1, known=2, static=1)
OFFSETS: tuple[Offset, ...] = ("last", "mean", "season")


def windows(shape: WindowShape = SHAPE, batch: int = 150, seed: int = 0, gaps: float = 0.0) -> WindowBatch:
    generator = torch.Generator().manual_seed(seed)

    def walk(steps: int, columns: int) -> Tensor:
        return torch.randn(batch, steps, columns, generator=generator).cumsum(dim=1)

    steps = shape.look_back + shape.horizon
    target = walk(steps, shape.targets)
    measured = torch.rand(target.shape, generator=generator) >= gaps
    target = target.masked_fill(~measured, 0.0)
    past, past_mask = target[:, : shape.look_back], measured[:, : shape.look_back]
    future, future_mask = target[:, shape.look_back :], measured[:, shape.look_back :]
    return WindowBatch(
        ids=(),
        seeds=torch.zeros(batch, dtype=torch.int64),
        past=past,
        past_mask=past_mask if gaps else None,
        future=future,
        future_mask=future_mask if gaps else None,
        observed=walk(shape.look_back, shape.observed) if shape.observed else None,
        known=walk(steps, shape.known) if shape.known else None,
        static=walk(1, shape.static)[:, 0] if shape.static else None,
    )


def part(window: WindowBatch, rows: slice) -> WindowBatch:
    return replace(
        window, seeds=window.seeds[rows], **{
            name: value[rows] for name in ("past", "past_mask", "future", "future_mask", "observed", "known", "static")
            if (value := getattr(window, name)) is not None
        },
    )  # fmt: skip


def offset_by_hand(past: np.ndarray, offset: Offset) -> np.ndarray:
    seen = {"last": past[-1:], "mean": past, "season": past[-SHAPE.season :]}[offset]
    return seen.mean(axis=0)


def rows_by_hand(window: WindowBatch, offset: Offset) -> tuple[np.ndarray, np.ndarray]:
    """Inputs [window, target, input] and targets [window, target, ahead], without gaps."""
    x, y = [], []
    assert window.future is not None
    for k in range(len(window)):
        past, future = window.past[k].double().numpy(), window.future[k].double().numpy()
        level = offset_by_hand(past, offset)
        extra = []
        if window.observed is not None:
            extra.append((window.observed[k] - window.observed[k, -5:].mean(0))[-6:].flatten().numpy())
        if window.known is not None:
            extra.append((window.known[k] - window.known[k, 5:10].mean(0))[4:].flatten().numpy())
        if window.static is not None:
            extra.append(window.static[k].numpy())
        features = np.concatenate([*extra, np.zeros(0)])
        x.append([np.concatenate([past[:, n] - level[n], features]) for n in range(past.shape[1])])
        y.append((future - level).T)
    return np.array(x), np.array(y)


def least_squares(x: np.ndarray, y: np.ndarray, penalty: float, intercept: bool) -> tuple[np.ndarray, np.ndarray]:
    """By QR of the rows with the penalty's rows below them."""
    x_mean, y_mean = (x.mean(0), y.mean(0)) if intercept else (np.zeros(x.shape[1]), np.zeros(y.shape[1]))
    root = np.sqrt(penalty * len(x)) * np.eye(x.shape[1])
    above = np.concatenate([x - x_mean, root])
    right = np.concatenate([y - y_mean, np.zeros((x.shape[1], y.shape[1]))])
    w = np.linalg.lstsq(above, right, rcond=None)[0]
    return w, y_mean - x_mean @ w


@pytest.mark.parametrize("offset", OFFSETS)
@pytest.mark.parametrize("intercept", [False, True])
def test_one_map_for_all_targets(offset: Offset, intercept: bool) -> None:
    window = windows()
    ridge = RidgeConfig(offset=offset, penalty=0.01, intercept=intercept).build(SHAPE, Head())
    ridge.fit([part(window, slice(0, 40)), part(window, slice(40, 150))])
    x, y = rows_by_hand(window, offset)
    w, b = least_squares(x.reshape(-1, 10), y.reshape(-1, 4), 0.01, intercept)
    np.testing.assert_allclose(ridge.weight[0], w, atol=1e-5)
    np.testing.assert_allclose(ridge.bias[0], b, atol=1e-5)
    expected = (x @ w + b).swapaxes(1, 2) + np.stack([offset_by_hand(p, offset) for p in window.past.numpy()])[:, None]
    np.testing.assert_allclose(ridge(window)[..., 0], expected, atol=1e-4)


@pytest.mark.parametrize("intercept", [False, True])
def test_a_map_for_each_target_with_covariates(intercept: bool) -> None:
    window = windows(COVARIATES, batch=300)
    config = RidgeConfig(offset="mean", penalty=0.1, intercept=intercept, covariate_steps=6)
    ridge = config.build(COVARIATES, Head())
    assert ridge.maps == 3  # several targets and covariates: their effects differ
    ridge.fit([window])
    x, y = rows_by_hand(window, "mean")
    assert ridge.weight.shape[1] == x.shape[2] == 10 + 6 + 2 * (6 + 4) + 1
    for n in range(3):
        w, b = least_squares(x[:, n], y[:, n], 0.1, intercept)
        np.testing.assert_allclose(ridge.weight[n], w, atol=1e-5)
        np.testing.assert_allclose(ridge.bias[n], b, atol=1e-5)
    one = replace(config, individual=False).build(COVARIATES, Head())
    one.fit([window])
    w, b = least_squares(x.reshape(-1, x.shape[2]), y.reshape(-1, 4), 0.1, intercept)
    np.testing.assert_allclose(one.weight[0], w, atol=1e-5)
    assert one(window).shape == ridge(window).shape == (300, 4, 3, 1)


@pytest.mark.parametrize("intercept", [False, True])
def test_gaps_leave_rows_out_of_their_own_step(intercept: bool) -> None:
    window = windows(gaps=0.3, batch=400)
    assert window.past_mask is not None
    assert window.future_mask is not None
    ridge = RidgeConfig(offset="last", penalty=0.01, intercept=intercept).build(SHAPE, Head())
    ridge.fit([part(window, slice(0, 100)), part(window, slice(100, 400))])
    statistics = ridge.statistics(window)
    x = statistics.normalise(window.past, window.past_mask).mT.reshape(-1, 10).double().numpy()
    y = (window.future - statistics.centre).mT.reshape(-1, 4).double().numpy()  # type: ignore[operator]
    seen = window.future_mask.mT.reshape(-1, 4).numpy()
    for step in range(4):
        rows = seen[:, step]
        w, b = least_squares(x[rows], y[rows, step : step + 1], 0.01, intercept)
        np.testing.assert_allclose(ridge.weight[0, :, step], w[:, 0], atol=1e-5)
        np.testing.assert_allclose(ridge.bias[0, step], b[0], atol=1e-5)


def test_what_was_not_measured_has_no_influence() -> None:
    window = windows(gaps=0.3)
    assert window.past_mask is not None
    assert window.future_mask is not None
    empty = window.past_mask.clone()
    empty[:20, :, 1] = False  # nothing of these was seen: no level to learn from
    window = replace(window, past_mask=empty)
    garbage = replace(
        window,
        past=window.past.masked_fill(~empty, 1e6),
        future=window.future.masked_fill(~window.future_mask, -1e6),  # type: ignore[union-attr]
    )
    clean, dirty = (RidgeConfig().build(SHAPE, Head()) for _ in range(2))
    clean.fit([window])
    dirty.fit([garbage])
    assert torch.equal(clean.weight, dirty.weight)
    assert torch.equal(clean(window), dirty(garbage))
    other = window.future.clone()  # type: ignore[union-attr]
    other[:20, :, 1] = 50.0
    dirty.fit([replace(window, future=other)])
    assert torch.equal(clean.weight, dirty.weight)


def test_a_step_that_was_never_measured_is_the_offset() -> None:
    window = windows(gaps=0.1)
    assert window.future_mask is not None
    mask = window.future_mask.clone()
    mask[:, 2] = False
    ridge = RidgeConfig(intercept=True).build(SHAPE, Head())
    ridge.fit([replace(window, future_mask=mask)])
    torch.testing.assert_close(ridge(window)[:, 2, :, 0], ridge.statistics(window).centre[:, 0])


def test_bounded_memory_groups_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """Gaps longer than a group: the same answer, as neighbours miss together."""
    window = windows(batch=2000)
    mask = torch.ones(2000, 4, 3, dtype=torch.bool)
    mask[:700, 2:] = False
    ridges = []
    for most in (2**26, 2 * 11**2):
        monkeypatch.setattr(normal_equations, "MOST_NUMBERS", most)
        ridge = RidgeConfig(intercept=True).build(SHAPE, Head())
        equations = ridge.equations([replace(window, future_mask=mask)])
        ridge.solve(equations)
        assert equations.missing is not None
        ridges.append((equations.missing.shape[1], ridge.weight, equations.mean_square_error(ridge.weight, ridge.bias)))
    assert [groups for groups, _, _ in ridges] == [4, 2]
    torch.testing.assert_close(ridges[0][1], ridges[1][1], rtol=0, atol=1e-6)
    assert ridges[0][2] == pytest.approx(ridges[1][2], rel=1e-9)


@pytest.mark.parametrize("gaps", [0.0, 0.2])
def test_the_error_from_sums_is_that_of_the_forecasts(gaps: float) -> None:
    ridge = RidgeConfig(intercept=True).build(SHAPE, Head()).double()
    ridge.fit([windows(gaps=gaps)])
    other = windows(gaps=gaps, seed=1)
    other = replace(other, past=other.past.double(), future=other.future.double())  # type: ignore[union-attr]
    error = (ridge(other)[..., 0] - other.future).square()
    expected = error.mean() if other.future_mask is None else error[other.future_mask].mean()
    found = ridge.equations([other]).mean_square_error(ridge.weight, ridge.bias)
    assert found == pytest.approx(float(expected), rel=1e-9)


@pytest.mark.parametrize("steps", [1, 2, 7, 60])
def test_sums_over_sliding_windows_are_those_of_stacked_windows(steps: int) -> None:
    values = torch.randn(60, dtype=torch.float64).cumsum(0)
    stacked = values.unfold(0, steps, 1)
    stacked = torch.cat([stacked, torch.ones(len(stacked), 1)], dim=1)
    torch.testing.assert_close(sliding_products(values, steps), stacked.T @ stacked, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("offset", OFFSETS)
@pytest.mark.parametrize("individual", [False, True])
def test_series_as_a_whole_are_their_windows(offset: Offset, individual: bool) -> None:
    series = [torch.randn(length, 3, dtype=torch.float64).cumsum(0) for length in (80, 14, 13, 55)]
    stacked = torch.cat([one.unfold(0, 14, 1).mT for one in series if len(one) >= 14])
    cut = WindowBatch(
        ids=(), seeds=torch.zeros(len(stacked), dtype=torch.int64), past=stacked[:, :10], future=stacked[:, 10:]
    )
    config = RidgeConfig(offset=offset, individual=individual, intercept=True)
    by_series, by_window = config.build(SHAPE, Head()), config.build(SHAPE, Head())
    by_series.fit_series(series)
    by_window.fit([cut])
    torch.testing.assert_close(by_series.weight, by_window.weight, rtol=0, atol=1e-6)
    torch.testing.assert_close(by_series.bias, by_window.bias, rtol=0, atol=1e-6)


def test_choice_is_the_least_validation_error() -> None:
    train, validation = windows(batch=60), windows(seed=1)

    def batches(window: WindowBatch) -> Iterator[WindowBatch]:
        for first in range(0, len(window), 50):
            yield part(window, slice(first, first + 50))

    penalties = (1e-3, 1.0, 30.0)
    ridge, choice = choose_ridge(
        lambda: batches(train), lambda: batches(validation), SHAPE, offsets=OFFSETS, penalties=penalties
    )
    assert len(choice.table) == 9
    errors = {}
    for trial in choice.table:
        one = RidgeConfig(offset=trial.offset, penalty=trial.penalty).build(SHAPE, Head())
        one.fit([train])
        errors[trial] = float((one(validation)[..., 0] - validation.future).square().mean())
        assert trial.error == pytest.approx(errors[trial], rel=1e-4)
    assert choice.best == min(errors, key=errors.__getitem__)
    best = RidgeConfig(offset=choice.best.offset, penalty=choice.best.penalty)
    assert ridge.config == best
    fitted = best.build(SHAPE, Head())
    fitted.fit([train])
    torch.testing.assert_close(ridge.weight, fitted.weight, rtol=0, atol=1e-6)


def test_choice_on_whole_series() -> None:
    time = torch.arange(300.0, dtype=torch.float64)[:, None]
    series = torch.sin(2 * torch.pi * (time / 5 + torch.tensor([0.0, 0.3, 0.6]))) + 0.1 * torch.randn(300, 3)
    ridge, choice = choose_ridge_on_series([series[:200]], [series[190:]], SHAPE)
    assert choice.best.offset == "mean"  # the level never moves, the last value is noise
    assert choice.best.error < 0.02
    assert ridge.config.penalty == choice.best.penalty


def seasonal(length: int, first: int, seed: int) -> Tensor:
    """Random walks with a season of 5, from position `first` on."""
    generator = torch.Generator().manual_seed(seed)
    season = torch.tensor([[3.0, 0.0], [-1.0, 2.0], [0.0, -2.0], [1.0, 1.0], [-3.0, -1.0]], dtype=torch.float64)
    walk = 0.1 * torch.randn(length, 2, generator=generator, dtype=torch.float64).cumsum(dim=0)
    return walk + season[(first + torch.arange(length)) % 5]


def cut(series: Tensor, first: int, look_back: int = 3, horizon: int = 4) -> WindowBatch:
    stacked = series.unfold(0, look_back + horizon, 1).mT
    count = len(stacked)
    return WindowBatch(
        ids=(), seeds=torch.zeros(count, dtype=torch.int64), past=stacked[:, :look_back], future=stacked[:, look_back:],
        position=first + torch.arange(count),
    )  # fmt: skip


def test_a_cycle_is_taken_away_and_given_back() -> None:
    """As if the series had none: the mean of each phase is subtracted by hand here."""
    shape = WindowShape(look_back=3, horizon=4, targets=2, season=5)
    series, later = seasonal(202, 13, seed=0), seasonal(40, 78, seed=1)
    phase, later_phase = (13 + torch.arange(202)) % 5, (78 + torch.arange(40)) % 5
    cycle = torch.stack([series[phase == k].mean(dim=0) for k in range(5)])
    with_cycle, plain = (RidgeConfig(cycle=c).build(shape, Head()).double() for c in (True, False))
    with_cycle.fit_series([series], [13])
    plain.fit_series([series - cycle[phase]])
    torch.testing.assert_close(with_cycle.cycle, cycle)
    torch.testing.assert_close(with_cycle.weight, plain.weight)
    expected = plain(cut(later - cycle[later_phase], 78))[..., 0]
    windows, steps = cut(later, 78), torch.arange(3, 7)
    assert windows.position is not None
    expected = expected + cycle[(windows.position[:, None] + steps) % 5]
    torch.testing.assert_close(with_cycle(windows)[..., 0], expected)
    assert set(with_cycle.state_dict()) == {"weight", "bias", "cycle"}


def test_a_cycle_from_windows_and_its_choice() -> None:
    """Three steps do not show the phase: the cycle wins on validation, from windows and from series alike."""
    shape = WindowShape(look_back=3, horizon=4, targets=2, season=5)
    series, later = seasonal(400, 2, seed=0), seasonal(100, 402, seed=1)
    train, validation = [cut(series.float(), 2)], [cut(later.float(), 402)]
    by_window, choice = choose_ridge(lambda: train, lambda: validation, shape, cycles=(False, True))
    by_series, other = choose_ridge_on_series([series], [later], shape, cycles=(False, True), positions=([2], [402]))
    assert choice.best.cycle
    assert other.best.cycle
    assert by_series.config.cycle
    error = (by_window(validation[0])[..., 0] - validation[0].future).square().mean()
    assert choice.best.error == pytest.approx(float(error), rel=1e-4)
    assert other.best.error == pytest.approx(choice.best.error, rel=0.05)
    again = by_window.config.build(shape, Head())
    again.fit(train)
    torch.testing.assert_close(again.weight, by_window.weight)
    assert again.cycle is not None
    masked = replace(train[0], future_mask=torch.ones_like(train[0].future, dtype=torch.bool))  # type: ignore[arg-type]
    before = again.cycle.clone()
    again.fit_cycle([masked])
    torch.testing.assert_close(again.cycle, before)


def test_refusals_of_a_cycle() -> None:
    shape = WindowShape(look_back=3, horizon=4, targets=2, season=5)
    ridge = RidgeConfig(cycle=True).build(shape, Head())
    windows = cut(seasonal(30, 0, seed=0), 0)
    with pytest.raises(ConfigError, match="two passes"):
        ridge.fit(iter([windows]))
    with pytest.raises(ConfigError, match="position"):
        ridge(replace(windows, position=None))
    with pytest.raises(ConfigError, match="positions"):
        choose_ridge_on_series([torch.zeros(30, 2)], [torch.zeros(30, 2)], shape, cycles=(True,))


def test_unfitted_is_the_offset_and_refusals() -> None:
    window = windows()
    ridge = RidgeConfig(offset="season").build(SHAPE, Head())
    torch.testing.assert_close(ridge(window)[:, 3, :, 0], window.past[:, -5:].mean(dim=1))
    assert set(ridge.state_dict()) == {"weight", "bias"}
    with pytest.raises(ConfigError, match="conformal"):
        RidgeConfig().build(SHAPE, Head(kind="normal"))
    with pytest.raises(ConfigError, match="season"):
        RidgeConfig(offset="season").build(replace(SHAPE, season=11), Head())
    with pytest.raises(ConfigError, match="penalty"):
        RidgeConfig(penalty=0.0)
    with pytest.raises(ConfigError, match="covariates"):
        RidgeConfig().build(COVARIATES, Head()).fit_series([])


def test_equations_without_rows_forecast_zero() -> None:
    weight, bias = NormalEquations(1, 3, 2).solve(0.1, intercept=True)
    assert not weight.any()
    assert not bias.any()
