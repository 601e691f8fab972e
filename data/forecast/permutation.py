"""A shuffle of many numbers of which none is written down."""

import math
from typing import Any

import numpy as np
from jaxtyping import Int, UInt64

ROUNDS = 6


def mixed(*words: int | np.ndarray) -> UInt64[np.ndarray, "..."]:
    """A well-spread 64-bit integer from integers, which broadcast (SplitMix64, Steele et al. 2014)."""
    with np.errstate(over="ignore"):
        state: Any = np.uint64(0)
        for word in words:
            number = np.asarray(word & 0xFFFF_FFFF_FFFF_FFFF if isinstance(word, int) else word).astype(np.uint64)
            state = (state + number + np.uint64(1)) * np.uint64(0x9E37_79B9_7F4A_7C15)
            state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58_476D_1CE4_E5B9)
            state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D0_49BB_1331_11EB)
            state = state ^ (state >> np.uint64(31))
        return np.asarray(state)


class Permutation:
    """A pseudo-random permutation of 0 … size - 1, answered place by place.

    A Feistel network on the pairs of Z_a × Z_b with a·b just above `size` (Black and Rogaway 2002, with additions
    modulo a and b), walked until it lands below `size`. Memory does not depend on `size`.
    """

    def __init__(self, size: int, seed: int) -> None:
        if size < 1:
            raise ValueError(f"nothing to permute: size {size}.")
        self.size = size
        self._left = np.uint64(math.isqrt(size - 1) + 1)
        self._right = np.uint64(-(-size // int(self._left)))
        self._keys = mixed(seed, np.arange(2 * ROUNDS, dtype=np.uint64))

    def __call__(self, places: Int[np.ndarray, " place"]) -> Int[np.ndarray, " place"]:
        """What stands at these places."""
        found = self._once(places.astype(np.uint64))
        while len(outside := np.flatnonzero(found >= self.size)):
            found[outside] = self._once(found[outside])
        return found.astype(np.int64)

    def _once(self, numbers: UInt64[np.ndarray, " place"]) -> UInt64[np.ndarray, " place"]:
        left: np.ndarray = numbers // self._right
        right: np.ndarray = numbers % self._right
        for turn in range(ROUNDS):
            left = (left + mixed(right, self._keys[2 * turn]) % self._left) % self._left
            right = (right + mixed(left, self._keys[2 * turn + 1]) % self._right) % self._right
        return left * self._right + right
