"""How the layers of the backbone network begin (Jumper et al. 2021, supplement 1.11.4)."""

import math

import torch
from torch import nn

TRUNCATED_STD = 0.87962566103423978
"""Standard deviation of a unit normal cut off at ±2."""


def lecun_(linear: nn.Linear, *, gain: float = 1.0) -> nn.Linear:
    """Weights from a normal of variance gain / inputs cut off at two deviations, biases zero; gain 2 before a ReLU."""
    std = math.sqrt(gain / linear.in_features) / TRUNCATED_STD
    with torch.no_grad():
        nn.init.trunc_normal_(linear.weight, std=std, a=-2 * std, b=2 * std)
        nn.init.zeros_(linear.bias)
    return linear


def he_(linear: nn.Linear) -> nn.Linear:
    """As `lecun_`, for a layer whose output goes through a ReLU."""
    return lecun_(linear, gain=2.0)


def zero_(linear: nn.Linear) -> nn.Linear:
    """Weights and biases zero: the layer begins by adding nothing."""
    with torch.no_grad():
        nn.init.zeros_(linear.weight)
        nn.init.zeros_(linear.bias)
    return linear
