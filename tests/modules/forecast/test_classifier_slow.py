"""Nine speakers told apart by two vowels: the classifier on JapaneseVowels, chosen without a look at the test set."""

from pathlib import Path

import lightning
import pytest
import torch
from lightning.pytorch import Trainer

from data.checkpoint import ema_callback
from data.datamodule import ItemDataModule
from data.forecast.sequences import SequenceDataset, prepare_sequences
from data.splits import SplitConfig
from modules.forecast.classifier import ClassifierConfig
from modules.forecast.classifier_training_config import ClassifierTrainingConfig
from modules.layers.optimization import OptimizerConfig

SOURCE = Path(__file__).resolve().parents[4] / "shared" / "datasets" / "forecast" / "JapaneseVowels_TRAIN.ts"
STEPS = 640


@pytest.mark.slow
@pytest.mark.skipif(not SOURCE.exists(), reason=f"no {SOURCE.name} at {SOURCE.parent}")
def test_japanese_vowels(tmp_path: Path) -> None:
    """All 270 training sequences, a fixed number of steps, averaged weights: at least 97 % of the 370 others."""
    torch.set_num_threads(1)
    split = SplitConfig(validation=0.0)
    dataset = SequenceDataset(prepare_sequences(SOURCE, tmp_path), split)
    data = ItemDataModule(dataset, split, batch_size=16, seed=0, test=dataset.test)
    assert (len(data.splits["train"]), len(data.splits["test"])) == (270, 370)
    lightning.seed_everything(0, verbose=False)
    network = ClassifierConfig(
        features=dataset.features, length=dataset.longest, classes=len(dataset.classes), width=64, feed_forward=128
    )
    optimizer = OptimizerConfig(kind="adamw", learning_rate=1e-3)
    module = ClassifierTrainingConfig(network=network, optimizer=optimizer).build()
    trainer = Trainer(
        max_steps=STEPS, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, gradient_clip_val=1.0, callbacks=[ema_callback(0.99)], num_sanity_val_steps=0,
        limit_val_batches=0,
    )  # fmt: skip
    trainer.fit(module, datamodule=data)
    found = trainer.test(module, datamodule=data, verbose=False)[0]
    assert found["test/accuracy"] >= 0.97
