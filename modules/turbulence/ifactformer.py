"""IFactFormer: an implicit factorized transformer that advances a field on a grid by one frame.

Published for channel flow as IFactFormer-m (arXiv 2412.18840), with one kernel of attention per axis: a few weight
sets, each iterated many times, u ← u + block(u)/n. Here on grids of two or three axes.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, cast

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from data.errors import ConfigError
from data.grid import Grid
from modules.turbulence.ifactformer_block import Block
from modules.turbulence.ifactformer_coordinates import (
    BlockTables,
    GridTables,
    grid_coordinates,
    harmonic_coordinates,
    position_features,
    published_coordinates,
    quadrature_weights,
    relative_weights,
    rotary_table,
)

Variant = Literal["head", "legacy", "chained"]
Coordinates = Literal["published", "grid", "harmonic"]
COORDINATES = {"published": published_coordinates, "grid": grid_coordinates, "harmonic": harmonic_coordinates}
KEPT_GRIDS = 4
"""Grids whose tables are kept: those of training, of evaluation and of a change of resolution."""


@dataclass(frozen=True, kw_only=True)
class IFactFormerConfig:
    """Sizes of the operator; the defaults are those published."""

    components: int = 3
    """Of the field: 3 for velocity, 1 for vorticity in two dimensions."""
    axes: int = 3
    """Of the grid, 2 or 3."""
    history: int = 1
    """Frames that the network sees."""
    dim: int = 96
    """Features of a point; half of it must be a multiple of `components`."""
    heads: int = 5
    dim_head: int = 96
    """Features of a value in one head."""
    depth: int = 1
    """Weight sets, each with iterations of its own."""
    iterations: int = 10
    """Of the block of one weight set."""
    kernel_multiplier: int = 3
    """Features of a query or key over those of a value."""
    variant: Variant = "head"
    """head: kernels side by side, each feature normalised over the grid. legacy: the first published code, which
    normalises planes of the first axis and has two more linear maps. chained: the kernels one after another, as in the
    model before (IFactFormer-o)."""
    coordinates: Coordinates = "published"
    """published: equally spaced from end to end on every axis, as the published network is told. grid: the true ones,
    with the period's own spacing and stretched walls. harmonic: phases of the true ones, with whole wavenumbers as
    frequencies of kernels and positions, which makes both periodic where the axis is; kernels can be any convolution
    where kernel_multiplier * dim_head is at least the number of points."""
    quadrature: bool = False
    """Weigh points by the grid's quadrature in means, norms and kernels, so that a stretched axis is what it stands
    for. False is as published; on a uniform grid both are the same."""
    recompute: bool = False
    """Keep only the field of each iteration for the backward pass and compute the rest again: less memory, more
    time."""

    def __post_init__(self) -> None:
        if self.axes not in (2, 3):
            raise ConfigError(f"axes: expected 2 or 3, got {self.axes}.")
        for name in ("components", "history", "dim", "heads", "dim_head", "depth", "iterations", "kernel_multiplier"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name}: expected at least 1, got {getattr(self, name)}.")
        if self.dim % (2 * self.components):
            raise ConfigError(
                f"dim: expected a multiple of 2 * components = {2 * self.components}, got {self.dim}. Each component "
                "is lifted to the same number of features."
            )
        if self.kernel_multiplier * self.dim_head % 2:
            raise ConfigError(
                f"kernel_multiplier * dim_head: expected an even number of features to rotate in pairs, got "
                f"{self.kernel_multiplier * self.dim_head}."
            )

    def build(self) -> "IFactFormer":
        """The operator, untrained."""
        return IFactFormer(self)


class IFactFormer(nn.Module):
    """The operator on normalised fields; the caller normalises, and takes the result back to physical units."""

    def __init__(self, config: IFactFormerConfig) -> None:
        super().__init__()
        self.config = config
        width = config.dim // 2
        # Each component by itself: features = GELU(weight * component + bias), uniform as convolutions begin.
        self.lift_weight = nn.Parameter(torch.empty(config.components, width // config.components).uniform_(-1, 1))
        self.lift_bias = nn.Parameter(torch.empty_like(self.lift_weight).uniform_(-1, 1))
        self.lift = nn.Linear(config.history * width, config.dim, bias=False)
        self.blocks = nn.ModuleList(
            Block(
                axes=config.axes,
                dim=config.dim,
                heads=config.heads,
                dim_head=config.dim_head,
                kernel_multiplier=config.kernel_multiplier,
                variant=config.variant,
                harmonic=config.coordinates == "harmonic",
            )
            for _ in range(config.depth)
        )
        self.head_expand = nn.Linear(config.dim, width, bias=False)
        self.head = nn.Linear(width, config.components)
        self._kept: dict[Any, tuple[list[Tensor], GridTables]] = {}

    def __getstate__(self) -> dict[str, Any]:
        # A copy, here or in another process, makes its own tables: those kept are known by the ids of these weights.
        return {**self.__dict__, "_kept": {}}

    @property
    def weight_sets(self) -> list[Block]:
        return cast(list[Block], list(self.blocks))

    def forward(
        self, past: Float[Tensor, "batch history *grid component"], grid: Grid
    ) -> Float[Tensor, "batch *grid component"]:
        """The normalised next frame, from the normalised last `history` frames on `grid`."""
        return self._advance(past, self._tables_of(grid))

    def evolve(
        self,
        past: Float[Tensor, "batch history *grid component"],
        coordinates: Sequence[Float[Tensor, " _"]],
        weights: Sequence[Float[Tensor, " _"]] | None = None,
    ) -> Float[Tensor, "batch *grid component"]:
        """`forward` for coordinates and quadrature weights given by hand, one tensor per axis; weights of any scale."""
        return self._advance(past, self.tables(coordinates, weights))

    def tables(
        self,
        coordinates: Sequence[Float[Tensor, " _"]],
        weights: Sequence[Float[Tensor, " _"]] | None = None,
    ) -> GridTables:
        """All that depends on the grid alone, on the device and in the precision of the network."""
        if len(coordinates) != self.config.axes:
            raise ConfigError(f"expected a grid of {self.config.axes} axes, got {len(coordinates)}.")
        blocks = tuple(
            BlockTables(
                position_features(coordinates, block.position.frequencies),
                tuple(rotary_table(c, block.inverse_frequencies) for c in coordinates),
            )
            for block in self.weight_sets
        )
        like = self.lift_weight
        relative = tuple(
            None if weights is None else relative_weights(weights[a], like) for a in range(len(coordinates))
        )
        return GridTables(blocks, relative)

    def _tables_of(self, grid: Grid) -> GridTables:
        """The tables of a grid, kept for the next call: a rollout computes them once."""
        sources = [t for block in self.weight_sets for t in (block.position.frequencies, block.inverse_frequencies)]
        like = self.lift_weight
        axes = tuple((axis.points.tobytes(), axis.length, axis.periodic) for axis in grid.axes)
        key = (axes, like.device, like.dtype, *((id(t), t._version) for t in sources))
        if key not in self._kept:
            coordinates = COORDINATES[self.config.coordinates](grid)
            # Tables made under inference_mode could not be used in training afterwards, and those of an autocast would
            # lose digits that angles need.
            with torch.inference_mode(False), torch.no_grad(), torch.autocast(like.device.type, enabled=False):
                tables = self.tables(coordinates, quadrature_weights(grid) if self.config.quadrature else None)
            while len(self._kept) >= KEPT_GRIDS:
                del self._kept[next(iter(self._kept))]
            # Holding on to the sources keeps their ids from being given to others.
            self._kept[key] = (sources, tables)
        return self._kept[key][1]

    def _advance(
        self, past: Float[Tensor, "batch history *grid component"], tables: GridTables
    ) -> Float[Tensor, "batch *grid component"]:
        config = self.config
        if (past.shape[1], past.shape[-1], past.dim() - 3) != (config.history, config.components, config.axes):
            raise ConfigError(
                f"expected fields [batch, {config.history} frames, {config.axes} axes, {config.components} "
                f"components], got {tuple(past.shape)}."
            )
        lifted = F.gelu(past.movedim(1, -2)[..., None] * self.lift_weight + self.lift_bias)
        u = self.lift(lifted.flatten(-3))
        recompute = config.recompute and torch.is_grad_enabled()
        for block, block_tables in zip(self.weight_sets, tables.blocks, strict=True):
            u = u + block.position(block_tables.position)
            for _ in range(config.iterations):
                if recompute:
                    change = checkpoint(
                        block, u, block_tables, tables.weights, use_reentrant=False, preserve_rng_state=False
                    )
                else:
                    change = block(u, block_tables, tables.weights)
                u = torch.add(u, change, alpha=1 / config.iterations)
        found: Tensor = self.head(F.gelu(self.head_expand(u)))
        return found
