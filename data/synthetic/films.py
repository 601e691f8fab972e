"""Moving digits made on the fly: the embedded data of film prediction (Srivastava et al. 2015, section 3.2).

Digits start anywhere in the frame, go straight at a constant speed and bounce off its edges; where they overlap the
brighter pixel shows. Film `k` depends on the digits, on (seed, k) and on the sizes alone.
"""

from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
from jaxtyping import Float, UInt8

from data.errors import ConfigError

DIGIT_SIDE = 28
"""Pixels of a digit's image in a frame of 64 x 64."""
SIZES = (32, 64)
STEP = 0.1
"""Way of a digit from frame to frame, as a share of the way that it has from edge to edge."""
GLYPHS_PER_DIGIT = 20

Stroke = tuple[tuple[float, float], ...]

# Strokes of each digit as points in the unit square, x to the right and y down: what a pen would pass through.
_STROKES: tuple[tuple[Stroke, ...], ...] = (
    (((0.5, 0.1), (0.25, 0.25), (0.2, 0.55), (0.3, 0.85), (0.5, 0.92), (0.72, 0.82), (0.8, 0.5), (0.7, 0.2),
      (0.5, 0.1)),),
    (((0.35, 0.25), (0.55, 0.1), (0.52, 0.5), (0.5, 0.92)),),
    (((0.25, 0.28), (0.45, 0.1), (0.7, 0.2), (0.7, 0.42), (0.45, 0.68), (0.22, 0.9), (0.5, 0.86), (0.8, 0.9)),),
    (((0.25, 0.18), (0.55, 0.1), (0.74, 0.27), (0.48, 0.46), (0.78, 0.65), (0.6, 0.9), (0.25, 0.85)),),
    (((0.4, 0.1), (0.22, 0.58), (0.8, 0.55)), ((0.65, 0.3), (0.62, 0.92))),
    (((0.75, 0.12), (0.35, 0.12), (0.3, 0.45), (0.6, 0.42), (0.78, 0.65), (0.58, 0.9), (0.22, 0.85)),),
    (((0.65, 0.1), (0.38, 0.35), (0.25, 0.7), (0.45, 0.92), (0.7, 0.8), (0.66, 0.58), (0.45, 0.52), (0.27, 0.68)),),
    (((0.2, 0.14), (0.78, 0.12), (0.55, 0.5), (0.42, 0.92)),),
    (((0.5, 0.48), (0.28, 0.3), (0.5, 0.1), (0.7, 0.28), (0.5, 0.48), (0.25, 0.72), (0.5, 0.92), (0.76, 0.72),
      (0.5, 0.48)),),
    (((0.72, 0.35), (0.5, 0.48), (0.3, 0.32), (0.48, 0.1), (0.7, 0.2), (0.72, 0.35), (0.68, 0.65), (0.58, 0.92)),),
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class SyntheticFilmsConfig:
    """Which films are made."""

    count: int = 2000
    """Number of films."""
    seed: int = 0
    size: int = 64
    """Pixels of a frame's side, 32 or 64; digits are scaled with it."""
    digits: int = 2
    """Digits in a film."""
    seen: int = 10
    """Frames that are seen."""
    predicted: int = 10
    """Frames after them, that are to be predicted."""
    images: Path | None = None
    """An idx file of digit images (MNIST's, .gz or not); null draws digits of its own."""

    def __post_init__(self) -> None:
        for name in ("count", "digits", "seen", "predicted"):
            if getattr(self, name) < 1:
                raise ConfigError(f"synthetic films: {name} must be at least 1, got {getattr(self, name)}.")
        if self.size not in SIZES:
            raise ConfigError(f"synthetic films: size must be 32 or 64 pixels, got {self.size}.")


def synthetic_ids(config: SyntheticFilmsConfig) -> tuple[str, ...]:
    """The item ids "digits-0012" of all films, in order."""
    places = max(4, len(str(config.count - 1)))
    return tuple(f"digits-{k:0{places}d}" for k in range(config.count))


def film(
    config: SyntheticFilmsConfig, digits: UInt8[np.ndarray, "digit side side"], index: int
) -> UInt8[np.ndarray, "time 1 side side"]:
    """Film number `index`, with digits drawn from `digits`, whose sides fit the frame's (see `scaled`)."""
    rng = np.random.default_rng([config.seed, index])
    frames, side = config.seen + config.predicted, digits.shape[-1]
    way = config.size - side
    found = np.zeros((frames, 1, config.size, config.size), np.uint8)
    for _ in range(config.digits):
        digit = digits[rng.integers(len(digits))]
        places = np.rint(way * bounced(rng, frames)).astype(int)
        for frame, (row, column) in zip(found[:, 0], places, strict=True):
            seen = frame[row : row + side, column : column + side]
            np.maximum(seen, digit, out=seen)
    return found


def bounced(rng: np.random.Generator, frames: int) -> Float[np.ndarray, "time 2"]:
    """A straight way at constant speed in the unit square, thrown back by its edges."""
    start, angle = rng.random(2), rng.uniform(0, 2 * np.pi)
    line = start + STEP * np.arange(frames)[:, None] * np.array([np.sin(angle), np.cos(angle)])
    # A path between mirrors is a straight one, folded.
    return 1 - np.abs(line % 2 - 1)


def scaled(digits: UInt8[np.ndarray, "digit side side"], size: int) -> UInt8[np.ndarray, "digit scaled scaled"]:
    """Digits of 28 × 28 pixels as they go into frames of `size`: as they are, or with every 2 × 2 pixels averaged."""
    factor = SIZES[-1] // size
    side = digits.shape[-1] // factor
    blocks = digits[:, : side * factor, : side * factor].reshape(len(digits), side, factor, side, factor)
    return np.rint(blocks.mean(axis=(2, 4), dtype=np.float64)).astype(np.uint8)


def drawn_digits(seed: int) -> UInt8[np.ndarray, "digit 28 28"]:
    """Twenty of each digit, drawn with a round pen: each slanted, stretched and bent a little on its own."""
    rng = np.random.default_rng([seed, 10])
    return np.stack([_glyph(strokes, rng) for strokes in _STROKES for _ in range(GLYPHS_PER_DIGIT)])


def _glyph(strokes: tuple[Stroke, ...], rng: np.random.Generator) -> np.ndarray:
    slant, stretch, pen = rng.uniform(-0.25, 0.25), rng.uniform(0.8, 1.1, size=2), rng.uniform(1.0, 1.6)
    rows, columns = np.mgrid[:DIGIT_SIDE, :DIGIT_SIDE] + 0.5
    nearest = np.full((DIGIT_SIDE, DIGIT_SIDE), np.inf)
    for stroke in strokes:
        points = np.array(stroke) + rng.normal(0, 0.02, size=(len(stroke), 2)) - 0.5
        x = (points[:, 0] - slant * points[:, 1]) * stretch[0]
        path = np.stack([x, points[:, 1] * stretch[1]], axis=1) * 20 + DIGIT_SIDE / 2
        for start, end in pairwise(path):
            along = end - start
            offset = np.stack([columns - start[0], rows - start[1]], axis=-1)
            share = np.clip(offset @ along / max(along @ along, 1e-9), 0, 1)
            nearest = np.minimum(nearest, np.linalg.norm(offset - share[..., None] * along, axis=-1))
    return np.rint(255 * np.clip(pen + 0.5 - nearest, 0, 1)).astype(np.uint8)
