"""Attention blocks against plain einsum formulas and their symmetries."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from data.errors import ConfigError
from modules.layers.attention import Attention, Block, CrossAttention, FeedForward, Float32LayerNorm, SelfAttention

WIDTH, HEADS, BATCH, TOKENS, CONTEXT, CONTEXT_WIDTH = 24, 3, 2, 5, 7, 10


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def by_einsum(attention: Attention, x: Tensor, source: Tensor) -> Tensor:
    """Softmax attention head by head, norms of the heads written out."""
    gathered = []
    for rows in torch.arange(WIDTH).chunk(HEADS):
        q = x @ attention.query.weight[rows].T
        k = source @ attention.key.weight[rows].T
        if isinstance(attention.query_norm, torch.nn.RMSNorm):
            q = q / (q.square().mean(-1, keepdim=True) + 1e-6).sqrt() * attention.query_norm.weight
            k = k / (k.square().mean(-1, keepdim=True) + 1e-6).sqrt() * attention.key_norm.weight
        scores = torch.einsum("bnd,bsd->bns", q, k) / len(rows) ** 0.5
        gathered.append(scores.softmax(-1) @ (source @ attention.value.weight[rows].T))
    return torch.cat(gathered, dim=-1) @ attention.output.weight.T + attention.output.bias


def randomise(module: torch.nn.Module) -> None:
    """No weight at 0 or 1, where a mistake could hide."""
    for p in module.parameters():
        torch.nn.init.normal_(p, 0.3, 0.5)


@pytest.mark.parametrize("qk_norm", [False, True])
def test_self_attention_is_softmax_attention_per_head(qk_norm: bool) -> None:
    attention = SelfAttention(WIDTH, HEADS, qk_norm=qk_norm)
    randomise(attention)
    x = torch.randn(BATCH, TOKENS, WIDTH)
    torch.testing.assert_close(attention(x), by_einsum(attention, x, x))


@pytest.mark.parametrize("qk_norm", [False, True])
@pytest.mark.parametrize("norm_context", [False, True])
@pytest.mark.parametrize("differentiable_twice", [False, True])
def test_cross_attention_is_softmax_attention_per_head(
    qk_norm: bool, norm_context: bool, differentiable_twice: bool
) -> None:
    attention = CrossAttention(WIDTH, HEADS, context_width=CONTEXT_WIDTH, qk_norm=qk_norm, norm_context=norm_context)
    randomise(attention)
    x, context = torch.randn(BATCH, TOKENS, WIDTH), 3 * torch.randn(BATCH, CONTEXT, CONTEXT_WIDTH)
    source = context
    if norm_context:
        source = F.layer_norm(context, (CONTEXT_WIDTH,)) * attention.context_norm.weight + attention.context_norm.bias
    expected = by_einsum(attention, x, source)
    actual = attention(x, context, differentiable_twice=differentiable_twice)
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-5)


def test_projections_have_no_bias_and_the_output_has_one() -> None:
    names = {name for name, _ in CrossAttention(WIDTH, HEADS).named_parameters()}
    assert names == {"query.weight", "key.weight", "value.weight", "output.weight", "output.bias"}


def test_cached_context_equals_uncached_for_any_cut_of_the_queries() -> None:
    block = Block(WIDTH, HEADS, self_attention=False, context_width=CONTEXT_WIDTH, norm_context=True)
    x, context = torch.randn(BATCH, 9, WIDTH), torch.randn(BATCH, CONTEXT, CONTEXT_WIDTH)
    assert block.cross_attention is not None
    cached = block.cross_attention.project_context(context)
    pieces = torch.cat([block(part, cached) for part in x.split(4, dim=1)], dim=1)
    torch.testing.assert_close(pieces, block(x, context))


def test_self_attention_block_permutes_with_its_tokens() -> None:
    block = Block(WIDTH, HEADS)
    x, order = torch.randn(BATCH, TOKENS, WIDTH), torch.randperm(TOKENS)
    torch.testing.assert_close(block(x[:, order]), block(x)[:, order])


def test_cross_attention_does_not_see_the_order_of_the_context() -> None:
    block = Block(WIDTH, HEADS, self_attention=False, context_width=CONTEXT_WIDTH)
    x, context = torch.randn(BATCH, TOKENS, WIDTH), torch.randn(BATCH, CONTEXT, CONTEXT_WIDTH)
    torch.testing.assert_close(block(x, context[:, torch.randperm(CONTEXT)]), block(x, context))


@pytest.mark.parametrize("qk_norm", [False, True])
def test_no_context_is_a_context_of_zeros(qk_norm: bool) -> None:
    block = Block(WIDTH, HEADS, context_width=CONTEXT_WIDTH, second_context_width=CONTEXT_WIDTH, qk_norm=qk_norm)
    randomise(block)
    x, zeros = torch.randn(BATCH, TOKENS, WIDTH), torch.zeros(BATCH, CONTEXT, CONTEXT_WIDTH)
    torch.testing.assert_close(block(x, scales=(0.7, 0.2)), block(x, zeros, zeros, scales=(0.7, 0.2)))


def test_no_context_is_refused_where_zeros_would_be_normalised() -> None:
    block = Block(WIDTH, HEADS, context_width=CONTEXT_WIDTH, norm_context=True)
    with pytest.raises(ValueError, match="not zero"):
        block(torch.randn(BATCH, TOKENS, WIDTH))


def test_block_is_skip_then_self_then_both_contexts_then_feed_forward() -> None:
    block = Block(WIDTH, HEADS, context_width=CONTEXT_WIDTH, second_context_width=6, skip=True)
    randomise(block)
    x, skip = torch.randn(BATCH, TOKENS, WIDTH), torch.randn(BATCH, TOKENS, WIDTH)
    first, second = torch.randn(BATCH, 4, CONTEXT_WIDTH), torch.randn(BATCH, 3, 6)

    def norm(of: Float32LayerNorm, y: Tensor) -> Tensor:
        return (y - y.mean(-1, keepdim=True)) / (y.var(-1, correction=0, keepdim=True) + 1e-5).sqrt() * (
            of.weight
        ) + of.bias

    parts = dict(block.named_children())
    y = norm(parts["skip_norm"], parts["skip_linear"](torch.cat([skip, x], dim=-1)))
    read = norm(parts["self_norm"], y)
    y = y + by_einsum(parts["self_attention"], read, read)
    y = (
        y
        + 0.5 * by_einsum(parts["cross_attention"], norm(parts["cross_norm"], y), first)
        + 0.25 * by_einsum(parts["second_cross_attention"], norm(parts["second_cross_norm"], y), second)
    )
    hidden = norm(parts["feed_forward_norm"], y) @ block.feed_forward.expand.weight.T + block.feed_forward.expand.bias
    hidden = 0.5 * hidden * (1 + torch.erf(hidden / 2**0.5))
    y = y + hidden @ block.feed_forward.contract.weight.T + block.feed_forward.contract.bias
    torch.testing.assert_close(
        block(x, first, second, skip=skip, scales=(0.5, 0.25)), y, rtol=1e-4, atol=1e-4 * y.std().item()
    )


def test_block_with_a_long_skip_asks_for_it() -> None:
    with pytest.raises(ValueError, match="skip="):
        Block(WIDTH, HEADS, skip=True)(torch.randn(BATCH, TOKENS, WIDTH))


def test_norms_compute_in_float32() -> None:
    """Around 1000, bfloat16 resolves steps of 4: its own mean and variance would be far off."""
    norm = Float32LayerNorm(WIDTH).bfloat16()
    x = (1000 + 40 * torch.randn(BATCH, WIDTH)).bfloat16()
    expected = F.layer_norm(x.double(), (WIDTH,)).bfloat16()
    assert norm(x).dtype == torch.bfloat16
    torch.testing.assert_close(norm(x), expected, rtol=2**-7, atol=1e-3)


def test_spelled_out_attention_has_a_second_derivative() -> None:
    attention = CrossAttention(WIDTH, HEADS).double()
    context = torch.randn(1, 3, WIDTH, dtype=torch.float64)
    x = torch.randn(1, 2, WIDTH, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradgradcheck(lambda x: attention(x, context, differentiable_twice=True), (x,))


def test_feed_forward_is_four_times_as_wide() -> None:
    assert FeedForward(WIDTH).expand.out_features == 4 * WIDTH


def test_width_must_be_shared_evenly_by_the_heads() -> None:
    with pytest.raises(ConfigError, match="20 and 25"):
        SelfAttention(24, 5)
