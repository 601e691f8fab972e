"""Labelled sequences made on the fly: waves that differ in form, not in level, size, pitch or phase."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from data.errors import ConfigError

FORMS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "sine": lambda turn: np.sin(2 * np.pi * turn),
    "square": lambda turn: np.sign(np.sin(2 * np.pi * turn)),
    "sawtooth": lambda turn: 2 * (turn % 1) - 1,
    "pulse": lambda turn: np.where(turn % 1 < 0.15, 2.0, -0.35),
}
"""By the number of turns since the wave began; each has mean 0 and a standard deviation near 0.7."""


@dataclass(frozen=True, kw_only=True)
class SyntheticSequencesConfig:
    """Which sequences are made: a pair of channels, the second a quarter turn behind the first."""

    count: int = 400
    """Number of sequences."""
    test: float = 0.25
    """Share that is the test part."""
    seed: int = 0
    min_length: int = 24
    """Steps."""
    max_length: int = 40
    """Steps."""
    noise: float = 0.3
    """Standard deviation of the noise on every value."""

    def __post_init__(self) -> None:
        if self.count < len(FORMS):
            raise ConfigError(f"expected a sequence for each of {len(FORMS)} forms, got count={self.count}.")
        if not 8 <= self.min_length <= self.max_length:
            raise ConfigError(
                f"expected 8 <= min_length <= max_length, got {self.min_length} and {self.max_length} steps."
            )
        if not 0 <= self.test < 1 or self.noise < 0:
            raise ConfigError(f"expected test in [0, 1) and noise of at least 0, got {self.test} and {self.noise}.")


def synthetic_sequence(config: SyntheticSequencesConfig, index: int) -> tuple[Float[np.ndarray, "step 2"], int]:
    """(values in float32, class index) of sequence `index`, a function of both arguments alone."""
    label = index % len(FORMS)
    rng = np.random.default_rng([config.seed, index])
    steps = int(rng.integers(config.min_length, config.max_length + 1))
    turns = rng.uniform(0, 1) + np.arange(steps)[:, None] / rng.uniform(8, 16) - np.array([0.0, 0.25])
    wave = rng.uniform(0.7, 1.4) * list(FORMS.values())[label](turns) + rng.normal(0, 0.3)
    return (wave + config.noise * rng.standard_normal(wave.shape)).astype(np.float32), label
