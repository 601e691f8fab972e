"""SparseTSF written out by hand; look-backs and horizons that are no whole number of periods."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from data.batch import WindowBatch
from data.errors import ConfigError
from modules.forecast.heads import Head
from modules.forecast.interface import WindowShape
from modules.forecast.sparsetsf import SparseTSFConfig

SHAPE = WindowShape(look_back=22, horizon=13, targets=2, season=5)


def window(past: Tensor, mask: Tensor | None = None) -> WindowBatch:
    return WindowBatch(ids=(), seeds=torch.zeros(len(past), dtype=torch.int64), past=past, past_mask=mask)


def test_by_hand() -> None:
    """Smooth all, then the newest four whole periods of 22 steps, three periods ahead, cut to 13."""
    model = SparseTSFConfig().build(SHAPE, Head())
    past = torch.randn(3, 22, 2)
    kernel = model.smooth.weight.detach().flatten().numpy()
    weight = next(model.network.parameters()).detach().numpy()
    assert kernel.shape == (5,)
    assert weight.shape == (3, 4)
    forecast = model(window(past))[..., 0].detach().numpy()
    for k in range(3):
        for n in range(2):
            x = past[k, :, n].numpy() - past[k, :, n].mean().item()
            smooth = x + np.correlate(np.pad(x, 2), kernel, mode="valid")
            ahead = np.concatenate(weight @ smooth[-20:].reshape(4, 5))[:13]
            np.testing.assert_allclose(forecast[k, :, n], ahead + past[k, :, n].mean().item(), atol=1e-5)


@pytest.mark.parametrize("head", [Head(), Head(kind="quantile")], ids=lambda h: h.kind)
@pytest.mark.parametrize("network", ["linear", "mlp"])
def test_each_phase_is_forecast_from_its_own(network: str, head: Head) -> None:
    model = SparseTSFConfig(network=network, width=6).build(SHAPE, head)  # type: ignore[arg-type]
    torch.nn.init.zeros_(model.smooth.weight)
    past = torch.randn(1, 22, 2)
    past[:, :, 1] -= past[:, :, 1].mean()
    moved = past.clone()
    moved[0, 20, 1] += 1.0
    moved[0, 3, 1] -= 1.0  # the same phase as step 18, four periods back: the mean stays
    changed = (model(window(moved)) - model(window(past))).abs().sum(dim=(0, 3))
    assert not changed[:, 0].any()
    # Step 20 is the fourth of its period (the newest period is steps 17 to 21), step 3 the second of the oldest.
    assert changed[:, 1].gt(1e-5).nonzero().flatten().tolist() == [1, 3, 6, 8, 11]


def test_gaps_count_as_the_mean() -> None:
    model = SparseTSFConfig(network="mlp").build(SHAPE, Head())
    past = torch.randn(3, 22, 2)
    mask = torch.ones_like(past, dtype=torch.bool)
    mask[:, 4:9] = False
    mean = past[:, [*range(4), *range(9, 22)]].mean(dim=1, keepdim=True)
    filled = torch.where(mask, past, mean)
    found = model(window(past.masked_fill(~mask, 1e6), mask))
    torch.testing.assert_close(found, model(window(filled)), rtol=0, atol=1e-5)


def test_covariates_are_added() -> None:
    shape = replace(SHAPE, known=1)
    model = SparseTSFConfig().build(shape, Head())
    assert model.covariates is not None
    torch.nn.init.normal_(model.covariates.linear.weight)
    batch = replace(window(torch.randn(3, 22, 2)), known=torch.randn(3, 35, 1))
    without = replace(batch, known=torch.zeros(3, 35, 1))
    torch.testing.assert_close(model(batch) - model(without), model.covariates(batch, None), rtol=0, atol=1e-4)


def test_refusals() -> None:
    with pytest.raises(ConfigError, match="22 steps of 23"):
        SparseTSFConfig(period=23).build(SHAPE, Head())
    with pytest.raises(ConfigError, match="period"):
        SparseTSFConfig(period=0)
