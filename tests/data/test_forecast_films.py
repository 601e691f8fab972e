"""Films: the reader of digit images, moving digits, a user's own arrays, and samples for the data module."""

import gzip
import struct
from pathlib import Path

import numpy as np
import pytest
import torch

from data.datamodule import ItemDataModule
from data.errors import ConfigError, PenstockError
from data.forecast.films import FilmDataset, FilmPreparationConfig, digit_images, prepare_films
from data.forecast.idx import read_images
from data.splits import SplitConfig
from data.synthetic.films import SyntheticFilmsConfig, bounced, drawn_digits, film, scaled

SMALL = SyntheticFilmsConfig(count=6, size=32, seen=4, predicted=3)


def idx_bytes(images: np.ndarray) -> bytes:
    return struct.pack(">4B3I", 0, 0, 8, 3, *images.shape) + images.tobytes()


@pytest.mark.parametrize("compressed", [True, False])
def test_idx_images_come_back(tmp_path: Path, compressed: bool):
    images = np.random.default_rng(0).integers(0, 256, (5, 28, 28), np.uint8)
    path = tmp_path / "digits"
    path.write_bytes(gzip.compress(idx_bytes(images)) if compressed else idx_bytes(images))
    np.testing.assert_array_equal(read_images(path), images)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "empty file"),
        (struct.pack(">4BI", 0, 0, 8, 1, 5) + bytes(5), "not the labels"),
        (idx_bytes(np.zeros((2, 28, 28), np.uint8))[:-1], "cut off or damaged"),
        (idx_bytes(np.zeros((2, 28, 28), np.uint8))[:9], "cut off or damaged"),
        (struct.pack(">4B3I", 0, 0, 8, 3, 2**31, 2**31, 2), "cut off or damaged"),
        (gzip.compress(bytes(1000))[:-9], "cannot read"),
        (b"\x1f\x8b" + bytes(20), "cannot read"),
        (b"a table of numbers", "expected an idx file"),
    ],
)
def test_broken_idx_files_are_refused(tmp_path: Path, content: bytes, message: str):
    path = tmp_path / "digits"
    path.write_bytes(content)
    with pytest.raises(PenstockError, match=message):
        read_images(path)
    with pytest.raises(PenstockError, match="missing"):
        read_images(tmp_path / "other")


def test_digits_go_straight_and_bounce():
    for seed in range(20):
        path = bounced(np.random.default_rng(seed), 200)
        assert path.min() >= 0 and path.max() <= 1
        steps = np.abs(np.diff(path, axis=0))
        inside = ((path[1:] > 0.1) & (path[1:] < 0.9) & (path[:-1] > 0.1) & (path[:-1] < 0.9)).all(axis=1)
        np.testing.assert_allclose(np.linalg.norm(steps[inside], axis=1), 0.1, atol=1e-12)


def test_a_film_is_a_function_of_seed_and_index():
    digits = digit_images(SMALL)
    first = film(SMALL, digits, 3)
    np.testing.assert_array_equal(film(SMALL, digits, 3), first)
    assert first.shape == (7, 1, 32, 32)
    assert not np.array_equal(film(SMALL, digits, 4), first)
    assert not np.array_equal(film(SyntheticFilmsConfig(seed=1, size=32, seen=4, predicted=3), digits, 3), first)
    longer = SyntheticFilmsConfig(count=99, size=32, seen=9, predicted=9)
    np.testing.assert_array_equal(film(longer, digits, 3)[0, 0].max(), first[0, 0].max())


def test_overlap_shows_the_brighter_pixel_and_nothing_is_lost():
    digits = np.full((1, 14, 14), 200, np.uint8)
    found = film(SyntheticFilmsConfig(size=32, digits=1, seen=4, predicted=3), digits, 0)
    assert (np.count_nonzero(found, axis=(1, 2, 3)) == 14 * 14).all()
    assert set(np.unique(film(SMALL, digits, 0))) == {0, 200}


def test_scaling_averages_and_drawn_digits_differ():
    digits = np.arange(4, dtype=np.uint8).reshape(1, 2, 2).repeat(14, axis=1).repeat(14, axis=2)
    np.testing.assert_array_equal(scaled(digits, 32)[0, ::7, ::7], [[0, 1], [2, 3]])
    np.testing.assert_array_equal(scaled(digits, 64), digits)
    drawn = drawn_digits(0)
    assert drawn.shape == (200, 28, 28)
    assert len(np.unique(drawn, axis=0)) == 200
    share = (drawn > 127).mean(axis=(1, 2))
    assert share.min() > 0.02 and share.max() < 0.35


