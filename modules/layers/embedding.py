"""Sinusoidal features of positions and times."""

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn


class FrequencyEmbedding(nn.Module):
    """Positions followed by their sines and cosines at bands 2⁰ … 2^(frequencies-1) (times π with `include_pi`).

    Order of the `width` channels for three axes: x, y, z; all sines (the bands of x, of y, of z); all cosines likewise.
    """

    def __init__(self, frequencies: int, *, axes: int = 3, include_pi: bool = False) -> None:
        super().__init__()
        if frequencies < 0:
            raise ValueError(f"frequencies must not be negative, got {frequencies}.")
        self.axes = axes
        self.width = axes * (1 + 2 * frequencies)
        bands = 2.0 ** torch.arange(frequencies, dtype=torch.float32) * (math.pi if include_pi else 1.0)
        # Not part of the weights: the published checkpoints do not store it.
        self.register_buffer("bands", bands, persistent=False)

    def forward(self, points: Float[Tensor, "*batch axes"]) -> Float[Tensor, "*batch width"]:
        angles = (points.unsqueeze(-1) * self.get_buffer("bands").to(points.dtype)).flatten(-2)
        return torch.cat([points, angles.sin(), angles.cos()], dim=-1)


def time_sinusoid(
    times: Float[Tensor, " batch"], width: int, *, max_period: float = 10_000.0
) -> Float[Tensor, "batch width"]:
    """Sines, then cosines, of times · max_period^(-i / (width/2)), i = 0 … width/2 - 1 (Vaswani et al. 2017).

    Angles are formed in float64, so that times up to 1000 keep their precision; the result is float32.
    """
    if width % 2:
        raise ValueError(f"width must be even, got {width}; take {width + 1}.")
    half = width // 2
    exponents = torch.arange(half, dtype=torch.float64, device=times.device) / half
    angles = times.double()[:, None] * torch.exp(-math.log(max_period) * exponents)
    return torch.cat([angles.sin(), angles.cos()], dim=-1).float()
