"""Factorized attention: one kernel per axis, applied to values, normalised and mapped to the output, all in one pass.

The published block computes y = K v for every head and axis, lays all results side by side (axes * heads * width
features a point), normalises each feature over the grid and multiplies by the output matrix W. The same numbers come
without that tensor: the norm is a scale and a shift of each feature, so W takes the scale, and the product with W is a
sum over heads and axes, each of which is computed, used and forgotten. The backward pass recomputes values and results
head by head for the same reason.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable

from modules.turbulence.ifactformer_norm import folded_norm


@dataclass(frozen=True)
class Layout:
    """How kernels meet values and over what their results are normalised."""

    chains: tuple[tuple[int, ...], ...]
    """Axes whose kernels are applied one after another, for each group of features of a head."""
    by_plane: bool
    """Normalise over all features of a plane of the first axis; else each feature over the grid."""


def attend(
    x: Float[Tensor, "batch *grid dim"],
    to_v: Float[Tensor, "value dim"],
    to_out: Float[Tensor, "dim feature"],
    kernels: Sequence[Float[Tensor, "batch head _ _"]],
    layout: Layout,
    weights: Sequence[Float[Tensor, " _"] | None],
) -> Float[Tensor, "batch *grid dim"]:
    """to_out · norm(K · to_v · x), each kernel along its axis.

    Features of `to_out` are ordered by head, then chain, then channel. `weights` are quadrature weights along each axis
    (None: all equal) for the means of the norm. Runs in the precision of `x`, also under autocast.
    """
    parts = list(weights)[1:] if layout.by_plane else list(weights)
    shape = (1, *x.shape[2:-1]) if layout.by_plane else x.shape[1:-1]
    measure = None
    if any(part is not None for part in parts):
        measure = x.new_ones(())
        for part, n in zip(parts, shape[-len(parts) :], strict=True):
            measure = measure[..., None] * (x.new_ones(n) if part is None else part)
        measure = (measure / measure.sum()).reshape(shape)
    with torch.autocast(x.device.type, enabled=False):
        found: Tensor = _FoldedAttention.apply(
            x, to_v.to(x.dtype), to_out.to(x.dtype), measure, layout, *(kernel.to(x.dtype) for kernel in kernels)
        )
    return found


class _FoldedAttention(torch.autograd.Function):
    """`attend`; x, to_v, to_out and the kernels have gradients."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, to_v: Tensor, to_out: Tensor, measure: Tensor | None, layout: Layout, *kernels: Tensor
    ) -> Tensor:
        x = x.contiguous()
        grid, flat, values, weight = _views(x, to_v, to_out, layout, kernels)
        norm = folded_norm(flat, measure, to_out, planes=grid[0] if layout.by_plane else None)
        v, *buffers = (flat.new_empty(*flat.shape[:2], values.shape[1]) for _ in range(3))
        out = torch.zeros_like(flat)
        for h in range(len(values)):
            torch.mm(flat.flatten(0, 1), values[h].t(), out=v.flatten(0, 1))
            for c, chain in enumerate(layout.chains):
                source = v
                for axis in chain:
                    buffers.reverse()
                    source = _along(kernels[axis][:, h], source, axis, grid, buffers[0])
                matrix = norm.take(source, weight[:, h, c], buffers[1])
                out.baddbmm_(source, matrix.mT)
        out = norm.finish(out)
        ctx.save_for_backward(x, to_v, to_out, measure, *kernels, *norm.statistics())
        ctx.layout, ctx.kernels = layout, len(kernels)
        return out.view_as(x)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, to_v, to_out, measure, *rest = ctx.saved_tensors
        kernels, statistics, layout = rest[: ctx.kernels], rest[ctx.kernels :], ctx.layout
        grid, flat, values, weight = _views(x, to_v, to_out, layout, kernels)
        norm = folded_norm(flat, measure, to_out, planes=grid[0] if layout.by_plane else None)
        gradient = norm.restore(tuple(statistics), gradient.reshape(flat.shape))
        d_flat, d_values, d_weight = torch.zeros_like(flat), torch.empty_like(values), torch.empty_like(weight)
        d_kernels = [torch.empty_like(kernel) for kernel in kernels]
        longest = max(map(len, layout.chains))
        v, d_v, *buffers = (flat.new_empty(*flat.shape[:2], values.shape[1]) for _ in range(2 + longest))
        rows = flat.flatten(0, 1)
        for h in range(len(values)):
            torch.mm(rows, values[h].t(), out=v.flatten(0, 1))
            for c, chain in enumerate(layout.chains):
                states = [v]
                for axis, buffer in zip(chain, buffers, strict=False):
                    states.append(_along(kernels[axis][:, h], states[-1], axis, grid, buffer))
                y = states.pop()
                d_weight[:, h, c], matrix = norm.pull(y, gradient.mT @ y, weight[:, h, c])
                y.baddbmm_(gradient, matrix)
                for axis in reversed(chain):
                    source = states.pop()
                    d_kernels[axis][:, h] = _between(y, source, axis, grid)
                    target, first = (source, True) if states else (d_v, c == 0)
                    y = _along(kernels[axis][:, h].mT, y, axis, grid, target, add=not first)
            d_flat.flatten(0, 1).addmm_(d_v.flatten(0, 1), values[h])
            torch.mm(d_v.flatten(0, 1).t(), rows, out=d_values[h])
        return (d_flat.view_as(x), d_values.view_as(to_v), d_weight.view_as(to_out), None, None, *d_kernels)


def _views(
    x: Tensor, to_v: Tensor, to_out: Tensor, layout: Layout, kernels: Sequence[Tensor]
) -> tuple[tuple[int, ...], Tensor, Tensor, Tensor]:
    """The grid; x as [batch, point, dim]; to_v as [head, width, dim]; to_out as [dim, head, chain, width]."""
    values = to_v.unflatten(0, (kernels[0].shape[1], -1))
    weight = to_out.unflatten(1, (len(values), len(layout.chains), -1))
    return tuple(x.shape[1:-1]), x.flatten(1, -2), values, weight


def _along(
    kernel: Tensor, source: Tensor, axis: int, grid: tuple[int, ...], out: Tensor, *, add: bool = False
) -> Tensor:
    """A kernel [batch, n, n] along one axis of [batch, point, channel], as one batched product; into `out`."""
    n, before = grid[axis], math.prod(grid[:axis])
    # A view for a batch of one; the kernels' copies are small beside the fields otherwise.
    many = kernel[:, None].expand(-1, before, -1, -1).reshape(-1, n, n)
    shape = (len(many), n, -1)
    if add:
        out.view(shape).baddbmm_(many, source.view(shape))
    else:
        torch.bmm(many, source.view(shape), out=out.view(shape))
    return out


def _between(left: Tensor, right: Tensor, axis: int, grid: tuple[int, ...]) -> Tensor:
    """Sums over all but one axis of products of two fields [batch, point, channel]: [batch, n, n]."""
    n, before = grid[axis], math.prod(grid[:axis])
    shape = (len(left) * before, n, -1)
    return (left.view(shape) @ right.view(shape).mT).view(-1, before, n, n).sum(1)
