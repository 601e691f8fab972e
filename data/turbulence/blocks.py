"""Averages over time in blocks: constant memory for any number of frames, and confidence from their scatter.

Sums are kept for blocks of equally many frames. Once there are BLOCKS of them, neighbours are joined and the blocks
become twice as long, so that the length of a run need not be known. Intervals are those of batch means: the blocks are
gathered into at most GROUPS long ones, which are taken as independent, and the scatter of what is left when each is
taken out in turn (the jackknife) gives the standard error of any function of the means (Efron and Stein 1981).
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy.special import stdtrit

from data.errors import ConfigError

BLOCKS = 64
"""More closed blocks than this are joined in pairs."""
GROUPS = 16
"""Intervals come from at most this many groups of blocks: few and long ones, for they must be independent."""
CONFIDENCE = 0.95

Means = Mapping[str, np.ndarray]
"""Averages by name; their shapes are those of the samples."""


@dataclass(frozen=True, eq=False)
class Estimate:
    """A value and the half-width of its 95 % confidence interval, of one shape."""

    value: Float[np.ndarray, "..."]
    plus_minus: Float[np.ndarray, "..."]
    """NaN where fewer than two blocks say nothing about it."""

    @staticmethod
    def exact(value: Float[np.ndarray, "..."]) -> "Estimate":
        """A value without sampling error, such as one of a published table."""
        array = np.asarray(value, np.float64)
        return Estimate(array, np.zeros_like(array))

    def __getitem__(self, index: Any) -> "Estimate":
        return Estimate(np.asarray(self.value[index]), np.asarray(self.plus_minus[index]))

    def __truediv__(self, scale: float | np.ndarray) -> "Estimate":
        """In other units, which are known exactly and positive."""
        return Estimate(self.value / scale, self.plus_minus / scale)


@dataclass(frozen=True, eq=False)
class Blocks:
    """Means over successive blocks of frames."""

    means: Mapping[str, Float[np.ndarray, "block ..."]]
    counts: Int[np.ndarray, " block"]
    """Frames in each block; of every trajectory the last one may be shorter."""
    trajectories: Int[np.ndarray, " block"]
    length: int
    """Frames of a full block."""

    def mean(self, name: str) -> Float[np.ndarray, "..."]:
        """Mean of one quantity over all frames."""
        return np.average(self.means[name], axis=0, weights=self.counts)

    def estimate(self, function: Callable[[Means], np.ndarray]) -> Estimate:
        """A function of the means, with its confidence interval."""
        value = np.asarray(function(_Kept(self, np.ones(len(self.counts), bool))), np.float64)
        error, groups = self._standard_error(function, _group_size(len(self.counts)))
        if groups < 2:
            return Estimate(value, np.full_like(value, np.nan))
        return Estimate(value, np.asarray(float(stdtrit(groups - 1, (1 + CONFIDENCE) / 2)) * error))

    def doubling(self, function: Callable[[Means], np.ndarray]) -> float:
        """Standard error from groups twice as long, over that from the groups used; median over the entries.

        About 1 where the groups are independent; near sqrt(2) they are not, and the intervals are too narrow. NaN where
        there are fewer than 4 groups. From 16 groups it is known to about a third.
        """
        size = _group_size(len(self.counts))
        short, _ = self._standard_error(function, size)
        long, groups = self._standard_error(function, 2 * size)
        if groups < 2:
            return float("nan")
        with np.errstate(invalid="ignore", divide="ignore"):
            return float(np.nanmedian(np.where(short > 0, long / short, np.nan)))

    def _standard_error(self, function: Callable[[Means], np.ndarray], size: int) -> tuple[np.ndarray, int]:
        """Jackknife error from groups of `size` blocks, and the number of groups (0 errors below 2 groups)."""
        groups = len(self.counts) // size
        if groups < 2:
            return np.zeros(()), groups
        # The last group also gets what is left over.
        group = np.minimum(np.arange(len(self.counts)) // size, groups - 1)
        values = np.stack([np.asarray(function(_Kept(self, group != k)), np.float64) for k in range(groups)])
        return np.sqrt((groups - 1) / groups * ((values - values.mean(axis=0)) ** 2).sum(axis=0)), groups


class _Kept(Mapping[str, np.ndarray]):
    """Means over some of the blocks, each taken when it is asked for: most functions ask for few."""

    def __init__(self, blocks: Blocks, kept: Bool[np.ndarray, " block"]) -> None:
        self._blocks, self._kept = blocks, kept

    def __getitem__(self, name: str) -> np.ndarray:
        kept = self._kept
        return np.average(self._blocks.means[name][kept], axis=0, weights=self._blocks.counts[kept])

    def __iter__(self) -> Iterator[str]:
        return iter(self._blocks.means)

    def __len__(self) -> int:
        return len(self._blocks.means)


class BlockSums:
    """Adds up samples of several trajectories, in blocks.

    Args:
        length: frames of a block at first; it doubles as often as needed.
    """

    def __init__(self, length: int) -> None:
        if length < 1:
            raise ConfigError(f"block: expected at least 1 frame, got {length}.")
        self._length = length
        self._runs: dict[int, _Run] = {}

    def add(self, trajectory: int, sample: Means) -> None:
        """One frame's quantities; the names and shapes of every sample are alike."""
        run = self._runs.setdefault(trajectory, _Run([], _Sum(0, {})))
        run.open.add(1, sample)
        if run.open.count == self._length:
            run.closed.append(run.open)
            run.open = _Sum(0, {})
        runs = self._runs.values()
        if sum(len(r.closed) for r in runs) > BLOCKS and any(len(r.closed) > 1 for r in runs):
            self._length *= 2
            for each in runs:
                each.join()

    def finished(self) -> Blocks:
        """The blocks so far. More frames may follow.

        A last block of less than half the length is joined to the one before it: alone it would scatter too much.

        Raises:
            ConfigError: there is no frame.
        """
        found: list[tuple[int, _Sum]] = []
        for trajectory, run in self._runs.items():
            blocks = [block.copy() for block in run.closed]
            if run.open.count:
                if blocks and run.open.count < self._length / 2:
                    blocks[-1].add(run.open.count, run.open.sums)
                else:
                    blocks.append(run.open)
            found.extend((trajectory, block) for block in blocks)
        if not found:
            raise ConfigError("statistics of no frames: expected at least one frame.")
        return Blocks(
            {name: np.stack([b.sums[name] / b.count for _, b in found]) for name in found[0][1].sums},
            np.array([b.count for _, b in found]),
            np.array([trajectory for trajectory, _ in found]),
            self._length,
        )


@dataclass
class _Sum:
    count: int
    sums: dict[str, np.ndarray]

    def add(self, count: int, sums: Means) -> None:
        self.count += count
        for name, value in sums.items():
            if name in self.sums:
                self.sums[name] += value
            else:
                self.sums[name] = np.array(value, np.float64)

    def copy(self) -> "_Sum":
        return _Sum(self.count, {name: value.copy() for name, value in self.sums.items()})


@dataclass
class _Run:
    closed: list[_Sum]
    open: _Sum

    def join(self) -> None:
        """Blocks of twice the length; an odd last one goes on as the open block."""
        odd = self.closed.pop() if len(self.closed) % 2 else None
        for first, second in zip(self.closed[::2], self.closed[1::2], strict=True):
            first.add(second.count, second.sums)
        self.closed = self.closed[::2]
        if odd is not None:
            if self.open.count:
                odd.add(self.open.count, self.open.sums)
            self.open = odd


def _group_size(blocks: int) -> int:
    return -(-blocks // GROUPS)
