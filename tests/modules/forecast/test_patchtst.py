"""PatchTST, the authors' and the library's: patches, heads, parts, and what both must keep."""

import math
from dataclasses import replace

import pytest
import torch

from data.batch import WindowBatch
from data.errors import ConfigError
from modules.forecast.heads import Head
from modules.forecast.interface import WindowShape
from modules.forecast.patches import PatchHead, patch_count, patches, sinusoidal_positions
from modules.forecast.patchtst import PatchTSTConfig
from modules.forecast.patchtst_tslib import TSLibPatchTSTConfig
from tests.modules.forecast.window_makers import behind_the_masks, scrambled, window_of, with_gaps

PAST = WindowShape(look_back=21, horizon=5, targets=3)
RICH = WindowShape(look_back=21, horizon=5, targets=2, observed=2, known=3, calendar=4, static=2)
PAPER = PatchTSTConfig(patch=6, stride=4, width=16, heads=4, layers=2, feed_forward=24)
LIBRARY = TSLibPatchTSTConfig(patch=6, stride=4, width=16, heads=2, layers=2, feed_forward=24)
CONFIGS = {
    "paper": PAPER,
    "paper, flow": replace(PAPER, attention="flow"),
    "paper, last value": replace(PAPER, centre="last", affine=False),
    "paper, parts": replace(PAPER, moving_average=5),
    "paper, individual": replace(PAPER, individual=True, repeat_newest=False),
    "library": LIBRARY,
    "library, flow": replace(LIBRARY, attention="flow"),
}


@pytest.fixture(params=CONFIGS, name="config")
def config_(request):
    return CONFIGS[request.param]


@pytest.mark.parametrize(("repeated", "drop_newest"), [(0, False), (0, True), (4, False), (4, True)])
def test_patches_are_slices(repeated, drop_newest):
    series = torch.randn(2, 21, 3)
    found = patches(series, 6, 4, repeated=repeated, drop_newest=drop_newest)
    assert found.shape == (2, 3, patch_count(21, 6, 4, repeated=repeated), 6)
    padded = torch.cat([series, series[:, -1:].repeat(1, repeated, 1)], dim=1)
    over = (len(padded[0]) - 6) % 4
    first = 0 if drop_newest else over
    for token in range(found.shape[2]):
        begin = first + 4 * token
        assert torch.equal(found[:, :, token], padded[:, begin : begin + 6].transpose(1, 2))
    if not drop_newest:
        assert torch.equal(found[..., -1, -1], series[:, -1])


def test_positions_are_sines_and_cosines():
    table = sinusoidal_positions(7, 10)
    for position in range(7):
        for pair in range(5):
            angle = position / 10_000 ** (2 * pair / 10)
            assert table[position, 2 * pair].item() == pytest.approx(math.sin(angle), abs=1e-6)
            assert table[position, 2 * pair + 1].item() == pytest.approx(math.cos(angle), abs=1e-6)


def test_a_head_for_each_variate_is_so_many_heads():
    shared, apart = PatchHead(12, 5), PatchHead(12, 5, 3)
    x = torch.randn(4, 3, 12)
    with torch.no_grad():
        apart.weight.copy_(shared.linear.weight.expand(3, -1, -1))
        apart.bias.copy_(shared.linear.bias.expand(3, -1))
        torch.testing.assert_close(apart(x), shared(x))
        apart.weight[1] *= 2
    assert torch.allclose(apart(x)[:, 0], shared(x)[:, 0]) and not torch.allclose(apart(x)[:, 1], shared(x)[:, 1])


def test_variates_do_not_see_each_other(config):
    network = scrambled(config.build(PAST, Head()))
    window = window_of(PAST)
    past = window.past.clone()
    past[:, :, 1:] += torch.randn(3, 21, 2)
    other = network(replace(window, past=past))
    torch.testing.assert_close(other[:, :, 0], network(window)[:, :, 0])
    assert not torch.allclose(other[:, :, 1], network(window)[:, :, 1], atol=1e-3)


