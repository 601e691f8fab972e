"""Linear forecasters: what they are at the start, what they keep unchanged, and their maps written out by hand."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from data.batch import WindowBatch
from data.errors import ConfigError
from modules.forecast.heads import Head
from modules.forecast.interface import Forecaster, WindowShape
from modules.forecast.linear import DLinearConfig, NLinearConfig, RLinearConfig
from modules.forecast.moving_average import moving_average_matrix

SHAPE = WindowShape(look_back=20, horizon=6, targets=3, season=5)
CONFIGS = [
    NLinearConfig(), NLinearConfig(individual=True), DLinearConfig(kernel=7), DLinearConfig(individual=True, kernel=5),
    RLinearConfig(), RLinearConfig(individual=True, normalise=False),
]  # fmt: skip


def window(past: Tensor, mask: Tensor | None = None) -> WindowBatch:
    return WindowBatch(ids=(), seeds=torch.zeros(len(past), dtype=torch.int64), past=past, past_mask=mask)


def scrambled(model: Forecaster) -> Forecaster:
    """Weights that are no special case."""
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.3)
    return model


def named(config: object) -> str:
    return str(config).replace("Config", "")


@pytest.mark.parametrize("kernel", [1, 3, 9])
def test_moving_average_matrix_pads_with_the_ends(kernel: int) -> None:
    series = torch.randn(12)
    padded = np.pad(series.numpy(), kernel // 2, mode="edge")
    expected = np.convolve(padded, np.full(kernel, 1 / kernel), mode="valid")
    np.testing.assert_allclose(moving_average_matrix(12, kernel) @ series, expected, atol=1e-6)


def test_a_moving_average_longer_than_the_series() -> None:
    matrix = moving_average_matrix(3, 11)
    torch.testing.assert_close(matrix.sum(dim=1), torch.ones(3))
    assert matrix[1].tolist() == pytest.approx([5 / 11, 1 / 11, 5 / 11])


@pytest.mark.parametrize("kernel", [0, 4])
def test_a_kernel_without_a_middle_is_refused(kernel: int) -> None:
    with pytest.raises(ConfigError, match=f"take {kernel + 1}"):
        DLinearConfig(kernel=kernel)


@pytest.mark.parametrize("batch", [1, 40])
@pytest.mark.parametrize("individual", [False, True])
def test_dlinear_by_hand(batch: int, individual: bool) -> None:
    """One window: its moving average is taken. Many: the weights' is."""
    model = scrambled(DLinearConfig(individual=individual, kernel=7).build(SHAPE, Head()))
    past = torch.randn(batch, 20, 3)
    padded = torch.cat([past[:, :1].expand(-1, 3, -1), past, past[:, -1:].expand(-1, 3, -1)], dim=1)
    trend = padded.unfold(1, 7, 1).mean(dim=-1)
    state = model.state_dict()
    for n in range(3):
        w_rest, b_rest, w_trend, b_trend = (
            state[f"{part}.{kind}"][n] if individual else state[f"{part}.{kind}"]
            for part in ("rest", "trend") for kind in ("weight", "bias")
        )  # fmt: skip
        expected = (past - trend)[..., n] @ w_rest.T + b_rest + trend[..., n] @ w_trend.T + b_trend
        torch.testing.assert_close(model(window(past))[..., n, 0], expected, rtol=0, atol=2e-5)


def test_dlinear_starts_at_the_window_mean() -> None:
    model = DLinearConfig(kernel=7).build(SHAPE, Head())
    for part in (model.rest, model.trend):
        nn.init.zeros_(part.bias)
    past = torch.randn(50, 20, 3)
    torch.testing.assert_close(model(window(past))[:, 3, :, 0], past.mean(dim=1), rtol=0, atol=1e-5)


