"""Flow attention against the equations spelled out, with their laws: conservation, causality, padding, streams."""

from dataclasses import asdict

import pytest
import torch
from torch import Tensor

from data.errors import ConfigError
from modules.layers.flow_attention import EPS, FlowAttention, FlowState, causal_flow_attention, flow_attention


def draw(*shape: int, dtype: torch.dtype = torch.float64, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=dtype, generator=torch.Generator().manual_seed(seed))


def queries_keys_values(length: int, sources: int | None = None, dtype: torch.dtype = torch.float64) -> list[Tensor]:
    sources = length if sources is None else sources
    shapes = (length, 6), (sources, 6), (sources, 5)
    return [draw(2, 3, *shape, dtype=dtype, seed=k).requires_grad_() for k, shape in enumerate(shapes)]


def spelled_out(q: Tensor, k: Tensor, v: Tensor, *, clamp: bool = True, causal: bool = False) -> Tensor:
    """Every flow as a sum over the whole matrix of capacities, position by position."""
    q, k = q.sigmoid(), k.sigmoid()
    sinks, sources = q.shape[2], k.shape[2]
    seen = torch.ones(sinks, sources, dtype=q.dtype)
    if causal:
        seen = seen.tril()
    number = seen.sum(dim=1) if causal else torch.ones(sinks, dtype=q.dtype)
    number_of_source = number if causal else torch.ones(sources, dtype=q.dtype)
    key_sums, query_sums = seen @ k, (seen.tril() if causal else seen.T) @ q
    incoming = number / ((q + EPS) * (key_sums + EPS)).sum(-1)
    outgoing = number_of_source / ((k + EPS) * (query_sums + EPS)).sum(-1)
    weighted_keys = seen @ (k * outgoing[..., None])
    weighted_queries = (seen.tril() if causal else seen.T) @ (q * incoming[..., None])
    still_in = ((q + EPS) * (weighted_keys + EPS)).sum(-1) / number
    still_out = ((k + EPS) * (weighted_queries + EPS)).sum(-1) / number_of_source
    if clamp:
        still_out = still_out.clamp(-1, 1)
    if causal:
        competition = still_out.exp() / still_out.exp().cumsum(-1) * number
        allocation = still_in.sigmoid()
    else:
        competition = still_out.softmax(-1) * sources
        allocation = (still_in * sinks / sources).sigmoid()
    weights = (q @ k.transpose(-2, -1)) * seen
    return (weights * (incoming / number)[..., None]) @ (v * competition[..., None]) * allocation[..., None]


@pytest.mark.parametrize("clamp", [True, False])
@pytest.mark.parametrize("sources", [7, 19])
def test_equals_the_equations(sources: int, clamp: bool) -> None:
    given = queries_keys_values(19, sources)
    ours, theirs = flow_attention(*given, clamp=clamp), spelled_out(*given, clamp=clamp)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-13)
    gradients = [torch.autograd.grad(x.square().sum(), given) for x in (ours, theirs)]
    torch.testing.assert_close(*gradients, rtol=0, atol=1e-13)


@pytest.mark.parametrize("clamp", [True, False])
@pytest.mark.parametrize("chunk", [1, 8, 10, 64])
def test_causal_equals_the_equations_whatever_the_chunk(chunk: int, clamp: bool) -> None:
    given = queries_keys_values(40)
    ours = causal_flow_attention(*given, chunk=chunk, clamp=clamp)
    theirs = spelled_out(*given, clamp=clamp, causal=True)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-13)
    gradients = [torch.autograd.grad(x.square().sum(), given) for x in (ours, theirs)]
    torch.testing.assert_close(*gradients, rtol=0, atol=1e-13)


def test_single_precision_loses_nothing_to_the_chunks() -> None:
    given = [x.detach() for x in queries_keys_values(500, dtype=torch.float32)]
    theirs = spelled_out(*(x.double() for x in given), causal=True)
    error = (causal_flow_attention(*given).double() - theirs).abs().max() / theirs.abs().max()
    assert error <= 2.4e-7


