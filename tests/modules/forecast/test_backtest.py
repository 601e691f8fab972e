"""Origins, folds, and forecasts of every window."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from data.batch import WindowBatch
from data.errors import ConfigError, PenstockError
from modules.forecast.backtest import Backtest, Fold, folds, forecast_all, rolling_origins

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


def test_rolling_origins() -> None:
    assert rolling_origins(10, 20, 3).tolist() == [10, 13, 16, 19]
    assert rolling_origins(10, 20, 3, limit=2).tolist() == [16, 19]
    assert rolling_origins(10, 10).tolist() == [] == rolling_origins(10, 5).tolist()
    # ETTh1, 96 to 96 (protocol of the long-horizon benchmark): 2785 test windows.
    assert len(rolling_origins(11520, 14400 - 96 + 1)) == 2785


@pytest.mark.parametrize("refit", [None, 1, 7, 100])
def test_folds_hold_every_origin_once_and_never_fit_on_what_comes_later(refit: int | None) -> None:
    found = folds(train_end=50, validation_end=70, stop_origin=101, refit_every=refit)
    origins = np.concatenate([fold.origins() for fold in found])
    assert origins.tolist() == list(range(70, 101))
    for fold in found:
        assert fold.train_end < fold.validation_end <= fold.first_origin
        assert fold.validation_end - fold.train_end == 20
    assert len(found) == (1 if refit in (None, 100) else -(-31 // refit))


def test_impossible_folds_are_refused() -> None:
    with pytest.raises(ConfigError, match="fold"):
        Fold(train_end=50, validation_end=70, first_origin=60, stop_origin=90)
    with pytest.raises(ConfigError, match="folds"):
        folds(train_end=50, validation_end=70, stop_origin=70)


def test_backtest_rows_are_in_order() -> None:
    zero = np.zeros((3, 2, 1))
    ordered = Backtest(np.array([0, 0, 4]), np.array([5, 6, 1]), zero, zero)
    assert ordered.groups() == [(0, slice(0, 2)), (4, slice(2, 3))]
    for items, origins in (([0, 4, 0], [5, 6, 7]), ([0, 0, 4], [6, 5, 1]), ([0, 0, 4], [5, 5, 1])):
        with pytest.raises(PenstockError, match="sorted"):
            Backtest(np.array(items), np.array(origins), zero, zero)
