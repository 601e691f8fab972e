"""Samples and latents as items: a draw depends on (item, seed) alone."""

import numpy as np
import pytest
import torch

from data.batch import LatentBatch, SurfaceBatch
from data.datamodule import ItemDataset
from data.errors import ConfigError
from data.shape import LatentSamples, PrepareConfig, ShapeSamples, ShapeSamplesConfig, prepare, write_latents
from data.shape.distance import signed_distances, unsigned_distances
from data.synthetic.shape import SyntheticShapesConfig

POINTS = PrepareConfig(surface_points=300, sharp_points=64, near_points=128, volume_points=128, processes=1)
DRAW = ShapeSamplesConfig(input_points=100, near=50, volume=60, on=70)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    return prepare(SyntheticShapesConfig(count=6), POINTS, tmp_path_factory.mktemp("prepared")).path


def test_batch_of_points_has_the_labels_of_its_meshes(prepared):
    samples = ShapeSamples(prepared, DRAW)
    assert isinstance(samples, ItemDataset)
    batch = samples.collate([samples.load(k, 7 + k) for k in range(6)])
    assert isinstance(batch, SurfaceBatch) and batch.ids == samples.ids
    assert batch.seeds.tolist() == [7, 8, 9, 10, 11, 12]
    assert batch.surface.shape == (6, 100, 6) and batch.on_surface.shape == (6, 70, 6)
    for k in range(6):
        mesh = samples.mesh(k)
        exact = signed_distances(mesh.vertices, mesh.faces, batch.near_points[k].numpy())
        assert np.abs(batch.near_distances[k].numpy() - exact).max() < 1e-6
        exact = signed_distances(mesh.vertices, mesh.faces, batch.volume_points[k].numpy())
        assert np.abs(batch.volume_distances[k].numpy() - exact).max() < 1e-6
        for points in (batch.surface[k], batch.on_surface[k]):
            assert unsigned_distances(mesh.vertices, mesh.faces, points[:, :3].numpy()).max() < 1e-6
            assert torch.allclose(points[:, 3:].norm(dim=1), torch.ones(len(points)), atol=1e-5)


def test_a_draw_depends_on_item_and_seed_alone(prepared):
    first, second = ShapeSamples(prepared, DRAW), ShapeSamples(prepared, DRAW, cache_bytes=0)
    first.load(0, 1)
    for field in ("surface", "near", "volume", "on"):
        assert torch.equal(getattr(first.load(2, 5), field), getattr(second.load(2, 5), field))
        assert not torch.equal(getattr(first.load(2, 5), field), getattr(first.load(2, 6), field))


def test_no_point_twice_where_enough_are_stored(prepared):
    sample = ShapeSamples(prepared, DRAW).load(5, 3)
    assert len(np.unique(torch.cat([sample.surface, sample.on])[:, :3].numpy(), axis=0)) >= 170 - 50
    assert len(np.unique(sample.near.numpy(), axis=0)) == 50
    more = ShapeSamples(prepared, ShapeSamplesConfig(near=500)).load(5, 3)
    assert more.near.shape == (500, 4)


def test_latents_round_trip_and_posterior(tmp_path):
    rng = np.random.default_rng(0)
    mean = rng.standard_normal((3, 400, 16)).astype(np.float32)
    logvar = np.full_like(mean, np.log(0.25))
    items = [(f"i{k}", {"mean": mean[k], "logvar": logvar[k], "label": np.int32(k)}) for k in range(3)]
    write_latents(tmp_path / "latents.h5", items, vae="v", samples="s", classes=("a", "b", "c"))
    means = LatentSamples(tmp_path / "latents.h5", draw=False)
    assert isinstance(means, ItemDataset)
    batch = means.collate([means.load(k, 0) for k in range(3)])
    assert isinstance(batch, LatentBatch) and np.array_equal(batch.latents.numpy(), mean)
    assert batch.condition is None and batch.labels is not None and batch.labels.tolist() == [0, 1, 2]
    draws = LatentSamples(tmp_path / "latents.h5")
    noise = draws.load(1, 9).latents.numpy() - mean[1]
    assert noise.std() == pytest.approx(0.5, rel=0.03) and abs(noise.mean()) < 0.03
    assert torch.equal(draws.load(1, 9).latents, draws.load(1, 9).latents)


def test_mistaken_counts_are_named():
    with pytest.raises(ConfigError):
        ShapeSamplesConfig(near=0)
    with pytest.raises(ConfigError):
        ShapeSamplesConfig(sharp_fraction=1.5)
