"""First weights of the backbone network under which attention follows the chain before the first step.

With independent random projections every residue attends to every other alike, and a short training spends most of its
time on finding out which residues are neighbours. Here the heads of every block begin with windows on the chain: on the
residue before, the one behind, and on wider stretches around. The windows are linear read-outs of the edges, fitted by
least squares to the edges of noisy frames, so nothing is added to the network and all of it may be unlearned.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from data.errors import ConfigError
from modules.protein.embedding import FARTHEST, NEAREST, EdgeEmbedding, index_sinusoid
from modules.protein.initialisation import he_, lecun_
from modules.protein.network import Block, ProteinNetwork

PROBES, PROBE_LENGTH = 4, 64
"""Noisy chains that the windows are fitted on."""
RIDGE = 1e-4
REACH = 64
"""Offsets along the chain at which the bumps of the edges are fitted."""
NEAR = tuple((sign * offset, 1.0) for offset in range(1, 8) for sign in (-1.0, 1.0))
BUMPS = (*NEAR[:8], (0.0, 8.0), (0.0, 1.0), (0.0, 32.0), (-8.0, 8.0), (8.0, 8.0), *NEAR[8:])
"""(centre, half-width) in residues of what the first channels of an edge respond to, in order of importance."""


@dataclass(frozen=True, kw_only=True)
class ChainStart:
    """Where the heads look at the start."""

    windows: tuple[tuple[float, float], ...] = ((-1.0, 1.5), (1.0, 1.5), (0.0, 5.0), (0.0, 0.0))
    """One (centre, half-width) per head, in residues along the chain; repeated where there are more heads. Half-width 0
    stands for everywhere. Other heads keep what their layer begins with."""
    depth: float = 6.0
    """How far the logits fall from the centre of a window to beyond it."""

    def __post_init__(self) -> None:
        if not self.windows or any(width < 0 for _, width in self.windows):
            raise ConfigError(f"windows need at least one (centre, half-width >= 0), got {self.windows}.")
        if not self.depth > 0:
            raise ConfigError(f"depth must be positive, got {self.depth}.")

    @torch.no_grad()
    def apply(self, network: ProteinNetwork, seed: int = 0) -> None:
        """Sets the edge embedding and the edges' part of the attention; the same weights for the same seed.

        Edges are carried through the blocks from the start, as with `edge_start: carry`.
        """
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self._apply(network)

    def _apply(self, network: ProteinNetwork) -> None:
        _edges_that_tell(network.edge_embedding)
        edges = _probe(network)
        heads = network.config.heads
        offsets = torch.arange(PROBE_LENGTH)[None] - torch.arange(PROBE_LENGTH)[:, None]
        windows = [self.windows[head % len(self.windows)] for head in range(heads)]
        wanted = torch.stack([self._window(offsets, *window) for window in windows], dim=-1)
        weight, bias = _read_out(edges, wanted, offsets)
        for block in network.blocks:
            assert isinstance(block, Block)
            block.attention.edge_bias.weight.copy_(weight * 3**0.5)
            block.attention.edge_bias.bias.copy_(bias * 3**0.5)
            if block.edge_transition is not None:
                width = network.config.edge_width
                block.edge_transition.last.weight.zero_()[:, :width] = torch.eye(width)

    def _window(self, offsets: Tensor, centre: float, width: float) -> Float[Tensor, "residue residue"]:
        if not width:
            return torch.zeros(offsets.shape)
        return -self.depth * ((offsets - centre).abs() / width).clamp(max=1.0)


def _edges_that_tell(embedding: EdgeEmbedding) -> None:
    """Channels of the edges begin as bumps: over the offset along the chain, and over the distance.

    Half of what is left of `width` after the offsets goes to distances, the rest begins at random.
    """
    width, channels = embedding.third.out_features, embedding.channels
    reach = torch.arange(-REACH, REACH + 1)
    sinusoids = index_sinusoid(-reach.float(), channels).double()
    sinusoids = torch.cat([sinusoids, torch.ones(len(reach), 1, dtype=torch.float64)], dim=1)
    bumps = torch.stack([(1 - (reach - centre).abs() / half).clamp(min=0) for centre, half in BUMPS[: width // 2]])
    closeness = (1.0 / (1.0 + reach.abs())).double()
    fitted = _ridge(sinusoids, bumps.T.double(), closeness).T.float()
    edges = torch.linspace(NEAREST, FARTHEST, embedding.bins)
    middles = torch.cat([(edges[1:] + edges[:-1]) / 2, edges[-1:]])
    centres = torch.linspace(3.0, FARTHEST, max(2, width // 4))
    of_distance = (1 - (middles - centres[:, None]).abs() / (centres[1] - centres[0])).clamp(min=0)

    embedding.offset.weight.copy_(torch.eye(channels))
    embedding.offset.bias.zero_()
    he_(embedding.first)
    weight, bias = embedding.first.weight, embedding.first.bias
    count, end = len(fitted), len(fitted) + len(of_distance)
    weight[:end].zero_()
    weight[:count, 2 * channels : 3 * channels], bias[:count] = fitted[:, :-1], fitted[:, -1]
    weight[count:end, 3 * channels : 3 * channels + embedding.bins] = of_distance
    for layer in (embedding.second, embedding.third):
        lecun_(layer)
        layer.weight.mul_(0.1).add_(torch.eye(width))


def _probe(network: ProteinNetwork) -> Float[Tensor, "batch residue residue edge"]:
    """Edges of noisy chains, at times from noise to near the data."""
    walk = torch.randn(PROBES, PROBE_LENGTH, 3).cumsum(1) * 2.2
    t = torch.linspace(0.0, 0.9, PROBES)
    places = t[:, None, None] * walk + (1 - t)[:, None, None] * 10.0 * torch.randn(PROBES, PROBE_LENGTH, 3)
    all_of_them = torch.ones(PROBES, PROBE_LENGTH, dtype=torch.bool)
    index = torch.arange(1, PROBE_LENGTH + 1).expand(PROBES, -1)
    nodes = network.node_embedding(t, t, resolved=all_of_them, generated=all_of_them, residue_index=index)
    return network._embed_edges(nodes, places, None, all_of_them, all_of_them)


def _read_out(
    edges: Float[Tensor, "batch residue residue edge"],
    wanted: Float[Tensor, "residue residue head"],
    offsets: Tensor,
) -> tuple[Float[Tensor, "head edge"], Float[Tensor, " head"]]:
    """Weights and biases that give `wanted` from `edges` in the least squares sense, near offsets before far ones."""
    closeness = (1.0 / (1.0 + offsets.abs())).flatten().repeat(len(edges)).double()
    x = edges.flatten(0, 2).double()
    x = torch.cat([x, torch.ones(len(x), 1, dtype=x.dtype)], dim=1)
    solution = _ridge(x, wanted.flatten(0, 1).repeat(len(edges), 1).double(), closeness)
    return solution[:-1].T.float(), solution[-1].float()


def _ridge(x: Float[Tensor, "row feature"], y: Float[Tensor, "row target"], weight: Float[Tensor, " row"]) -> Tensor:
    """The coefficients [feature, target] of the weighted least squares fit of `y` by `x`, kept small."""
    gram = x.T @ (weight[:, None] * x)
    gram = gram + RIDGE * gram.diagonal().mean() * torch.eye(len(gram), dtype=x.dtype)
    return torch.linalg.solve(gram, x.T @ (weight[:, None] * y))
