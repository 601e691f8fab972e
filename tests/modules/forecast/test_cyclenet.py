"""CycleNet: the cycle that it takes away and adds, by phase; its own way of normalising."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from data.batch import WindowBatch
from data.errors import ConfigError
from modules.forecast.cyclenet import CycleNetConfig
from modules.forecast.heads import Head
from modules.forecast.interface import WindowShape

SHAPE = WindowShape(look_back=10, horizon=9, targets=2, season=4)


def window(batch: int = 5, seed: int = 0) -> WindowBatch:
    generator = torch.Generator().manual_seed(seed)
    past = torch.randn(batch, 10, 2, generator=generator)
    position = torch.tensor([0, 3, 4, 41, 10**6])[:batch]
    return WindowBatch(ids=(), seeds=torch.zeros(batch, dtype=torch.int64), past=past, position=position)


def test_the_cycle_by_hand() -> None:
    model = CycleNetConfig(normalise=False).build(SHAPE, Head())
    nn.init.normal_(model.cycle)
    batch = window()
    assert batch.position is not None
    forecast = model(batch)[..., 0]
    weight, bias = (parameter.detach() for parameter in model.network.parameters())
    for k, position in enumerate(batch.position.tolist()):
        seen = torch.stack([model.cycle[(position + step) % 4] for step in range(10)])
        ahead = torch.stack([model.cycle[(position + 10 + step) % 4] for step in range(9)])
        expected = weight @ (batch.past[k] - seen) + bias[:, None] + ahead
        torch.testing.assert_close(forecast[k], expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("network", ["linear", "mlp"])
def test_windows_one_cycle_apart_are_alike(network: str) -> None:
    model = CycleNetConfig(network=network, width=8, cycle=7).build(SHAPE, Head())  # type: ignore[arg-type]
    nn.init.normal_(model.cycle)
    batch = window()
    assert batch.position is not None
    later = replace(batch, position=batch.position + 14)
    assert torch.equal(model(later), model(batch))
    assert not torch.equal(model(replace(batch, position=batch.position + 1)), model(batch))


def test_normalises_by_the_unbiased_variance() -> None:
    model = CycleNetConfig().build(SHAPE, Head())
    batch = window()
    mean = batch.past.mean(dim=1, keepdim=True)
    scale = (batch.past.var(dim=1, keepdim=True) + 1e-5).sqrt()
    weight, bias = (parameter.detach() for parameter in model.network.parameters())
    expected = (weight @ ((batch.past - mean) / scale) + bias[:, None]) * scale + mean
    torch.testing.assert_close(model(batch)[..., 0], expected, rtol=0, atol=1e-5)


def test_learns_a_cycle() -> None:
    """A series that is its cycle: the forecast becomes exact, whatever the phase."""
    shape = replace(SHAPE, targets=1)
    series = torch.tensor([1.0, -2.0, 0.5, 3.0]).repeat(30)
    cut = series.unfold(0, 19, 1)[:80, :, None]
    batch = WindowBatch(
        ids=(),
        seeds=torch.zeros(80, dtype=torch.int64),
        past=cut[:, :10],
        future=cut[:, 10:],
        position=torch.arange(80),
    )
    model = CycleNetConfig(normalise=False).build(shape, Head())
    optimizer = torch.optim.Adam(model.parameters(), lr=0.05)
    for _ in range(300):
        optimizer.zero_grad()
        error = (model(batch)[..., 0] - batch.future).square().mean()
        error.backward()
        optimizer.step()
    assert error < 1e-3


def test_gaps_count_as_the_cycle() -> None:
    model = CycleNetConfig(normalise=False).build(SHAPE, Head())
    nn.init.normal_(model.cycle)
    batch = window(batch=1)
    mask = torch.ones_like(batch.past, dtype=torch.bool)
    mask[0, 6] = False
    filled = batch.past.clone()
    filled[0, 6] = model.cycle.detach()[6 % 4]
    gappy = replace(batch, past=batch.past.masked_fill(~mask, 1e6), past_mask=mask)
    torch.testing.assert_close(model(gappy), model(replace(batch, past=filled)), rtol=0, atol=1e-5)


@pytest.mark.parametrize(("kind", "located"), [("quantile", 7), ("normal", 1), ("student", 1)])
def test_the_cycle_moves_places_and_no_widths(kind: str, located: int) -> None:
    model = CycleNetConfig(normalise=False).build(SHAPE, Head(kind=kind))  # type: ignore[arg-type]
    nn.init.zeros_(model.network.weight)  # type: ignore[arg-type]
    before = model(window())
    nn.init.constant_(model.cycle, 2.0)
    moved = (model(window()) - before).amax(dim=(0, 1, 2))
    torch.testing.assert_close(moved, torch.tensor([2.0] * located + [0.0] * (len(moved) - located)))


def test_refusals() -> None:
    with pytest.raises(ConfigError, match="position"):
        CycleNetConfig().build(SHAPE, Head())(replace(window(), position=None))
    with pytest.raises(ConfigError, match="cycle"):
        CycleNetConfig(cycle=0)
