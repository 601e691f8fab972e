"""Order, seeds and position of windows: laws, and a training that is interrupted at every step."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import lightning
import numpy as np
import pytest
import torch
from torch import Tensor, nn

from data.batch import WindowBatch
from data.checkpoint import AtomicCheckpointIO, RollingCheckpoint, load_checkpoint
from data.errors import CheckpointError, ConfigError
from data.forecast.scaling import Scaler
from data.forecast.time_split import TimeSplitConfig, spans
from data.forecast.window_module import WindowDataModule
from data.forecast.windows import Windows
from tests.data.series_files import random_series, write_series

L, H = 6, 3
LENGTHS = [60, 45, 30]


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("windows") / "series.h5"
    write_series(path, random_series(LENGTHS, targets=2))
    return path


def module(path: Path, workers: int = 0, *, lengths: int = L, **options: Any) -> WindowDataModule:
    from data.forecast.series_store import SeriesStore

    store = SeriesStore(path)
    split = spans(store.lengths, lengths, H, TimeSplitConfig())
    windows = Windows(store, lengths, H, Scaler.fit(store, split.train_ends))
    return WindowDataModule(windows, split, **{"batch_size": 4, "seed": 7, "workers": workers, **options})


def named(batch: WindowBatch) -> list[tuple[int, int, int]]:
    """Series, first row and seed of each window."""
    assert batch.series is not None
    assert batch.position is not None
    return list(zip(batch.series.tolist(), batch.position.tolist(), batch.seeds.tolist(), strict=True))


class TestOrder:
    def test_takes_every_window_once_before_any_again(self, path: Path) -> None:
        data = module(path)
        size = len(data.index["train"])
        batches = [data.global_batch(k) for k in range(3 * size // 4)]
        numbers = np.concatenate([numbers for numbers, _ in batches])
        passes = [tuple(numbers[k * size : (k + 1) * size].tolist()) for k in range(3)]
        assert all(sorted(one) == list(range(size)) for one in passes[:2])
        assert len(set(passes)) == 3
        seeds = np.concatenate([seeds for _, seeds in batches])
        assert len(np.unique(seeds)) == len(seeds)
        assert seeds.min() >= 0

    def test_does_not_depend_on_where_it_begins_or_on_the_epochs_length(self, path: Path) -> None:
        data, again = module(path), module(path, steps_per_epoch=3)
        late = again.global_batch(500)
        for k in range(501):
            first = data.global_batch(k)
        assert all(np.array_equal(a, b) for a, b in zip(first, late, strict=True))

    def test_windows_and_seeds_do_not_depend_on_the_batch_size(self, path: Path) -> None:
        few, many = module(path, batch_size=4), module(path, batch_size=12)
        for part in range(2):
            ours = np.concatenate([few.global_batch(k)[part] for k in range(300)])
            assert np.array_equal(ours, np.concatenate([many.global_batch(k)[part] for k in range(100)]))

    def test_changes_with_the_seed(self, path: Path) -> None:
        assert not np.array_equal(module(path, seed=1).global_batch(0)[0], module(path, seed=2).global_batch(0)[0])

    def test_a_set_smaller_than_a_batch_comes_up_again_with_other_seeds(self, path: Path) -> None:
        data = module(path, batch_size=500)
        numbers, seeds = data.global_batch(0)
        counts = np.bincount(numbers, minlength=len(data.index["train"]))
        assert counts.max() - counts.min() <= 1
        assert len(np.unique(seeds)) == 500

    @pytest.mark.parametrize("workers", [1, 2])
    def test_does_not_depend_on_workers(self, path: Path, workers: int) -> None:
        alone, shared = (list(module(path, count, steps_per_epoch=8).train_dataloader()) for count in (0, workers))
        assert [named(a) for a in alone] == [named(b) for b in shared]
        assert all(torch.equal(a.past, b.past) for a, b in zip(alone, shared, strict=True))

    @pytest.mark.parametrize("world", [2, 3, 4])
    def test_union_of_the_ranks_is_the_order_of_one(
        self, path: Path, world: int, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        alone = list(module(path).train_dataloader())
        for rank in range(world):
            monkeypatch.setattr(WindowDataModule, "_rank_and_world", lambda self, rank=rank: (rank, world))
            for batch, whole in zip(module(path).train_dataloader(), alone, strict=True):
                assert named(batch) == named(whole)[rank::world]
                assert (batch.whole.samples, batch.whole.seed) == (len(whole), int(whole.seeds[0]))

    def test_a_batch_with_fewer_windows_than_processes_is_refused(
        self, path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(WindowDataModule, "_rank_and_world", lambda self: (0, 5))
        with pytest.raises(ConfigError, match="at least 5, or at most 4 workers"):
            module(path).train_dataloader()

    def test_strides_leave_windows_out(self, path: Path) -> None:
        data = module(path, stride=5, validation_stride=2)
        assert len(data.index["train"]) == sum(-(-(int(0.7 * n) - L - H + 1) // 5) for n in LENGTHS)


class TestEvaluation:
    @pytest.mark.parametrize("size", [1, 5, 1000])
    def test_takes_all_windows_in_order_and_keeps_the_last_batch(self, path: Path, size: int) -> None:
        data = module(path, evaluation_batch=size)
        for name, loader in (("validation", data.val_dataloader()), ("test", data.test_dataloader())):
            items, origins = data.index[name].locate(np.arange(len(data.index[name])))
            found = [window for batch in loader for window in named(batch)]
            begin = int(data.windows._positions[0])
            assert [(item, row - begin + L) for item, row, _ in found] == list(
                zip(items.tolist(), origins.tolist(), strict=True)
            )
            assert found == [window for batch in loader for window in named(batch)]

    def test_every_rank_has_as_many_batches_and_no_window_counts_twice(
        self, path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        alone = [window for batch in module(path, evaluation_batch=5).val_dataloader() for window in named(batch)]
        seen, counts = [], set()
        for rank in range(4):
            monkeypatch.setattr(WindowDataModule, "_rank_and_world", lambda self, rank=rank: (rank, 4))
            batches = list(module(path, evaluation_batch=5).val_dataloader())
            counts.add(len(batches))
            seen += [w for b in batches if b.future_mask is None or b.future_mask.any() for w in named(b)]
        assert len(counts) == 1
        assert sorted(seen) == sorted(alone)
        assert len(alone) % 5 < 4, "or no rank was ever without a window"

    def test_there_is_no_loader_where_nothing_is_held_out(self, path: Path) -> None:
        data = module(path)
        split = spans(np.array(LENGTHS), L, H, TimeSplitConfig(validation=0, test=0))
        data = WindowDataModule(data.windows, split, 4, 0)
        assert data.val_dataloader() == []
        assert data.test_dataloader() == []


class Regression(lightning.LightningModule):
    """A linear forecast with dropout, which depends on torch's global generator."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.network = nn.Sequential(nn.Flatten(), nn.Dropout(0.3), nn.Linear(2 * L, 2 * H))
        self.seen: list[list[tuple[int, int, int]]] = []

    def training_step(self, batch: WindowBatch, batch_idx: int) -> Tensor:
        assert batch.future is not None
        self.seen.append(named(batch))
        return (self.network(batch.past) - batch.future.flatten(1)).square().mean()

    def configure_optimizers(self) -> Any:
        return torch.optim.AdamW(self.parameters(), lr=0.01)


