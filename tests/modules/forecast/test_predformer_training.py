"""Training of PredFormer: what it minimises, and what it says of held-out films."""

import pytest
import torch
from lightning.pytorch import Trainer
from torch.utils.data import DataLoader

from data.batch import FrameBatch
from modules.forecast.film_metrics import film_floors, frame_errors
from modules.forecast.predformer import PredFormerConfig
from modules.forecast.predformer_training_config import PredFormerTrainingConfig
from modules.layers.optimization import OptimizerConfig

NETWORK = PredFormerConfig(
    height=8, width=8, seen=3, predicted=3, patch=4, features=8, heads=2, head_features=4, blocks=1
)


def films(count: int) -> FrameBatch:
    """One film again and again: all grey, a little brighter in every frame."""
    frames = torch.linspace(0.2, 0.7, 6).view(1, 6, 1, 1, 1).expand(count, 6, 1, 8, 8)
    return FrameBatch(ids=("a",) * count, seeds=torch.arange(count), past=frames[:, :3], future=frames[:, 3:])


def test_learns_and_reports_its_skill_against_the_best_floor():
    training = PredFormerTrainingConfig(network=NETWORK, optimizer=OptimizerConfig(learning_rate=1e-2)).build()
    given = films(4)
    trainer = Trainer(max_steps=150, accelerator="cpu", logger=False, enable_checkpointing=False,
                      enable_progress_bar=False, enable_model_summary=False, num_sanity_val_steps=0)  # fmt: skip
    trainer.fit(training, DataLoader([given] * 50, batch_size=None), DataLoader([given], batch_size=None))
    metrics = {name: float(value) for name, value in trainer.callback_metrics.items()}
    with torch.no_grad():
        answer = training.eval()(given.past)
    assert metrics["val/mse"] == pytest.approx(64 * metrics["val/loss"], rel=1e-4)
    assert metrics["val/mse"] == pytest.approx(float(frame_errors(answer, given.future)["mse"].mean()), rel=1e-4)
    copied = float(frame_errors(film_floors(given.past, 3)["copy_last"], given.future)["mse"].mean())
    assert metrics["val/skill"] == pytest.approx(1 - metrics["val/mse"] / copied, rel=1e-4)
    assert metrics["val/skill"] > 0.5
