"""iTransformer: what it keeps, what gaps must not do, and that it uses what is known ahead."""

from dataclasses import replace

import pytest
import torch

from data.errors import ConfigError
from modules.forecast.heads import Head
from modules.forecast.interface import WindowShape
from modules.forecast.itransformer import ITransformerConfig
from tests.modules.forecast.window_makers import behind_the_masks, scrambled, window_of, with_gaps

PAST = WindowShape(look_back=20, horizon=6, targets=4)
RICH = WindowShape(look_back=20, horizon=6, targets=2, observed=2, known=3, calendar=4, static=2)
SMALL = ITransformerConfig(width=16, heads=4, feed_forward=24)
BOTH = [SMALL, replace(SMALL, attention="flow")]


@pytest.mark.parametrize("config", BOTH, ids=lambda c: c.attention)
def test_the_order_of_variates_means_nothing(config):
    network = scrambled(config.build(PAST, Head()))
    window, order = window_of(PAST), torch.randperm(4)
    turned = replace(window, past=window.past[:, :, order])
    torch.testing.assert_close(network(turned), network(window)[:, :, order], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("shape", [PAST, RICH], ids=["past", "rich"])
def test_the_forecast_moves_and_grows_with_the_targets(shape):
    network = scrambled(SMALL.build(shape, Head()))
    window = window_of(shape)
    window = replace(window, past=window.past * 20)
    scaled = replace(window, past=window.past * 3 - 7)
    torch.testing.assert_close(network(scaled), network(window) * 3 - 7, rtol=1e-3, atol=1e-2)


def test_without_normalisation_values_enter_as_they_are():
    network = scrambled(replace(SMALL, normalise=False).build(PAST, Head()))
    window = window_of(PAST)
    assert not torch.allclose(network(replace(window, past=window.past + 5)), network(window) + 5, atol=0.1)


@pytest.mark.parametrize("config", BOTH, ids=lambda c: c.attention)
def test_what_lies_behind_a_mask_changes_nothing(config):
    network = scrambled(config.build(RICH, Head()))
    window = with_gaps(window_of(RICH))
    forecast = network(behind_the_masks(window, 0.0))
    assert forecast.isfinite().all()
    torch.testing.assert_close(network(behind_the_masks(window, 1e3)), forecast, rtol=0, atol=1e-6)
    network.train()
    forecast = network(window)
    forecast.square().mean().backward()
    assert all(p.grad.isfinite().all() for p in network.parameters() if p.grad is not None)


@pytest.mark.parametrize("name", ["observed", "known", "calendar", "static"])
def test_every_kind_of_covariate_is_seen(name):
    network = scrambled(SMALL.build(RICH, Head()))
    window = window_of(RICH)
    other = replace(window, **{name: getattr(window, name).flip(0)})
    assert (network(other) - network(window)).abs().max() > 1e-5


def test_known_covariates_are_seen_over_the_horizon():
    network = scrambled(SMALL.build(RICH, Head()))
    window = window_of(RICH)
    later = window.known.clone()
    later[:, RICH.look_back :] += torch.randn(3, RICH.horizon, RICH.known)
    assert (network(replace(window, known=later)) - network(window)).abs().max() > 1e-5


def test_the_calendar_may_stay_away():
    network = scrambled(replace(SMALL, calendar=False).build(RICH, Head()))
    window = window_of(RICH)
    torch.testing.assert_close(network(replace(window, calendar=None)), network(window))


def test_a_window_without_the_columns_it_was_built_for_is_refused():
    network = SMALL.build(RICH, Head())
    for name in ("observed", "known", "static"):
        with pytest.raises(ConfigError, match=f"{name} columns"):
            network(replace(window_of(RICH), **{name: None}))


@pytest.mark.parametrize("kind", ["quantile", "normal", "student"])
def test_all_kinds_of_forecast(kind):
    head = Head(kind=kind)
    forecast = scrambled(SMALL.build(RICH, head))(window_of(RICH))
    assert forecast.shape == (3, RICH.horizon, RICH.targets, head.outputs)
    assert head.quantiles(forecast, (0.1, 0.5, 0.9)).diff(dim=-1).min() >= 0


def test_it_learns_what_only_the_known_future_tells():
    """The future is the covariate of the same step; the past is noise."""
    shape = WindowShape(look_back=4, horizon=2, targets=1, known=1)
    config = ITransformerConfig(width=16, heads=2, layers=1, feed_forward=16, dropout=0.0, normalise=False)
    network = config.build(shape, Head())
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-2)
    for step in range(100):
        window = window_of(shape, batch=64, seed=step)
        loss = network.head.error(network(window), window.known[:, shape.look_back :])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.4  # the variance of what is to be said is 1
