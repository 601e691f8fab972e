"""The network of the backbone flow: from noisy residue frames to the frames of the protein (Yim et al. 2023, FrameFlow;
Yue et al. 2025, ReQFlow).

It embeds residues and pairs, and lets blocks of point attention, a transformer along the chain and transitions move the
frames. Its output turns and shifts with its input. Letters: B batch, N residues, D channels.
"""

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from data.errors import ConfigError
from modules.geometry.quaternion import multiply, normalise, rotate, to_matrix
from modules.layers.attention import check_heads
from modules.protein.attention import MASKED, PointAttention, at_least_float32
from modules.protein.chunked import usable
from modules.protein.embedding import EdgeEmbedding, NodeEmbedding, distance_bins
from modules.protein.initialisation import zero_
from modules.protein.trunk import EdgeTransition, NodeTransition, SequenceLayer

ANGSTROM_PER_NM = 10.0
PAIRS_AT_ONCE = 2048
"""Pairs of residues that go through the edge layers together where no gradient is wanted."""


@dataclass(frozen=True, kw_only=True)
class ProteinNetworkConfig:
    """Size of the network. The defaults are those of the published model of 16.8 M parameters."""

    node_width: int = 256
    edge_width: int = 128
    blocks: int = 6
    heads: int = 8
    """Heads of the point attention."""
    head_width: int = 128
    query_points: int = 8
    value_points: int = 12
    pair_value_width: int = 32
    """Channels per head that the point attention gathers from the edges."""
    transformer_layers: int = 2
    """Layers of the transformer along the chain, in every block."""
    transformer_heads: int = 4
    index_channels: int = 128
    time_channels: int = 128
    edge_channels: int = 64
    """Channels of each residue and of the offset in the edge embedding."""
    distance_bins: int = 22
    edge_knows_generated: bool = True
    """Whether edges are told which of their residues are generated."""
    edge_start: Literal["zero", "carry"] = "zero"
    """How edge transitions begin: forgetting their input, as published, or handing it on. Training moves both."""
    checkpoint_blocks: bool = False
    """Compute every block again in the backward pass: less memory, a third more time."""

    def __post_init__(self) -> None:
        check_heads(self.node_width, self.transformer_heads)
        for field in fields(self):
            value, least = getattr(self, field.name), 0 if field.name == "transformer_layers" else 1
            if type(value) is int and value < least:
                raise ConfigError(f"{field.name} must be at least {least}, got {value}.")
        for name in ("node_width", "index_channels", "time_channels", "edge_channels"):
            if (value := getattr(self, name)) % 2:
                raise ConfigError(f"{name} must be even, got {value}; take {value + 1}.")
        if self.distance_bins < 2:
            raise ConfigError(f"distance_bins must be at least 2, got {self.distance_bins}.")
        if self.edge_start not in ("zero", "carry"):
            raise ConfigError(f"edge_start must be zero or carry, got {self.edge_start!r}.")

    def build(self) -> "ProteinNetwork":
        return ProteinNetwork(self)