def test_the_forecast_moves_and_grows_with_the_targets(config):
    network = scrambled(config.build(PAST, Head()))
    window = replace(window_of(PAST), past=window_of(PAST).past * 20)
    scaled = replace(window, past=window.past * 3 - 7)
    torch.testing.assert_close(network(scaled), network(window) * 3 - 7, rtol=1e-3, atol=2e-2)


def test_what_lies_behind_a_mask_changes_nothing(config):
    network = scrambled(config.build(RICH, Head()))
    window = with_gaps(window_of(RICH))
    forecast = network(behind_the_masks(window, 0.0))
    assert forecast.isfinite().all()
    torch.testing.assert_close(network(behind_the_masks(window, 1e3)), forecast, rtol=0, atol=1e-4)
    network.train()
    network(window).square().mean().backward()
    assert all(p.grad.isfinite().all() for p in network.parameters() if p.grad is not None)


def test_covariates_add_nothing_until_trained_and_are_seen_then(config):
    network = config.build(RICH, Head()).eval()
    window = window_of(RICH)
    changed = replace(window, known=window.known.flip(0))
    torch.testing.assert_close(network(changed), network(window))
    assert not torch.allclose(scrambled(network)(changed), network(window), atol=1e-3)


@pytest.mark.parametrize("kind", ["quantile", "normal", "student"])
def test_all_kinds_of_forecast(config, kind):
    head = Head(kind=kind)
    forecast = scrambled(config.build(RICH, head))(window_of(RICH))
    assert forecast.shape == (3, RICH.horizon, RICH.targets, head.outputs)
    assert head.quantiles(forecast, (0.1, 0.5, 0.9)).diff(dim=-1).min() >= 0


@pytest.mark.parametrize("kind", ["point", "normal"])
def test_with_parts_the_forecasts_of_trend_and_rest_are_added(kind):
    config, head = replace(PAPER, moving_average=5), Head(kind=kind)
    whole = scrambled(config.build(PAST, head))
    window = window_of(PAST)
    padded = torch.cat([window.past[:, :1].repeat(1, 2, 1), window.past, window.past[:, -1:].repeat(1, 2, 1)], dim=1)
    trend = padded.unfold(1, 5, 1).mean(dim=-1)
    total = torch.zeros(3, PAST.horizon, PAST.targets)
    for number, part in enumerate((window.past - trend, trend)):
        alone = replace(config, moving_average=0).build(PAST, head).eval()
        alone.networks[0].load_state_dict(whole.networks[number].state_dict())
        total = total + alone(WindowBatch(ids=(), seeds=window.seeds, past=part))[..., 0]
    torch.testing.assert_close(whole(window)[..., 0], total, rtol=1e-4, atol=1e-4)


def test_one_layer_without_scores_to_hand_on_is_the_same_layer():
    """The fused kernel of a single layer against the written-out attention that hands on its scores."""
    attention = replace(PAPER, layers=1).build(PAST, Head()).networks[0].layers[0].attention
    x = torch.randn(4, 5, 16)
    fused, none = attention(x, None, needed=False)
    written, scores = attention(x, None, needed=True)
    torch.testing.assert_close(fused, written)
    assert none is None
    q, k, _ = attention.query_key_value(x).chunk(3, dim=-1)
    torch.testing.assert_close(scores[1], q[0, :, 4:8] @ k[0, :, 4:8].T / 2)
    again, added = attention(x, scores, needed=True)
    torch.testing.assert_close(added, 2 * scores)
    assert not torch.allclose(again, written)


def test_impossible_patches_are_refused():
    with pytest.raises(ConfigError, match="at least one patch"):
        PAPER.build(replace(PAST, look_back=5), Head())
    with pytest.raises(ConfigError, match="patch and stride"):
        replace(LIBRARY, stride=0).build(PAST, Head())
    with pytest.raises(ConfigError, match="odd"):
        replace(PAPER, moving_average=4)
    with pytest.raises(ConfigError, match="head_dropout"):
        replace(LIBRARY, head_dropout=1.0)
