"""Attention of linear cost by conservation of flow (Flowformer, Wu et al. 2022): plain, causal, and one step at a time.

Values flow from sources (keys) to sinks (queries) along capacities sigmoid(q)·sigmoid(k). Each sink's incoming and each
source's outgoing flow is held at 1; sources then compete by what they still send, and sinks take by what they still
receive. The order of the products keeps it linear in the number of positions.

Shape suffixes: B batch, H heads, L sinks, S sources, N positions, T chunks, C positions of a chunk, d width of a head.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from data.errors import ConfigError
from modules.layers.attention import check_heads

EPS = 1e-6
"""Added to every capacity and to every sum of them, so that no flow is zero."""
CHUNK = 32
"""Positions of a chunk of the causal form: the least time at 256 to 4096 positions (benchmarks/flow_attention.py)."""


def flow_attention(
    q: Float[Tensor, "batch heads sink d"],
    k: Float[Tensor, "batch heads source d"],
    v: Float[Tensor, "batch heads source e"],
    *,
    clamp: bool = True,
    eps: float = EPS,
    sink_mask: Bool[Tensor, "batch sink"] | None = None,
    source_mask: Bool[Tensor, "batch source"] | None = None,
) -> Float[Tensor, "batch heads sink e"]:
    """What each sink receives; every sink sees every source.

    Args:
        clamp: hold the flow that each source still sends within [-1, 1], as the general form does; the published
            networks for time series do not.
        sink_mask: False for padding, which takes part in no sum; what comes out there means nothing.
        source_mask: the same for the sources.
    """
    q_BHLd, k_BHSd = q.sigmoid(), k.sigmoid()
    sinks: int | Tensor = q.shape[2]
    sources: int | Tensor = k.shape[2]
    if sink_mask is not None:
        q_BHLd = q_BHLd * sink_mask[:, None, :, None]
        sinks = sink_mask.sum(dim=1)[:, None, None]
    if source_mask is not None:
        k_BHSd = k_BHSd * source_mask[:, None, :, None]
        sources = source_mask.sum(dim=1)[:, None, None]

    incoming_BHL = 1 / _flow(q_BHLd, k_BHSd.sum(dim=2), eps)
    outgoing_BHS = 1 / _flow(k_BHSd, q_BHLd.sum(dim=2), eps)
    still_in_BHL = _flow(q_BHLd, _weighted_sum(k_BHSd, outgoing_BHS), eps)
    still_out_BHS = _flow(k_BHSd, _weighted_sum(q_BHLd, incoming_BHL), eps)
    if clamp:
        still_out_BHS = still_out_BHS.clamp(-1.0, 1.0)
    if source_mask is not None:
        still_out_BHS = still_out_BHS.masked_fill(~source_mask[:, None], -torch.inf)
    competition_BHS = still_out_BHS.softmax(dim=-1) * sources
    taken_BHL = (still_in_BHL * (sinks / sources)).sigmoid() * incoming_BHL
    gathered = q_BHLd @ (k_BHSd.transpose(-2, -1) @ (v * competition_BHS[..., None]))
    return gathered * taken_BHL[..., None]


def _flow(x_BHNd: Tensor, total_BHd: Tensor, eps: float) -> Tensor:
    """(x + eps)·(total + eps) for each position [B, H, N]."""
    # Spelled out: as a product of matrices it takes half as long again on a CPU, for heads side by side in memory.
    total = total_BHd + eps
    return (x_BHNd * total[:, :, None]).sum(dim=-1) + eps * total.sum(dim=-1, keepdim=True)


def _weighted_sum(x_BHNd: Tensor, weights_BHN: Tensor) -> Tensor:
    """Σ weight·x over the positions [B, H, d]."""
    return (x_BHNd * weights_BHN[..., None]).sum(dim=2)


def causal_flow_attention(
    q: Float[Tensor, "batch heads position d"],
    k: Float[Tensor, "batch heads position d"],
    v: Float[Tensor, "batch heads position e"],
    *,
    chunk: int = CHUNK,
    clamp: bool = True,
    eps: float = EPS,
) -> Float[Tensor, "batch heads position e"]:
    """What each position receives from itself and those before it: every sum of `flow_attention` as a running sum.

    Exact, whatever `chunk` is. Capacities are spelled out within a chunk only; what lies before it comes in as sums, so
    that no state is held per position.
    """
    if chunk < 1:
        raise ConfigError(f"chunk must be at least 1 position, got {chunk}.")
    length = q.shape[2]
    chunk = min(chunk, length)
    q_BHTCd, k_BHTCd, v_BHTCe = (_chunked(x, chunk) for x in (q.sigmoid(), k.sigmoid(), v))
    position_TC = torch.arange(1, q_BHTCd.shape[2] * chunk + 1, dtype=q.dtype, device=q.device).view(-1, chunk)
    capacity_BHTCC = q_BHTCd @ k_BHTCd.transpose(-2, -1)
    from_sources = _RunningFlow(q_BHTCd, k_BHTCd, capacity_BHTCC.tril(), eps)
    from_sinks = _RunningFlow(k_BHTCd, q_BHTCd, capacity_BHTCC.transpose(-2, -1).tril(), eps)

    everywhere = torch.ones_like(q_BHTCd[..., 0])
    incoming_BHTC = position_TC / from_sources(everywhere)
    outgoing_BHTC = position_TC / from_sinks(everywhere)
    still_in_BHTC = from_sources(outgoing_BHTC) / position_TC
    still_out_BHTC = from_sinks(incoming_BHTC) / position_TC
    if clamp:
        still_out_BHTC = still_out_BHTC.clamp(-1.0, 1.0)
    strength_BHTC = still_out_BHTC.exp()
    competition_BHTC = strength_BHTC / _running_sum(strength_BHTC) * position_TC
    gathered = from_sources.gather(v_BHTCe * competition_BHTC[..., None])
    taken_BHTC = still_in_BHTC.sigmoid() * incoming_BHTC / position_TC
    return (gathered * taken_BHTC[..., None]).flatten(2, 3)[:, :, :length]


class _RunningFlow:
    """Products of each x with sums over all y up to its position: masked products within a chunk, sums before it."""

    def __init__(self, x_BHTCd: Tensor, y_BHTCd: Tensor, capacity_BHTCC: Tensor, eps: float) -> None:
        self.x, self.y, self.capacity, self.eps = x_BHTCd, y_BHTCd, capacity_BHTCC, eps
        self.x_sum, self.y_sum = x_BHTCd.sum(dim=-1), y_BHTCd.sum(dim=-1)

    def __call__(self, weights_BHTC: Tensor) -> Tensor:
        """(x + eps)·(Σ weight·y + eps), the sum up to each position [B, H, T, C]."""
        within = (self.capacity @ weights_BHTC[..., None])[..., 0]
        before = _sum_before((weights_BHTC[..., None, :] @ self.y)[..., 0, :])
        across = (self.x @ before[..., None])[..., 0]
        width = self.x.shape[-1]
        return within + across + self.eps * (self.x_sum + _running_sum(weights_BHTC * self.y_sum) + width * self.eps)

    def gather(self, values_BHTCe: Tensor) -> Tensor:
        """Σ (x·y) value, the sum up to each position [B, H, T, C, e]."""
        before = _sum_before(self.y.transpose(-2, -1) @ values_BHTCe)
        return self.capacity @ values_BHTCe + self.x @ before


def _running_sum(x_BHTC: Tensor) -> Tensor:
    """Over all positions of all chunks."""
    return x_BHTC.flatten(2).cumsum(dim=2).view_as(x_BHTC)


def _sum_before(chunk_sums: Tensor) -> Tensor:
    """Of sums per chunk [B, H, T, ...], the total of the chunks before each."""
    return torch.cat([torch.zeros_like(chunk_sums[:, :, :1]), chunk_sums[:, :, :-1].cumsum(dim=2)], dim=2)


def _chunked(x_BHNd: Tensor, chunk: int) -> Tensor:
    """[B, H, T, C, d], with zeros at the end where the last chunk is not full."""
    missing = -x_BHNd.shape[2] % chunk
    return F.pad(x_BHNd, (0, 0, 0, missing)).unflatten(2, (-1, chunk)) if missing else x_BHNd.unflatten(2, (-1, chunk))


@dataclass(frozen=True)
class FlowState:
    """All that causal flow attention keeps of the positions it has seen: its size does not depend on their number."""

    keys: Float[Tensor, "batch heads d"]
    """Σ sigmoid(k)."""
    queries: Float[Tensor, "batch heads d"]
    """Σ sigmoid(q)."""
    weighted_keys: Float[Tensor, "batch heads d"]
    """The same, each times its position over its outgoing flow."""
    weighted_queries: Float[Tensor, "batch heads d"]
    strength: Float[Tensor, "batch heads"]
    """Σ exp of what each source still sends."""
    gathered: Float[Tensor, "batch heads d e"]
    """Outer products of keys and competing values, summed."""
    position: int = 0
    """Positions seen."""

    @classmethod
    def empty(cls, q: Float[Tensor, "batch heads d"], v: Float[Tensor, "batch heads e"]) -> "FlowState":
        """Before the first position of a stream with such queries and values."""
        nothing = torch.zeros_like(q)
        return cls(nothing, nothing, nothing, nothing, nothing[..., 0], nothing[..., None] * v[..., None, :])

    def step(
        self,
        q: Float[Tensor, "batch heads d"],
        k: Float[Tensor, "batch heads d"],
        v: Float[Tensor, "batch heads e"],
        *,
        clamp: bool = True,
        eps: float = EPS,
    ) -> tuple[Float[Tensor, "batch heads e"], "FlowState"]:
        """The next position's result, as `causal_flow_attention` has it there, and the state after it."""
        q, k = q.sigmoid(), k.sigmoid()
        position = self.position + 1
        keys, queries = self.keys + k, self.queries + q
        incoming = position / ((q + eps) * (keys + eps)).sum(dim=-1)
        outgoing = position / ((k + eps) * (queries + eps)).sum(dim=-1)
        weighted_keys = self.weighted_keys + k * outgoing[..., None]
        weighted_queries = self.weighted_queries + q * incoming[..., None]
        still_in = ((q + eps) * (weighted_keys + eps)).sum(dim=-1) / position
        still_out = ((k + eps) * (weighted_queries + eps)).sum(dim=-1) / position
        strength_here = (still_out.clamp(-1.0, 1.0) if clamp else still_out).exp()
        strength = self.strength + strength_here
        value = v * (strength_here / strength * position)[..., None]
        gathered = self.gathered + k[..., None] * value[..., None, :]
        taken = still_in.sigmoid() * incoming / position
        result = (q[..., None, :] @ gathered)[..., 0, :] * taken[..., None]
        return result, FlowState(keys, queries, weighted_keys, weighted_queries, strength, gathered, position)


