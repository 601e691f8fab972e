"""Patches of a series as tokens, their positions, and the way back to a forecast (PatchTST, Nie et al. 2023).

Suffixes: B windows, N variates, T tokens, D width, P steps ahead, O outputs.
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn

from data.errors import ConfigError
from modules.layers.batch_norm import BatchNorm1d


def patch_count(look_back: int, patch: int, stride: int, *, repeated: int = 0) -> int:
    """How many patches fit, after the newest value was repeated so often.

    Raises:
        ConfigError: not one does, or a size is no size.
    """
    if patch < 1 or stride < 1:
        raise ConfigError(f"patch and stride must be at least 1 step, got {patch} and {stride}.")
    if look_back < patch:
        raise ConfigError(f"look_back must be at least one patch of {patch} steps, got {look_back}.")
    return (look_back + repeated - patch) // stride + 1


def patches(
    series: Float[Tensor, "batch step variate"],
    patch: int,
    stride: int,
    *,
    repeated: int = 0,
    drop_newest: bool = False,
) -> Float[Tensor, "batch variate token patch"]:
    """Each variate cut into patches, oldest first.

    The newest value is repeated so often before. Steps that fill no patch are left out: the oldest ones, or as in the
    published code the newest (`drop_newest`).
    """
    x = series.transpose(1, 2)
    if repeated:
        x = torch.cat([x, x[..., -1:].expand(*x.shape[:2], repeated)], dim=-1)
    over = 0 if drop_newest else (x.shape[-1] - patch) % stride
    return x[..., over:].unfold(-1, patch, stride)


def sinusoidal_positions(count: int, width: int) -> Float[Tensor, "position width"]:
    """Sines in even columns, cosines in odd ones, of position · 10000^(-column / width) (Vaswani et al. 2017)."""
    positions = torch.arange(count, dtype=torch.float64)[:, None]
    rates = torch.exp(torch.arange(0, width, 2, dtype=torch.float64) * (-math.log(10_000.0) / width))
    angles = positions * rates
    return torch.stack([angles.sin(), angles.cos()], dim=-1).flatten(1)[:, :width].float()


class PatchHead(nn.Module):
    """All tokens of a variate, side by side, to its forecast; one matrix for all variates, or one for each."""

    def __init__(self, features: int, outputs: int, variates: int | None = None) -> None:
        super().__init__()
        self.shared = variates is None
        if variates is None:
            self.linear = nn.Linear(features, outputs)
            return
        bound = 1 / math.sqrt(features)
        self.weight = nn.Parameter(torch.empty(variates, outputs, features).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.empty(variates, outputs).uniform_(-bound, bound))

    def forward(self, x: Float[Tensor, "batch variate feature"]) -> Float[Tensor, "batch variate output"]:
        if self.shared:
            return self.linear(x)
        mapped = torch.baddbmm(self.bias[:, None], x.transpose(0, 1), self.weight.transpose(1, 2))
        return mapped.transpose(0, 1)


class TokenBatchNorm(BatchNorm1d):
    """Batch normalisation of every channel over all tokens of all windows."""

    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input.flatten(0, -2)).view_as(input)
