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

from modules.turbulence.ifactformer_norm import FoldedNorm, folded_norm

CACHED = 2**21
"""Numbers of one result that a CPU works on at a time: a sample at the smallest published size."""


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
        call = _Call(x, to_v, to_out, kernels, layout)
        out = torch.zeros_like(call.flat)
        found = []
        for part in call.parts():
            norm = folded_norm(call.flat[part], measure, to_out, call.planes)
            call.push(part, norm, out[part])
            norm.finish(out[part])
            found.append(norm.statistics())
        statistics = tuple(torch.cat(parts) for parts in zip(*found, strict=True))
        out = out.view_as(x)
        ctx.save_for_backward(x, to_v, to_out, measure, out, *statistics, *kernels)
        ctx.layout, ctx.kernels = layout, len(kernels)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, to_v, to_out, measure, out, *rest = ctx.saved_tensors
        statistics, kernels = rest[: -ctx.kernels], rest[-ctx.kernels :]
        call = _Call(x, to_v, to_out, kernels, ctx.layout)
        gradients = _Gradients(
            torch.zeros_like(call.flat),
            torch.zeros_like(call.values),
            torch.zeros_like(call.weight),
            [torch.empty_like(kernel) for kernel in kernels],
        )
        gradient, out = gradient.reshape(call.flat.shape), out.view(call.flat.shape)
        for part in call.parts():
            norm = folded_norm(call.flat[part], measure, to_out, call.planes)
            pulled = norm.restore(tuple(found[part] for found in statistics), out[part], gradient[part])
            call.pull(part, norm, pulled, gradients)
        return (
            gradients.flat.view_as(x),
            gradients.values.view_as(to_v),
            gradients.weight.view_as(to_out),
            None,
            None,
            *gradients.kernels,
        )


@dataclass(frozen=True)
class _Gradients:
    """Of the fields of `_Call` of the same names."""

    flat: Tensor
    values: Tensor
    weight: Tensor
    kernels: list[Tensor]


class _Call:
    """The arguments of one call in the shapes in which they are worked on."""

    def __init__(self, x: Tensor, to_v: Tensor, to_out: Tensor, kernels: Sequence[Tensor], layout: Layout) -> None:
        self.grid = tuple(x.shape[1:-1])
        self.flat = x.flatten(1, -2)
        """[batch, point, dim]"""
        self.values = to_v.unflatten(0, (kernels[0].shape[1], -1))
        """[head, channel, dim]"""
        self.weight = to_out.unflatten(1, (len(self.values), len(layout.chains), -1))
        """[dim, head, chain, channel]"""
        self.kernels = kernels
        self.chains = layout.chains
        self.planes = self.grid[0] if layout.by_plane else None

    def parts(self) -> list[slice]:
        """Parts of the batch to work on at a time: on a CPU as many samples as stay in its cache."""
        batch, points, _ = self.flat.shape
        size = max(1, CACHED // (points * self.values.shape[1])) if self.flat.device.type == "cpu" else batch
        return [slice(start, start + size) for start in range(0, batch, size)]

    def buffers(self, part: slice, count: int) -> list[Tensor]:
        """Room for results [batch, point, channel]."""
        shape = (*self.flat[part].shape[:2], self.values.shape[1])
        return [self.flat.new_empty(shape) for _ in range(count)]

    def push(self, part: slice, norm: FoldedNorm, out: Tensor) -> None:
        """Add to `out` what every result gives."""
        rows = self.flat[part].flatten(0, 1)
        v, *spare = self.buffers(part, 3)
        for h, to_v in enumerate(self.values):
            torch.mm(rows, to_v.t(), out=v.flatten(0, 1))
            for c, chain in enumerate(self.chains):
                y = v
                for axis in chain:
                    spare.reverse()
                    y = _along(self.kernels[axis][part, h], y, axis, self.grid, spare[0])
                matrix = norm.take(y, self.weight[:, h, c], spare[1])
                out.baddbmm_(y, matrix.mT)

    def pull(self, part: slice, norm: FoldedNorm, gradient: Tensor, into: _Gradients) -> None:
        """Take the gradient that `norm` has made of the output's back to all arguments."""
        rows = self.flat[part].flatten(0, 1)
        v, d_v, *spare = self.buffers(part, 2 + max(map(len, self.chains)))
        d_rows = into.flat[part].flatten(0, 1)
        for h, to_v in enumerate(self.values):
            torch.mm(rows, to_v.t(), out=v.flatten(0, 1))
            for c, chain in enumerate(self.chains):
                states = [v]
                for axis, buffer in zip(chain, spare, strict=False):
                    states.append(_along(self.kernels[axis][part, h], states[-1], axis, self.grid, buffer))
                y = states.pop()
                d_weight, matrix = norm.pull(y, gradient.mT @ y, self.weight[:, h, c])
                into.weight[:, h, c] += d_weight
                y.baddbmm_(gradient, matrix)
                for axis in reversed(chain):
                    source = states.pop()
                    into.kernels[axis][part, h] = _between(y, source, axis, self.grid)
                    # What a kernel was applied to is not needed below it; only v is, by the chains to come.
                    target = source if states else d_v
                    add = not states and c > 0
                    y = _along(self.kernels[axis][part, h].mT, y, axis, self.grid, target, add=add)
            d_rows.addmm_(d_v.flatten(0, 1), to_v)
            into.values[h].addmm_(d_v.flatten(0, 1).t(), rows)


def _along(
    kernel: Tensor, source: Tensor, axis: int, grid: tuple[int, ...], out: Tensor, *, add: bool = False
) -> Tensor:
    """A kernel [batch, n, n] along one axis of [batch, point, channel], by batched products; into `out`."""
    n, before = grid[axis], math.prod(grid[:axis])
    # One sample's kernel is repeated over the axes before by a view, several samples' by a copy, which only a GPU is
    # faster with.
    size = len(kernel) if axis == 0 or kernel.device.type != "cpu" else 1
    for some, given, result in zip(kernel.split(size), source.split(size), out.split(size), strict=True):
        many = some[:, None].expand(-1, before, -1, -1).reshape(-1, n, n)
        shape = (len(many), n, -1)
        if add:
            result.view(shape).baddbmm_(many, given.view(shape))
        else:
            torch.bmm(many, given.view(shape), out=result.view(shape))
    return out


def _between(left: Tensor, right: Tensor, axis: int, grid: tuple[int, ...]) -> Tensor:
    """Sums over all but one axis of products of two fields [batch, point, channel]: [batch, n, n]."""
    n, before = grid[axis], math.prod(grid[:axis])
    shape = (len(left) * before, n, -1)
    return (left.view(shape) @ right.view(shape).mT).view(-1, before, n, n).sum(1)
