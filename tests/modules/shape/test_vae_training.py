"""The losses of the shape VAE against hand calculations, and a short training that must learn."""

import math
from dataclasses import replace

import pytest
import torch
from lightning import Trainer
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from data.batch import SurfaceBatch
from data.errors import ConfigError
from modules.layers.optimization import OptimizerConfig
from modules.shape.initialisation import LocalInitialisation
from modules.shape.training_config import ShapeVAELossConfig, ShapeVAETrainingConfig
from modules.shape.vae import ShapeVAEConfig
from modules.shape.vae_training import ShapeVAETraining

MAJOR, MINOR = 0.6, 0.3
"""Radii of the torus about the z axis."""


def torus_distance(points: Tensor) -> Tensor:
    """Exact signed distance, positive outside."""
    ring = points[..., :2].norm(dim=-1) - MAJOR
    return torch.stack([ring, points[..., 2]], dim=-1).norm(dim=-1) - MINOR


def torus_batch(seeds: Tensor, points: int = 256) -> SurfaceBatch:
    surfaces, nears, volumes = [], [], []
    for seed in seeds.tolist():
        source = torch.Generator().manual_seed(seed)
        around, along = 2 * math.pi * torch.rand(2, points, generator=source)
        normals = torch.stack([around.cos() * along.cos(), around.cos() * along.sin(), around.sin()], dim=-1)
        centres = MAJOR * torch.stack([along.cos(), along.sin(), torch.zeros(points)], dim=-1)
        surface = centres + MINOR * normals
        surfaces.append(torch.cat([surface, normals], dim=-1))
        nears.append(surface + 0.05 * torch.randn(points, 3, generator=source))
        volumes.append(2 * torch.rand(points, 3, generator=source) - 1)
    surface, near, volume = torch.stack(surfaces), torch.stack(nears), torch.stack(volumes)
    return SurfaceBatch(
        ids=tuple(map(str, seeds.tolist())),
        seeds=seeds,
        surface=surface,
        near_points=near,
        near_distances=torus_distance(near),
        volume_points=volume,
        volume_distances=torus_distance(volume),
        on_surface=surface,
    )


class Batches(Dataset[SurfaceBatch]):
    """`count` batches of the torus, each with its own points."""

    def __init__(self, count: int, batch: int = 4) -> None:
        self.count, self.batch = count, batch

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> SurfaceBatch:
        return torus_batch(torch.arange(index * self.batch, (index + 1) * self.batch))


SMALL = ShapeVAETrainingConfig(
    network=ShapeVAEConfig(
        tokens=16,
        latent_channels=16,
        encoder_width=48,
        encoder_layers=1,
        decoder_width=64,
        decoder_layers=1,
        heads=4,
        frequencies=5,
        truncation=0.2,
    ),
    loss=ShapeVAELossConfig(kl=1e-4),
    optimizer=OptimizerConfig(kind="muon", learning_rate=3e-3),
)


def trained(config: ShapeVAETrainingConfig, steps: int) -> ShapeVAETraining:
    module = config.build(seed=0)
    trainer = Trainer(
        max_steps=steps, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False
    )
    trainer.fit(module, DataLoader(Batches(steps), batch_size=None))
    return module


def test_learns_a_torus() -> None:
    """Better than the best centred ball, which is what a network that ignores the surface's detail settles for."""
    module = trained(SMALL, 60)
    batch = torus_batch(torch.arange(900, 904))
    truth, radii = batch.volume_distances < 0, batch.volume_points.norm(dim=-1)
    balls = [radii < r for r in torch.linspace(0.1, 1.2, 45)]
    baseline = max((ball & truth).sum() / (ball | truth).sum() for ball in balls)
    with torch.no_grad():
        measured = module.measures(batch, module.model.encode(batch.surface, seeds=batch.seeds))
    assert measured["volume_iou"] > max(0.75, baseline + 0.2)
    assert measured["near_sign_accuracy"] > 0.7


def test_the_gradient_losses_train_too() -> None:
    config = replace(SMALL, loss=replace(SMALL.loss, normal=0.1, eikonal=0.05, gradient_every=2, gradient_points=32))
    module = trained(config, 4)
    assert all(torch.isfinite(p).all() for p in module.parameters())


def test_the_same_seed_gives_the_same_weights() -> None:
    first, second = trained(SMALL, 3), trained(SMALL, 3)
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))


def test_distance_loss_is_l1_plus_l2_of_the_truncated_distance() -> None:
    module = replace(SMALL, loss=replace(SMALL.loss, one_sided=False)).build()
    distances, field = torch.tensor([[0.1, -0.5, 0.04]]), torch.tensor([[0.2, -1.5, 0.0]])
    errors = [0.2 - 0.5, -1.5 + 1, 0.0 - 0.2]
    expected = sum(abs(e) + e * e for e in errors) / 3
    assert module.distance_loss(field, distances).item() == pytest.approx(expected)


def test_one_sided_loss_asks_nothing_beyond_the_truncation() -> None:
    module = SMALL.build()
    distances = torch.tensor([[0.5, 0.5, -0.5, -0.5]])
    field = torch.tensor([[3.0, 0.4, -2.0, 0.5]])
    errors = [0.0, 0.6, 0.0, 1.5]
    assert module.distance_loss(field, distances).item() == pytest.approx(sum(e + e * e for e in errors) / 4)


def test_gradient_terms_vanish_for_the_true_distance(monkeypatch: pytest.MonkeyPatch) -> None:
    """The field distance / truncation has the normal as direction, and length one in units of distance."""
    module = SMALL.build()
    batch = torus_batch(torch.arange(2))
    monkeypatch.setattr(module.model, "field", lambda decoded, points, **_: torus_distance(points) / 0.2)
    terms = module.gradient_terms(batch, module.model.decode(torch.zeros(2, 16, 16)))
    assert terms["normal"].item() == pytest.approx(0, abs=1e-5)
    assert terms["eikonal"].item() == pytest.approx(0, abs=1e-5)


def test_measures_are_perfect_for_the_true_distance(monkeypatch: pytest.MonkeyPatch) -> None:
    module = SMALL.build()
    batch = torus_batch(torch.arange(2))
    monkeypatch.setattr(module.model, "field", lambda decoded, points, **_: torus_distance(points))
    measured = module.measures(batch, module.model.encode(batch.surface))
    assert measured["volume_iou"] == 1
    assert measured["near_sign_accuracy"] == 1


def test_training_needs_a_truncation() -> None:
    with pytest.raises(ConfigError, match="truncation"):
        ShapeVAETrainingConfig(network=ShapeVAEConfig())


def test_the_default_initialisation_can_be_chosen() -> None:
    plain, local = replace(SMALL, initialisation=None).build(), SMALL.build()
    assert not torch.equal(plain.model.moments.weight, local.model.moments.weight)
    assert SMALL.initialisation == LocalInitialisation()
