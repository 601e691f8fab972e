"""Four real meshes in one small VAE: does it converge? (30 CPU minutes allowed, about 5 taken)."""

import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from lightning import Trainer
from torch.utils.data import DataLoader, Dataset

from data.batch import SurfaceBatch, TriangleMesh
from data.shape import PrepareConfig, prepare_item, read_mesh
from data.shape.distance import unsigned_distances
from data.shape.sampling import sample_surface
from modules.geometry.surface import ExtractionConfig, extract_surface
from modules.layers.optimization import OptimizerConfig
from modules.layers.random import generator, mix
from modules.shape.initialisation import LocalInitialisation
from modules.shape.training_config import ShapeVAELossConfig, ShapeVAETrainingConfig
from modules.shape.vae import ShapeVAE, ShapeVAEConfig

MESHES = Path(__file__).resolve().parents[4] / "shared" / "datasets" / "meshes"
NAMES = ("spot.obj", "rounded_cube.obj", "featuretype.stl", "quadknot.obj")
STEPS = 1000

RECIPE = ShapeVAETrainingConfig(
    network=ShapeVAEConfig(
        tokens=128,
        latent_channels=24,
        encoder_width=64,
        encoder_layers=2,
        decoder_width=128,
        decoder_layers=3,
        heads=4,
        frequencies=7,
        truncation=0.1,
    ),
    initialisation=LocalInitialisation(sharpness=24.0, encoder_sharpness=48.0),
    loss=ShapeVAELossConfig(near=1.0, volume=0.5, kl=1e-5),
    optimizer=OptimizerConfig(kind="muon", learning_rate=2.5e-3),
)
SAMPLING = PrepareConfig(
    surface_points=60_000, sharp_points=0, near_points=100_000, volume_points=100_000, near_sigmas=(0.02, 0.08)
)


class Draws(Dataset[SurfaceBatch]):
    """`count` batches, each holding all objects with fresh draws of their points."""

    def __init__(self, items: list[dict[str, np.ndarray]], count: int) -> None:
        names = ("surface", "near", "volume")
        self.stored = {name: [torch.from_numpy(item[name]) for item in items] for name in names}
        self.count = count

    def __len__(self) -> int:
        return self.count

    def draw(self, name: str, rows: int, source: torch.Generator) -> torch.Tensor:
        return torch.stack([p[torch.randint(len(p), (rows,), generator=source)] for p in self.stored[name]])

    def __getitem__(self, index: int) -> SurfaceBatch:
        source = generator(mix(0, index))
        near, volume = self.draw("near", 1536, source), self.draw("volume", 512, source)
        return SurfaceBatch(
            ids=NAMES,
            seeds=torch.tensor([mix(index, k) for k in range(len(NAMES))]),
            surface=self.draw("surface", 1024, source),
            near_points=near[..., :3],
            near_distances=near[..., 3],
            volume_points=volume[..., :3],
            volume_distances=volume[..., 3],
            on_surface=self.draw("surface", 1, source),
        )


def both_ways(one: TriangleMesh, other: TriangleMesh) -> float:
    """Mean of the exact distances from 20,000 points of each surface to the other one."""
    means = []
    for source, target in ((one, other), (other, one)):
        points = sample_surface(source.vertices, source.faces, 20_000, np.random.default_rng(0))[:, :3]
        means.append(unsigned_distances(target.vertices.astype(np.float64), target.faces, points).mean())
    return float(np.mean(means))


def reconstruction(model: ShapeVAE, item: dict[str, np.ndarray]) -> tuple[float, float]:
    """Point-to-surface distance and volume IoU (over the stored volume points) of the decoded posterior mean."""
    surface = torch.from_numpy(item["surface"][None, :1024])
    volume = torch.from_numpy(item["volume"])
    with torch.no_grad():
        decoded = model.decode(model.encode(surface).mean)

        def field(points: torch.Tensor) -> torch.Tensor:
            return model.field(decoded, points[None])[0]

        inside = torch.cat([field(part) for part in volume[:, :3].split(8192)]) < 0
        mesh, _ = extract_surface(field, ExtractionConfig(resolution=128))
    truth = volume[:, 3] < 0
    iou = (inside & truth).sum() / (inside | truth).sum()
    return both_ways(mesh, TriangleMesh(item["vertices"], item["faces"])), iou.item()


@pytest.fixture
def one_thread() -> Iterator[None]:
    """So small a network is as fast on one thread, and waiting threads would count as CPU seconds."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.slow
@pytest.mark.timeout(2400)
def test_overfits_four_shapes(one_thread: None) -> None:
    missing = [name for name in NAMES if not (MESHES / name).is_file()]
    if missing:
        pytest.skip(f"needs the meshes {', '.join(missing)} in {MESHES}")
    items = [prepare_item(read_mesh(MESHES / name), SAMPLING, name) for name in NAMES]
    module = RECIPE.build(seed=0)
    trainer = Trainer(
        max_steps=STEPS, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False
    )
    start = time.process_time()
    trainer.fit(module, DataLoader(Draws(items, STEPS), batch_size=None))
    spent = time.process_time() - start
    module.eval()
    distances, ious = zip(*(reconstruction(module.model, item) for item in items), strict=True)
    report = ", ".join(f"{n}: {d:.4f} / {i:.3f}" for n, d, i in zip(NAMES, distances, ious, strict=True))
    print(f"{spent:.0f} CPU seconds; point-to-surface distance / IoU: {report}")
    assert spent < 1800
    assert np.mean(distances) <= 1 / 128, report
    assert np.mean(ious) >= 0.95, report