def test_equal_sources_give_their_mean() -> None:
    """Equal sources compete equally, and a sink takes by its share of all capacity: what can be said on paper."""
    q, _, v = (x.detach() for x in queries_keys_values(11, 23))
    found = flow_attention(q, torch.zeros(2, 3, 23, 6, dtype=q.dtype), v, eps=0.0)
    capacity = q.sigmoid().sum(dim=-1, keepdim=True)
    taken = (capacity / capacity.mean(dim=2, keepdim=True)).sigmoid()
    torch.testing.assert_close(found, v.mean(dim=2, keepdim=True) * taken)


def test_order_of_positions_does_not_matter() -> None:
    q, k, v = queries_keys_values(12)
    order = torch.randperm(12)
    shuffled = flow_attention(q[:, :, order], k[:, :, order], v[:, :, order])
    torch.testing.assert_close(shuffled, flow_attention(q, k, v)[:, :, order])


def test_causal_sees_nothing_later() -> None:
    given = [x.detach() for x in queries_keys_values(70, dtype=torch.float32)]
    before = causal_flow_attention(*given)
    for x in given:
        x[:, :, 45:] = 1e3
    after = causal_flow_attention(*given)
    torch.testing.assert_close(after[:, :, :45], before[:, :, :45], rtol=0, atol=0)
    assert not torch.allclose(after[:, :, 45:], before[:, :, 45:])


def test_padding_changes_nothing() -> None:
    q, k, v = (x.detach() for x in queries_keys_values(9, 14))
    padded = [torch.cat([x, torch.full_like(x[:, :, :5], 7.0)], dim=2) for x in (q, k, v)]
    sinks, sources = torch.arange(14).expand(2, -1) < 9, torch.arange(19).expand(2, -1) < 14
    found = flow_attention(*padded, sink_mask=sinks, source_mask=sources)[:, :, :9]
    torch.testing.assert_close(found, flow_attention(q, k, v))


@pytest.mark.parametrize("clamp", [True, False])
def test_stream_equals_causal_and_goes_on_from_a_stored_state(clamp: bool) -> None:
    q, k, v = (x.detach() for x in queries_keys_values(90, dtype=torch.float32))
    together = causal_flow_attention(q, k, v, clamp=clamp)
    state = FlowState.empty(q[:, :, 0], v[:, :, 0])
    for n in range(90):
        if n == 40:
            state = FlowState(**asdict(state))
        found, state = state.step(q[:, :, n], k[:, :, n], v[:, :, n], clamp=clamp)
        torch.testing.assert_close(found, together[:, :, n], rtol=0, atol=1e-6)
    assert state.position == 90


def test_module_alike_at_once_and_step_by_step() -> None:
    attention = FlowAttention(10, 4, inner=8, output=6, causal=True).eval()
    x = draw(3, 50, 10, dtype=torch.float32)
    together = attention(x)
    state = None
    for n in range(50):
        found, state = attention.step(x[:, n], state)
        torch.testing.assert_close(found, together[:, n], rtol=0, atol=1e-6)


def test_module_leaves_padding_out() -> None:
    attention = FlowAttention(8, 2).eval()
    x, present = draw(2, 12, 8, dtype=torch.float32), torch.arange(12).expand(2, -1) < 9
    torch.testing.assert_close(attention(x, mask=present)[:, :9], attention(x[:, :9]))
    context = draw(2, 7, 8, dtype=torch.float32, seed=1)
    seen = torch.arange(7).expand(2, -1) < 4
    torch.testing.assert_close(attention(x, context, context_mask=seen), attention(x, context[:, :4]))


def test_refusals() -> None:
    with pytest.raises(ConfigError, match="multiple of heads"):
        FlowAttention(10, 4)
    with pytest.raises(ConfigError, match="causal=True"):
        FlowAttention(8, 2).step(torch.zeros(1, 8))
    with pytest.raises(ConfigError, match="leave out the context"):
        FlowAttention(8, 2, causal=True)(torch.zeros(1, 3, 8), torch.zeros(1, 3, 8))
    with pytest.raises(ConfigError, match="at least 1 position"):
        causal_flow_attention(*queries_keys_values(4), chunk=0)
