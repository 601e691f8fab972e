"""The learned scale and shift per column that RevIN puts around a network (Kim et al. 2022, equations 3 and 4)."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from modules.forecast.heads import Head
from modules.forecast.normalisation import EPS


class WindowAffine(nn.Module):
    """x · weight + bias on a normalised window, and its inverse on a network's raw numbers."""

    def __init__(self, columns: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(columns))
        self.bias = nn.Parameter(torch.zeros(columns))

    def forward(self, values: Float[Tensor, "batch step column"]) -> Float[Tensor, "batch step column"]:
        return values * self.weight + self.bias

    def undo(
        self, raw: Float[Tensor, "batch horizon column output"], head: Head
    ) -> Float[Tensor, "batch horizon column output"]:
        """Points, quantiles and locations before the map; widths of distributions stay as they are, they are learned.

        The published code divides by weight + eps², which keeps a weight of 0 from dividing by 0.
        """
        located = raw if head.kind in ("point", "quantile") else raw[..., :1]
        located = (located - self.bias[:, None]) / (self.weight[:, None] + EPS**2)
        return located if located.shape == raw.shape else torch.cat([located, raw[..., 1:]], dim=-1)
