"""Legendre memories hold a delayed signal; at once and step by step agree; the forecaster learns, and streams."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.signal import cont2discrete
from torch import Tensor

from data.batch import WindowBatch
from data.errors import ConfigError
from modules.forecast.heads import Head
from modules.forecast.interface import WindowShape
from modules.forecast.lmu import (
    LegendreMemory,
    LMUCell,
    LMUConfig,
    LMUForecaster,
    legendre_system,
)

SHAPE = WindowShape(look_back=32, horizon=6, targets=3, season=8)
SMALL = LMUConfig(width=16, layers=2, order=8, signals=2, feed_forward=32, dropout=0.0)


def legendre_readout(order: int, shares: Tensor) -> Tensor:
    """Rows that read the signal out of a memory as it was `shares` of theta ago (0 to 1): shifted Legendre polynomials.

    Equation 3 of Voelker et al. 2019, by the three-term recurrence.
    """
    x = 2 * shares - 1
    rows = [torch.ones_like(x), x]
    for n in range(1, order - 1):
        rows.append(((2 * n + 1) * x * rows[n] - n * rows[n - 1]) / (n + 1))
    return torch.stack(rows[:order], dim=-1)


def smooth(steps: int, period: float) -> Tensor:
    """A sum of two slow waves [1, step, 1]."""
    turns = torch.arange(steps, dtype=torch.float64) / period
    return (torch.sin(2 * torch.pi * turns) + 0.5 * torch.cos(3.1 * turns + 1)).float()[None, :, None]


def test_discretisation_is_scipy_s() -> None:
    order, theta = 7, 13.0
    i = np.arange(order, dtype=np.float64)[:, None]
    a = (2 * i + 1) / theta * np.where(i < i.T, -1, (-1.0) ** (i - i.T + 1))
    b = (2 * i + 1) / theta * (-1.0) ** i
    expected = cont2discrete((a, b, np.ones((1, order)), np.zeros((1, 1))), dt=1.0, method="zoh")
    A, B = legendre_system(order, theta)
    np.testing.assert_allclose(A.numpy(), expected[0], atol=1e-14)
    np.testing.assert_allclose(B.numpy(), expected[1][:, 0], atol=1e-14)


@pytest.mark.parametrize("delay", [0.25, 0.5, 1.0])
def test_memory_reads_a_delayed_signal(delay: float) -> None:
    """What was put in theta · delay steps ago."""
    theta = 64.0
    signal = smooth(400, period=50.0)
    memory = LegendreMemory(16, theta)(signal)[0, :, 0]
    readout = legendre_readout(16, torch.tensor([delay], dtype=torch.float64)).float()
    read = (memory @ readout.T)[150:, 0]
    shift = round(theta * delay)
    # After a step its own value has been held for one step: a delay of `shift` steps lies between two values.
    at, after = signal[0, 150 - shift : 400 - shift, 0], signal[0, 151 - shift : 401 - shift, 0]
    assert (read - (at + after) / 2).abs().max() < 0.02
    assert signal.std() > 0.5


def test_memory_at_once_is_step_by_step() -> None:
    memory = LegendreMemory(12, 40.0)
    u = torch.randn(3, 100, 2)
    together, state = memory(u), torch.zeros(3, 2, 12)
    for n in range(100):
        state = memory.step(u[:, n], state)
        torch.testing.assert_close(state, together[:, n], rtol=0, atol=2e-6)
    torch.testing.assert_close(memory.last(u), state, rtol=0, atol=2e-6)


def test_a_longer_sequence_than_ever_and_then_a_short_one() -> None:
    memory = LegendreMemory(4, 10.0)
    u = torch.randn(1, 33, 1)
    short = memory(u[:, :5])
    torch.testing.assert_close(memory(u)[:, :5], short, rtol=0, atol=1e-6)
    torch.testing.assert_close(memory(u[:, :5]), short, rtol=0, atol=1e-6)
    assert not memory.state_dict()


@pytest.mark.parametrize("rectified", [True, False])
def test_cell_at_once_is_step_by_step(rectified: bool) -> None:
    cell = LMUCell(5, 7, order=9, theta=30.0, signals=3, rectified=rectified)
    x = torch.randn(2, 80, 5)
    together, after = cell(x)
    memory = None
    for n in range(80):
        found, memory = cell.step(x[:, n], memory)
        torch.testing.assert_close(found, together[:, n], rtol=0, atol=1e-6)
    assert memory is not None
    last, memory_of_last = cell.last(x)
    for ours in (memory, memory_of_last):
        torch.testing.assert_close(ours, after, rtol=0, atol=1e-6)
    torch.testing.assert_close(last, together[:, -1], rtol=0, atol=1e-6)


def window(batch: int = 4, shape: WindowShape = SHAPE, steps: int | None = None) -> WindowBatch:
    steps = shape.look_back if steps is None else steps
    return WindowBatch(
        ids=(),
        seeds=torch.arange(batch),
        past=3 + 2 * torch.randn(batch, steps, shape.targets),
        past_mask=torch.rand(batch, steps, shape.targets) < 0.8,
        calendar=torch.rand(batch, steps + shape.horizon, shape.calendar) - 0.5 if shape.calendar else None,
        known=torch.randn(batch, steps + shape.horizon, shape.known) if shape.known else None,
    )


def forecaster(shape: WindowShape = SHAPE, head: Head | None = None) -> LMUForecaster:
    return SMALL.build(shape, head or Head()).eval()


def test_stream_is_the_longer_window() -> None:
    """Started on 32 steps and stepped over 12 more, it knows what it would know of all 44 in the same units."""
    shape = replace(SHAPE, calendar=2)
    model = forecaster(shape)
    long = window(shape=shape, steps=44)
    assert long.past_mask is not None

    def cut(x: Tensor | None) -> Tensor | None:
        return None if x is None else x[:, : 32 + shape.horizon]

    begin = replace(long, past=long.past[:, :32], past_mask=long.past_mask[:, :32], calendar=cut(long.calendar))
    state = model.start(begin)
    torch.testing.assert_close(model.forecast(state), model(begin), rtol=0, atol=1e-6)
    for n in range(32, 44):
        columns = None if long.calendar is None else long.calendar[:, n]
        state = model.step(state, long.past[:, n], long.past_mask[:, n], columns)
    x = model._embedded(
        long.past, long.past_mask, None if long.calendar is None else long.calendar[:, :44], state.statistics
    )
    for layer in model._stack:
        x, _ = layer(x)
    torch.testing.assert_close(state.hidden, x[:, -1], rtol=0, atol=1e-5)


def test_units_of_the_window() -> None:
    """A window of twice the size and another level gives a forecast of twice the size and that level."""
    model, given = forecaster(), window()
    moved = replace(given, past=100 + 50 * given.past)
    torch.testing.assert_close(model(moved), 100 + 50 * model(given), rtol=1e-4, atol=1e-2)


def test_what_is_missing_is_not_seen() -> None:
    model, given = forecaster(), window()
    assert given.past_mask is not None
    garbage = replace(given, past=given.past.masked_fill(~given.past_mask, 1e6))
    torch.testing.assert_close(model(garbage), model(given), rtol=0, atol=0)


def test_targets_are_forecast_one_by_one() -> None:
    model, given = forecaster(), replace(window(), past_mask=None)
    changed = given.past.clone()
    changed[..., 0] = torch.randn_like(changed[..., 0])
    torch.testing.assert_close(model(replace(given, past=changed))[:, :, 1:], model(given)[:, :, 1:])


def test_known_future_reaches_the_forecast() -> None:
    shape = replace(SHAPE, known=2)
    model, given = forecaster(shape, Head(kind="quantile")), window(shape=shape)
    assert model(given).shape == (4, 6, 3, 7)
    assert model.covariates is not None
    torch.nn.init.normal_(model.covariates.linear.weight)
    assert given.known is not None
    later = given.known.clone()
    later[:, -1] += 1
    assert not torch.allclose(model(replace(given, known=later)), model(given))
    with pytest.raises(ConfigError, match="whole windows"):
        model.forecast(model.start(given))


def test_learns_to_continue_waves() -> None:
    torch.manual_seed(0)
    shape = WindowShape(look_back=32, horizon=4, season=8)
    model = SMALL.build(shape, Head())
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    losses = []
    for _ in range(25):
        phase, period = torch.rand(32, 1), 8 + 8 * torch.rand(32, 1)
        waves = torch.sin(2 * torch.pi * (phase + torch.arange(36) / period))[..., None]
        forecast = model(WindowBatch(ids=(), seeds=torch.arange(32), past=waves[:, :32]))[..., 0]
        loss = (forecast - waves[:, 32:]).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert np.mean(losses[-3:]) < 0.15 < 0.3 < losses[0]


def test_refusals() -> None:
    with pytest.raises(ConfigError, match="order"):
        LMUConfig(order=0)
    with pytest.raises(ConfigError, match="theta"):
        LMUConfig(theta=-1.0)
    with pytest.raises(ConfigError, match="theta above 0"):
        LegendreMemory(4, 0.0)
    with pytest.raises(ConfigError, match="calendar"):
        forecaster(replace(SHAPE, calendar=3))(window())
