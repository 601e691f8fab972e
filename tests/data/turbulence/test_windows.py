"""Folders in The Well's layout, their moments, and the windows cut from them."""

from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from data.datamodule import ItemDataModule
from data.errors import ConfigError, SchemaError
from data.grid import Grid, fourier
from data.turbulence.well import WellFile
from data.turbulence.well_folder import FieldMoments, RunningMoments, WellFolder, write_stats
from data.turbulence.windows import FieldWindows
from tests.data.turbulence.well_files import CHANNEL, PLANE, VELOCITY, folder, frames, written


@pytest.fixture
def channel(tmp_path: Path) -> WellFolder:
    return WellFolder(folder(tmp_path))


class TestFolder:
    def test_says_what_its_files_hold(self, channel: WellFolder) -> None:
        assert channel.grid.same(CHANNEL)
        assert (channel.name, channel.components, channel.spacing) == ("toy", VELOCITY, 0.5)
        assert [len(channel.files(split)) for split in ("train", "valid", "test")] == [2, 1, 1]
        assert [file.trajectories for file in channel.files("train")] == [2, 1]

    def test_its_fingerprint_follows_from_the_content_and_the_parts(self, channel: WellFolder, tmp_path: Path) -> None:
        assert WellFolder(folder(tmp_path / "again")).fingerprint == channel.fingerprint
        moved = folder(tmp_path / "moved")
        (moved / "data/valid/valid_2.hdf5").rename(moved / "data/test/valid_2.hdf5")
        assert WellFolder(moved).fingerprint != channel.fingerprint

    @pytest.mark.parametrize(
        ("other", "words"),
        [
            ({"grid": Grid((fourier("x", 6, 4.0), *CHANNEL.axes[1:]))}, "expected the grid of"),
            ({"grid": Grid((fourier("x", 8, 4 * np.pi), *CHANNEL.axes[1:]))}, "must share one grid"),
            ({"components": ("a", "b", "c")}, "with velocity_x, velocity_y, velocity_z as in"),
            ({"name": "other"}, "expected the data set 'toy'"),
            ({"spacing": 0.25}, r"expected frames 0\.5 apart"),
        ],
    )
    def test_refuses_a_file_that_does_not_fit(self, tmp_path: Path, other: dict[str, object], words: str) -> None:
        path = folder(tmp_path)
        grid = other.get("grid", CHANNEL)
        assert isinstance(grid, Grid)
        written(path / "data/test/z.hdf5", frames(3, grid)[None], **{"grid": grid, **other})  # type: ignore[arg-type]
        with pytest.raises(SchemaError, match=words):
            WellFolder(path)

    def test_refuses_a_folder_without_training_files(self, tmp_path: Path) -> None:
        with pytest.raises(SchemaError, match=r"in .*data/train, there are none"):
            WellFolder(tmp_path)