def trainer(folder: Path, max_steps: int, **options: Any) -> lightning.Trainer:
    return lightning.Trainer(
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        max_steps=max_steps,
        max_epochs=-1,
        limit_val_batches=0,
        plugins=[AtomicCheckpointIO()],
        callbacks=[RollingCheckpoint(folder, every_steps=1, keep=100)],
        use_distributed_sampler=False,
        **options,
    )


@pytest.fixture(scope="module")
def undisturbed(path: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Regression]:
    """13 steps of 5 per epoch, with a checkpoint after every one."""
    folder = tmp_path_factory.mktemp("undisturbed")
    model = Regression()
    trainer(folder, max_steps=13).fit(model, datamodule=module(path, steps_per_epoch=5))
    return folder, model


class TestResume:
    @pytest.mark.parametrize(("step", "workers"), [(1, 0), (4, 0), (5, 0), (6, 0), (10, 0), (12, 0), (3, 2), (5, 2)])
    def test_gives_the_weights_of_the_undisturbed_run_bit_for_bit(
        self, path: Path, undisturbed: tuple[Path, Regression], tmp_path: Path, step: int, workers: int
    ) -> None:
        folder, whole = undisturbed
        model = Regression()
        trainer(tmp_path, max_steps=13).fit(
            model,
            datamodule=module(path, workers, steps_per_epoch=5),
            ckpt_path=folder / f"step-{step:08d}.ckpt",
            weights_only=True,
        )
        assert model.seen == whole.seen[step:]
        for name, value in whole.state_dict().items():
            assert torch.equal(value, model.state_dict()[name])
        ends = [load_checkpoint(where / "step-00000013.ckpt")["optimizer_states"] for where in (folder, tmp_path)]
        assert all(
            torch.equal(left[name], right[name])
            for left, right in zip(*(list(end[0]["state"].values()) for end in ends), strict=True)
            for name in left
        )

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"batch_size": 2}, "batch_size: 4"),
            ({"stride": 2}, "training_windows: "),
            ({"lengths": 5}, "training_windows: "),
            ({"seed": 8}, "seed: 7"),
        ],
    )
    def test_with_another_order_is_refused(
        self, path: Path, undisturbed: tuple[Path, Regression], tmp_path: Path, change: dict[str, int], message: str
    ) -> None:
        with pytest.raises(CheckpointError, match=message):
            trainer(tmp_path, max_steps=13).fit(
                Regression(),
                datamodule=module(path, **{"steps_per_epoch": 5, **change}),
                ckpt_path=undisturbed[0] / "step-00000004.ckpt",
                weights_only=True,
            )

    def test_with_other_series_is_refused(self, undisturbed: tuple[Path, Regression], tmp_path: Path) -> None:
        other = tmp_path / "other.h5"
        write_series(other, random_series(LENGTHS, targets=2, seed=1))
        with pytest.raises(CheckpointError, match="series: "):
            trainer(tmp_path, max_steps=13).fit(
                Regression(),
                datamodule=module(other, steps_per_epoch=5),
                ckpt_path=undisturbed[0] / "step-00000004.ckpt",
                weights_only=True,
            )


TWO_RANKS = """
import json, sys
from pathlib import Path
import lightning
from tests.data.test_forecast_window_module import Regression, module, trainer

class Log(lightning.Callback):
    def on_train_end(self, trainer, pl_module):
        Path(sys.argv[1], f"{trainer.global_rank}.json").write_text(json.dumps(pl_module.seen))

two = trainer(Path(sys.argv[1], "checkpoints"), max_steps=7, devices=2, strategy="ddp_fork")
two.callbacks.insert(0, Log())
two.fit(Regression(), datamodule=module(Path(sys.argv[2]), steps_per_epoch=5))
"""


@pytest.mark.slow
def test_two_real_ranks_share_the_batches_of_one_process(path: Path, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", TWO_RANKS, str(tmp_path), str(path)],
        cwd=Path(__file__).resolve().parents[2],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    ranks = [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(2)]
    alone = [named(batch) for batch in module(path, steps_per_epoch=7).train_dataloader()]
    for rank in range(2):
        assert ranks[rank] == [[list(window) for window in batch[rank::2]] for batch in alone]
