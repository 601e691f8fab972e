"""Dropout: shares, scales, and the gradient that follows from them."""

import pytest
import torch

from modules.layers.dropout import LEVELS, add_dropout, dropout

PROBABILITIES = [0.05, 0.1, 0.3, 0.5, 0.9]


@pytest.mark.parametrize("probability", PROBABILITIES)
def test_what_is_kept_is_a_share_of_all_and_keeps_the_mean(probability):
    dropped = dropout(torch.ones(401, 503), probability, training=True)
    assert set(dropped.unique().tolist()) == {0.0, dropped.max().item()}
    assert dropped.max().item() == pytest.approx(1 / (1 - probability), rel=1.0 / LEVELS / (1 - probability))
    spread = (probability * (1 - probability) / dropped.numel()) ** 0.5
    assert (dropped == 0).double().mean().item() == pytest.approx(probability, abs=4 * spread)


def test_neighbours_are_independent():
    """Four elements share one draw of 64 bits; none follows from another."""
    kept = dropout(torch.ones(4 * 50_000), 0.5, training=True).view(-1, 4).sign()
    pairs = (kept.T @ kept) / len(kept)
    torch.testing.assert_close(pairs, torch.full((4, 4), 0.25).fill_diagonal_(0.5), rtol=0, atol=0.01)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_the_gradient_is_what_was_multiplied_with(dtype):
    x = torch.randn(7, 13, dtype=dtype).requires_grad_()
    factor = dropout(x, 0.4, training=True)
    factor.sum().backward()
    torch.testing.assert_close(x.grad * x, factor)


def test_the_sum_is_that_of_its_parts():
    x, added = torch.randn(2, 5, 11), torch.randn(2, 5, 11)
    torch.manual_seed(3)
    apart = x + dropout(added, 0.3, training=True)
    torch.manual_seed(3)
    torch.testing.assert_close(add_dropout(x, added, 0.3, training=True), apart)


def test_outside_training_and_without_probability_nothing_changes():
    x, added = torch.randn(6), torch.randn(6)
    assert dropout(x, 0.5, training=False) is x
    assert dropout(x, 0.0, training=True) is x
    assert torch.equal(add_dropout(x, added, 0.5, training=False), x + added)


def test_the_global_generator_decides():
    x = torch.ones(1000)
    torch.manual_seed(5)
    first = dropout(x, 0.5, training=True)
    assert not torch.equal(first, dropout(x, 0.5, training=True))
    torch.manual_seed(5)
    assert torch.equal(first, dropout(x, 0.5, training=True))
