"""Batches of items of similar length, as many at once as their squared length allows."""

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise

import numpy as np

from data.errors import ConfigError


def pair_cap(length: int, max_pairs: int, max_batch: int) -> int:
    """Items of `length` that go into one batch: min(max_batch, floor(max_pairs / length²) + 1), at least 1.

    For networks that keep something per pair of events, whose memory grows with the squared length. The batch may
    exceed `max_pairs` by one item, so that an item too large for it still gets a batch.
    """
    return min(max_batch, max_pairs // length**2 + 1)


@dataclass(frozen=True, kw_only=True)
class LengthBatches:
    """Cuts the items of an epoch into batches by length.

    Items whose lengths lie in one window of `width` are mixed anew in every epoch; the cap of a window is that of its
    longest item, so a batch padded to its own longest item never exceeds `pair_cap`. A window's items are dealt evenly
    over as few batches as the cap allows, and no item is repeated to fill one.
    """

    lengths: Sequence[int]
    """Of each item of the dataset, as `load` gives it (after cropping)."""
    max_pairs: int = 1_000_000
    """Squared length of a batch, summed over its items, all devices together."""
    max_batch: int = 128
    """Items of a batch at most, all devices together."""
    width: int = 16
    """Lengths 1 to `width` share a batch, then the next `width`; 1 makes batches of one length each."""

    def __post_init__(self) -> None:
        if min(self.max_pairs, self.max_batch, self.width) < 1:
            raise ConfigError(
                "length batches: expected max_pairs, max_batch and width of at least 1, got "
                f"{self.max_pairs}, {self.max_batch} and {self.width}."
            )
        if not len(self.lengths) or min(self.lengths) < 1:
            raise ConfigError("length batches: expected the length of each item, at least 1; look at the data.")

    def plan(self, items: Sequence[int], groups: Sequence[str] | None = None, max_batch: int | None = None) -> "Plan":
        """The batches of `items`; with `groups` (a name per item of the dataset) one item of each group per epoch."""
        limit = min(self.max_batch, max_batch or self.max_batch)
        windows = {item: (self.lengths[item] - 1) // self.width for item in items}
        longest: dict[int, int] = {}
        for item, window in windows.items():
            longest[window] = max(longest.get(window, 0), self.lengths[item])
        caps = {window: pair_cap(length, self.max_pairs, limit) for window, length in longest.items()}
        if groups is None:
            counts = np.unique(list(windows.values()), return_counts=True)
            batches = sum(-(-int(n) // caps[int(window)]) for window, n in zip(*counts, strict=True))
        else:
            # As many as any choice of members can need. Summed over windows, ceil(n / cap) is at most the sum of
            # n / cap and of 1 - 1 / cap; and there are never more batches than items.
            share: dict[str, Fraction] = {}
            for item, window in windows.items():
                share[groups[item]] = max(share.get(groups[item], Fraction(0)), Fraction(1, caps[window]))
            most = sum(share.values()) + sum(1 - Fraction(1, cap) for cap in caps.values())
            batches = min(len(share), int(most))
        return Plan(windows, caps, batches)


@dataclass(frozen=True)
class Plan:
    """How the items of each epoch become batches."""

    windows: dict[int, int]
    """Window of each item."""
    caps: dict[int, int]
    """Items of a batch at most, by window."""
    batches: int
    """Of every epoch, the same whatever was drawn."""

    def cut(self, order: Sequence[int], rng: np.random.Generator) -> list[list[int]]:
        """`batches` lists of items that hold those of `order` once each; the lists in random order.

        `order` is shuffled: it decides who shares a batch with whom.
        """
        members: dict[int, list[int]] = {}
        for item in order:
            members.setdefault(self.windows[item], []).append(item)
        parts: list[list[int]] = []
        for window in sorted(members):
            parts += _split(members[window], -(-len(members[window]) // self.caps[window]))
        while len(parts) < self.batches:  # where the draw needs fewer batches than another might: halve the largest
            largest = max(range(len(parts)), key=lambda k: len(parts[k]))
            parts[largest : largest + 1] = _split(parts[largest], 2)
        return [parts[int(k)] for k in rng.permutation(len(parts))]


def _split(items: list[int], parts: int) -> list[list[int]]:
    """Consecutive parts whose sizes differ by at most one."""
    edges = [len(items) * k // parts for k in range(parts + 1)]
    return [items[a:b] for a, b in pairwise(edges)]