class Block(nn.Module):
    """Point attention, a transformer along the chain, and transitions; the last block has no edges to renew."""

    def __init__(self, config: ProteinNetworkConfig, *, last: bool) -> None:
        super().__init__()
        width = config.node_width
        self.attention = PointAttention(
            width,
            config.edge_width,
            heads=config.heads,
            head_width=config.head_width,
            query_points=config.query_points,
            value_points=config.value_points,
            pair_width=config.pair_value_width,
        )
        self.attention_norm = nn.LayerNorm(width)
        self.sequence = nn.ModuleList(
            SequenceLayer(width, config.transformer_heads) for _ in range(config.transformer_layers)
        )
        self.sequence_output = zero_(nn.Linear(width, width))
        self.transition = NodeTransition(width)
        self.frame_update = zero_(nn.Linear(width, 6))
        carry = config.edge_start == "carry"
        self.edge_transition = None if last else EdgeTransition(width, config.edge_width, carry=carry)

    def forward(
        self,
        nodes: Float[Tensor, "batch residue width"],
        edges: Float[Tensor, "batch residue residue edge"],
        quaternions: Float[Tensor, "batch residue 4"],
        translations: Float[Tensor, "batch residue 3"],
        resolved: Bool[Tensor, "batch residue"],
        generated: Bool[Tensor, "batch residue"],
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Nodes, edges, quaternions and translations (nanometres) after this block.

        Without gradients the edges are renewed in place.
        """
        mask_BN1 = resolved[..., None].to(nodes.dtype)
        gathered = self.attention(nodes, edges, to_matrix(quaternions), translations, resolved)
        nodes = self.attention_norm(nodes + gathered * mask_BN1)
        along_chain, key_mask = nodes, MASKED * (1.0 - mask_BN1).mT.unsqueeze(1)
        for layer in self.sequence:
            along_chain = layer(along_chain, key_mask)
        nodes = nodes + self.sequence_output(along_chain)
        nodes = self.transition(nodes) * mask_BN1
        update = at_least_float32(self.frame_update(nodes)) * (resolved & generated)[..., None]
        translations = translations + rotate(quaternions, update[..., 3:])
        quaternions = normalise(multiply(quaternions, F.pad(update[..., :3], (1, 0), value=1.0)))
        if self.edge_transition is not None:
            transition, parts = self.edge_transition, self.edge_transition.prepare(nodes)
            if torch.is_grad_enabled() and usable(edges):
                edges = transition.chunked(parts, edges, resolved)
            else:
                edges = by_rows(lambda rows: transition.rows(parts, edges[:, rows], resolved, rows), nodes, edges)
        return nodes, edges, quaternions, translations


class ProteinNetwork(nn.Module):
    """The frames that the noisy frames came from, as the network expects them: E[x₁ | x_t], not a velocity.

    >>> network = ProteinNetworkConfig(node_width=64, edge_width=32, blocks=3).build()
    >>> predicted = network(frames, t, t, resolved=resolved, generated=resolved, residue_index=index)
    """

    def __init__(self, config: ProteinNetworkConfig) -> None:
        super().__init__()
        self.config = config
        self.node_embedding = NodeEmbedding(
            config.node_width, index_channels=config.index_channels, time_channels=config.time_channels
        )
        self.edge_embedding = EdgeEmbedding(
            config.node_width,
            config.edge_width,
            channels=config.edge_channels,
            bins=config.distance_bins,
            knows_generated=config.edge_knows_generated,
        )
        self.blocks = nn.ModuleList(Block(config, last=i == config.blocks - 1) for i in range(config.blocks))

    def forward(
        self,
        frames: Float[Tensor, "batch residue 7"],
        t_rotation: Float[Tensor, " batch"],
        t_translation: Float[Tensor, " batch"],
        *,
        resolved: Bool[Tensor, "batch residue"],
        generated: Bool[Tensor, "batch residue"],
        residue_index: Int[Tensor, "batch residue"],
        self_condition: Float[Tensor, "batch residue 3"] | None = None,
    ) -> Float[Tensor, "batch residue 7"]:
        """The predicted frames at t = 1.

        Args:
            frames: noisy frames, unit quaternion (w, x, y, z) and translation in ångström.
            t_rotation, t_translation: 0 = noise, 1 = data.
            resolved: False where padded or not known; such residues are seen by nobody and come back as they are.
            generated: False where the residue is given (a motif): its frame comes back as it is.
            residue_index: from 1, with the gaps of the chain.
            self_condition: translations of the previous prediction, in ångström.
        """
        real = resolved[..., None]
        frames = at_least_float32(frames.to(torch.promote_types(frames.dtype, self.node_embedding.output.weight.dtype)))
        quaternions, translations = frames[..., :4], frames[..., 4:]
        identity = torch.eye(1, 4, device=frames.device, dtype=frames.dtype)[0]
        quaternions = torch.where(real, quaternions, identity)
        translations = torch.where(real, translations, 0.0)
        nodes = self.node_embedding(
            t_rotation, t_translation, resolved=resolved, generated=generated, residue_index=residue_index
        )
        nodes = nodes * real
        edges = self._embed_edges(nodes, translations, self_condition, resolved, generated)
        # Only differences of positions matter: near the origin they keep their digits.
        centre = translations.sum(1, keepdim=True) / real.sum(1, keepdim=True).clamp(min=1)
        state = (nodes, edges, normalise(quaternions), (translations - centre) / ANGSTROM_PER_NM)
        for block in self.blocks:
            if self.config.checkpoint_blocks and torch.is_grad_enabled():
                state = checkpoint(block, *state, resolved, generated, use_reentrant=False)
            else:
                state = block(*state, resolved, generated)
        moved = torch.cat([state[2], state[3] * ANGSTROM_PER_NM + centre], dim=-1)
        return torch.where(real & generated[..., None], moved, frames)

    def _embed_edges(
        self,
        nodes: Tensor,
        translations: Tensor,
        self_condition: Tensor | None,
        resolved: Tensor,
        generated: Tensor,
    ) -> Float[Tensor, "batch residue residue edge"]:
        count = self.config.distance_bins
        with torch.no_grad():
            bins = distance_bins(translations, count)
            last_bins = None
            if self_condition is not None:
                # The place of a residue that is not there may hold anything.
                last = torch.where(resolved[..., None], at_least_float32(self_condition), 0.0)
                last_bins = distance_bins(last, count)
        parts = self.edge_embedding.prepare(nodes, bins, last_bins, generated)
        return by_rows(lambda rows: self.edge_embedding.rows(parts, resolved, rows), nodes, None)


def by_rows(
    function: Callable[[slice], Float[Tensor, "batch row residue edge"]],
    nodes: Float[Tensor, "batch residue width"],
    into: Float[Tensor, "batch residue residue edge"] | None,
) -> Float[Tensor, "batch residue residue edge"]:
    """`function` of all rows of pairs: at once for gradients; else a few rows at a time, written `into` where given."""
    batch, length = nodes.shape[:2]
    if torch.is_grad_enabled() or torch.compiler.is_compiling():
        return function(slice(0, length))
    step = max(1, PAIRS_AT_ONCE // (batch * length))
    for start in range(0, length, step):
        rows = slice(start, min(start + step, length))
        part = function(rows)
        if into is None:
            into = part.new_empty(batch, length, *part.shape[2:])
        into[:, rows] = part
    return function(slice(0, 0)) if into is None else into
