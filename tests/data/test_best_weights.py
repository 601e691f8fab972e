"""The best weights are those of the lowest validation loss, also after a resume and under a weight average."""

from pathlib import Path
from typing import Any

import lightning
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from data.best_weights import BestWeights
from data.checkpoint import ema_callback

DATA = [torch.zeros(1) for _ in range(4)]


class Walk(lightning.LightningModule):
    """One weight that walks by 1 per step through a valley whose floor is at 6."""

    def __init__(self) -> None:
        super().__init__()
        self.model = nn.Linear(1, 1, bias=False)
        nn.init.zeros_(self.model.weight)
        self.validated: list[tuple[float, float]] = []

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        return -self.model.weight.sum()

    def validation_step(self, batch: Tensor, batch_idx: int) -> None:
        loss = (self.model.weight - 6).square().sum().detach()
        if batch_idx == 0:
            self.validated.append((self.model.weight.item(), float(loss)))
        self.log("val/loss", loss, batch_size=1)

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=1.0)


def train(folder: Path, best: BestWeights, steps: int, *, start: Path | None = None, ema: float | None = None) -> Walk:
    module = Walk()
    callbacks: list[Any] = [best] + ([ema_callback(ema, warmup=False)] if ema is not None else [])
    trainer = lightning.Trainer(
        max_steps=steps,
        val_check_interval=2,
        callbacks=callbacks,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        accelerator="cpu",
        num_sanity_val_steps=0,
    )
    trainer.fit(module, DataLoader(DATA), DataLoader(DATA), ckpt_path=start, weights_only=True)  # type: ignore[arg-type]
    trainer.save_checkpoint(folder / f"{steps}.ckpt")
    return module


def test_keeps_the_weights_of_the_lowest_loss(tmp_path: Path) -> None:
    best = BestWeights()
    module = train(tmp_path, best, 12)
    assert module.model.weight.item() == 12
    assert (best.step, best.value, float(best.weights["weight"])) == (6, 0.0, 6.0)


def test_patience_ends_the_training(tmp_path: Path) -> None:
    best = BestWeights(patience=2)
    module = train(tmp_path, best, 40)
    assert module.model.weight.item() == 10  # best at 6, two validations later it is over
    assert best.step == 6


@pytest.mark.parametrize("cut", [4, 8])
def test_a_resumed_training_chooses_as_an_undisturbed_one(tmp_path: Path, cut: int) -> None:
    train(tmp_path, BestWeights(), cut)
    best = BestWeights()
    train(tmp_path, best, 12, start=tmp_path / f"{cut}.ckpt")
    assert (best.step, best.value, float(best.weights["weight"])) == (6, 0.0, 6.0)


def test_an_early_end_stays_an_end_when_resumed(tmp_path: Path) -> None:
    train(tmp_path, BestWeights(patience=2), 40)
    module = train(tmp_path, BestWeights(patience=2), 60, start=tmp_path / "40.ckpt")
    assert module.model.weight.item() == 10


def test_under_an_average_the_averaged_weights_are_kept(tmp_path: Path) -> None:
    best = BestWeights()
    module = train(tmp_path, best, 24, ema=0.5)
    weight, loss = min(module.validated, key=lambda pair: pair[1])
    assert best.value == pytest.approx(loss)
    assert float(best.weights["weight"]) == pytest.approx(weight)
    assert weight != round(weight)  # the average lags behind the whole numbers of the walk
