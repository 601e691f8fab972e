"""Which item is trained on when: splits, order and seeds that depend on the items and the seed, and on nothing else."""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol, runtime_checkable

import lightning
import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from data.batch import Batch, Share
from data.batching import LengthBatches
from data.errors import CheckpointError, ConfigError
from data.splits import SplitConfig, sample_seed, split_items, stable_hash

Draw = tuple[int, int]
"""Position of an item in its dataset, and the seed of the sample drawn from it."""


def epoch_order(seed: int, epoch: int, items: int, draws: int) -> list[tuple[int, int]]:
    """`draws` pairs of item position and repeat: one shuffle of all items after another."""
    order: list[tuple[int, int]] = []
    for repeat in range(-(-draws // items)):
        shuffled = np.random.default_rng(stable_hash("order", seed, epoch, repeat)).permutation(items)
        order += [(int(item), repeat) for item in shuffled]
    return order[:draws]


@runtime_checkable
class ItemDataset(Protocol):
    """What a domain brings: items with stable ids, and samples drawn from them by seed alone."""

    @property
    def ids(self) -> Sequence[str]: ...

    def __len__(self) -> int: ...

    def load(self, index: int, seed: int) -> Any:
        """One sample of item `index`; everything random in it comes from `seed`."""

    def collate(self, samples: list[Any]) -> Batch:
        """The samples as one batch, `seeds` and `ids` included."""


@dataclass(frozen=True)
class Part:
    """What one rank has of a batch."""

    draws: list[Draw]
    share: Share


class _Parts(Dataset[Batch]):
    """The dataset as torch's loader wants it: indexed by a rank's part of a batch."""

    def __init__(self, dataset: ItemDataset) -> None:
        self.dataset = dataset

    def __getitem__(self, part: Part) -> Batch:
        batch = self.dataset.collate([self.dataset.load(*draw) for draw in part.draws])
        return replace(batch, share=part.share)

    def __len__(self) -> int:
        return len(self.dataset)


class _TrainingOrder(Sampler[Any]):
    """This rank's part of every global batch, from the first batch that has not been trained on."""

    def __init__(self, module: "ResumableDataModule", rank: int, world: int) -> None:
        self.module, self.rank, self.world = module, rank, world

    def __iter__(self) -> Iterator[Any]:
        # `consumed` is read now and not at the first `next`: Lightning makes the iterator before the epoch begins.
        return self._from(self.module.consumed)

    def _from(self, first: int) -> Iterator[Any]:
        for number in range(first, first + len(self)):
            yield self.module.part(number, self.rank, self.world)

    def __len__(self) -> int:
        return self.module.batches_per_epoch


def dealt(batch: list[Draw], rank: int, world: int) -> Part:
    """This rank's part of a batch: every `world`-th item.

    Where there are fewer items than ranks, those that would have none get one that does not count: all ranks have to
    take every step together.
    """
    own = batch[rank::world]
    return Part(own or [batch[rank % len(batch)]], Share(len(batch), batch[0][1], counted=bool(own)))


def _whole(batch: Any) -> Any:
    """A batch comes whole out of the dataset: there is nothing to collate."""
    return batch


def _given(splits: Mapping[str, Sequence[int]] | None, items: int) -> dict[str, list[int]]:
    """Splits that a source gives, checked."""
    found = {name: [int(k) for k in members] for name, members in (splits or {}).items()}
    every = [k for members in found.values() for k in members]
    if set(found) != {"train", "validation", "test"} or not found["train"]:
        raise ConfigError(f"splits: expected train (not empty), validation and test, got {sorted(found)}.")
    if len(set(every)) < len(every) or not all(0 <= k < items for k in every):
        raise ConfigError(f"splits: expected each of {items} items at most once, by its position.")
    return found


def _digest(*values: object) -> str:
    return hashlib.sha256(repr(values).encode()).hexdigest()


class _TrainingLoader(DataLoader[Any]):
    """A loader whose position is the trainer's own count: prefetched batches that were not trained on do not count."""

    module: "ResumableDataModule"

    def state_dict(self) -> dict[str, int]:
        return {"consumed": self.module.consumed}

    def load_state_dict(self, state: Mapping[str, int]) -> None:
        if state["consumed"] != self.module.consumed:
            raise CheckpointError(
                f"checkpoint: the data stood at batch {state['consumed']}, the trainer at {self.module.consumed}. "
                "Use an earlier checkpoint."
            )


class ResumableDataModule(lightning.LightningDataModule):
    """What every data module of a run has in common: its batches are numbered, and the next one is known.

    Batch number k of a run (counted over epochs) holds the same samples whatever the workers and ranks: `batch_size`
    is that of all ranks together. Before each training step torch's global generator is seeded from the batch, so that
    dropout too is the same after a restart, with nothing to save.

    Subclasses say what this rank has of a batch (`part`), how loaders load, and what must stay as it is (`identity`).
    Trainer arguments that go with it: `use_distributed_sampler=False`.
    """

    batches_per_epoch: int

    def __init__(
        self, batch_size: int, seed: int, workers: int, steps_per_epoch: int | None, start_method: str | None
    ) -> None:
        super().__init__()
        if batch_size < 1 or workers < 0 or (steps_per_epoch is not None and steps_per_epoch < 1):
            raise ConfigError(
                "expected batch_size >= 1, workers >= 0 and steps_per_epoch >= 1 or none, "
                f"got {batch_size=}, {workers=}, {steps_per_epoch=}."
            )
        self.batch_size = batch_size
        self.seed = seed
        self.workers = workers
        self.start_method = start_method if workers else None
        self._consumed = 0

    @property
    def consumed(self) -> int:
        """Batches trained on since the start of the run, over all epochs; where the next one continues."""
        if self.trainer is None:
            return self._consumed
        progress: Any = self.trainer.fit_loop.epoch_loop.batch_progress
        return int(progress.total.processed)

    def part(self, number: int, rank: int, world: int) -> Any:
        """What `rank` of `world` has of training batch `number` of the run, as the loader's dataset takes it."""
        raise NotImplementedError

    def identity(self) -> dict[str, int | str]:
        """What must not change between a checkpoint and the run that continues it."""
        raise NotImplementedError

    def _training_loader(self, dataset: Dataset[Any]) -> DataLoader[Any]:
        """The loader of this rank's parts, which `dataset` makes batches of."""
        rank, world = self._rank_and_world()
        if self.batch_size < world:
            raise ConfigError(
                f"batch_size is that of all processes together, and {self.batch_size} samples leave some of {world} "
                f"processes without work. Take a batch_size of at least {world}, or at most {self.batch_size} workers."
            )
        loader = _TrainingLoader(dataset=dataset, sampler=_TrainingOrder(self, rank, world), **self._loading())
        loader.module = self
        return loader

    def _loading(self) -> dict[str, Any]:
        return {
            "batch_size": None,
            "collate_fn": _whole,
            "num_workers": self.workers,
            "persistent_workers": self.workers > 0,
            "multiprocessing_context": self.start_method,
            # Its own generator: otherwise making a loader draws from the global one, and a restart would draw again.
            "generator": torch.Generator().manual_seed(self.seed & 0x7FFF_FFFF_FFFF_FFFF),
        }

    def _rank_and_world(self) -> tuple[int, int]:
        if self.trainer is None:
            return 0, 1
        if self.trainer.world_size > 1 and self.trainer._accelerator_connector.use_distributed_sampler:
            raise ConfigError(
                "on several devices the trainer needs use_distributed_sampler=False: the data is dealt here."
            )
        return self.trainer.global_rank, self.trainer.world_size

    def on_before_batch_transfer(self, batch: Batch, dataloader_idx: int) -> Batch:
        if self.trainer is not None and self.trainer.training:
            seed = int(batch.seeds[0])
            if self.trainer.strategy.root_device.type == "cpu":
                # torch.manual_seed asks every kind of device, also those not in use, and takes half a millisecond.
                torch.default_generator.manual_seed(seed)
            else:
                torch.manual_seed(seed)
        return batch

    def state_dict(self) -> dict[str, Any]:
        return {"consumed": self.consumed, **self.identity()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue where `state` was taken.

        Raises:
            CheckpointError: the run has other items, another seed, batch size or epoch length than the checkpoint.
        """
        ours = self.identity()
        keys = [key for key in {**ours, **state} if key != "consumed" and state.get(key) != ours.get(key)]
        changed = [f"{key}: {state.get(key)} in the checkpoint, {ours.get(key)} now" for key in keys]
        if changed:
            raise CheckpointError(
                f"the checkpoint was made with other data or order ({'; '.join(changed)}), so its position means "
                "nothing here. Continue with the same configuration, or start a new run."
            )
        self._consumed = int(state["consumed"])


class ItemDataModule(ResumableDataModule):
    """Splits, order, seeds and position for any domain's dataset.

    Rank r of w takes every w-th sample of a batch, so some ranks may have one sample more than others; `Batch.share`
    says how many the whole batch has. Batches are always full; where the set is smaller than an epoch asks for, items
    come up again, with other seeds.

    With `batching` a batch holds items of similar length, at most `batch_size` and fewer where they are long. An epoch
    then is every item once, in batches of unequal size; nothing is repeated to fill a batch. Where it holds fewer items
    than there are ranks, the others get one that does not count.

    Args:
        dataset: the items; only ids are touched before a loader is made.
        split: which items are held out; None where `splits` says it.
        batch_size: samples per step, all ranks together; with `batching`, at most.
        seed: of order and samples.
        workers: processes that load; 0 loads in this one.
        steps_per_epoch: batches of an epoch; None takes as many full batches as the training items give, at least 1,
            or with `batching` as many as hold every item once.
        start_method: of the workers: `fork`, `spawn`, `forkserver`, None for Python's choice.
        batching: cuts batches by length; None makes batches of `batch_size`.
        groups: group of each item (a cluster of near-copies): a group is trained on or held out as a whole.
        one_per_group: an epoch draws one member of each training group, another one each time, in place of all items.
        test: True for the items that their source itself sets apart: they are the test items, and no others are.
        splits: positions of the items of `train`, `validation` and `test`, where their source sets all of them apart.
    """

    def __init__(
        self,
        dataset: ItemDataset,
        split: SplitConfig | None,
        batch_size: int,
        seed: int,
        workers: int = 0,
        steps_per_epoch: int | None = None,
        start_method: str | None = None,
        *,
        batching: LengthBatches | None = None,
        groups: Sequence[str] | None = None,
        one_per_group: bool = False,
        test: Sequence[bool] | None = None,
        splits: Mapping[str, Sequence[int]] | None = None,
    ) -> None:
        super().__init__(batch_size, seed, workers, steps_per_epoch, start_method)
        if not len(dataset):
            raise ConfigError("the dataset holds no items; prepare some first.")
        self.dataset = dataset
        if batching is not None and len(batching.lengths) != len(dataset):
            raise ConfigError(
                f"length batches: expected the length of each of {len(dataset)} items, got {len(batching.lengths)}."
            )
        if one_per_group and groups is None:
            raise ConfigError("one_per_group needs the group of each item; give groups, or leave it out.")
        if (split is None) == (splits is None) or (splits is not None and test is not None):
            raise ConfigError("say what is held out once: by a split (and perhaps test), or by given splits.")
        self.splits = (
            _given(splits, len(dataset)) if split is None else split_items(dataset.ids, split, groups, test=test)
        )
        self.batching = batching
        self._groups = groups
        self._entries = self._training_entries(groups if one_per_group else None)
        train = self.splits["train"]
        self._plan = batching.plan(train, groups if one_per_group else None, batch_size) if batching else None
        natural = self._plan.batches if self._plan else max(1, len(self._entries) // batch_size)
        self.batches_per_epoch = steps_per_epoch or natural
        self._epoch: tuple[int, list[list[Draw]]] = (-1, [])

    def _training_entries(self, groups: Sequence[str] | None) -> list[list[int]]:
        """What an epoch goes through: of each entry, the items of which it takes one."""
        if groups is None:
            return [[item] for item in self.splits["train"]]
        members: dict[str, list[int]] = {}
        for item in self.splits["train"]:
            members.setdefault(groups[item], []).append(item)
        return list(members.values())

    def global_batch(self, number: int) -> list[Draw]:
        """The draws of batch `number` of the run, for all ranks."""
        epoch, step = divmod(number, self.batches_per_epoch)
        if self._epoch[0] != epoch:
            self._epoch = (epoch, self._batches(epoch))
        return self._epoch[1][step]

    def _batches(self, epoch: int) -> list[list[Draw]]:
        """All batches of an epoch, a function of items, seed and epoch."""
        entries, plan, size = self._entries, self._plan, self.batch_size
        passes = -(-self.batches_per_epoch // plan.batches) if plan else 0
        draws = passes * len(entries) if plan else self.batches_per_epoch * size
        order = epoch_order(self.seed, epoch, len(entries), draws)
        items = [(self._member(entries[k], epoch, repeat), repeat) for k, repeat in order]
        if plan is None:
            return [self._draws(items[k : k + size], epoch) for k in range(0, len(items), size)]
        batches: list[list[Draw]] = []
        for repeat in range(passes):
            drawn = [item for item, _ in items[repeat * len(entries) : (repeat + 1) * len(entries)]]
            rng = np.random.default_rng(stable_hash("batches", self.seed, epoch, repeat))
            batches += [self._draws([(item, repeat) for item in part], epoch) for part in plan.cut(drawn, rng)]
        return batches[: self.batches_per_epoch]

    def _member(self, entry: list[int], epoch: int, repeat: int) -> int:
        if len(entry) == 1:
            return entry[0]
        return entry[stable_hash("member", self.seed, epoch, repeat, self.dataset.ids[entry[0]]) % len(entry)]

    def _draws(self, items: list[tuple[int, int]], epoch: int) -> list[Draw]:
        return [(item, sample_seed(self.seed, epoch, self.dataset.ids[item], repeat)) for item, repeat in items]

    def part(self, number: int, rank: int, world: int) -> Part:
        return dealt(self.global_batch(number), rank, world)

    def train_dataloader(self) -> DataLoader[Any]:
        return self._training_loader(_Parts(self.dataset))

    def val_dataloader(self) -> DataLoader[Any] | list[Any]:
        """Held-out items, each with the same seed every time; nothing where none are.

        In the order of the dataset; with `batching` in batches of similar length, the same ones every time. Dealt to
        the ranks as training batches are: no item counts twice, and all ranks have as many batches.
        """
        return self._fixed("validation")

    def test_dataloader(self) -> DataLoader[Any] | list[Any]:
        """As `val_dataloader`, for the test items."""
        return self._fixed("test")

    def _fixed(self, split: str) -> DataLoader[Any] | list[Any]:
        items = self.splits[split]
        if not items:
            return []
        rank, world = self._rank_and_world()
        if self.batching is not None:
            cut = self.batching.plan(items, max_batch=self.batch_size).cut(items, np.random.default_rng(0))
        else:
            cut = [items[first : first + self.batch_size] for first in range(0, len(items), self.batch_size)]
        draws = [[(item, sample_seed(self.seed, 0, self.dataset.ids[item])) for item in batch] for batch in cut]
        parts = [dealt(batch, rank, world) for batch in draws]
        return DataLoader(dataset=_Parts(self.dataset), sampler=parts, **self._loading())

    def identity(self) -> dict[str, int | str]:
        ids = "\0".join(self.dataset.ids[i] for i in self.splits["train"])
        identity: dict[str, int | str] = {
            "seed": self.seed,
            "batch_size": self.batch_size,
            "batches_per_epoch": self.batches_per_epoch,
            "training_items": hashlib.sha256(ids.encode()).hexdigest(),
        }
        # Only where they are used: checkpoints of other domains know nothing of them.
        if self._plan is not None:
            identity["length_batches"] = _digest(sorted(self._plan.windows.items()), sorted(self._plan.caps.items()))
        if len(self._entries) != len(self.splits["train"]):
            identity["groups"] = _digest(self._entries)
        return identity
