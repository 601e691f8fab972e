"""Dropout whose random numbers are cheap on a CPU.

Torch draws one number of 32 bits per element there, one by one, which is a tenth to a seventh of a small transformer's
training step. Here one number of 64 bits serves four elements. Other devices keep torch's own kernel.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

LEVELS = 2**16
"""A probability is rounded to this many levels; the scale of what is kept is exact for the rounded one."""


def dropout(x: Float[Tensor, "*shape"], probability: float, training: bool) -> Float[Tensor, "*shape"]:
    """Zero with this probability, else x / (1 - probability); x where not in training. Global generator."""
    if not training or probability == 0.0:
        return x
    if x.device.type != "cpu":
        return F.dropout(x, probability)
    kept, scale = _kept(x, probability)
    return x * kept.mul_(scale)


def add_dropout(
    x: Float[Tensor, "*shape"], added: Float[Tensor, "*shape"], probability: float, training: bool
) -> Float[Tensor, "*shape"]:
    """x + dropout(added), in one pass."""
    if not training or probability == 0.0:
        return x + added
    if x.device.type != "cpu":
        return x + F.dropout(added, probability)
    kept, scale = _kept(added, probability)
    return torch.addcmul(x, added, kept, value=scale)


def _kept(x: Tensor, probability: float) -> tuple[Tensor, float]:
    """1 where kept, else 0, and the scale of what is kept."""
    dropped = min(round(probability * LEVELS), LEVELS - 1)
    count = x.numel()
    draws = torch.empty((count + 3) // 4, dtype=torch.int64).random_(-(2**63), None)
    kept = torch.empty(x.shape, dtype=x.dtype)
    torch.ge(draws.view(torch.int16)[:count].view(x.shape), dropped - LEVELS // 2, out=kept)
    return kept, LEVELS / (LEVELS - dropped)
