"""The encoder layers against torch's own, and what attention must keep."""

import pytest
import torch
from torch import nn

from data.errors import ConfigError
from modules.forecast.encoder import CrossAttention, EncoderConfig, EncoderLayer, SelfAttention

WIDTH, HEADS, HIDDEN = 24, 3, 40


def layer(**kwargs) -> EncoderLayer:
    return EncoderLayer(WIDTH, HEADS, HIDDEN, **({"dropout": 0.0} | kwargs))


@pytest.mark.parametrize("activation", ["gelu", "relu"])
def test_a_layer_is_torchs_post_norm_layer(activation):
    ours = layer(activation=activation).eval()
    theirs = nn.TransformerEncoderLayer(
        WIDTH, HEADS, HIDDEN, dropout=0.0, activation=activation, batch_first=True, norm_first=False
    ).eval()
    pairs = {
        "self_attn.in_proj_": "attention.query_key_value.",
        "self_attn.out_proj.": "attention.output.",
        "linear1.": "feed_forward.expand.",
        "linear2.": "feed_forward.contract.",
        "norm1.": "attention_norm.",
        "norm2.": "feed_forward_norm.",
    }
    for parameter in theirs.parameters():
        nn.init.normal_(parameter, std=0.3)
    weights = theirs.state_dict()
    renamed = {
        ours_prefix + key.removeprefix(prefix): weights[key]
        for prefix, ours_prefix in pairs.items()
        for key in weights
        if key.startswith(prefix)
    }
    ours.load_state_dict(renamed)
    x = torch.randn(4, 7, WIDTH)
    torch.testing.assert_close(ours(x), theirs(x), rtol=1e-4, atol=1e-5)


def test_cross_attention_is_torchs():
    ours = CrossAttention(WIDTH, HEADS, dropout=0.0)
    theirs = nn.MultiheadAttention(WIDTH, HEADS, batch_first=True)
    nn.init.normal_(theirs.in_proj_bias)
    ours.load_state_dict(
        {
            "query.weight": theirs.in_proj_weight[:WIDTH],
            "query.bias": theirs.in_proj_bias[:WIDTH],
            "key_value.weight": theirs.in_proj_weight[WIDTH:],
            "key_value.bias": theirs.in_proj_bias[WIDTH:],
            "output.weight": theirs.out_proj.weight,
            "output.bias": theirs.out_proj.bias,
        }
    )
    x, context = torch.randn(4, 5, WIDTH), torch.randn(4, 9, WIDTH)
    torch.testing.assert_close(ours(x, context), theirs(x, context, context)[0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", ["softmax", "flow"])
def test_tokens_asked_for_are_those_of_all(kind):
    one = layer(attention=kind)
    x = torch.randn(3, 8, WIDTH)
    torch.testing.assert_close(one(x, 5), one(x)[:, :5])
    torch.testing.assert_close(one(x, 8), one(x))


@pytest.mark.parametrize("kind", ["softmax", "flow"])
def test_tokens_have_no_order(kind):
    one = layer(attention=kind)
    x, order = torch.randn(3, 8, WIDTH), torch.randperm(8)
    torch.testing.assert_close(one(x[:, order]), one(x)[:, order], rtol=1e-4, atol=1e-5)


def test_attention_in_training_is_the_same_but_for_what_is_dropped():
    """The form with dropout on the weights is written out; with a probability that rounds to none it must agree."""
    attention = SelfAttention(WIDTH, HEADS, dropout=1e-7)
    x = torch.randn(3, 8, WIDTH)
    torch.testing.assert_close(attention.train()(x), attention.eval()(x))
    attention.dropout = 0.5
    mean = torch.stack([attention.train()(x) for _ in range(2000)]).mean(dim=0)
    torch.testing.assert_close(mean, attention.eval()(x), rtol=0, atol=0.05)


def test_impossible_sizes_are_refused():
    sizes = {"width": 24, "heads": 3, "layers": 1, "feed_forward": 8, "dropout": 0.1}
    EncoderConfig(**sizes)
    for wrong in ({"heads": 5}, {"layers": 0}, {"feed_forward": 0}, {"dropout": 1.0}):
        with pytest.raises(ConfigError):
            EncoderConfig(**(sizes | wrong))
