"""Invariant point attention (Jumper et al. 2021, algorithm 22), written as plain matrix products.

With |a - b|² = |a|² + |b|² - 2 a·b the distances of all points of a head are one product of matrices; |a|² is the same
for all keys and drops out of the softmax. Pair values are gathered before they are projected, since both are linear.
No array of pairs is larger than the edges themselves.

Shape suffixes: B batch, N queries, M keys, H heads, P points, C channels of a head, E edge channels.
"""

import math

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from modules.protein.initialisation import lecun_, zero_

MASKED = -1e5
"""Added to the logits of keys that are not resolved."""
NORM_EPS = 1e-8


def at_least_float32(x: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """`x` with the digits that coordinates and sums of them need."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def products_are_rounded() -> bool:
    """Whether products of float32 may be rounded on the way; to the compiler, as it was when it first looked."""
    return torch.get_float32_matmul_precision() != "highest"


# What torch.compiler.assume_constant_result does, which would load the compiler for it: a second in every process.
vars(products_are_rounded)["_dynamo_marked_constant"] = True


def coordinate_type(x: Float[Tensor, "*shape"]) -> torch.dtype:
    """The type in which products of coordinates keep the digits of float32.

    Where products of float32 may be rounded on the way (TF32, `torch.set_float32_matmul_precision`) it is float64: the
    difference of two squares would be lost.
    """
    rounded = products_are_rounded() and x.device.type != "mps"
    return torch.float64 if rounded else torch.promote_types(x.dtype, torch.float32)


class PointAttention(nn.Module):
    """Attention between residues by channels, by edges, and by points that each residue places in its own frame.

    Rows of `query_points`, `key_points`, `value_points` are ordered head, point, axis. Columns of `output` stand for
    [scalars: head, channel | points: head, point, axis | lengths of points: head, point | pair values: head, channel].
    """

    def __init__(
        self,
        width: int,
        edge_width: int,
        *,
        heads: int,
        head_width: int,
        query_points: int,
        value_points: int,
        pair_width: int,
    ) -> None:
        super().__init__()
        self.heads, self.head_width = heads, head_width
        self.points, self.value_count = query_points, value_points
        self.query = lecun_(nn.Linear(width, heads * head_width))
        self.key = lecun_(nn.Linear(width, heads * head_width))
        self.value = lecun_(nn.Linear(width, heads * head_width))
        self.query_points = lecun_(nn.Linear(width, heads * query_points * 3))
        self.key_points = lecun_(nn.Linear(width, heads * query_points * 3))
        self.value_points = lecun_(nn.Linear(width, heads * value_points * 3))
        self.edge_bias = lecun_(nn.Linear(edge_width, heads))
        self.pair_value = lecun_(nn.Linear(edge_width, pair_width))
        # softplus of this is one
        self.distance_weight = nn.Parameter(torch.full((heads,), math.log(math.e - 1.0)))
        self.output = zero_(nn.Linear(heads * (head_width + 4 * value_points + pair_width), width))

    def forward(
        self,
        nodes: Float[Tensor, "batch residue width"],
        edges: Float[Tensor, "batch residue residue edge_width"],
        rotations: Float[Tensor, "batch residue 3 3"],
        translations: Float[Tensor, "batch residue 3"],
        resolved: Bool[Tensor, "batch residue"],
    ) -> Float[Tensor, "batch residue width"]:
        """What each residue gathers; translations in nanometres. Rows that are not resolved hold nothing of use."""
        bias_BHNM = at_least_float32(self.edge_bias(edges)).permute(0, 3, 1, 2)
        q_BHNC, k_BHMC, v_BHMC = (
            at_least_float32(linear(nodes)).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for linear in (self.query, self.key, self.value)
        )
        local = [linear(nodes) for linear in (self.query_points, self.key_points, self.value_points)]
        dtype = coordinate_type(translations)
        turn, shift = rotations.to(dtype), translations.to(dtype)
        # Next to the edges these products cost nothing, so they are not rounded to the precision of the rest.
        with torch.autocast(nodes.device.type, enabled=False):
            q_BHNX, k_BHMX, v_BHMX = (self._place(points.to(dtype), turn, shift) for points in local)
            logits = self._logits(q_BHNC, k_BHMC, q_BHNX, k_BHMX, resolved)
            weights_BHNM = logits.add_(bias_BHNM, alpha=math.sqrt(1 / 3)).softmax(dim=-1)
            scalars = (weights_BHNM @ v_BHMC).transpose(1, 2).flatten(2)
            reached = (weights_BHNM.to(dtype) @ v_BHMX).transpose(1, 2).unflatten(-1, (-1, 3))
            points = ((reached - shift[:, :, None, None]).flatten(2, 3) @ turn).to(scalars.dtype)
            lengths = (points.square().sum(-1) + NORM_EPS).sqrt()
        weights_BNHM = weights_BHNM.transpose(1, 2).to(edges.dtype)
        pairs = self.pair_value(weights_BNHM @ edges).flatten(2)
        gathered = torch.cat([scalars, points.flatten(2), lengths, pairs.to(scalars.dtype)], dim=-1)
        return self.output(gathered)

    def _place(self, points: Tensor, rotations: Tensor, translations: Tensor) -> Float[Tensor, "batch head residue x"]:
        """Points of every residue, given in its frame, in the common one."""
        placed = points.unflatten(-1, (-1, 3)) @ rotations.mT + translations[:, :, None]
        return placed.flatten(2).unflatten(-1, (self.heads, -1)).transpose(1, 2)

    def _logits(
        self, q: Tensor, k: Tensor, q_points: Tensor, k_points: Tensor, resolved: Tensor
    ) -> Float[Tensor, "batch head query key"]:
        """All of the logits but the edges' part, up to a constant for each query, as one product."""
        scale = F.softplus(self.distance_weight.to(q_points.dtype)) * math.sqrt(2 / (27 * self.points))
        weight_H11 = scale[:, None, None]
        of_key = k_points.square().sum(-1, keepdim=True) * (-0.5 * weight_H11)
        of_key = of_key.masked_fill(~resolved[:, None, :, None], MASKED)
        q, q_points = q * math.sqrt(1 / (3 * self.head_width)), q_points * weight_H11
        left, right = [q_points, torch.ones_like(of_key)], [k_points, of_key]
        if q.dtype == q_points.dtype:
            return torch.cat([q, *left], dim=-1) @ torch.cat([k, *right], dim=-1).mT
        return q @ k.mT + (torch.cat(left, dim=-1) @ torch.cat(right, dim=-1).mT).to(q.dtype)
