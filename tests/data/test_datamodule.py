"""Splits, order, seeds and position: laws, and a training that is interrupted at every step."""

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from data.checkpoint import load_checkpoint
from data.datamodule import ItemDataModule, epoch_order
from data.errors import CheckpointError, ConfigError
from data.splits import SplitConfig, sample_seed, split_items, split_of
from tests.data.toy_training import Points, Regression, data, trainer

IDS = [f"item-{i}" for i in range(4000)]


def drawn(module: ItemDataModule) -> list[tuple[tuple[str, ...], list[int], Any]]:
    return [(batch.ids, batch.seeds.tolist(), batch.points) for batch in module.train_dataloader()]


class TestSplits:
    def test_of_an_item_does_not_depend_on_the_other_items_or_their_order(self) -> None:
        config = SplitConfig()
        whole = split_items(IDS, config)
        by_id = {IDS[i]: name for name, items in whole.items() for i in items}
        some = IDS[::-3]
        few = {some[i]: name for name, items in split_items(some, config).items() for i in items}
        assert few == {item: by_id[item] for item in some}

    def test_covers_every_item_once(self) -> None:
        assert sorted(i for items in split_items(IDS, SplitConfig()).values() for i in items) == list(range(len(IDS)))

    def test_has_the_asked_shares(self) -> None:
        """Binomial: 4000 items at 0.1 and 0.2 lie within five standard deviations of 400 and 800."""
        count = Counter(split_of(item, SplitConfig(validation=0.1, test=0.2)) for item in IDS)
        assert abs(count["validation"] - 400) < 95
        assert abs(count["test"] - 800) < 127

    def test_stays_as_it_was_in_earlier_versions(self) -> None:
        """Recorded when written: a change would move items from held-out to training sets of existing runs."""
        config = SplitConfig(validation=0.3, test=0.3)
        assert [split_of(f"item-{i}", config)[:2] for i in range(8)] == ["tr", "te", "tr", "te", "te", "va", "tr", "te"]

    def test_given_ones_are_taken_as_they_are(self) -> None:
        given = {"train": [5, 1, 2], "validation": [0], "test": []}
        module = ItemDataModule(Points(8), None, 2, seed=0, splits=given)
        assert module.splits == given
        assert {i for ids, _, _ in drawn(module) for i in ids} <= {module.dataset.ids[k] for k in (5, 1, 2)}
        assert module.test_dataloader() == []

    @pytest.mark.parametrize(
        "wrong",
        [
            {"train": [0, 1], "validation": [1], "test": []},
            {"train": [0, 0], "validation": [], "test": []},
            {"train": [8], "validation": [], "test": []},
            {"train": [], "validation": [1], "test": [2]},
            {"train": [0, 1]},
        ],
    )
    def test_given_ones_are_checked(self, wrong: dict[str, list[int]]) -> None:
        with pytest.raises(ConfigError, match="splits: expected"):
            ItemDataModule(Points(8), None, 2, seed=0, splits=wrong)

    def test_are_said_once(self) -> None:
        for split, splits in ((None, None), (SplitConfig(), {"train": [0], "validation": [], "test": []})):
            with pytest.raises(ConfigError, match="once"):
                ItemDataModule(Points(8), split, 2, seed=0, splits=splits)

    def test_changes_with_the_salt(self) -> None:
        assert split_items(IDS, SplitConfig(salt="a")) != split_items(IDS, SplitConfig(salt="b"))

    @given(st.lists(st.text(min_size=1, max_size=4), min_size=1, max_size=6, unique=True))
    def test_of_a_small_set_always_trains_and_holds_out_what_it_can(self, ids: list[str]) -> None:
        splits = split_items(ids, SplitConfig())
        assert splits["train"]
        assert len(ids) < 2 or splits["validation"]
        assert len(ids) < 3 or splits["test"]
        assert sorted(i for items in splits.values() for i in items) == list(range(len(ids)))

    def test_holds_nothing_out_where_the_shares_are_zero(self) -> None:
        splits = split_items(IDS, SplitConfig(validation=0, test=0))
        assert splits == {"train": list(range(len(IDS))), "validation": [], "test": []}

    @pytest.mark.parametrize("shares", [(-0.1, 0.1), (0.5, 0.5), (1.0, 0.0)])
    def test_shares_that_leave_nothing_are_refused(self, shares: tuple[float, float]) -> None:
        with pytest.raises(ConfigError, match="leave some for training"):
            SplitConfig(validation=shares[0], test=shares[1])