class TestMoments:
    def test_equal_those_of_all_training_values_at_once(self, channel: WellFolder) -> None:
        rows = [f.read(k, slice(None)).astype(float) for f in channel.files("train") for k in range(f.trajectories)]
        every, changes = np.concatenate(rows), np.concatenate([np.diff(row, axis=0) for row in rows])
        found = write_stats(channel.path)
        axes = (0, 1, 2, 3)
        for part, values in (("", every), ("_delta", changes)):
            np.testing.assert_allclose(getattr(found, "mean" + part), values.mean(axes), rtol=1e-12, atol=1e-14)
            np.testing.assert_allclose(getattr(found, "std" + part), values.std(axes), rtol=1e-12)
            np.testing.assert_allclose(getattr(found, "rms" + part), np.sqrt((values**2).mean(axes)), rtol=1e-12)

    def test_a_large_mean_does_not_drown_a_small_spread(self) -> None:
        values = 1e6 + np.random.default_rng(0).normal(size=(50, 4, 4, 1)) * 1e-3
        moments = RunningMoments()
        for k, frame in enumerate(values):
            moments.add(frame, first=k == 0)
        np.testing.assert_allclose(moments.finished().std, values.std(), rtol=1e-6)

    def test_equal_those_that_came_with_the_shared_set(self, datasets: Path) -> None:
        shared = datasets / "turbulence" / "kolmogorov2d"
        if not shared.is_dir():
            pytest.skip("the shared fields are not here")
        found = WellFolder(shared)
        moments = RunningMoments()
        for file in found.files("train"):
            for trajectory in range(file.trajectories):
                for k, frame in enumerate(file.read(trajectory, slice(None))):
                    moments.add(frame, first=k == 0)
        for name, expected in vars(found.statistics).items():
            np.testing.assert_allclose(getattr(moments.finished(), name), expected, rtol=1e-9, atol=1e-12)

    def test_are_stored_as_the_well_stores_them(self, tmp_path: Path) -> None:
        names = ("pressure", *VELOCITY)
        found = write_stats(folder(tmp_path, components=names))
        stored = yaml.safe_load((tmp_path / "stats.yaml").read_text())
        assert set(stored) == {"mean", "std", "rms", "mean_delta", "std_delta", "rms_delta"}
        assert stored["std"] == {"pressure": found.std[0], "velocity": found.std[1:].tolist()}
        again = WellFolder(tmp_path).statistics
        assert all((getattr(again, name) == value).all() for name, value in vars(found).items())

    def test_a_tensor_is_nested(self) -> None:
        names = ("stress_xx", "stress_xy", "stress_yx", "stress_yy")
        text = FieldMoments(*[np.arange(4.0)] * 6).to_yaml(names, ("x", "y"))
        assert yaml.safe_load(text)["mean"] == {"stress": [[0, 1], [2, 3]]}

    @pytest.mark.parametrize(
        "text",
        [
            "{",
            "mean: 3",
            "{mean: {vorticity: 0}, std: {vorticity: 1}}",
            "{mean: {vorticity: .nan}, std: {vorticity: 1}, rms: {vorticity: 1}, mean_delta: {vorticity: 0}, "
            "std_delta: {vorticity: 1}, rms_delta: {vorticity: 1}}",
            "{mean: {vorticity: 0}, std: {vorticity: -1}, rms: {vorticity: 1}, mean_delta: {vorticity: 0}, "
            "std_delta: {vorticity: 1}, rms_delta: {vorticity: 1}}",
            "{mean: {vorticity: [0, 0]}, std: {vorticity: 1}, rms: {vorticity: 1}, mean_delta: {vorticity: 0}, "
            "std_delta: {vorticity: 1}, rms_delta: {vorticity: 1}}",
        ],
    )
    def test_that_cannot_be_used_are_refused(self, tmp_path: Path, text: str) -> None:
        path = folder(tmp_path, PLANE, ("vorticity",))
        (path / "stats.yaml").write_text(text)
        with pytest.raises(SchemaError, match=r"stats.yaml: expected"):
            _ = WellFolder(path).statistics


