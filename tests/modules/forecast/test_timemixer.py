"""TimeMixer held against a plain transcription of its equations, and its laws with gaps and covariates."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from data.batch import WindowBatch
from data.errors import CheckpointError, ConfigError
from modules.forecast.heads import Head
from modules.forecast.interface import WindowShape
from modules.forecast.reference.timemixer import convert
from modules.forecast.timemixer import TimeMixer, TimeMixerConfig

SHAPE = WindowShape(look_back=21, horizon=6, targets=3)


def window(shape: WindowShape, batch: int = 2, *, masked: bool = False) -> WindowBatch:
    past = torch.randn(batch, shape.look_back, shape.targets) * 3 + 5
    mask = torch.rand_like(past) > 0.2 if masked else None
    both = shape.look_back + shape.horizon
    return WindowBatch(
        ids=(),
        seeds=torch.zeros(batch).long(),
        past=past if mask is None else past.masked_fill(~mask, 0.0),
        past_mask=mask,
        known=torch.randn(batch, both, shape.known) if shape.known else None,
        calendar=torch.rand(batch, both, shape.calendar) - 0.5 if shape.calendar else None,
    )


def built(config: TimeMixerConfig, shape: WindowShape = SHAPE, head: Head | None = None) -> TimeMixer:
    network = config.build(shape, head or Head())
    for p in network.parameters():
        torch.nn.init.uniform_(p, -0.5, 0.5)
    for affine in network.affines:
        torch.nn.init.uniform_(affine.weight, 0.5, 1.5)
    return network.eval()


def moving_average(x_BLC: Tensor, steps: int) -> Tensor:
    side = steps // 2
    padded = F.pad(x_BLC.transpose(1, 2), (side, side), mode="replicate")
    return F.avg_pool1d(padded, steps, 1).transpose(1, 2)


def transcription(network: TimeMixer, past: Tensor) -> Tensor:
    """Wang et al. 2024 step by step, with convolutions and pooling where the network has matrices."""
    c, (batch, _, targets) = network.config, past.shape
    pool = F.avg_pool1d if c.pooling == "mean" else F.max_pool1d
    scales = [past]
    for _ in range(c.scales - 1):
        scales.append(pool(scales[-1].transpose(1, 2), c.factor).transpose(1, 2))
    centre, deviation = past.mean(1, keepdim=True), (past.var(1, unbiased=False, keepdim=True) + 1e-5).sqrt()
    hidden, trends = [], []
    for k, x in enumerate(scales):
        x = (x - x.mean(1, keepdim=True)) / (x.var(1, unbiased=False, keepdim=True) + 1e-5).sqrt()
        x = x * network.affines[k].weight + network.affines[k].bias
        if c.channel_independent:
            x = x.permute(0, 2, 1).reshape(batch * targets, -1, 1)
        else:
            trends.append(moving_average(x, c.moving_average))
            x = x - trends[-1]
        kernel = network.embedding.weight.view(c.width, 3, -1).permute(0, 2, 1)
        hidden.append(F.conv1d(F.pad(x.transpose(1, 2), (1, 1), mode="circular"), kernel).transpose(1, 2))
    for block in network.blocks:
        trend = [moving_average(x, c.moving_average) for x in hidden]
        season = [x - t for x, t in zip(hidden, trend, strict=True)]
        if block.before is not None:
            season, trend = [block.before(x) for x in season], [block.before(x) for x in trend]
        for k, step in enumerate(block.season_mixing.steps):
            season[k + 1] = season[k + 1] + step(season[k].transpose(1, 2)).transpose(1, 2)
        for k, step in enumerate(block.trend_mixing.steps):
            coarse = c.scales - 1 - k
            trend[coarse - 1] = trend[coarse - 1] + step(trend[coarse].transpose(1, 2)).transpose(1, 2)
        mixed = [s + t for s, t in zip(season, trend, strict=True)]
        hidden = mixed if block.after is None else [x + block.after(m) for x, m in zip(hidden, mixed, strict=True)]
    total: Tensor | float = 0.0
    for k, x in enumerate(hidden):
        answer = network.projection(network.predictors[k](x.transpose(1, 2)).transpose(1, 2))
        if c.channel_independent:
            answer = answer.reshape(batch, targets, -1).transpose(1, 2)
        else:
            along = trends[k].transpose(1, 2)
            answer = answer + network.trends.outer[k](network.trends.inner[k](along)).transpose(1, 2)
        total = total + answer
    return (total - network.affines[0].bias) / network.affines[0].weight * deviation + centre


@torch.no_grad()
@pytest.mark.parametrize("independent", [True, False], ids=["each-target", "one-stream"])
@pytest.mark.parametrize("pooling", ["mean", "max"])
def test_equals_a_plain_transcription(independent: bool, pooling: str):
    config = TimeMixerConfig(width=4, feed_forward=5, scales=3, moving_average=5, channel_independent=independent,
                             pooling=pooling)  # type: ignore[arg-type]  # fmt: skip
    network, given = built(config), window(SHAPE)
    torch.testing.assert_close(network(given)[..., 0], transcription(network, given.past), rtol=1e-4, atol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize("independent", [True, False], ids=["each-target", "one-stream"])
@pytest.mark.parametrize("pooling", ["mean", "max"])
def test_what_was_not_measured_has_no_influence(independent: bool, pooling: str):
    config = TimeMixerConfig(scales=3, moving_average=5, channel_independent=independent, pooling=pooling)  # type: ignore[arg-type]
    network, given = built(config), window(SHAPE, masked=True)
    garbage = given.past.masked_fill(~given.past_mask, 1e3)
    other = WindowBatch(ids=(), seeds=given.seeds, past=garbage, past_mask=given.past_mask)
    torch.testing.assert_close(network(other), network(given), rtol=0, atol=0)
    whole = window(SHAPE)
    full = WindowBatch(ids=(), seeds=whole.seeds, past=whole.past, past_mask=torch.ones_like(whole.past).bool())
    torch.testing.assert_close(network(full), network(whole), rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_follows_units_and_offset_of_the_window():
    network, given = built(TimeMixerConfig(scales=2, moving_average=5)), window(SHAPE)
    moved = WindowBatch(ids=(), seeds=given.seeds, past=100 + 7 * given.past)
    torch.testing.assert_close(network(moved), 100 + 7 * network(given), rtol=1e-4, atol=1e-2)


@torch.no_grad()
@pytest.mark.parametrize("independent", [True, False], ids=["each-target", "one-stream"])
def test_quantiles_calendar_and_known_future(independent: bool):
    shape = WindowShape(look_back=21, horizon=6, targets=3, known=2, calendar=4)
    network = built(TimeMixerConfig(scales=3, channel_independent=independent), shape, Head(kind="quantile"))
    given = window(shape)
    answer = network(given)
    assert answer.shape == (2, 6, 3, len(network.head.levels))
    for name in ("known", "calendar"):
        changed = WindowBatch(**{**vars(given), name: 2 * getattr(given, name)})
        assert not torch.allclose(network(changed), answer)


def test_refuses_what_cannot_be():
    with pytest.raises(ConfigError, match="odd"):
        TimeMixerConfig(moving_average=4)
    with pytest.raises(ConfigError, match="fewer scales"):
        TimeMixerConfig(scales=6).build(SHAPE, Head())
    with pytest.raises(CheckpointError, match="every call"):
        convert({}, {"down_sampling_method": "conv"})
    with pytest.raises(CheckpointError, match="across the windows"):
        convert({}, {"decomp_method": "dft_decomp"})
