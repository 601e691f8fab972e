"""Batches by length: the cap, every item once, one member per group, ranks, and a training resumed in mid-epoch."""

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from data.batching import LengthBatches, pair_cap
from data.datamodule import ItemDataModule
from data.errors import CheckpointError, ConfigError
from data.splits import SplitConfig, split_items, split_of
from tests.data.toy_training import Points, Regression, trainer

LENGTHS = [int(n) for n in np.random.default_rng(0).integers(20, 200, 23)]
GROUPS = [f"cluster-{k % 9}" for k in range(23)]
BATCHING = LengthBatches(lengths=LENGTHS, max_pairs=40_000, max_batch=5, width=40)


def module(seed: int = 7, workers: int = 0, split: SplitConfig | None = None, **options: Any) -> ItemDataModule:
    options = {"batch_size": 128, "batching": BATCHING, **options}
    return ItemDataModule(Points(), split or SplitConfig(), seed=seed, workers=workers, **options)


def epoch(data: ItemDataModule, number: int) -> list[list[tuple[int, int]]]:
    steps = data.batches_per_epoch
    return [data.global_batch(number * steps + step) for step in range(steps)]


class TestCap:
    @given(st.integers(1, 3000), st.integers(1, 2_000_000), st.integers(1, 300))
    def test_is_the_largest_batch_within_the_pairs_plus_one(self, length: int, pairs: int, most: int) -> None:
        cap = pair_cap(length, pairs, most)
        assert 1 <= cap <= most
        assert (cap - 1) * length**2 <= pairs
        assert cap == most or cap * length**2 > pairs

    @given(
        st.lists(st.tuples(st.integers(1, 300), st.integers(0, 12)), min_size=1, max_size=60),
        st.integers(1, 200_000),
        st.integers(1, 20),
        st.integers(1, 64),
        st.booleans(),
        st.integers(0, 9),
    )
    @settings(max_examples=150)
    def test_holds_for_every_batch_and_the_number_of_batches_never_changes(
        self, items: list[tuple[int, int]], pairs: int, most: int, width: int, grouped: bool, seed: int
    ) -> None:
        """Any lengths, groups and choice of members: caps hold, nothing is lost or repeated, the count is known."""
        lengths, groups = [n for n, _ in items], [f"g{g}" for _, g in items]
        plan = LengthBatches(lengths=lengths, max_pairs=pairs, max_batch=most, width=width).plan(
            range(len(items)), groups if grouped else None
        )
        rng = np.random.default_rng(seed)
        order = [int(k) for k in rng.permutation(len(items))]
        if grouped:
            order = list({groups[k]: k for k in order}.values())
        batches = plan.cut(order, rng)
        assert sorted(k for batch in batches for k in batch) == sorted(order)
        assert len(batches) == plan.batches and all(batches)
        for batch in batches:
            assert len(batch) <= min(pair_cap(lengths[k], pairs, most) for k in batch)
            assert len({(lengths[k] - 1) // width for k in batch}) == 1

    @pytest.mark.parametrize("wrong", [{"max_pairs": 0}, {"max_batch": 0}, {"width": 0}, {"lengths": [5, 0]}])
    def test_values_that_make_no_sense_are_refused(self, wrong: dict[str, Any]) -> None:
        with pytest.raises(ConfigError, match="length batches"):
            LengthBatches(**{"lengths": [4], **wrong})


class TestOrder:
    def test_every_item_comes_once_in_every_epoch_and_batches_mix_anew(self) -> None:
        data = module()
        train = data.splits["train"]
        epochs = [epoch(data, k) for k in range(6)]
        assert all(sorted(item for batch in e for item, _ in batch) == train for e in epochs)
        assert len({tuple(sorted(tuple(sorted(i for i, _ in b)) for b in e)) for e in epochs}) > 3
        assert len({tuple(tuple(i for i, _ in b) for b in e) for e in epochs}) == 6
        assert len({seed for e in epochs for batch in e for _, seed in batch}) == 6 * len(train)

    def test_is_a_function_of_seed_and_epoch_alone(self) -> None:
        first = module()
        later = epoch(module(), 3)
        assert [epoch(first, k) for k in range(5)][3] == later
        assert epoch(module(seed=8), 3) != later

    def test_batch_size_lowers_the_cap(self) -> None:
        assert max(len(batch) for batch in epoch(module(), 0)) > 2
        assert max(len(batch) for batch in epoch(module(batch_size=2), 0)) == 2

    @pytest.mark.parametrize("steps", [1, 3, 40])
    def test_a_fixed_number_of_steps_goes_round_with_new_seeds(self, steps: int) -> None:
        data = module(steps_per_epoch=steps)
        draws = [draw for batch in epoch(data, 2) for draw in batch]
        assert data.batches_per_epoch == steps
        assert len(set(draws)) == len(draws)
        counts = Counter(item for item, _ in draws)
        assert max(counts.values()) - min(counts[k] for k in data.splits["train"]) <= 1

    @pytest.mark.parametrize("world", [2, 4])
    def test_ranks_share_every_batch(self, world: int, monkeypatch: pytest.MonkeyPatch) -> None:
        alone = [(b.ids, b.seeds.tolist()) for b in module().train_dataloader()]
        ranks, counted = [], []
        for rank in range(world):
            monkeypatch.setattr(ItemDataModule, "_rank_and_world", lambda self, rank=rank: (rank, world))
            ranks.append([(b.ids, b.seeds.tolist()) for b in module().train_dataloader()])
            counted.append([b.counted for b in module().train_dataloader()])
        assert [sum(parts) for parts in zip(*counted, strict=True)] == [len(ids) for ids, _ in alone]
        small = 0
        for step, (ids, seeds) in enumerate(alone):
            for rank in range(world):
                if len(ids) >= world:
                    assert ranks[rank][step] == (ids[rank::world], seeds[rank::world])
                else:
                    small += 1
                    assert ranks[rank][step] == (ids[rank % len(ids) :][:1], seeds[rank % len(ids) :][:1])
        assert world == 2 or small

    def test_does_not_depend_on_workers(self) -> None:
        alone, shared = ([(b.ids, b.points) for b in module(workers=w).train_dataloader()] for w in (0, 2))
        assert all(a[0] == b[0] and torch.equal(a[1], b[1]) for a, b in zip(alone, shared, strict=True))

    @pytest.mark.parametrize("world", [1, 3])
    def test_validation_sees_every_item_within_the_cap_and_as_often_on_every_rank(
        self, world: int, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        seen: Counter[str] = Counter()
        counts = set()
        for rank in range(world):
            monkeypatch.setattr(ItemDataModule, "_rank_and_world", lambda self, rank=rank: (rank, world))
            data = module(split=SplitConfig(validation=0.5, test=0))
            batches = [b.ids for b in data.val_dataloader()]
            assert batches == [b.ids for b in data.val_dataloader()]
            counts.add(len(batches))
            for ids in batches:
                longest = max(LENGTHS[data.dataset.ids.index(k)] for k in ids)
                assert len(ids) <= pair_cap(longest, BATCHING.max_pairs, BATCHING.max_batch)
            for batch in data.val_dataloader():
                seen.update(batch.ids[: batch.counted])
        assert len(counts) == 1
        assert set(seen) == {data.dataset.ids[k] for k in data.splits["validation"]}
        assert set(seen.values()) == {1}

    def test_lengths_that_are_not_those_of_the_items_are_refused(self) -> None:
        with pytest.raises(ConfigError, match="each of 23 items, got 2"):
            module(batching=LengthBatches(lengths=[3, 4]))


class TestGroups:
    def test_are_split_as_a_whole_by_the_hash_of_their_name(self) -> None:
        groups = [f"cluster-{k % 700}" for k in range(2100)]
        ids = [f"item-{k}" for k in range(2100)]
        config = SplitConfig()
        splits = split_items(ids, config, groups)
        assert sorted(k for items in splits.values() for k in items) == list(range(2100))
        for name, items in splits.items():
            assert all(split_of(groups[k], config) == name for k in items)
        # The 700 groups have the asked shares: binomial, five standard deviations of 0.1 are 0.057.
        assert abs(len(splits["test"]) / 2100 - 0.1) < 0.057

    def test_of_one_item_each_split_as_items_do(self) -> None:
        ids = [f"item-{k}" for k in range(300)]
        assert split_items(ids, SplitConfig(), ids) == split_items(ids, SplitConfig())

    @given(st.lists(st.integers(0, 4), min_size=1, max_size=12))
    def test_are_never_torn_in_a_small_set(self, numbers: list[int]) -> None:
        groups = [f"g{k}" for k in numbers]
        splits = split_items([str(k) for k in range(len(groups))], SplitConfig(), groups)
        held = [{groups[k] for k in items} for items in splits.values()]
        assert sum(len(h) for h in held) == len(set(groups))
        assert splits["train"] and (len(set(groups)) < 3 or all(splits.values()))

    def test_names_must_fit_the_items(self) -> None:
        with pytest.raises(ConfigError, match="each of 2 items, got 1"):
            split_items(["a", "b"], SplitConfig(), ["g"])

    @pytest.mark.parametrize("batching", [None, BATCHING])
    def test_one_member_of_each_comes_per_epoch_and_all_come_in_time(self, batching: LengthBatches | None) -> None:
        data = module(batching=batching, batch_size=1 if batching is None else 128, groups=GROUPS, one_per_group=True)
        train = {GROUPS[k] for k in data.splits["train"]}
        seen: Counter[int] = Counter()
        for number in range(60):
            items = [item for batch in epoch(data, number) for item, _ in batch]
            assert sorted(GROUPS[k] for k in items) == sorted(train)
            seen.update(items)
        assert sorted(seen) == data.splits["train"]
        # Of three members each comes in a third of 60 epochs: 20, with a standard deviation of 3.7.
        sizes = Counter(GROUPS[k] for k in data.splits["train"])
        assert all(abs(seen[k] - 60 / sizes[GROUPS[k]]) < 18 for k in seen)

    def test_one_per_group_needs_groups(self) -> None:
        with pytest.raises(ConfigError, match="needs the group"):
            module(one_per_group=True)


OPTIONS: dict[str, Any] = {"groups": GROUPS, "one_per_group": True}


class TestResume:
    def test_in_mid_epoch_gives_the_weights_of_the_undisturbed_run_bit_for_bit(self, tmp_path: Path) -> None:
        steps = module(**OPTIONS).batches_per_epoch
        assert steps > 3
        whole, half, rest = Regression(), Regression(), Regression()
        trainer(tmp_path / "whole", max_steps=2 * steps + 1).fit(whole, datamodule=module(**OPTIONS))
        trainer(tmp_path / "half", max_steps=steps + 2, keep=1).fit(half, datamodule=module(**OPTIONS))
        (checkpoint,) = (tmp_path / "half").glob("*.ckpt")
        last = trainer(tmp_path / "rest", max_steps=2 * steps + 1)
        last.fit(rest, datamodule=module(**OPTIONS), ckpt_path=checkpoint)
        assert half.seen + rest.seen == whole.seen
        assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), rest.parameters(), strict=True))

    @pytest.mark.parametrize(
        "changed",
        [
            {"batching": LengthBatches(lengths=LENGTHS, max_pairs=50_000, max_batch=5, width=40)},
            {"batching": LengthBatches(lengths=[n + 40 for n in LENGTHS], max_pairs=40_000, max_batch=5, width=40)},
            {"groups": [*GROUPS[1:], GROUPS[0]]},
            {"one_per_group": False},
        ],
        ids=["cap", "lengths", "groups", "drawing"],
    )
    def test_with_other_batches_is_refused(self, changed: dict[str, Any]) -> None:
        state = module(steps_per_epoch=4, **OPTIONS).state_dict()
        with pytest.raises(CheckpointError, match="other data or order"):
            module(**{"steps_per_epoch": 4, **OPTIONS, **changed}).load_state_dict(state)