def test_prepared_films_are_reused_until_something_changes(tmp_path: Path):
    first = prepare_films(SMALL, tmp_path)
    again = prepare_films(SMALL, tmp_path)
    assert not first.reused and again.reused and again.ids == first.ids
    assert "6 clips of 6 films" in first.summary()
    other = prepare_films(SyntheticFilmsConfig(count=5, size=32, seen=4, predicted=3), tmp_path)
    assert not other.reused and len(other.ids) == 5


def test_digits_of_an_images_file(tmp_path: Path):
    images = np.zeros((1, 28, 28), np.uint8)
    images[:, 4:24, 4:24] = 99
    (tmp_path / "digits").write_bytes(idx_bytes(images))
    config = SyntheticFilmsConfig(count=2, images=tmp_path / "digits")
    dataset = FilmDataset(prepare_films(config, tmp_path / "out").path)
    assert dataset.load(0, 0).frames.unique().tolist() == [0.0, pytest.approx(99 / 255)]
    (tmp_path / "digits").write_bytes(idx_bytes(np.zeros((1, 20, 20), np.uint8)))
    with pytest.raises(PenstockError, match="28 x 28"):
        prepare_films(config, tmp_path / "out")


def test_a_user_s_own_films(tmp_path: Path):
    rng = np.random.default_rng(0)
    source = tmp_path / "films"
    (source / "more").mkdir(parents=True)
    long = rng.integers(0, 256, (15, 6, 8), np.uint8)
    np.save(source / "long.npy", long)
    np.savez(source / "two.npz", a=rng.random((7, 1, 6, 8)), b=rng.random((8, 6, 8), np.float32))
    np.save(source / "more" / "many.npy", rng.integers(0, 256, (7, 20, 6, 8), np.uint8))
    np.save(source / "short.npy", long[:3])
    np.save(source / "large.npy", np.zeros((9, 8, 8), np.uint8))
    np.save(source / "hot.npy", rng.random((9, 6, 8)) * 300)
    np.save(source / "whole.npy", np.zeros((9, 6, 8), np.int64))
    np.save(source / "pickled.npy", np.array([{}]), allow_pickle=True)
    (source / "broken.npy").write_bytes(b"\x93NUMPY nonsense")
    prepared = prepare_films(source, tmp_path / "out", FilmPreparationConfig(seen=4, predicted=3))
    assert len(prepared.ids) == 2 + 2 + 20
    assert {"long:0000", "long:0001", "two#a", "two#b", "many#00007"} <= set(prepared.ids)
    for name, reason in {"short": "3 frames", "large": "one size", "hot": "from", "whole": "convert", "broken": "numpy",
                         "pickled": "pickle"}.items():  # fmt: skip
        assert reason in prepared.refused[f"{name}.npy"]
    dataset = FilmDataset(prepared.path)
    assert dataset.groups[dataset.ids.index("long:0001")] == "long"
    frames = dataset.load(dataset.ids.index("long:0001"), 0).frames
    torch.testing.assert_close(frames[:, 0] * 255, torch.from_numpy(long[7:14]).float())
    again = prepare_films(source, tmp_path / "out", FilmPreparationConfig(seen=4, predicted=3))
    assert again.reused and again.refused == prepared.refused


def test_nothing_to_use_is_one_clear_message(tmp_path: Path):
    (tmp_path / "films").mkdir()
    with pytest.raises(PenstockError, match="there are none"):
        prepare_films(tmp_path / "films", tmp_path / "out")
    with pytest.raises(PenstockError, match="Check its path"):
        prepare_films(tmp_path / "nowhere", tmp_path / "out")
    np.save(tmp_path / "films" / "flat.npy", np.zeros((4, 4)))
    with pytest.raises(PenstockError, match=r"all 1 were refused; the first, flat.npy: expected \[time"):
        prepare_films(tmp_path / "films", tmp_path / "out")
    assert not (tmp_path / "out" / "films.h5").exists()


def test_samples_through_the_data_module(tmp_path: Path):
    dataset = FilmDataset(prepare_films(SMALL, tmp_path).path)
    assert dataset.shape == (7, 1, 32, 32) and dataset.seen == 4
    module = ItemDataModule(dataset, SplitConfig(validation=0.2, test=0.2), 2, seed=0, groups=dataset.groups)
    batch = next(iter(module.train_dataloader()))
    assert batch.past.shape == (2, 4, 1, 32, 32) and batch.future.shape == (2, 3, 1, 32, 32)
    expected = film(SMALL, digit_images(SMALL), int(batch.ids[0].removeprefix("digits-")))
    torch.testing.assert_close(
        torch.cat([batch.past, batch.future], dim=1)[0] * 255, torch.from_numpy(expected).float()
    )


def test_settings_that_cannot_be():
    with pytest.raises(ConfigError, match="32 or 64"):
        SyntheticFilmsConfig(size=48)
    with pytest.raises(ConfigError, match="seen"):
        FilmPreparationConfig(seen=0)
