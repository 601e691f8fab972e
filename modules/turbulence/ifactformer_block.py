"""One weight set of the factorized operator: features of position, axis kernels, and the attention that they drive."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from modules.turbulence.ifactformer_attention import Layout, attend
from modules.turbulence.ifactformer_coordinates import (
    BlockTables,
    RotaryTable,
    harmonic_frequencies,
    harmonic_positions,
    inverse_frequencies,
)

POSITION_SCALE = 8.0
"""Standard deviation of the frequencies of position."""
KERNEL_GAIN = 0.02
"""Of the Xavier initialisation of queries and keys."""


class Position(nn.Module):
    """Fourier features of the position, random or harmonic, through a linear map."""

    def __init__(self, axes: int, dim: int, harmonic: bool) -> None:
        super().__init__()
        drawn = harmonic_positions(axes, dim // 2) if harmonic else torch.randn(axes, dim // 2) * POSITION_SCALE
        self.frequencies = nn.Parameter(drawn, requires_grad=False)
        """Never trained."""
        self.linear = nn.Linear(dim, dim)

    def forward(self, features: Float[Tensor, "*grid dim"]) -> Float[Tensor, "*grid dim"]:
        """From the sines and cosines of a grid's points, which its tables hold."""
        found: Tensor = self.linear(features)
        return found


class AxisKernel(nn.Module):
    """The kernel of one axis, from the field's means over the other axes."""

    def __init__(self, dim: int, heads: int, width: int) -> None:
        super().__init__()
        self.heads = heads
        self.input = nn.Linear(dim, dim, bias=False)
        self.norm = nn.LayerNorm(dim)
        self.expand = nn.Linear(dim, 2 * dim)
        self.contract = nn.Linear(dim, dim)
        self.to_q = nn.Linear(dim, heads * width, bias=False)
        self.to_k = nn.Linear(dim, heads * width, bias=False)
        for linear in (self.to_q, self.to_k):
            nn.init.xavier_uniform_(linear.weight, gain=KERNEL_GAIN)

    def features(self, mean: Float[Tensor, "batch point dim"]) -> Float[Tensor, "batch point dim"]:
        """The function of the axis coordinate, from which queries and keys are made."""
        opened, gate = self.expand(self.norm(self.input(mean))).chunk(2, dim=-1)
        found: Tensor = self.contract(F.gelu(opened) * gate)
        return found

    def forward(
        self, mean: Float[Tensor, "batch point dim"], rotary: RotaryTable
    ) -> Float[Tensor, "batch head point point"]:
        features = self.features(mean)
        q, k = (
            rotary.rotate(linear(features).unflatten(-1, (self.heads, -1)).transpose(1, 2))
            for linear in (self.to_q, self.to_k)
        )
        return q @ k.mT


class Block(nn.Module):
    """One weight set: the block that its iterations share, and the position that is added before them."""

    inverse_frequencies: Tensor

    def __init__(
        self,
        *,
        axes: int,
        dim: int,
        heads: int,
        dim_head: int,
        kernel_multiplier: int,
        variant: str,
        harmonic: bool = False,
    ) -> None:
        super().__init__()
        chained = variant == "chained"
        self.layout = Layout(
            chains=(tuple(range(axes)),) if chained else tuple((axis,) for axis in range(axes)),
            by_plane=variant == "legacy",
        )
        width = kernel_multiplier * dim_head
        frequencies = harmonic_frequencies(width) if harmonic else inverse_frequencies(width)
        self.register_buffer("inverse_frequencies", frequencies)
        self.position = Position(axes, dim, harmonic)
        self.norm = nn.LayerNorm(dim)
        self.to_v = nn.Linear(dim, heads * dim_head, bias=False)
        self.pooled = nn.Linear(dim, dim, bias=False)
        self.kernels = nn.ModuleList(AxisKernel(dim, heads, width) for _ in range(axes))
        self.to_out = nn.Linear(len(self.layout.chains) * heads * dim_head, dim, bias=False)
        self.mix = nn.ModuleList(nn.Linear(dim, dim, bias=False) for _ in range(3 if variant == "legacy" else 1))
        """Linear maps of the output with GELU before all but every second one."""

    def axis_kernels(
        self,
        x: Float[Tensor, "batch *grid dim"],
        tables: BlockTables,
        weights: Sequence[Float[Tensor, " _"] | None],
    ) -> list[Float[Tensor, "batch head _ _"]]:
        """One kernel per axis. The maps before the means have no bias, so the means are taken first."""
        found = []
        for axis, mean in enumerate(axis_means(x, weights)):
            kernel = self.kernels[axis](self.pooled(mean), tables.rotary[axis])
            weight = weights[axis]
            found.append(kernel if weight is None else kernel * weight)
        return found

    def forward(
        self,
        u: Float[Tensor, "batch *grid dim"],
        tables: BlockTables,
        weights: Sequence[Float[Tensor, " _"] | None],
    ) -> Float[Tensor, "batch *grid dim"]:
        """The change of u, before it is divided by the number of iterations.

        `weights` are the quadrature weights of each axis, their mean 1; None where all are equal.
        """
        x = self.norm(u)
        kernels = self.axis_kernels(x, tables, weights)
        out = attend(x, self.to_v.weight, self.to_out.weight, kernels, self.layout, weights)
        out = self.mix[0](F.gelu(out))
        for first, second in zip(self.mix[1::2], self.mix[2::2], strict=True):
            out = second(F.gelu(first(out)))
        return out


def axis_means(
    x: Float[Tensor, "batch *grid dim"], weights: Sequence[Float[Tensor, " _"] | None]
) -> list[Float[Tensor, "batch _ dim"]]:
    """For every axis the weighted mean over all others: [batch, points of the axis, dim]."""

    def mean(field: Tensor, place: int, axis: int) -> Tensor:
        weight = weights[axis]
        if weight is not None:
            field = field * weight.reshape(-1, *[1] * (field.dim() - 2 - place))
        return field.mean(1 + place)

    if len(weights) == 1:
        return [x]
    last = len(weights) - 1
    rest = x
    for axis in range(last):
        rest = mean(rest, 0, axis)
    # The others share the mean over the last axis.
    return [*axis_means(mean(x, last, last), weights[:-1]), rest]
