"""Which window is trained on when: a shuffle that is never written down, whole batches cut at once."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Int
from torch.utils.data import DataLoader, Dataset, Sampler

from data.batch import Share, WindowBatch
from data.datamodule import ResumableDataModule
from data.errors import ConfigError
from data.forecast.permutation import Permutation, mixed
from data.forecast.time_split import TimeSplit, WindowIndex
from data.forecast.windows import Windows
from data.splits import stable_hash

AHEAD = 64
"""Batches whose windows are drawn at a time."""


@dataclass(frozen=True)
class _Draw:
    """One batch: numbers of its windows, and a seed for each."""

    numbers: Int[np.ndarray, " window"]
    seeds: Int[np.ndarray, " window"]
    share: Share
    """Where it does not count, nothing of the windows is to be measured."""


class _Batches(Dataset[WindowBatch]):
    """Windows as torch's loader wants them: indexed by a draw."""

    def __init__(self, windows: Windows, index: WindowIndex) -> None:
        self.windows, self.index = windows, index

    def __getitem__(self, draw: _Draw) -> WindowBatch:
        items, origins = self.index.locate(draw.numbers)
        batch = self.windows.cut(items, origins, draw.seeds)
        if not draw.share.counted:
            assert batch.future is not None
            past, future = (torch.zeros_like(values, dtype=torch.bool) for values in (batch.past, batch.future))
            return replace(batch, past_mask=past, future_mask=future, share=draw.share)
        return replace(batch, share=draw.share)


class _InOrder(Sampler[_Draw]):
    """All windows in order, this rank's part of each batch; the last batch is as long as it is."""

    def __init__(self, windows: int, size: int, seed: int, rank: int, world: int) -> None:
        self.windows, self.size, self.seed, self.rank, self.world = windows, size, seed, rank, world

    def __iter__(self) -> Iterator[_Draw]:
        for first in range(0, self.windows, self.size):
            numbers = np.arange(first, min(first + self.size, self.windows))
            own = numbers[self.rank :: self.world]
            counted = len(own) > 0
            own = own if counted else numbers[:1]
            share = Share(len(numbers), int(_seeds(self.seed, numbers[:1])[0]), counted)
            yield _Draw(own, _seeds(self.seed, own), share)

    def __len__(self) -> int:
        return -(-self.windows // self.size)


def _seeds(*words: int | np.ndarray) -> Int[np.ndarray, " window"]:
    """63-bit seeds."""
    return (mixed(*words) >> np.uint64(1)).astype(np.int64)


class WindowDataModule(ResumableDataModule):
    """Order, seeds and position for windows of time series; cost and memory do not depend on how many there are.

    Training windows come in the order of a pseudo-random permutation, another one each time through, without a break
    between two of them: every window once before any comes again. Rank r of w takes every w-th window of a batch. A
    window's seed follows from the run's seed, the pass and its number.

    Validation and test take every window in order, series after series, the last ones in a smaller batch. Where ranks
    would have batches of different number, some get a window whose masks are False throughout.

    Args:
        windows: cuts the batches.
        split: which windows train, validate and test.
        batch_size: windows per step, all ranks together.
        seed: of order and samples.
        workers: processes that cut; 0 cuts in this one, which is best where a batch costs less than a step.
        steps_per_epoch: batches of an epoch; None takes as many full batches as there are windows, at least 1.
        start_method: of the workers: `fork`, `spawn`, `forkserver`, None for Python's choice.
        stride: steps between two training windows of a series.
        evaluation_batch: windows per batch of validation and test; None takes `batch_size`.
        validation_stride: steps between two validation windows of a series. Test takes them all.

    Raises:
        ConfigError: no window to train on, or senseless sizes.
    """

    def __init__(
        self,
        windows: Windows,
        split: TimeSplit,
        batch_size: int,
        seed: int,
        workers: int = 0,
        steps_per_epoch: int | None = None,
        start_method: str | None = None,
        *,
        stride: int = 1,
        evaluation_batch: int | None = None,
        validation_stride: int = 1,
    ) -> None:
        super().__init__(batch_size, seed, workers, steps_per_epoch, start_method)
        if evaluation_batch is not None and evaluation_batch < 1:
            raise ConfigError(f"evaluation_batch must be at least 1, got {evaluation_batch}.")
        self.windows = windows
        self.index = {
            "train": WindowIndex(split.train, stride),
            "validation": WindowIndex(split.validation, validation_stride),
            "test": WindowIndex(split.test),
        }
        if not len(self.index["train"]):
            raise ConfigError("no window to train on; take a shorter horizon or look-back, or more data.")
        self.evaluation_batch = evaluation_batch or batch_size
        self.batches_per_epoch = steps_per_epoch or max(1, len(self.index["train"]) // batch_size)
        self._drawn: tuple[int, np.ndarray, np.ndarray] = (-1, np.empty(0), np.empty(0))

    def global_batch(self, number: int) -> tuple[Int[np.ndarray, " window"], Int[np.ndarray, " window"]]:
        """Numbers and seeds of the windows of training batch `number` of the run, for all ranks."""
        block, place = divmod(number, AHEAD)
        if self._drawn[0] != block:
            count = AHEAD * self.batch_size
            self._drawn = (block, *self._draw(block * count, count))
        part = slice(place * self.batch_size, (place + 1) * self.batch_size)
        return self._drawn[1][part], self._drawn[2][part]

    def _draw(self, first: int, count: int) -> tuple[np.ndarray, np.ndarray]:
        """Windows `first` … `first + count - 1` of the run, over all passes, and their seeds."""
        size = len(self.index["train"])
        passes, places = np.divmod(np.arange(first, first + count), size)
        numbers = np.empty(count, np.int64)
        for repeat in range(int(passes[0]), int(passes[-1]) + 1):
            among = passes == repeat
            numbers[among] = Permutation(size, stable_hash("windows", self.seed, repeat))(places[among])
        return numbers, _seeds(self.seed, passes, numbers)

    def part(self, number: int, rank: int, world: int) -> _Draw:
        numbers, seeds = self.global_batch(number)
        return _Draw(numbers[rank::world], seeds[rank::world], Share(len(numbers), int(seeds[0])))

    def train_dataloader(self) -> DataLoader[WindowBatch]:
        return self._training_loader(_Batches(self.windows, self.index["train"]))

    def val_dataloader(self) -> DataLoader[WindowBatch] | list[WindowBatch]:
        """All validation windows in order, with the same seeds every time; nothing where there are none."""
        return self._fixed("validation")

    def test_dataloader(self) -> DataLoader[WindowBatch] | list[WindowBatch]:
        """As `val_dataloader`, for the test windows."""
        return self._fixed("test")

    def _fixed(self, split: str) -> DataLoader[WindowBatch] | list[WindowBatch]:
        index = self.index[split]
        if not len(index):
            return []
        order = _InOrder(len(index), self.evaluation_batch, self.seed, *self._rank_and_world())
        return DataLoader(dataset=_Batches(self.windows, index), sampler=order, **self._loading())

    def identity(self) -> dict[str, int | str]:
        index = self.index["train"]
        windows = hashlib.sha256()
        for part in (index.first, index.ends, np.array([index.stride, self.windows.look_back, self.windows.horizon])):
            windows.update(part.astype("<i8").tobytes())
        return {
            "seed": self.seed,
            "batch_size": self.batch_size,
            "batches_per_epoch": self.batches_per_epoch,
            "series": self.windows.store.fingerprint,
            "training_windows": windows.hexdigest(),
        }
