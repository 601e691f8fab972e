"""The layers of a block of the backbone network besides its point attention (Yim et al. 2023).

Shape suffixes: B batch, N and M residues, R a range of the residues N, D channels.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from modules.protein.chunked import ChunkedTransition
from modules.protein.initialisation import he_, zero_


class SequenceLayer(nn.Module):
    """A post-norm transformer layer over the residues of a chain, ReLU, without dropout."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query_key_value = nn.Linear(width, 3 * width)
        self.attention_output = nn.Linear(width, width)
        self.attention_norm = nn.LayerNorm(width)
        self.expand = nn.Linear(width, width)
        self.contract = nn.Linear(width, width)
        self.feed_forward_norm = nn.LayerNorm(width)
        nn.init.xavier_uniform_(self.query_key_value.weight)
        nn.init.zeros_(self.query_key_value.bias)
        nn.init.zeros_(self.attention_output.bias)

    def forward(
        self, nodes: Float[Tensor, "batch residue width"], key_mask: Float[Tensor, "batch 1 1 residue"]
    ) -> Float[Tensor, "batch residue width"]:
        """`key_mask` is added to the logits."""
        query, key, value = (
            part.unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for part in self.query_key_value(nodes).chunk(3, dim=-1)
        )
        gathered = F.scaled_dot_product_attention(query, key, value, attn_mask=key_mask.to(query.dtype))
        nodes = self.attention_norm(nodes + self.attention_output(gathered.transpose(1, 2).flatten(2)))
        return self.feed_forward_norm(nodes + self.contract(self.expand(nodes).relu()))


class NodeTransition(nn.Module):
    """A residual perceptron of three layers with a norm at its end."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first = he_(nn.Linear(width, width))
        self.second = he_(nn.Linear(width, width))
        self.third = zero_(nn.Linear(width, width))
        self.norm = nn.LayerNorm(width)

    def forward(self, nodes: Float[Tensor, "*batch width"]) -> Float[Tensor, "*batch width"]:
        return self.norm(nodes + self.third(self.second(self.first(nodes).relu()).relu()))


class EdgeTransition(nn.Module):
    """Edges renewed from themselves and the residues they join: LN(last(h + x)), x = [edge, residue i, residue j] and
    h two ReLU layers of x.

    What the layers do with the residues' part of x is computed per residue and added, so the largest product has the
    edges alone to multiply.
    """

    def __init__(self, node_width: int, edge_width: int, *, carry: bool = False) -> None:
        super().__init__()
        width = node_width // 2
        hidden = edge_width + 2 * width
        self.sizes = (edge_width, width, width)
        self.residue = he_(nn.Linear(node_width, width))
        self.first = he_(nn.Linear(hidden, hidden))
        self.second = he_(nn.Linear(hidden, hidden))
        self.last = zero_(nn.Linear(hidden, edge_width))
        self.norm = nn.LayerNorm(edge_width)
        if carry:
            with torch.no_grad():
                self.last.weight[:, :edge_width] = torch.eye(edge_width)

    def chunked(
        self,
        parts: tuple[Tensor, Tensor, Tensor, Tensor],
        edges: Float[Tensor, "batch residue residue edge"],
        resolved: Bool[Tensor, "batch residue"],
    ) -> Float[Tensor, "batch residue residue edge"]:
        """`rows` of all rows, as one operation that is lean in memory and in time where gradients are wanted."""
        width = self.sizes[0]
        last = self.last.weight
        return ChunkedTransition.apply(
            edges,
            *parts,
            self.first.weight[:, :width],
            self.second.weight,
            self.second.bias,
            last,
            last[:, :width],
            self.norm.weight,
            self.norm.bias,
            self.norm.eps,
            resolved,
        )

    def prepare(self, nodes: Float[Tensor, "batch residue width"]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """What residue i and residue j add to the first layer, and what they add to the last, each [B, N, D]."""
        residue_BND = self.residue(nodes)
        _, first_i, first_j = self.first.weight.split(self.sizes, dim=1)
        _, last_i, last_j = self.last.weight.split(self.sizes, dim=1)
        return (
            F.linear(residue_BND, first_i, self.first.bias),
            F.linear(residue_BND, first_j),
            F.linear(residue_BND, last_i, self.last.bias),
            F.linear(residue_BND, last_j),
        )

    def rows(
        self,
        parts: tuple[Tensor, Tensor, Tensor, Tensor],
        edges: Float[Tensor, "batch row residue edge"],
        resolved: Bool[Tensor, "batch residue"],
        rows: slice,
    ) -> Float[Tensor, "batch row residue edge"]:
        """The new edges of the pairs (i, j) with i in `rows`, from the old ones; zero where i or j is not resolved."""
        first_i, first_j, last_i, last_j = parts
        width = self.sizes[0]
        hidden = F.linear(edges, self.first.weight[:, :width])
        hidden = hidden.add_(first_i[:, rows, None]).add_(first_j[:, None]).relu_()
        hidden = self.second(hidden).relu_()
        renewed = F.linear(edges, self.last.weight[:, :width]) + F.linear(hidden, self.last.weight)
        renewed = renewed.add_(last_i[:, rows, None]).add_(last_j[:, None])
        mask = (resolved[:, rows, None] & resolved[:, None]).unsqueeze(-1)
        return self.norm(renewed) * mask