@pytest.mark.parametrize("individual", [False, True])
def test_rlinear_by_hand(individual: bool) -> None:
    model = scrambled(RLinearConfig(individual=individual).build(SHAPE, Head()))
    past = torch.randn(4, 20, 3).cumsum(dim=1)
    mean, scale = past.mean(dim=1, keepdim=True), (past.var(dim=1, keepdim=True, unbiased=False) + 1e-5).sqrt()
    assert model.affine is not None
    normalised = (past - mean) / scale * model.affine.weight + model.affine.bias
    weight, bias = model.linear.weight, model.linear.bias
    if individual:
        raw = torch.einsum("npl,bln->bpn", weight, normalised) + bias.T
    else:
        raw = torch.einsum("pl,bln->bpn", weight, normalised) + bias[:, None]
    expected = (raw - model.affine.bias) / (model.affine.weight + 1e-10) * scale + mean
    torch.testing.assert_close(model(window(past))[..., 0], expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("config", CONFIGS, ids=named)
def test_individual_maps_see_their_own_target_alone(config: NLinearConfig) -> None:
    model = scrambled(config.build(SHAPE, Head()))
    past = torch.randn(4, 20, 3, requires_grad=True)
    model(window(past))[:, :, 1].sum().backward()
    assert past.grad is not None
    assert past.grad[..., 1].any()
    assert not past.grad[..., [0, 2]].any()


@pytest.mark.parametrize("config", [NLinearConfig(), RLinearConfig()], ids=named)
def test_shifts_with_the_level(config: NLinearConfig) -> None:
    model = scrambled(config.build(SHAPE, Head()))
    past = torch.randn(4, 20, 3)
    torch.testing.assert_close(model(window(past + 5.0)), model(window(past)) + 5.0, rtol=1e-4, atol=1e-4)


def _zero(past: Tensor) -> Tensor:
    return torch.zeros_like(past[:, :1])


def _mean(past: Tensor) -> Tensor:
    return past[:, [0, 1, 2, *range(5, 20)]].mean(dim=1, keepdim=True)


@pytest.mark.parametrize(
    ("config", "stands_in"),
    [
        (NLinearConfig(), lambda past: past[:, -1:]),
        (DLinearConfig(kernel=7), _mean),
        (RLinearConfig(), None),
        (RLinearConfig(normalise=False), _zero),
    ],
    ids=["NLinear", "DLinear", "RLinear", "RLinear raw"],
)
def test_gaps(config: NLinearConfig, stands_in: Callable[[Tensor], Tensor] | None) -> None:
    """What stands in for steps 3 and 4; whatever lies there has no influence."""
    model = scrambled(config.build(SHAPE, Head()))
    past = torch.randn(4, 20, 3)
    mask = torch.ones(4, 20, 3, dtype=torch.bool)
    torch.testing.assert_close(model(window(past, mask)), model(window(past)), rtol=1e-4, atol=1e-4)
    mask[:, 3:5] = False
    found = model(window(past.masked_fill(~mask, 1e6), mask))
    assert torch.equal(found, model(window(past.masked_fill(~mask, -3.0), mask)))
    if stands_in is not None:
        filled = torch.where(mask, past, stands_in(past))
        torch.testing.assert_close(found, model(window(filled)), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("config", CONFIGS, ids=named)
@pytest.mark.parametrize(
    "head", [Head(kind="quantile"), Head(kind="normal"), Head(kind="student")], ids=lambda h: h.kind
)
def test_heads_and_covariates(config: NLinearConfig, head: Head) -> None:
    shape = replace(SHAPE, observed=1, known=2, static=1)
    model = config.build(shape, head)
    batch = replace(
        window(torch.randn(4, 20, 3)),
        observed=torch.randn(4, 20, 1), known=torch.randn(4, 26, 2), static=torch.randn(4, 1),
    )  # fmt: skip
    forecast = model(batch)
    assert forecast.shape == (4, 6, 3, head.outputs)
    head.error(forecast, torch.randn(4, 6, 3)).backward()
    assert model.covariates is not None
    assert model.covariates.linear.weight.grad is not None
    assert model.covariates.linear.weight.grad.any()


def test_dropout_is_of_training_only() -> None:
    model = RLinearConfig(dropout=0.5).build(SHAPE, Head())
    past = torch.randn(4, 20, 3)
    assert not torch.equal(model(window(past)), model(window(past)))
    model.eval()
    assert torch.equal(model(window(past)), model(window(past)))
    with pytest.raises(ConfigError, match="dropout"):
        RLinearConfig(dropout=1.0)
