"""Batch normalisation whose batch is that of all training processes together.

Torch has `SyncBatchNorm` for this, on GPUs only. As there, the gradient takes into account that the statistics depend
on every sample (Ioffe and Szegedy 2015, section 3).
"""

from typing import Any

import torch
import torch.distributed as dist
from jaxtyping import Float
from torch import Tensor, nn


class BatchNorm1d(nn.BatchNorm1d):
    """`torch.nn.BatchNorm1d`, the same parameters and buffers; in training by several processes over all their samples.

    Processes may have different numbers of samples, at least one.
    """

    def forward(self, input: Float[Tensor, "sample channel *position"]) -> Float[Tensor, "sample channel *position"]:
        if not (self.training and dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1):
            return super().forward(input)
        normalised: Tensor
        normalised, mean, variance, count = _Normalise.apply(input, self.weight, self.bias, self.eps)
        if self.running_mean is not None and self.running_var is not None and self.num_batches_tracked is not None:
            with torch.no_grad():
                self.num_batches_tracked.add_(1)
                share = 1.0 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
                self.running_mean.lerp_(mean.to(self.running_mean), share)
                unbiased = variance * count / (count - 1).clamp(min=1)
                self.running_var.lerp_(unbiased.to(self.running_var), share)
        return normalised


class _Normalise(torch.autograd.Function):
    """(x - mean) / √(variance + eps) · weight + bias over the samples of all processes, and what it found."""

    @staticmethod
    def forward(
        context: Any, input: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        x = _channels_last(input)
        x = x.to(torch.promote_types(x.dtype, torch.float32))
        # In two rounds: a variance from sums of squares would lose the digits that the mean takes.
        sums = torch.cat([x.sum(dim=0, dtype=torch.float64), x.new_tensor([len(x)], dtype=torch.float64)])
        dist.all_reduce(sums)
        count = sums[-1]
        mean = (sums[:-1] / count).to(x.dtype)
        centred = x - mean
        squares = centred.square().sum(dim=0, dtype=torch.float64)
        dist.all_reduce(squares)
        variance = (squares / count).to(x.dtype)
        scale = (variance + eps).rsqrt()
        standard = centred * scale
        context.save_for_backward(standard, scale, weight, count)
        context.affine = weight is not None
        out = standard if weight is None or bias is None else torch.addcmul(bias, standard, weight)
        context.mark_non_differentiable(mean, variance, count)
        return _as_before(out, input).to(input.dtype), mean, variance, count

    @staticmethod
    def backward(context: Any, *gradients: Any) -> tuple[Tensor, Tensor | None, Tensor | None, None]:
        given = gradients[0]
        standard, scale, weight, count = context.saved_tensors
        gradient = _channels_last(given).to(standard.dtype)
        own = torch.stack([gradient.sum(dim=0, dtype=torch.float64), (gradient * standard).sum(0, dtype=torch.float64)])
        all_of_them = own.clone()
        dist.all_reduce(all_of_them)
        level, slope = (all_of_them / count).to(gradient.dtype)
        inward = (gradient - level - standard * slope) * (scale if weight is None else scale * weight)
        # Of weight and bias this process's part only: the gradients of all parameters are added up over processes.
        bias_part, weight_part = own.to(gradient.dtype)
        inward = _as_before(inward, given).to(given.dtype)
        return (inward, weight_part, bias_part, None) if context.affine else (inward, None, None, None)


def _channels_last(x: Tensor) -> Tensor:
    """[sample, channel, *position] as [sample and position, channel]."""
    return x if x.ndim == 2 else x.transpose(1, -1).reshape(-1, x.shape[1])


def _as_before(x: Tensor, like: Tensor) -> Tensor:
    if like.ndim == 2:
        return x
    return x.view(like.shape[0], *like.shape[2:], like.shape[1]).movedim(-1, 1)
