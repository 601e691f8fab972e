"""A small PredFormer learns how digits move: better than any film that nobody has to learn."""

from pathlib import Path

import pytest
import torch
from lightning.pytorch import Trainer

from data.datamodule import ItemDataModule
from data.forecast.films import FilmDataset, prepare_films
from data.splits import SplitConfig
from data.synthetic.films import SyntheticFilmsConfig
from modules.forecast.film_metrics import film_floors, film_scores
from modules.forecast.predformer import Order, PredFormerConfig
from modules.forecast.predformer_training_config import PredFormerTrainingConfig
from modules.layers.optimization import OptimizerConfig

STEPS = 700
DIGITS = Path(__file__).parents[4] / "shared" / "datasets" / "forecast" / "mnist_t10k-images-idx3-ubyte.gz"


def trained(folder: Path, order: Order, blocks: int) -> dict[str, dict[str, float]]:
    """Errors per frame of the trained network and of the floors on held-out films."""
    images = DIGITS if DIGITS.exists() else None
    films = FilmDataset(prepare_films(SyntheticFilmsConfig(count=2200, size=32, images=images), folder).path)
    data = ItemDataModule(films, SplitConfig(validation=0.01, test=0.09), 8, seed=0, steps_per_epoch=STEPS)
    network = PredFormerConfig(height=32, width=32, features=64, heads=4, head_features=16, order=order, blocks=blocks)
    optimizer = OptimizerConfig(kind="muon", learning_rate=3e-3, weight_decay=1e-2)
    training = PredFormerTrainingConfig(network=network, optimizer=optimizer).build()
    trainer = Trainer(max_epochs=1, accelerator="cpu", logger=False, enable_checkpointing=False,
                      enable_progress_bar=False, enable_model_summary=False, num_sanity_val_steps=0,
                      use_distributed_sampler=False)  # fmt: skip
    trainer.fit(training, datamodule=data)
    held = films.collate([films.load(k, 0) for k in data.splits["test"]])
    with torch.no_grad():
        answers = {"network": training.eval()(held.past), **film_floors(held.past, 10)}
    return {name: film_scores(film, held.future) for name, film in answers.items()}


@pytest.mark.slow
def test_beats_every_floor_on_held_out_films(tmp_path: Path):
    found = trained(tmp_path, "TSST", 1)
    network = found.pop("network")
    assert network["mse"] < 0.85 * min(floor["mse"] for floor in found.values())
    assert network["mae"] < min(found["mean"]["mae"], found["copy_last"]["mae"])  # black frames are hard to beat there
