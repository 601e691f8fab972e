"""Where on the path a training sample looks: distributions over t in [0, 1], 0 = noise, 1 = data."""

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from data.errors import ConfigError
from modules.layers.random import rand_per_sample, randn_per_sample


def shift_towards_noise(t: Float[Tensor, "*any"], shift: float) -> Float[Tensor, "*any"]:
    """Times after the resolution shift of Esser et al. 2024 (eq. 23).

    The noise level s = 1 - t becomes k s / (1 + (k - 1) s). A `shift` k > 1 moves mass towards noise (more tokens need
    more noise to be hidden), k = 1 changes nothing; shifts compose by multiplication.
    """
    # Written in t, so that t near 0 and t near 1 both keep their relative precision.
    return t / (t + shift * (1.0 - t))


@dataclass(frozen=True, kw_only=True)
class TimeSamplingConfig:
    """Distribution of training times."""

    distribution: Literal["uniform", "logit-normal"] = "logit-normal"
    mean: float = 0.0
    """Mean of logit(t) (logit-normal only); positive values look more often near the data."""
    std: float = 1.0
    """Standard deviation of logit(t) (logit-normal only)."""
    shift: float = 1.0
    """Resolution shift towards noise, applied after the draw; the square root of the ratio of token counts is usual."""

    def __post_init__(self) -> None:
        if self.distribution not in ("uniform", "logit-normal"):
            raise ConfigError(
                f"time distribution must be 'uniform' or 'logit-normal', got '{self.distribution}'; choose one of them."
            )
        if self.std <= 0 or self.shift <= 0:
            raise ConfigError(
                f"std and shift of the time distribution must be positive, got std={self.std} and shift={self.shift}; "
                "shift 1 means no shift."
            )

    def build(self) -> "TimeSampler":
        return TimeSampler(self)


@dataclass(frozen=True)
class TimeSampler:
    """Draws one time per sample from the sample's own seed."""

    config: TimeSamplingConfig

    def __call__(self, seeds: Int[Tensor, " batch"], *, stream: int = 0) -> Float[Tensor, " batch"]:
        """Times in [0, 1], float64, on the device of `seeds`; the same seed and stream give the same time."""
        if self.config.distribution == "uniform":
            t = rand_per_sample(seeds, stream=stream).double()
        else:
            normal = randn_per_sample(seeds, (), stream=stream).double()
            t = torch.sigmoid(self.config.mean + self.config.std * normal)
        return shift_towards_noise(t, self.config.shift).to(seeds.device)
