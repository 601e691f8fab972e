"""Forecasts of every window."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from data.batch import WindowBatch
from data.errors import PenstockError
from modules.forecast.backtest import Backtest, forecast_all

HORIZON = 4


class Mean(nn.Module):
    """Forecasts the mean of what it sees, with a dropout that must be off."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(()))
        self.dropout = nn.Dropout(0.5)
        self.sizes: list[int] = []

    def forward(self, window: WindowBatch) -> Tensor:
        self.sizes.append(len(window))
        mean = self.dropout(window.past.mean(dim=1, keepdim=True) * self.weight)
        return mean.expand(-1, HORIZON, -1)[..., None]


def series(items: int = 3, length: int = 60) -> np.ndarray:
    return np.random.default_rng(1).normal(size=(items, length, 2)).astype(np.float32)


def cutter(values: np.ndarray, look_back: int = 8):
    def cut(items: np.ndarray, origins: np.ndarray) -> WindowBatch:
        past = np.stack([values[i, t - look_back : t] for i, t in zip(items, origins, strict=True)])
        return WindowBatch(ids=(), seeds=torch.zeros(len(items), dtype=torch.int64), past=torch.from_numpy(past))

    return cut


def windows(items: int, first: int, stop: int) -> tuple[np.ndarray, np.ndarray]:
    return np.repeat(np.arange(items), stop - first), np.tile(np.arange(first, stop), items)


@pytest.mark.parametrize("batch_size", [1, 2, 7, 32, 128, 2048])
def test_every_window_is_forecast_whatever_the_batch_size(batch_size: int) -> None:
    values = series()
    items, origins = windows(3, 8, 51)
    model = Mean()
    forecast = forecast_all(model, cutter(values), items, origins, batch_size)
    assert forecast.shape == (129, HORIZON, 2, 1)
    assert sum(model.sizes) == 129
    expected = np.stack([values[i, t - 8 : t].mean(axis=0) for i, t in zip(items, origins, strict=True)])
    np.testing.assert_allclose(forecast[:, 0, :, 0], expected, atol=1e-6)


def test_the_same_batch_size_gives_the_same_bits_and_the_training_mode_comes_back() -> None:
    values, (items, origins) = series(), windows(3, 8, 51)
    model = Mean()
    first, second = (forecast_all(model, cutter(values), items, origins, 50) for _ in range(2))
    assert first.tobytes() == second.tobytes()
    assert model.training and model.dropout.training
    assert first.dtype == np.float32 and not model.weight.grad


def test_a_model_that_loses_windows_is_refused() -> None:
    values, (items, origins) = series(), windows(3, 8, 51)
    with pytest.raises(PenstockError, match="asked for 29 windows, got 28"):
        forecast_all(
            lambda window: window.past[: 50 if len(window) == 50 else 28, :, :, None],
            cutter(values),
            items,
            origins,
            50,
        )
    with pytest.raises(PenstockError, match="expected windows"):
        forecast_all(Mean(), cutter(values), items[:0], origins[:0])


def test_backtest_rows_are_in_order() -> None:
    zero = np.zeros((3, 2, 1))
    ordered = Backtest(np.array([0, 0, 4]), np.array([5, 6, 1]), zero, zero)
    assert ordered.groups() == [(0, slice(0, 2)), (4, slice(2, 3))]
    for items, origins in (([0, 4, 0], [5, 6, 7]), ([0, 0, 4], [6, 5, 1]), ([0, 0, 4], [5, 5, 1])):
        with pytest.raises(PenstockError, match="sorted"):
            Backtest(np.array(items), np.array(origins), zero, zero)
