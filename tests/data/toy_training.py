"""A dataset, network and trainer small enough to restart many times. Run as a script it trains until it is killed."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning
import torch
from torch import Tensor, nn

from data.batch import Batch
from data.checkpoint import AtomicCheckpointIO, RollingCheckpoint, ema_callback
from data.datamodule import ItemDataModule
from data.splits import SplitConfig


@dataclass(frozen=True)
class PointBatch(Batch):
    points: Tensor


class Points:
    """Items `point-0`, `point-1`, ...: each draw is the item's number plus noise from the seed."""

    def __init__(self, count: int = 23) -> None:
        self.ids: Sequence[str] = tuple(f"point-{i}" for i in range(count))

    def __len__(self) -> int:
        return len(self.ids)

    def load(self, index: int, seed: int) -> tuple[str, int, Tensor]:
        noise = torch.randn(4, generator=torch.Generator().manual_seed(seed))
        return self.ids[index], seed, index / len(self.ids) + noise

    def collate(self, samples: list[Any]) -> PointBatch:
        ids, seeds, points = zip(*samples, strict=True)
        return PointBatch(ids=ids, seeds=torch.tensor(seeds), points=torch.stack(points))


class Regression(lightning.LightningModule):
    """Learns to give its input back; dropout makes it depend on torch's global generator."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.network = nn.Sequential(nn.Linear(4, 8), nn.GELU(), nn.Dropout(0.3), nn.Linear(8, 4))
        self.seen: list[tuple[str, ...]] = []

    def training_step(self, batch: PointBatch, batch_idx: int) -> Tensor:
        self.seen.append(batch.ids)
        return (self.network(batch.points) - batch.points).square().mean()

    def validation_step(self, batch: PointBatch, batch_idx: int) -> None:
        self.log("val/loss", (self.network(batch.points) - batch.points).square().mean(), batch_size=len(batch))

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.AdamW(self.parameters(), lr=0.01)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 50)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def data(workers: int = 0, **options: Any) -> ItemDataModule:
    options = {"batch_size": 4, "steps_per_epoch": 5, **options}
    return ItemDataModule(Points(), SplitConfig(), seed=7, workers=workers, **options)


def trainer(folder: Path, max_steps: int, every_steps: int = 1, keep: int = 100, **options: Any) -> lightning.Trainer:
    return lightning.Trainer(
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        max_steps=max_steps,
        max_epochs=-1,
        num_sanity_val_steps=0,
        plugins=[AtomicCheckpointIO()],
        callbacks=[ema_callback(0.9), RollingCheckpoint(folder, every_steps=every_steps, keep=keep)],
        use_distributed_sampler=False,
        **options,
    )


if __name__ == "__main__":
    trainer(Path(sys.argv[1]), max_steps=100_000, keep=2).fit(Regression(), datamodule=data())
