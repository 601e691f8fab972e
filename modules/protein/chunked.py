"""The edge transition as one differentiable operation that walks over the pairs a few at a time.

On a processor with caches it saves what ordinary automatic differentiation spends on arrays of all pairs: they are
written and read again from main memory, and all of them are kept for the backward pass. Here a portion of pairs goes
through all layers while it is in the cache, forward and backward; of the two hidden layers only the second is kept, and
the first, which is cheap, is computed again.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

NUMBERS_AT_ONCE = 200_000
"""Hidden channels times pairs of a portion; in float32 these take 0.8 MB."""

aten = torch.ops.aten


def usable(edges: Tensor) -> bool:
    """Whether the walk is the better way: in eager mode, on a CPU, at one precision."""
    return (
        edges.device.type == "cpu"
        and edges.dtype in (torch.float32, torch.float64)
        and not torch.is_autocast_enabled("cpu")
        and not torch.compiler.is_compiling()
    )


class ChunkedTransition(torch.autograd.Function):
    """`EdgeTransition` of all pairs. Letters: B batch, N residues, E edge channels, D hidden channels.

    Arguments: edges [B,N,N,E]; what residue i and j add to the first layer [B,N,D] and to the last [B,N,E]; the first
    layer's weight for edges [D,E]; weight and bias of the second [D,D], [D]; weight of the last for hidden channels
    [E,D] and for edges [E,E]; weight and bias [E] and epsilon of the norm; resolved [B,N].
    """

    @staticmethod
    def forward(
        ctx: Any,
        edges: Tensor,
        first_i: Tensor,
        first_j: Tensor,
        last_i: Tensor,
        last_j: Tensor,
        first: Tensor,
        second: Tensor,
        second_bias: Tensor,
        last: Tensor,
        last_edge: Tensor,
        norm: Tensor,
        norm_bias: Tensor,
        eps: float,
        resolved: Tensor,
    ) -> Tensor:
        batch, length, _, width = edges.shape
        edges = edges.contiguous()
        hidden = edges.new_empty(batch, length, length, len(first))
        summed, result = torch.empty_like(edges), torch.empty_like(edges)
        mean, rstd = edges.new_empty(batch, length, length, 1), edges.new_empty(batch, length, length, 1)
        buffer = edges.new_empty(_rows_at_once(length, len(first)), length, len(first))
        for b, rows in _portions(batch, length, len(first)):
            edge, h2 = edges[b, rows].flatten(0, 1), hidden[b, rows].flatten(0, 1)
            h1 = _first_layer(edge, first, first_i[b, rows], first_j[b], buffer)
            torch.addmm(second_bias, h1, second.T, out=h2).relu_()
            y = summed[b, rows]
            torch.mm(edge, last_edge.T, out=y.flatten(0, 1)).addmm_(h2, last.T)
            y.add_(last_i[b, rows, None]).add_(last_j[b])
            normed, mean[b, rows], rstd[b, rows] = aten.native_layer_norm(y, [width], norm, norm_bias, eps)
            torch.mul(normed, _mask(resolved, b, rows), out=result[b, rows])
        inputs = (edges, first_i, first_j, first, second, last, last_edge, norm, norm_bias, resolved)
        ctx.save_for_backward(*inputs, hidden, summed, mean, rstd)
        return result

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        edges, first_i, first_j, first, second, last, last_edge, norm, norm_bias, resolved, *kept = ctx.saved_tensors
        hidden, summed, mean, rstd = kept
        batch, length, _, width = edges.shape
        d_edges = torch.empty_like(edges)
        d_first_i, d_first_j = torch.empty_like(first_i), torch.zeros_like(first_j)
        d_last_i, d_last_j = edges.new_empty(batch, length, width), edges.new_zeros(batch, length, width)
        d_first, d_second, d_last, d_last_edge = (torch.zeros_like(w) for w in (first, second, last, last_edge))
        d_second_bias = edges.new_zeros(len(second))
        d_norm, d_norm_bias = torch.zeros_like(norm), torch.zeros_like(norm)
        buffer, other = (edges.new_empty(_rows_at_once(length, len(first)), length, len(first)) for _ in range(2))
        for b, rows in _portions(batch, length, len(first)):
            edge, h2 = edges[b, rows].flatten(0, 1), hidden[b, rows].flatten(0, 1)
            masked = gradient[b, rows] * _mask(resolved, b, rows)
            dy, dw, db = aten.native_layer_norm_backward(
                masked, summed[b, rows], [width], mean[b, rows], rstd[b, rows], norm, norm_bias, [True, True, True]
            )
            d_norm += dw
            d_norm_bias += db
            torch.sum(dy, 1, out=d_last_i[b, rows])
            d_last_j[b] += dy.sum(0)
            dy = dy.flatten(0, 1)
            d_last.addmm_(dy.T, h2)
            d_last_edge.addmm_(dy.T, edge)
            dz = torch.mm(dy, last, out=other[: rows.stop - rows.start].flatten(0, 1))
            aten.threshold_backward.grad_input(dz, h2, 0, grad_input=dz)
            d_second_bias += dz.sum(0)
            h1 = _first_layer(edge, first, first_i[b, rows], first_j[b], buffer)
            d_second.addmm_(dz.T, h1)
            dz = aten.threshold_backward(dz @ second, h1, 0)
            by_row = dz.view(-1, length, len(first))
            torch.sum(by_row, 1, out=d_first_i[b, rows])
            d_first_j[b] += by_row.sum(0)
            d_first.addmm_(dz.T, edge)
            torch.mm(dy, last_edge, out=d_edges[b, rows].flatten(0, 1)).addmm_(dz, first)
        return (
            d_edges,
            d_first_i,
            d_first_j,
            d_last_i,
            d_last_j,
            d_first,
            d_second,
            d_second_bias,
            d_last,
            d_last_edge,
            d_norm,
            d_norm_bias,
            None,
            None,
        )


def _first_layer(edge: Tensor, first: Tensor, of_i: Tensor, of_j: Tensor, buffer: Tensor) -> Tensor:
    """The first hidden layer of a portion [pairs, D], written into `buffer`."""
    part = buffer[: len(of_i)]
    hidden = torch.mm(edge, first.T, out=part.flatten(0, 1))
    part.add_(of_i[:, None]).add_(of_j)
    return hidden.relu_()


def _mask(resolved: Tensor, b: int, rows: slice) -> Tensor:
    return (resolved[b, rows, None] & resolved[b]).unsqueeze(-1)


def _rows_at_once(length: int, channels: int) -> int:
    return max(1, min(NUMBERS_AT_ONCE // (length * channels), length))


def _portions(batch: int, length: int, channels: int) -> list[tuple[int, slice]]:
    step = _rows_at_once(length, channels)
    return [(b, slice(start, min(start + step, length))) for b in range(batch) for start in range(0, length, step)]