class TestOrder:
    def test_is_a_permutation_that_changes_with_epoch_and_seed(self) -> None:
        orders = [tuple(item for item, _ in epoch_order(seed, epoch, 50, 50)) for seed in (0, 1) for epoch in (0, 1)]
        assert all(sorted(order) == list(range(50)) for order in orders)
        assert len(set(orders)) == 4

    def test_repeats_a_small_set_evenly_and_with_other_seeds(self) -> None:
        order = epoch_order(0, 0, 5, 13)
        assert max(Counter(item for item, _ in order).values()) == 3
        assert len({sample_seed(0, 0, str(item), repeat) for item, repeat in order}) == 13

    @pytest.mark.parametrize("workers", [1, 3])
    def test_does_not_depend_on_workers(self, workers: int) -> None:
        alone = drawn(data())
        shared = drawn(data(workers))
        assert [a[:2] for a in alone] == [b[:2] for b in shared]
        assert all(torch.equal(a[2], b[2]) for a, b in zip(alone, shared, strict=True))

    @pytest.mark.parametrize("world", [2, 3, 4])
    def test_union_of_the_ranks_is_the_order_of_one(self, world: int, monkeypatch: pytest.MonkeyPatch) -> None:
        alone = drawn(data())
        ranks = []
        for rank in range(world):
            monkeypatch.setattr(ItemDataModule, "_rank_and_world", lambda self, rank=rank: (rank, world))
            ranks.append(drawn(data()))
        for step, (ids, seeds, _) in enumerate(alone):
            for rank in range(world):
                assert ranks[rank][step][0] == ids[rank::world]
                assert ranks[rank][step][1] == seeds[rank::world]

    @pytest.mark.parametrize("world", [1, 3])
    def test_every_part_knows_of_the_whole_batch(self, world: int, monkeypatch: pytest.MonkeyPatch) -> None:
        alone = drawn(data())
        for rank in range(world):
            monkeypatch.setattr(ItemDataModule, "_rank_and_world", lambda self, rank=rank: (rank, world))
            for batch, (ids, seeds, _) in zip(data().train_dataloader(), alone, strict=True):
                assert (batch.whole.samples, batch.whole.seed) == (len(ids), seeds[0])
                assert batch.counted == len(ids[rank::world])

    def test_a_batch_with_fewer_samples_than_processes_is_refused(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(ItemDataModule, "_rank_and_world", lambda self: (0, 5))
        with pytest.raises(ConfigError, match="at least 5, or at most 4 workers"):
            data().train_dataloader()

    def test_samples_do_not_depend_on_the_batch_size(self) -> None:
        def flat(size: int, steps: int) -> list[tuple[str, int]]:
            batches = drawn(data(batch_size=size, steps_per_epoch=steps))
            return [pair for ids, seeds, _ in batches for pair in zip(ids, seeds, strict=True)]

        assert flat(2, 6) == flat(4, 3) == flat(12, 1)

    def test_of_validation_is_fixed(self) -> None:
        module = data()
        first, again = ([(b.ids, b.seeds.tolist()) for b in module.val_dataloader()] for _ in range(2))
        assert first == again
        assert [i for ids, _ in first for i in ids] == [module.dataset.ids[i] for i in module.splits["validation"]]

    def test_every_rank_validates_as_many_batches_and_every_item_counts_once(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        seen, counts, repeated = [], set(), 0
        for rank in range(3):
            monkeypatch.setattr(ItemDataModule, "_rank_and_world", lambda self, rank=rank: (rank, 3))
            batches = list(ItemDataModule(Points(60), SplitConfig(), 3, 0).val_dataloader())
            counts.add(len(batches))
            seen += [item for batch in batches if batch.counted for item in batch.ids]
            repeated += sum(not batch.counted for batch in batches)
        assert len(counts) == 1
        assert sorted(seen) == sorted(
            Points(60).ids[i] for i in split_items(Points(60).ids, SplitConfig())["validation"]
        )
        assert repeated, "or no rank was ever without an item"

    def test_there_is_no_validation_loader_where_nothing_is_held_out(self) -> None:
        module = ItemDataModule(Points(), SplitConfig(validation=0, test=0), 4, 0)
        assert module.val_dataloader() == []
        assert len(module.splits["train"]) == 23


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Regression]:
    """13 steps of 5 per epoch, with a checkpoint after every one."""
    folder = tmp_path_factory.mktemp("undisturbed")
    model = Regression()
    trainer(folder, max_steps=13).fit(model, datamodule=data())
    return folder, model


class TestResume:
    @pytest.mark.parametrize(("step", "workers"), [(1, 0), (4, 0), (5, 0), (6, 0), (10, 0), (12, 0), (3, 2), (5, 2)])
    def test_gives_the_weights_of_the_undisturbed_run_bit_for_bit(
        self, undisturbed: tuple[Path, Regression], tmp_path: Path, step: int, workers: int
    ) -> None:
        """In mid-epoch, on the last batch of an epoch, on the first; raw and averaged weights, optimizer, schedule."""
        folder, whole = undisturbed
        model = Regression()
        checkpoint = folder / f"step-{step:08d}.ckpt"
        trainer(tmp_path, max_steps=13).fit(model, datamodule=data(workers), ckpt_path=checkpoint, weights_only=True)
        assert model.seen == whole.seen[step:]
        left, right = (load_checkpoint(where / "step-00000013.ckpt") for where in (folder, tmp_path))
        for key in ("state_dict", "current_model_state", "optimizer_states", "lr_schedulers", "global_step"):
            assert_equal(left[key], right[key])
        assert_equal(model.state_dict(), whole.state_dict())

    def test_on_the_last_batch_of_an_epoch_keeps_every_later_epoch_in_place(
        self, undisturbed: tuple[Path, Regression], tmp_path: Path
    ) -> None:
        folder, _ = undisturbed
        far, again = Regression(), Regression()
        trainer(tmp_path / "far", max_steps=23).fit(far, datamodule=data())
        resumed = trainer(tmp_path / "again", max_steps=23)
        resumed.fit(again, datamodule=data(), ckpt_path=folder / "step-00000005.ckpt", weights_only=True)
        assert again.seen == far.seen[5:]
        assert_equal(far.state_dict(), again.state_dict())

    def test_with_accumulation_and_validation_within_the_epoch(self, tmp_path: Path) -> None:
        options = {"accumulate_grad_batches": 2, "val_check_interval": 3}
        steps = {"steps_per_epoch": 6}
        whole, again = Regression(), Regression()
        trainer(tmp_path / "whole", max_steps=8, **options).fit(whole, datamodule=data(**steps))
        resumed = trainer(tmp_path / "again", max_steps=8, **options)
        checkpoint = tmp_path / "whole" / "step-00000004.ckpt"
        resumed.fit(again, datamodule=data(**steps), ckpt_path=checkpoint, weights_only=True)
        assert again.seen == whole.seen[8:]
        assert_equal(whole.state_dict(), again.state_dict())

    @pytest.mark.parametrize(
        ("change", "named"), [({"batch_size": 2}, "batch_size: 4"), ({"steps_per_epoch": 4}, "batches_per_epoch: 5")]
    )
    def test_with_another_order_is_refused(
        self, undisturbed: tuple[Path, Regression], tmp_path: Path, change: dict[str, int], named: str
    ) -> None:
        checkpoint = undisturbed[0] / "step-00000004.ckpt"
        with pytest.raises(CheckpointError, match=named):
            trainer(tmp_path, max_steps=13).fit(
                Regression(), datamodule=data(**change), ckpt_path=checkpoint, weights_only=True
            )

    def test_position_is_kept_without_a_trainer_too(self) -> None:
        whole = drawn(data())
        module = data()
        module.load_state_dict({**data().state_dict(), "consumed": 3})
        rest = drawn(module)
        assert [b[:2] for b in rest[:2]] == [b[:2] for b in whole[3:]]


TWO_RANKS = """
import json, sys
from pathlib import Path
import lightning
from tests.data.toy_training import Regression, data, trainer

class Log(lightning.Callback):
    def on_train_end(self, trainer, pl_module):
        Path(sys.argv[1], f"{trainer.global_rank}.json").write_text(json.dumps(pl_module.seen))

two = trainer(Path(sys.argv[1], "checkpoints"), max_steps=7, every_steps=3, keep=2, devices=2, strategy="ddp_fork")
two.callbacks.insert(0, Log())
two.fit(Regression(), datamodule=data())
"""


@pytest.mark.slow
def test_two_real_ranks_share_the_batches_of_one_process(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", TWO_RANKS, str(tmp_path)],
        cwd=Path(__file__).resolve().parents[2],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    ranks = [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(2)]
    alone = [list(ids) for ids, _, _ in drawn(data(steps_per_epoch=5))]
    for rank in range(2):
        assert ranks[rank][:5] == [ids[rank::2] for ids in alone]
        assert len(ranks[rank]) == 7
    assert {path.name for path in (tmp_path / "checkpoints").glob("*.ckpt")} == {
        "step-00000006.ckpt",
        "step-00000007.ckpt",
    }


def assert_equal(left: Any, right: Any) -> None:
    """Equal bit for bit, whatever the nesting."""
    if isinstance(left, torch.Tensor):
        assert torch.equal(left, right)
    elif isinstance(left, dict):
        assert left.keys() == right.keys()
        for key in left:
            assert_equal(left[key], right[key])
    elif isinstance(left, list | tuple):
        for a, b in zip(left, right, strict=True):
            assert_equal(a, b)
    else:
        assert left == right