class TestWindows:
    @pytest.mark.parametrize(("history", "horizon", "stride"), [(1, 1, 1), (2, 3, 1), (1, 2, 2), (2, 1, 3), (1, 6, 1)])
    def test_hold_every_stretch_of_a_trajectory_once_and_no_border(
        self, channel: WellFolder, history: int, horizon: int, stride: int
    ) -> None:
        windows = FieldWindows(channel, history, horizon, stride, augment="none")
        parts = {"train": "train", "validation": "valid", "test": "test"}
        for split, part in parts.items():
            expected = []
            for file in channel.files(part):
                for trajectory in range(file.trajectories):
                    row = file.read(trajectory, slice(None))
                    steps = range(0, (history + horizon) * stride, stride)
                    expected += [row[[k + s for s in steps]] for k in range(7 - steps[-1])]
            found = [windows.load(k, 0).frames for k in windows.splits[split]]
            np.testing.assert_array_equal(np.stack(found), np.stack(expected))
        assert sorted(k for members in windows.splits.values() for k in members) == list(range(len(windows)))
        assert len(set(windows.ids)) == len(windows)
        assert windows.spacing == 0.5 * stride

    def test_ids_do_not_depend_on_the_length_of_a_window(self, channel: WellFolder) -> None:
        assert set(FieldWindows(channel, 2, 3).ids) < set(FieldWindows(channel, 1, 1).ids)

    def test_only_the_frames_of_a_window_are_read(self, channel: WellFolder, monkeypatch: pytest.MonkeyPatch) -> None:
        asked = []
        monkeypatch.setattr(WellFile, "read", lambda self, k, frames: asked.append((k, frames)) or frames_of(frames))
        frames_of = lambda s: np.zeros((len(range(s.start, s.stop, s.step)), 6, 5, 4, 3), np.float32)
        FieldWindows(channel, 1, 2, 2, augment="none").load(3, 0)
        assert asked == [(1, slice(0, 5, 2))]

    def test_become_a_batch(self, channel: WellFolder) -> None:
        windows = FieldWindows(channel, 2, 1, augment="none")
        samples = [windows.load(k, 10 + k) for k in (4, 0)]
        batch = windows.collate(samples)
        assert (batch.past.shape, batch.future.shape) == ((2, 2, 6, 5, 4, 3), (2, 1, 6, 5, 4, 3))
        assert batch.ids == (windows.ids[4], windows.ids[0])
        assert batch.seeds.tolist() == [14, 10]
        assert batch.past.dtype == torch.float32
        assert batch.grid.same(CHANNEL)
        np.testing.assert_array_equal(torch.cat([batch.past, batch.future], 1)[1], samples[1].frames)

    def test_of_training_are_moved_by_the_seed_alone(self, channel: WellFolder) -> None:
        windows = FieldWindows(channel, 1, 2)
        first = windows.splits["train"][0]
        one, same, other = (windows.load(first, seed).frames for seed in (5, 5, 6))
        np.testing.assert_array_equal(one, same)
        assert not np.array_equal(one, other)
        plain = FieldWindows(channel, 1, 2, augment="none")
        assert not np.array_equal(one, plain.load(first, 5).frames)
        for split in ("validation", "test"):
            for k in windows.splits[split]:
                np.testing.assert_array_equal(windows.load(k, 5).frames, plain.load(k, 7).frames)

    def test_all_frames_of_a_window_are_moved_alike(self, channel: WellFolder) -> None:
        long, short = FieldWindows(channel, 1, 3), FieldWindows(channel, 1, 1)
        np.testing.assert_array_equal(long.load(0, 3).frames[:2], short.load(0, 3).frames)

    def test_by_shifts_alone_keep_the_profile(self, channel: WellFolder) -> None:
        windows, plain = (FieldWindows(channel, 1, 1, augment=kind) for kind in ("shifts", "none"))
        for seed in range(10):
            moved = windows.load(0, seed).frames.mean(axis=(1, 3))
            np.testing.assert_allclose(moved, plain.load(0, 0).frames.mean(axis=(1, 3)), atol=1e-6)

    def test_a_flow_of_which_nothing_is_known_stays(self, tmp_path: Path) -> None:
        windows = FieldWindows(WellFolder(folder(tmp_path, PLANE, ("vorticity",))), 1, 1)
        np.testing.assert_array_equal(windows.load(0, 1).frames, windows.load(0, 2).frames)

    def test_a_kolmogorov_flow_is_moved(self, tmp_path: Path) -> None:
        path = folder(tmp_path, PLANE, ("vorticity",), parameters={"forcing_wavenumber": 2.0})
        windows = FieldWindows(WellFolder(path), 1, 1)
        assert len({windows.load(0, seed).frames.tobytes() for seed in range(300)}) == 8 * 2 * 4  # x, y, reflections

    def test_that_are_longer_than_any_trajectory_are_refused(self, channel: WellFolder) -> None:
        with pytest.raises(ConfigError, match="spans 8 frames, but the longest training trajectory has 7"):
            FieldWindows(channel, 4, 4)
        for wrong in ((0, 1, 1), (1, 0, 1), (1, 1, 0)):
            with pytest.raises(ConfigError, match="at least 1"):
                FieldWindows(channel, *wrong)

    def test_are_trained_on_in_their_given_splits(self, channel: WellFolder) -> None:
        windows = FieldWindows(channel, 1, 1)
        module = ItemDataModule(windows, None, 4, seed=0, splits=windows.splits)
        seen = [name for batch in module.train_dataloader() for name in batch.ids]
        assert len(seen) == 16 == len(set(seen))
        assert all(name.startswith("train/") for name in seen)
        assert [name for batch in module.val_dataloader() for name in batch.ids] == [
            windows.ids[k] for k in windows.splits["validation"]
        ]
        assert next(name for batch in module.test_dataloader() for name in batch.ids).startswith("test/")
