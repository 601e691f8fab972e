"""Forecasts without training: what they repeat, and what they do in gaps."""

import pytest
import torch
from torch import Tensor

from data.batch import WindowBatch
from data.errors import ConfigError
from modules.forecast.floors import LastValue, SeasonalNaive, WindowMean
from modules.forecast.heads import Head
from modules.forecast.interface import WindowShape

SHAPE = WindowShape(look_back=8, horizon=7, targets=2, season=3)


def window(past: Tensor, mask: Tensor | None = None) -> WindowBatch:
    return WindowBatch(ids=(), seeds=torch.zeros(len(past), dtype=torch.int64), past=past, past_mask=mask)


def test_last_value_and_mean() -> None:
    past = torch.randn(4, 8, 2)
    last = LastValue(SHAPE, Head())(window(past))
    mean = WindowMean(SHAPE, Head())(window(past))
    for step in range(7):
        torch.testing.assert_close(last[:, step, :, 0], past[:, -1])
        torch.testing.assert_close(mean[:, step, :, 0], past.mean(dim=1))


def test_a_periodic_series_is_forecast_exactly() -> None:
    time = torch.arange(15.0)
    series = torch.stack([(time % 3) ** 2, 5 - time % 3], dim=-1)[None]
    forecast = SeasonalNaive(SHAPE, Head())(window(series[:, :8]))
    torch.testing.assert_close(forecast[..., 0], series[:, 8:])


def test_all_measured_is_the_same_with_and_without_a_mask() -> None:
    past = torch.randn(4, 8, 2)
    for floor in (LastValue, WindowMean, SeasonalNaive):
        model = floor(SHAPE, Head())
        torch.testing.assert_close(model(window(past)), model(window(past, torch.ones(4, 8, 2, dtype=torch.bool))))


def test_gaps_take_the_newest_value_of_the_same_phase_then_the_mean() -> None:
    past = torch.arange(8.0)[None, :, None].expand(1, 8, 2).clone()
    mask = torch.ones(1, 8, 2, dtype=torch.bool)
    mask[0, [5, 2], 0] = False  # the phase of step 5: nothing is left
    mask[0, 6, 1] = False  # step 6: step 3 stands in
    garbage = past.masked_fill(~mask, 1e9)
    forecast = SeasonalNaive(SHAPE, Head())(window(garbage, mask))[0, ..., 0]
    mean = past[0, [0, 1, 3, 4, 6, 7], 0].mean().item()
    assert forecast[:, 0].tolist() == pytest.approx([mean, 6, 7, mean, 6, 7, mean])
    assert forecast[:, 1].tolist() == [5, 3, 7, 5, 3, 7, 5]


def test_nothing_measured_is_zero() -> None:
    empty = window(torch.full((1, 8, 2), 3.0), torch.zeros(1, 8, 2, dtype=torch.bool))
    for floor in (LastValue, WindowMean, SeasonalNaive):
        assert not floor(SHAPE, Head())(empty).any()


def test_refusals() -> None:
    with pytest.raises(ConfigError, match="conformal"):
        LastValue(SHAPE, Head(kind="quantile"))
    with pytest.raises(ConfigError, match="8 steps of 9"):
        SeasonalNaive(WindowShape(look_back=8, season=9), Head())
