"""Noise that belongs to a sample, not to the batch it happens to travel in."""

import torch
from jaxtyping import Float, Int
from torch import Tensor


def generator(seed: int) -> torch.Generator:
    """A CPU generator for one sample; CPU, so that the noise is the same on every device."""
    return torch.Generator().manual_seed(seed & 0x7FFF_FFFF_FFFF_FFFF)


def randn_per_sample(
    seeds: Int[Tensor, " batch"], shape: tuple[int, ...], *, stream: int = 0, device: torch.device | str = "cpu"
) -> Float[Tensor, "batch ..."]:
    """Standard normal noise, one row of `shape` per seed.

    `stream` separates draws of different purpose from the same seed (posterior noise, flow noise, times).
    """
    rows = [torch.randn(shape, generator=generator(mix(int(s), stream))) for s in seeds.tolist()]
    return torch.stack(rows).to(device)


def rand_per_sample(
    seeds: Int[Tensor, " batch"], shape: tuple[int, ...] = (), *, stream: int = 0, device: torch.device | str = "cpu"
) -> Float[Tensor, "batch ..."]:
    """Uniform numbers in [0, 1), one row of `shape` per seed."""
    rows = [torch.rand(shape, generator=generator(mix(int(s), stream))) for s in seeds.tolist()]
    return torch.stack(rows).to(device)


def mix(seed: int, *words: int) -> int:
    """A well-spread 63-bit integer from a seed and further integers (SplitMix64, Steele et al. 2014)."""
    state = seed & 0xFFFF_FFFF_FFFF_FFFF
    for word in words:
        state = (state + 0x9E37_79B9_7F4A_7C15 * (2 * word + 1)) & 0xFFFF_FFFF_FFFF_FFFF
        state = ((state ^ (state >> 30)) * 0xBF58_476D_1CE4_E5B9) & 0xFFFF_FFFF_FFFF_FFFF
        state = ((state ^ (state >> 27)) * 0x94D0_49BB_1331_11EB) & 0xFFFF_FFFF_FFFF_FFFF
        state ^= state >> 31
    return state & 0x7FFF_FFFF_FFFF_FFFF
