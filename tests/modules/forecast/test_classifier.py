"""The Flowformer classifier: padding, refusals, fixed positions, and a training that tells waves apart."""

import math
from dataclasses import replace

import pytest
import torch
from lightning.pytorch import Trainer
from torch.utils.data import DataLoader

from data.batch import SequenceBatch
from data.errors import CheckpointError, ConfigError, PenstockError
from data.synthetic.sequences import FORMS, SyntheticSequencesConfig, synthetic_sequence
from modules.forecast.classifier import ClassifierConfig, waves
from modules.forecast.classifier_training import ClassifierTraining, accuracy
from modules.forecast.classifier_training_config import ClassifierTrainingConfig
from modules.forecast.reference import classifier as reference
from modules.layers.optimization import OptimizerConfig

SMALL = ClassifierConfig(
    features=2, length=24, classes=len(FORMS), width=16, layers=1, heads=2, feed_forward=32, dropout=0.0
)
SYNTHETIC = SyntheticSequencesConfig(count=96, min_length=16, max_length=24, noise=0.1)


def batch(first: int = 0, count: int = 8) -> SequenceBatch:
    made = [synthetic_sequence(SYNTHETIC, k) for k in range(first, first + count)]
    values = torch.nn.utils.rnn.pad_sequence([torch.from_numpy(values) for values, _ in made], batch_first=True)
    lengths = torch.tensor([len(values) for values, _ in made])
    return SequenceBatch(
        ids=tuple(map(str, range(first, first + count))),
        seeds=torch.arange(first, first + count),
        values=values,
        present=torch.arange(values.shape[1]) < lengths[:, None],
        labels=torch.tensor([label for _, label in made]),
    )


def test_what_stands_in_the_padding_is_not_seen() -> None:
    given = batch()
    noise = torch.randn_like(given.values)
    filled = replace(given, values=torch.where(given.present[..., None], given.values, noise))
    network = SMALL.build().eval()
    torch.testing.assert_close(network(filled), network(given), rtol=0, atol=1e-6)
    # The published network lets it in through the attention.
    published = replace(SMALL, mask_attention=False).build().eval()
    published.load_state_dict(network.state_dict())
    assert not torch.allclose(published(filled), published(given), atol=1e-4)


def test_a_sequence_answers_alike_alone_and_among_others() -> None:
    network, given = SMALL.build().eval(), batch()
    together = network(given)
    for k in range(len(given)):
        steps = int(given.present[k].sum())
        alone = SequenceBatch(
            (str(k),), given.seeds[k : k + 1], given.values[k : k + 1, :steps], given.present[k : k + 1, :steps],
            given.labels[k : k + 1],
        )  # fmt: skip
        torch.testing.assert_close(network(alone)[0], together[k], rtol=0, atol=1e-5)


def test_fixed_positions_are_sines_and_cosines() -> None:
    table = waves(30, 8)
    for step in (0, 1, 29):
        for pair in range(4):
            angle = step / 10000 ** (2 * pair / 8)
            assert table[step, 2 * pair].item() == pytest.approx(math.sin(angle), abs=1e-5)
            assert table[step, 2 * pair + 1].item() == pytest.approx(math.cos(angle), abs=1e-5)
    network = replace(SMALL, positions="fixed").build()
    assert "positions" not in network.state_dict()


def test_converter_says_what_is_missing() -> None:
    with pytest.raises(CheckpointError):
        reference.convert({}, {"n_heads": 8})
    assert not reference.recognises({"enc_embedding.weight": torch.zeros(1)})


def test_refusals() -> None:
    with pytest.raises(ConfigError, match="classes"):
        ClassifierConfig(classes=1)
    with pytest.raises(ConfigError, match="multiple of heads"):
        ClassifierConfig(width=10, heads=4)
    with pytest.raises(ConfigError, match="label_smoothing"):
        ClassifierTrainingConfig(label_smoothing=1.0)
    network = replace(SMALL, length=20).build()
    with pytest.raises(ConfigError, match="at most 20 steps"):
        network(batch())
    with pytest.raises(ConfigError, match="2 features"):
        given = batch()
        SMALL.build()(replace(given, values=given.values[..., :1]))


def training(steps: int, label_smoothing: float = 0.0) -> tuple[Trainer, ClassifierTraining]:
    optimizer = OptimizerConfig(kind="radam", learning_rate=1e-2)
    config = ClassifierTrainingConfig(network=SMALL, optimizer=optimizer, label_smoothing=label_smoothing)
    trainer = Trainer(
        max_steps=steps, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, num_sanity_val_steps=0,
    )  # fmt: skip
    return trainer, config.build()


def test_training_learns_and_validation_weighs_every_sequence() -> None:
    torch.manual_seed(0)
    trainer, module = training(30, label_smoothing=0.05)
    train = [batch(0, 16)] * 30
    held = [batch(64, 24), batch(88, 8)]  # of unequal size
    trainer.fit(module, DataLoader(train, batch_size=None), DataLoader(held, batch_size=None))
    found = {name: float(value) for name, value in trainer.callback_metrics.items()}
    with torch.no_grad():
        logits = [module.model.eval()(part) for part in held]
    right = sum(int((answer.argmax(-1) == part.labels).sum()) for answer, part in zip(logits, held, strict=True))
    assert found["val/accuracy"] == pytest.approx(right / 32)
    loss = torch.nn.functional.cross_entropy(torch.cat(logits), torch.cat([part.labels for part in held]))
    assert found["val/loss"] == pytest.approx(float(loss), rel=1e-4)
    with torch.no_grad():
        assert accuracy(module.model(train[0]), train[0]) > 0.7 > 0.5 > accuracy(SMALL.build()(train[0]), train[0])


def test_accuracy() -> None:
    given = batch(0, 4)
    logits = torch.eye(4)[given.labels]
    logits[0] = -logits[0]
    assert accuracy(logits, given).item() == 0.75


def test_unlabelled_sequences_are_not_trained_on() -> None:
    _, module = training(1)
    given = batch()
    with pytest.raises(PenstockError, match="without a class"):
        module.training_step(replace(given, labels=torch.full_like(given.labels, -1)), 0)
