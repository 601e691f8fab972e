"""TimeXer: which steps and which series reach the forecast, and what gaps must not do."""

from dataclasses import replace

import pytest
import torch

from data.errors import ConfigError
from modules.forecast.heads import Head
from modules.forecast.interface import WindowShape
from modules.forecast.timexer import TimeXerConfig
from tests.modules.forecast.window_makers import behind_the_masks, scrambled, window_of, with_gaps

PAST = WindowShape(look_back=21, horizon=5, targets=3)
RICH = WindowShape(look_back=21, horizon=5, targets=2, observed=2, known=3, calendar=4, static=2)
PRICE = WindowShape(look_back=21, horizon=5, targets=1, known=1)
SMALL = TimeXerConfig(patch=6, width=16, heads=4, layers=2, feed_forward=24)
ALONE = replace(SMALL, exogenous_targets=False, normalise=False)


@pytest.mark.parametrize(("drop_newest", "unseen"), [(False, slice(0, 3)), (True, slice(18, 21))])
def test_steps_that_fill_no_patch_are_the_oldest_or_as_published_the_newest(drop_newest, unseen):
    network = scrambled(replace(ALONE, drop_newest=drop_newest).build(PRICE, Head()))
    window = window_of(PRICE)
    past = window.past.clone()
    past[:, unseen] += 5.0
    torch.testing.assert_close(network(replace(window, past=past)), network(window))
    past = window.past.clone()
    past[:, 20 - unseen.start] += 5.0
    assert not torch.allclose(network(replace(window, past=past)), network(window), atol=1e-3)


def test_targets_see_each_other_where_they_are_exogenous_tokens():
    window = window_of(RICH)
    past = window.past.clone()
    past[:, :, 1] = past[:, :, 1].flip(0)
    for exogenous in (True, False):
        network = scrambled(replace(SMALL, exogenous_targets=exogenous).build(RICH, Head()))
        same = torch.allclose(network(replace(window, past=past))[:, :, 0], network(window)[:, :, 0], atol=1e-4)
        assert same != exogenous


def test_without_other_series_the_targets_are_the_exogenous_ones():
    for exogenous in (True, False):
        network = scrambled(replace(SMALL, exogenous_targets=exogenous).build(PAST, Head()))
        assert network(window_of(PAST)).isfinite().all()


@pytest.mark.parametrize("name", ["observed", "known", "calendar", "static"])
def test_every_kind_of_covariate_is_seen(name):
    network = scrambled(SMALL.build(RICH, Head()))
    window = window_of(RICH)
    other = replace(window, **{name: getattr(window, name).flip(0)})
    assert (network(other) - network(window)).abs().max() > 1e-4


def test_known_covariates_are_seen_over_the_horizon():
    network = scrambled(ALONE.build(PRICE, Head()))
    window = window_of(PRICE)
    known = window.known.clone()
    known[:, PRICE.look_back :] += torch.randn(3, PRICE.horizon, 1)
    assert (network(replace(window, known=known)) - network(window)).abs().max() > 1e-4


def test_the_forecast_moves_and_grows_with_the_targets():
    network = scrambled(SMALL.build(RICH, Head()))
    window = replace(window_of(RICH), past=window_of(RICH).past * 20)
    scaled = replace(window, past=window.past * 3 - 7)
    torch.testing.assert_close(network(scaled), network(window) * 3 - 7, rtol=1e-3, atol=2e-2)


def test_what_lies_behind_a_mask_changes_nothing():
    network = scrambled(SMALL.build(RICH, Head()))
    window = with_gaps(window_of(RICH))
    forecast = network(behind_the_masks(window, 0.0))
    assert forecast.isfinite().all()
    torch.testing.assert_close(network(behind_the_masks(window, 1e3)), forecast, rtol=0, atol=1e-5)
    network.train()
    network(window).square().mean().backward()
    assert all(p.grad.isfinite().all() for p in network.parameters() if p.grad is not None)


@pytest.mark.parametrize("kind", ["quantile", "normal", "student"])
def test_all_kinds_of_forecast(kind):
    head = Head(kind=kind)
    forecast = scrambled(SMALL.build(RICH, head))(window_of(RICH))
    assert forecast.shape == (3, RICH.horizon, RICH.targets, head.outputs)


def test_a_window_shorter_than_a_patch_is_refused():
    with pytest.raises(ConfigError, match="at least one patch"):
        SMALL.build(replace(PAST, look_back=5), Head())
    with pytest.raises(ConfigError, match="head_dropout"):
        replace(SMALL, head_dropout=-0.1)