class FlowAttention(nn.Module):
    """Flow attention between four projections with biases; rows h·d … (h+1)·d of the first three belong to head h.

    Args:
        width: numbers per token of both streams.
        inner: of queries, keys and values, all heads together; None: `width`.
        output: of what comes out; None: `width`.
        causal: each token sees itself and those before it; for one stream only.
        clamp: see `flow_attention`.
        dropout: of what comes out.
    """

    def __init__(
        self,
        width: int,
        heads: int,
        *,
        inner: int | None = None,
        output: int | None = None,
        causal: bool = False,
        clamp: bool = True,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        inner = width if inner is None else inner
        check_heads(inner, heads)
        self.heads, self.causal, self.clamp = heads, causal, clamp
        self.query = nn.Linear(width, inner)
        self.key = nn.Linear(width, inner)
        self.value = nn.Linear(width, inner)
        self.output = nn.Linear(inner, width if output is None else output)
        self.dropout = nn.Dropout(dropout)

    def forward(
        self,
        x: Float[Tensor, "batch sink width"],
        context: Float[Tensor, "batch source width"] | None = None,
        *,
        mask: Bool[Tensor, "batch sink"] | None = None,
        context_mask: Bool[Tensor, "batch source"] | None = None,
    ) -> Float[Tensor, "batch sink output"]:
        """What each token of `x` gathers from `context`, or from `x` itself. Masks are False for padding."""
        if context is None:
            context, context_mask = x, mask
        elif self.causal:
            raise ConfigError("causal flow attention is of one stream: leave out the context.")
        q, k, v = self._heads(self.query(x)), self._heads(self.key(context)), self._heads(self.value(context))
        if self.causal:
            # Padding stands at the end and is seen by nothing before it.
            found = causal_flow_attention(q, k, v, clamp=self.clamp)
        else:
            found = flow_attention(q, k, v, clamp=self.clamp, sink_mask=mask, source_mask=context_mask)
        return self._finished(found.transpose(1, 2).flatten(-2))

    def step(
        self, x: Float[Tensor, "batch width"], state: FlowState | None = None
    ) -> tuple[Float[Tensor, "batch output"], FlowState]:
        """The next token of a stream, as the causal form has it, and the state after it; None begins a stream."""
        if not self.causal:
            raise ConfigError("only causal flow attention goes step by step; build it with causal=True.")
        q, k, v = (projection(x).unflatten(-1, (self.heads, -1)) for projection in (self.query, self.key, self.value))
        found, state = (state or FlowState.empty(q, v)).step(q, k, v, clamp=self.clamp)
        return self._finished(found.flatten(-2)), state

    def _heads(self, x_BND: Tensor) -> Tensor:
        return x_BND.unflatten(-1, (self.heads, -1)).transpose(1, 2)

    def _finished(self, x: Tensor) -> Tensor:
        finished: Tensor = self.dropout(self.output(x))
        return finished
