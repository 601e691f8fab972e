"""Pictures as conditions, from a folder of files to samples that follow them."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from data.shape import LatentSamples
from data.synthetic.shape import SyntheticShapesConfig, synthetic_ids
from flows.run import Run

transformers = pytest.importorskip("transformers", reason="needs penstock[vision]")
Image = pytest.importorskip("PIL.Image", reason="needs penstock[vision]")

Penstock = Callable[..., tuple[int, str, str]]


@pytest.fixture
def encoder(tmp_path: Path) -> Path:
    """A small DINOv2 with random weights, as `save_pretrained` leaves it."""
    torch.manual_seed(0)
    config = transformers.Dinov2Config(
        hidden_size=24, num_hidden_layers=1, num_attention_heads=2, image_size=28, patch_size=14
    )
    transformers.Dinov2Model(config).save_pretrained(tmp_path / "encoder", safe_serialization=True)
    return tmp_path / "encoder"


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """One picture of noise per solid of the debug preset."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for item in synthetic_ids(SyntheticShapesConfig(count=8)):
        Image.fromarray(rng.integers(0, 255, (32, 40, 3), dtype=np.uint8)).save(folder / f"{item}.png")
    return folder


def settings(encoder: Path, pictures: Path) -> list[str]:
    return [
        *("--preset", "debug", "--images.folder", str(pictures), "--images.encoder.model", str(encoder)),
        *("--images.encoder.size", "28", "--flow.network.condition_width", "24", "--flow.condition_dropout", "0.2"),
    ]


def test_pictures_reach_the_latents_the_network_and_the_samples(
    penstock: Penstock, runs: Path, encoder: Path, pictures: Path
) -> None:
    chosen = sorted(pictures.iterdir())
    code, _, err = penstock("train", "shape.flow", *settings(encoder, pictures), "--name", "seen")
    assert code == 0, err
    run = Run(runs / "seen")
    stored = LatentSamples(run.path / "latents.h5", draw=False)
    conditions = [stored.load(k, 0).condition for k in range(len(stored))]
    assert all(c is not None and c.shape == (1 + 2 * 2, 24) for c in conditions)
    assert not torch.equal(conditions[0], conditions[1])

    drawn = []
    for picture in chosen[:2]:
        code, _, err = penstock("sample", "seen", "--sample.image", str(picture), "--sample.guidance", "2")
        assert code == 0, err
        drawn.append(np.load(run.samples / "latents.npy"))
    assert not np.allclose(drawn[0], drawn[1])


def test_a_missing_picture_is_named_before_anything_is_encoded(
    penstock: Penstock, runs: Path, encoder: Path, pictures: Path
) -> None:
    next(pictures.glob("box-*")).unlink()
    code, _, err = penstock("train", "shape.flow", *settings(encoder, pictures), "--name", "blind")
    assert code == 2
    assert "no picture for box-" in err
    assert not (runs / "blind" / "latents.h5").exists()


def test_pictures_need_a_network_that_reads_them(penstock: Penstock, pictures: Path) -> None:
    code, _, err = penstock("train", "shape.flow", "--preset", "debug", "--images.folder", str(pictures))
    assert code == 2
    assert "flow.network.condition_width" in err
