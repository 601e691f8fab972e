"""What the backbone network knows of residues and of pairs of residues before its first block (Yim et al. 2023).

Every layer here that is linear in features of one residue of a pair is computed once per residue and added where the
two meet; features that take few values (bins of distance, offsets in the chain) are rows of a table. The result is the
layer on the concatenated features, in another order of addition, without ever forming them.

Shape suffixes: B batch, N and M residues, R a range of the residues N, D channels.
"""

import math

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

PERIOD = 2056.0
"""Longest period of the sinusoids of indices and of times; times are counted in this many ticks."""
NEAREST, FARTHEST = 0.001, 20.0
"""Lower edges of the first and the last distance bin, in ångström."""


def index_sinusoid(index: Float[Tensor, "*batch"], channels: int) -> Float[Tensor, "*batch channels"]:
    """Sines, then cosines, of index · π / PERIOD^(2k / channels), k = 0 … channels/2 - 1."""
    k = torch.arange(channels // 2, device=index.device, dtype=index.dtype)
    angles = index[..., None] * math.pi / PERIOD ** (2 * k / channels)
    return torch.cat([angles.sin(), angles.cos()], dim=-1)


def time_sinusoid(t: Float[Tensor, "*batch"], channels: int) -> Float[Tensor, "*batch channels"]:
    """Sines, then cosines, of t · PERIOD · PERIOD^(-k / (channels/2 - 1)), k = 0 … channels/2 - 1."""
    k = torch.arange(channels // 2, device=t.device, dtype=t.dtype)
    angles = (t * PERIOD)[..., None] * torch.exp(k * (-math.log(PERIOD) / max(channels // 2 - 1, 1)))
    return torch.cat([angles.sin(), angles.cos()], dim=-1)


def distance_bins(positions: Float[Tensor, "batch residue 3"], bins: int) -> Int[Tensor, "batch residue residue"]:
    """The distance bin of every pair, counted from 1; 0 for none.

    Lower edges lie evenly between NEAREST and FARTHEST, and the last bin is open. A pair nearer than the first edge has
    no bin, so a residue has none with itself; nor has a pair exactly on an edge. Positions in ångström.
    """
    distances = torch.cdist(positions, positions, compute_mode="donot_use_mm_for_euclid_dist")
    edges = torch.linspace(NEAREST, FARTHEST, bins, device=positions.device, dtype=positions.dtype)
    below = torch.bucketize(distances, edges)
    return torch.where(below == torch.bucketize(distances, edges, right=True), below, 0)


class NodeEmbedding(nn.Module):
    """Features of a residue: its index, whether it is generated, and the two times."""

    def __init__(self, width: int, *, index_channels: int, time_channels: int) -> None:
        super().__init__()
        self.index_channels = index_channels
        self.time_channels = time_channels
        self.output = nn.Linear(index_channels + 1 + 2 * time_channels, width)

    def forward(
        self,
        t_rotation: Float[Tensor, " batch"],
        t_translation: Float[Tensor, " batch"],
        *,
        resolved: Bool[Tensor, "batch residue"],
        generated: Bool[Tensor, "batch residue"],
        residue_index: Int[Tensor, "batch residue"],
    ) -> Float[Tensor, "batch residue width"]:
        mask_BN1 = resolved[..., None].to(self.output.weight.dtype)
        times_B1D = torch.cat(
            [time_sinusoid(t.to(mask_BN1.dtype), self.time_channels) for t in (t_rotation, t_translation)], dim=-1
        )[:, None]
        index_BND = index_sinusoid(residue_index.to(mask_BN1.dtype), self.index_channels)
        features = [index_BND * mask_BN1, generated[..., None].to(mask_BN1.dtype), times_B1D * mask_BN1]
        return self.output(torch.cat(features, dim=-1))


class EdgeEmbedding(nn.Module):
    """Features of a pair: its residues, their offset in the array, distances now and in the last prediction, masks.

    The first layer's columns stand for [residue i, residue j, offset, bins now, bins of the last prediction, generated
    i, generated j].
    """

    def __init__(self, node_width: int, edge_width: int, *, channels: int, bins: int, knows_generated: bool) -> None:
        super().__init__()
        self.channels = channels
        self.bins = bins
        self.knows_generated = knows_generated
        self.residue = nn.Linear(node_width, channels)
        self.offset = nn.Linear(channels, channels)
        self.first = nn.Linear(3 * channels + 2 * bins + 2 * knows_generated, edge_width)
        self.second = nn.Linear(edge_width, edge_width)
        self.third = nn.Linear(edge_width, edge_width)
        self.norm = nn.LayerNorm(edge_width)

    def prepare(
        self,
        nodes: Float[Tensor, "batch residue width"],
        bins: Int[Tensor, "batch residue residue"],
        last_bins: Int[Tensor, "batch residue residue"] | None,
        generated: Bool[Tensor, "batch residue"],
    ) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """The summands of the first layer: of i [B,N,D], of j [B,N,D], of the offset [2N-1,D], of bins, and which."""
        of_i, of_j, of_offset, of_bin, of_last_bin, *of_generated = self.first.weight.split(
            [self.channels] * 3 + [self.bins] * 2 + [1] * (2 * self.knows_generated), dim=1
        )
        residue_BNC = self.residue(nodes)
        i_BND = F.linear(residue_BNC, of_i, self.first.bias)
        j_BND = F.linear(residue_BNC, of_j)
        if of_generated:
            flag_BN1 = generated[..., None].to(i_BND.dtype)
            i_BND = i_BND + flag_BN1 * of_generated[0].T
            j_BND = j_BND + flag_BN1 * of_generated[1].T
        length = nodes.shape[1]
        offsets = torch.arange(length - 1, -length, -1, device=nodes.device, dtype=self.offset.weight.dtype)
        offset_OD = F.linear(self.offset(index_sinusoid(offsets, self.channels)), of_offset)
        now_KD, last_KD = F.pad(of_bin.T, (0, 0, 1, 0)), F.pad(of_last_bin.T, (0, 0, 1, 0))
        if last_bins is None:
            return i_BND, j_BND, offset_OD, now_KD, bins
        table = (now_KD[:, None] + last_KD).flatten(0, 1)
        return i_BND, j_BND, offset_OD, table, bins * (self.bins + 1) + last_bins

    def rows(
        self, parts: tuple[Tensor, Tensor, Tensor, Tensor, Tensor], resolved: Bool[Tensor, "batch residue"], rows: slice
    ) -> Float[Tensor, "batch row residue width"]:
        """The embedding of the pairs (i, j) with i in `rows`; zero where i or j is not resolved."""
        i_BND, j_BND, offset_OD, table_KD, which_BNM = parts
        length = j_BND.shape[1]
        at = torch.arange(length, device=j_BND.device)
        # offset_OD counts i - j down from N - 1, so that row i is a run of it.
        offset_RND = F.embedding(at - at[rows, None] + length - 1, offset_OD)
        hidden = F.embedding(which_BNM[:, rows], table_KD)
        hidden = (hidden + offset_RND).add_(j_BND[:, None]).add_(i_BND[:, rows, None]).relu_()
        hidden = self.third(self.second(hidden).relu_())
        mask = (resolved[:, rows, None] & resolved[:, None]).unsqueeze(-1)
        return self.norm(hidden) * mask
