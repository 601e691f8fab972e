"""How much of what separates good trials from bad ones goes along with one setting alone."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

LEAST = 10
"""Trials below which nothing is said."""
_PER_PART = 5  # trials that a part of a numeric range holds at least
_MOST_PARTS = 4
_SHUFFLES = 2000


@dataclass(frozen=True)
class Importance:
    """Of one setting."""

    share: float
    """Of the variance of the trials' ranks, in [0, 1], that lies between the parts of the setting's range: the effect
    size H / (n - 1) of the Kruskal-Wallis test."""
    chance: float
    """What 95 of 100 random orders of the trials stay below."""
    best: tuple[int, ...]
    """Trials, as positions in what was given, of the part with the lowest mean rank."""

    @property
    def beyond_chance(self) -> bool:
        return self.share > self.chance


def importance(losses: Sequence[float], values: Sequence[float | str], seed: int = 0) -> Importance | None:
    """What one setting says about the order of the trials; None where it cannot be told.

    Args:
        losses: one finite number per trial, lower is better.
        values: of the setting. Numbers are cut into two to four parts with equally many trials; each text is a part.
        seed: of the random orders that `chance` comes from.

    A setting that acts only together with another shows nothing here, and where a search chose later trials by earlier
    ones, settings that it moved together share their importance.
    """
    n = len(losses)
    parts = _parts(values)
    if n < LEAST or len(np.unique(parts)) < 2:
        return None
    ranks = _ranks(np.asarray(losses, float))
    if np.ptp(ranks) == 0:
        return None
    random = np.random.default_rng(seed)
    orders = np.stack([random.permutation(ranks) for _ in range(_SHUFFLES)])
    means = {part: ranks[parts == part].mean() for part in np.unique(parts)}
    best = min(means, key=lambda part: means[part])
    return Importance(
        share=float(_between(ranks[None], parts)[0]),
        chance=float(np.quantile(_between(orders, parts), 0.95)),
        best=tuple(np.flatnonzero(parts == best).tolist()),
    )


def _between(ranks: Float[np.ndarray, "order trial"], parts: Int[np.ndarray, " trial"]) -> Float[np.ndarray, " order"]:
    """Share of the variance of the ranks that lies between parts."""
    middle = ranks.mean(axis=1, keepdims=True)
    total = ((ranks - middle) ** 2).sum(axis=1)
    between = np.zeros(len(ranks))
    for part in np.unique(parts):
        inside = parts == part
        between += inside.sum() * (ranks[:, inside].mean(axis=1) - middle[:, 0]) ** 2
    return between / total


def _parts(values: Sequence[float | str]) -> Int[np.ndarray, " trial"]:
    """A number for the part of its range that each value lies in; equal values lie in the same part."""
    if any(isinstance(value, str) for value in values):
        return np.unique([str(value) for value in values], return_inverse=True)[1]
    numbers = np.asarray(values, float)
    different, index = np.unique(numbers, return_inverse=True)
    wanted = int(np.clip(len(numbers) // _PER_PART, 2, _MOST_PARTS))
    if len(different) <= wanted:
        return index
    return (wanted * (_ranks(numbers) - 0.5) / len(numbers)).astype(int)


def _ranks(values: Float[np.ndarray, " trial"]) -> Float[np.ndarray, " trial"]:
    """From 1, equal values sharing the mean of their ranks."""
    _, index, counts = np.unique(values, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    return (ends - (counts - 1) / 2)[index]
