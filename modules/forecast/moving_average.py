"""The centred moving average that splits a series into trend and rest, the first and last value repeated beyond the
ends (Wu et al. 2021, Autoformer)."""

import torch
from jaxtyping import Float
from torch import Tensor

from data.errors import ConfigError


def check_kernel(kernel: int) -> None:
    """Raises ConfigError of a kernel without a middle."""
    if kernel < 1 or kernel % 2 == 0:
        raise ConfigError(f"a moving average needs an odd number of steps, got {kernel}; take {kernel + 1}.")


def moving_average_matrix(steps: int, kernel: int) -> Float[Tensor, "step seen"]:
    """The matrix whose product with a series of `steps` values is its moving average over `kernel` of them.

    The average is linear in the series, so it can be folded into a linear map that follows it.
    """
    check_kernel(kernel)
    reach = torch.arange(kernel) - kernel // 2
    seen = (torch.arange(steps)[:, None] + reach).clamp(0, steps - 1)
    return torch.zeros(steps, steps).scatter_add_(1, seen, torch.full(seen.shape, 1.0 / kernel))
