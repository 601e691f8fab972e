"""Flow training: randomness from seeds alone, and a small flow that really learns."""

from collections.abc import Iterator

import pytest
import torch
from lightning.pytorch import Trainer
from torch import Tensor
from torch.utils.data import DataLoader

from data.batch import LatentBatch
from data.errors import ConfigError, PenstockError
from modules.layers.optimization import OptimizerConfig
from modules.layers.random import mix, randn_per_sample
from modules.shape.flow_training import NOISE_STREAM, ShapeFlowTraining, latent_statistics
from modules.shape.sampling import LatentSamplingConfig, sample_latents
from modules.shape.training_config import ShapeFlowTrainingConfig
from modules.shape.transformer import ShapeTransformerConfig

TOKENS, CHANNELS = 4, 3
CENTRES = torch.tensor([[2.0, 0.0, -1.0], [-2.0, 1.0, 3.0]])


def clusters(count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Sets of latents around one of two centres, and which."""
    source = torch.Generator().manual_seed(seed)
    labels = torch.randint(2, (count,), generator=source)
    return CENTRES[labels][:, None] + 0.3 * torch.randn(count, TOKENS, CHANNELS, generator=source), labels


def batch_of(latents: Tensor, labels: Tensor, seed: int = 0) -> LatentBatch:
    ids = tuple(str(i) for i in range(len(latents)))
    seeds = torch.tensor([mix(seed, i) for i in range(len(latents))])
    return LatentBatch(ids=ids, seeds=seeds, latents=latents, labels=labels)


def batches(steps: int) -> Iterator[LatentBatch]:
    latents, labels = clusters(1000, seed=0)
    for step in range(steps):
        rows = (torch.arange(32) + 32 * step) % 1000
        yield batch_of(latents[rows], labels[rows], seed=step)


def training(**changes: object) -> ShapeFlowTraining:
    torch.manual_seed(0)
    network = ShapeTransformerConfig(
        latent_channels=CHANNELS, width=32, layers=3, heads=2, condition_width=None, classes=2
    )
    settings = {"optimizer": OptimizerConfig(kind="muon", learning_rate=3e-3)} | changes
    module = ShapeFlowTrainingConfig(network=network, **settings).build()  # type: ignore[arg-type]
    module.model.set_latent_statistics(*latent_statistics(clusters(1000, seed=0)[0]))
    return module


def fit(module: ShapeFlowTraining, steps: int, folder: str) -> Trainer:
    trainer = Trainer(
        max_steps=steps,
        default_root_dir=folder,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    latents, labels = clusters(64, seed=5)
    held_out = DataLoader([batch_of(latents, labels)], batch_size=None)
    trainer.fit(module, DataLoader(list(batches(steps)), batch_size=None), held_out)
    return trainer


def sliced_wasserstein(a: Tensor, b: Tensor) -> float:
    """Mean distance of the sorted projections on 64 fixed directions."""
    directions = torch.randn(a[0].numel(), 64, generator=torch.Generator().manual_seed(0))
    directions = directions / directions.norm(dim=0)
    projected = [(x.flatten(1) @ directions).sort(dim=0).values for x in (a, b)]
    return (projected[0] - projected[1]).abs().mean().item()


def test_the_flow_learns_two_clusters(tmp_path):
    """Some 15 s of one core.

    Held out: velocity error below half of what the mean velocity scores (the best that looks at nothing), distance of
    samples to the data below half of the distance of noise, and samples with a label in the cluster of that label.
    """
    module = training()
    trainer = fit(module, 300, str(tmp_path))
    latents, labels = clusters(512, seed=7)
    batch = batch_of(latents, labels, seed=99)
    with torch.no_grad():
        error = module.velocity_loss(batch).mean().item()
    x1 = module.model.normalise(latents)
    velocity = x1 - randn_per_sample(batch.seeds, x1.shape[1:], stream=NOISE_STREAM)
    baseline = (velocity - velocity.mean(dim=0)).square().mean().item()
    assert error < 0.5 * baseline
    assert trainer.callback_metrics["val/velocity_mse"] < 0.5 * baseline

    heun = LatentSamplingConfig(steps=12, solver="heun")
    drawn = sample_latents(module.model, heun, seed=3, indices=range(256), tokens=TOKENS)
    noise = module.model.denormalise(torch.randn(drawn.shape, generator=torch.Generator().manual_seed(1)))
    held_out = latents[: len(drawn)]
    assert sliced_wasserstein(drawn, held_out) < 0.5 * sliced_wasserstein(noise, held_out)

    wanted = [k % 2 for k in range(64)]
    labelled = sample_latents(module.model, heun, seed=3, indices=range(64), tokens=TOKENS, labels=wanted)
    nearest = torch.cdist(labelled.mean(dim=1), CENTRES).argmin(dim=1)
    assert (nearest == torch.tensor(wanted)).float().mean() > 0.95


def test_the_same_seeds_give_the_same_weights(tmp_path):
    first, second = training(), training()
    for seed, module in enumerate((first, second)):
        torch.manual_seed(seed)  # the global generator must not matter
        fit(module, 4, str(tmp_path))
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))


def test_the_loss_of_a_sample_depends_on_its_own_seed_alone():
    module, (latents, labels) = training(), clusters(6, seed=2)
    batch = batch_of(latents, labels)
    part = LatentBatch(ids=batch.ids[2:4], seeds=batch.seeds[2:4], latents=latents[2:4], labels=labels[2:4])
    with torch.no_grad():
        torch.testing.assert_close(module.velocity_loss(part), module.velocity_loss(batch)[2:4])
        assert torch.equal(module.velocity_loss(batch), module.velocity_loss(batch))
        assert not torch.equal(module.velocity_loss(batch, draw=1), module.velocity_loss(batch))


@pytest.mark.parametrize("dropout", [0.0, 1.0])
def test_dropped_conditions_teach_the_class_tokens_nothing(dropout: float):
    module, (latents, labels) = training(condition_dropout=dropout), clusters(8, seed=2)
    torch.nn.init.normal_(module.model.output.weight)
    module.log = lambda *args, **kwargs: None  # type: ignore[method-assign, assignment]
    module.training_step(batch_of(latents, labels), 0).backward()
    assert module.model.class_tokens is not None
    gradient = module.model.class_tokens.weight.grad
    assert gradient is not None
    assert (gradient.abs().sum() == 0) == (dropout == 1.0)


def test_statistics_in_portions_equal_those_of_the_whole():
    latents = 1e4 + torch.randn(50, TOKENS, CHANNELS, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    mean, std = latent_statistics(latents[i] for i in range(50))
    torch.testing.assert_close(mean, latents.mean(dim=(0, 1)).float())
    torch.testing.assert_close(std, latents.std(dim=(0, 1), correction=0).float(), rtol=1e-5, atol=0)
    with pytest.raises(PenstockError, match="no latents"):
        latent_statistics([])


def test_user_mistakes_are_named():
    with pytest.raises(ConfigError, match=r"condition_dropout.*1\.5"):
        ShapeFlowTrainingConfig(condition_dropout=1.5)
    with pytest.raises(ConfigError, match="validation_draws"):
        ShapeFlowTrainingConfig(validation_draws=0)
