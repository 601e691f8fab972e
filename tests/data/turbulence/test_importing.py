"""Fields of others: what they hold comes out, and what breaks a rule is refused with it."""

import json
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest

from data.errors import ConfigError, PenstockError
from data.grid import between_walls, fourier
from data.turbulence.importing import import_fields
from data.turbulence.source import ImportConfig
from data.turbulence.well_folder import SPLITS, WellFolder, files_of
from tests.data.turbulence.well_files import VELOCITY, folder, follows_the_well, frames, written

CONFIG = ImportConfig()


def rows(fields: WellFolder, split: str) -> list[np.ndarray]:
    return [file.read(k, slice(None)) for file in fields.files(split) for k in range(file.trajectories)]


def imported(source: Path, folder: Path, config: ImportConfig = CONFIG) -> tuple[WellFolder, list[str]]:
    result = import_fields(source, folder, config)
    for split in SPLITS:
        for path in files_of(folder, split):
            follows_the_well(path)
    found = WellFolder(folder)
    assert result.fingerprints == {split: [file.checked() for file in found.files(split)] for split in SPLITS}
    return found, result.notes


class TestWell:
    def test_a_single_file_is_cut_where_it_says(self, tmp_path: Path) -> None:
        values = frames(12)
        parts = {"train": [0, 6], "valid": [6, 8], "test": [9, 12]}
        source = written(tmp_path / "a.h5", values[None], attributes={"split_frames": json.dumps(parts), "units": "h"})
        found, notes = imported(source, tmp_path / "out")
        for split, (a, b) in parts.items():
            (row,) = rows(found, split)
            np.testing.assert_array_equal(row, values[a:b])
        np.testing.assert_array_equal(found.files("test")[0].times[0], [4.5, 5, 5.5])
        assert (found.attributes, found.parameters, notes) == ({"units": "h"}, {"nu": 0.01}, [])

    def test_a_single_trajectory_is_cut_along_time(self, tmp_path: Path) -> None:
        values = frames(20)
        found, _ = imported(written(tmp_path / "a.h5", values[None]), tmp_path / "out")
        assert [len(rows(found, split)[0]) for split in SPLITS] == [14, 3, 3]
        np.testing.assert_array_equal(np.concatenate([rows(found, split)[0] for split in SPLITS]), values)

    def test_many_trajectories_are_held_out_as_wholes(self, tmp_path: Path) -> None:
        values = np.stack([frames(3, seed=k) for k in range(10)])
        config = ImportConfig(validation=0.2, test=0.1)
        found, _ = imported(written(tmp_path / "a.h5", values), tmp_path / "out", config)
        assert [len(rows(found, split)) for split in SPLITS] == [7, 2, 1]
        np.testing.assert_array_equal(np.stack([row for split in SPLITS for row in rows(found, split)]), values)

    def test_a_few_frames_are_all_trained_on_and_it_says_so(self, tmp_path: Path) -> None:
        found, notes = imported(written(tmp_path / "a.h5", frames(4)[None]), tmp_path / "out")
        assert [len(found.files(split)) for split in SPLITS] == [1, 0, 0]
        assert "all are trained on" in notes[0]

    def test_a_folder_of_files_is_one_source(self, tmp_path: Path) -> None:
        for k in range(4):
            written(tmp_path / "in" / f"run{k}.hdf5", frames(3, seed=k)[None])
        found, _ = imported(tmp_path / "in", tmp_path / "out")
        assert [len(rows(found, split)) for split in SPLITS] == [2, 1, 1]
        np.testing.assert_array_equal(rows(found, "test")[0], frames(3, seed=3))

    @pytest.mark.parametrize("inner", ["", "data"])
    def test_a_folder_in_the_layout_is_copied_with_its_statistics(self, tmp_path: Path, inner: str) -> None:
        source = folder(tmp_path / "in")
        kinds = ("mean", "std", "rms", "mean_delta", "std_delta", "rms_delta")
        moments = "".join(f"{kind}: {{velocity: [1, 2, 3]}}\n" for kind in kinds)
        (source / "stats.yaml").write_text(moments)
        found, _ = imported(source / inner, tmp_path / "out")
        assert found.fingerprint == WellFolder(source).fingerprint
        assert (tmp_path / "out" / "stats.yaml").read_text() == moments
        for path in (source / "data").rglob("*.hdf5"):
            assert (tmp_path / "out" / path.relative_to(source)).read_bytes() == path.read_bytes()

    def test_statistics_of_the_unfiltered_flow_come_along(self, tmp_path: Path) -> None:
        source = written(tmp_path / "a.h5", frames(8)[None], statistics={"y": np.arange(3.0)})
        found, _ = imported(source, tmp_path / "out")
        np.testing.assert_array_equal(found.files("valid")[0].statistics["y"], [0, 1, 2])

    @pytest.mark.parametrize(
        "text",
        [
            "{",
            "[1]",
            '{"train": [0, 5]}',
            '{"train": [0, 5], "valid": [4, 8], "test": [8, 12]}',
            '{"train": [0, 8], "valid": [8, 9], "test": [9, 12]}',
            '{"train": [0, 8], "valid": [8, 10], "test": [10, 14]}',
        ],
    )
    def test_parts_that_cannot_be_cut_are_refused(self, tmp_path: Path, text: str) -> None:
        source = written(tmp_path / "a.h5", frames(12)[None], attributes={"split_frames": text})
        with pytest.raises(PenstockError, match="'split_frames' to give first frame and end"):
            import_fields(source, tmp_path / "out", CONFIG)


def cutout(
    path: Path,
    steps: dict[int, np.ndarray],
    dataset: str = "channel",
    variable: str = "Velocity",
    **coordinates: np.ndarray,
) -> Path:
    """As pyJHTDB writes them: [z, y, x, component], 1-D coordinates, the data set's name as an attribute."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as file:
        file.attrs["dataset"] = np.bytes_(dataset)
        for index, values in steps.items():
            file[f"{variable}_{index:04d}"] = values.astype(np.float32)
        for name, points in coordinates.items():
            file[f"{name}coor"] = points.astype(np.float32)
    return path


WALL = np.array([0.1, 0.15, 0.3, 0.8])
BOX = {"x": np.arange(6) * 0.5, "y": WALL, "z": 1 + np.arange(5) * 0.25}


def jhtdb_steps(count: int, first: int = 1, by: int = 1) -> dict[int, np.ndarray]:
    generator = np.random.default_rng(0)
    return {first + by * k: generator.normal(size=(5, 4, 6, 3)) for k in range(count)}


class TestJHTDB:
    def test_axes_are_turned_and_time_is_that_of_the_data_set(self, tmp_path: Path) -> None:
        steps = jhtdb_steps(3, first=7, by=5)
        found, notes = imported(cutout(tmp_path / "c.h5", steps, **BOX), tmp_path / "out")
        (row,) = rows(found, "train")
        assert row.shape == (3, 6, 4, 5, 3)
        for k, values in enumerate(steps.values()):
            for x, y, z in ((0, 0, 0), (5, 1, 2), (3, 3, 4)):
                np.testing.assert_array_equal(row[k, x, y, z], values[z, y, x].astype(np.float32))
        assert found.components == VELOCITY
        assert found.spacing == pytest.approx(5 * 0.0065)
        assert found.parameters["nu"] == pytest.approx(5e-5)
        np.testing.assert_allclose(found.grid.axes[1].points, WALL, atol=1e-7)  # irregular
        assert found.files("train")[0].open_axes == ("x", "y", "z")
        assert any("neither periodic nor between walls: x, y, z" in note for note in notes)

    def test_a_step_in_each_file(self, tmp_path: Path) -> None:
        steps = jhtdb_steps(4)
        for index, values in steps.items():
            cutout(tmp_path / "in" / f"c{9 - index}.h5", {index: values}, **BOX)  # names in another order
        found, _ = imported(tmp_path / "in", tmp_path / "out")
        expected = [np.transpose(values, (2, 1, 0, 3)).astype(np.float32) for values in steps.values()]
        np.testing.assert_array_equal(rows(found, "train")[0], np.stack(expected))

    def test_whole_domains_are_periodic_and_the_channel_has_walls(self, tmp_path: Path) -> None:
        whole = {"x": fourier("x", 6, 8 * np.pi).points, "y": between_walls("y", 4, origin=-1).points,
                 "z": fourier("z", 5, 3 * np.pi).points}  # fmt: skip
        found, _ = imported(cutout(tmp_path / "c.h5", jhtdb_steps(2), **whole), tmp_path / "out")
        assert [axis.periodic for axis in found.grid.axes] == [True, False, True]
        assert found.grid.axes[0].length == 8 * np.pi
        assert found.grid.walls == 1
        assert found.files("train")[0].open_axes == ()

    def test_of_an_unknown_set_the_user_says_it(self, tmp_path: Path) -> None:
        source = cutout(tmp_path / "c.h5", jhtdb_steps(2), "mixing", **BOX)
        config = ImportConfig(spacing=0.04, periodic=("x", "z"), nu=0.003)
        found, _ = imported(source, tmp_path / "out", config)
        assert [axis.periodic for axis in found.grid.axes] == [True, False, True]
        assert (found.spacing, found.parameters) == (pytest.approx(0.04), {"nu": 0.003})
        _, notes = imported(source, tmp_path / "again")
        assert any("importing.spacing" in note for note in notes)

    def test_compressed_netcdf_as_giverny_writes_it(self, tmp_path: Path) -> None:
        path = cutout(tmp_path / "c.nc", {}, **BOX)
        steps = jhtdb_steps(2)
        with h5py.File(path, "r+") as file:
            for axis in "xyz":
                file[f"{axis}coor"].make_scale()
            for index, values in steps.items():
                data = file.create_dataset(f"Velocity_{index:04d}", data=values.astype("f4"), compression="gzip")
                for k, axis in enumerate("zyx"):
                    data.dims[k].attach_scale(file[f"{axis}coor"])
        found, _ = imported(path, tmp_path / "out")
        np.testing.assert_array_equal(rows(found, "train")[0][1], np.transpose(steps[2], (2, 1, 0, 3)).astype("f4"))


class TestArrays:
    def array(self, path: Path, shape: tuple[int, ...]) -> tuple[Path, np.ndarray]:
        values = np.random.default_rng(0).normal(size=shape).astype(np.float32)
        np.save(path, values)
        return path, values

    def test_runs_are_trajectories_and_the_pressure_is_left_out(self, tmp_path: Path) -> None:
        path, values = self.array(tmp_path / "fdns.npy", (5, 3, 6, 5, 4, 4))
        found, notes = imported(path, tmp_path / "out")
        assert [len(rows(found, split)) for split in SPLITS] == [3, 1, 1]
        np.testing.assert_array_equal(np.stack([r for s in SPLITS for r in rows(found, s)]), values[..., :3])
        assert [axis.length for axis in found.grid.axes] == [4 * np.pi, 2, 4 * np.pi / 3]
        assert [axis.periodic for axis in found.grid.axes] == [True, False, True]
        np.testing.assert_allclose(found.grid.axes[1].points, [0, 0.5, 1, 1.5, 2])
        assert found.spacing == 1
        for words in ("importing.wall_points", "pressure", "importing.spacing"):
            assert sum(words in note for note in notes) == 1

    def test_one_run_and_what_the_user_says(self, tmp_path: Path) -> None:
        path, values = self.array(tmp_path / "fdns.npy", (20, 6, 5, 4, 3))
        config = ImportConfig(lengths=(6.0, 2.0, 3.0), wall_points=(0, 0.3, 1, 1.7, 2), spacing=0.0429, nu=1 / 180)
        found, notes = imported(path, tmp_path / "out", config)
        np.testing.assert_array_equal(rows(found, "train")[0], values[:14])
        np.testing.assert_allclose(found.grid.axes[1].points, config.wall_points, atol=1e-7)
        assert found.spacing == pytest.approx(0.0429)
        assert found.parameters == {"nu": 1 / 180}
        assert notes == ["1 runs of 20 frames."]

    def test_of_double_precision_is_rounded(self, tmp_path: Path) -> None:
        values = np.random.default_rng(0).normal(size=(6, 6, 5, 4, 3))
        np.save(tmp_path / "a.npy", values)
        found, _ = imported(tmp_path / "a.npy", tmp_path / "out")
        np.testing.assert_array_equal(rows(found, "train")[0], values[:2].astype(np.float32))


def nan_in_a_file(path: Path) -> Path:
    source = folder(path / "in")
    with h5py.File(source / "data/valid/valid_2.hdf5", "r+") as file:
        del file.attrs["fingerprint"]
        file["t1_fields/velocity"][0, 4, 1, 2, 3, 1] = np.nan
    return source


def nan_in_an_array(path: Path) -> Path:
    values = np.ones((6, 6, 5, 4, 3), np.float32)
    values[4, 0, 0, 0, 2] = np.nan
    np.save(path / "a.npy", values)
    return path / "a.npy"


def saved(path: Path, values: np.ndarray, name: str = "a.npy") -> Path:
    np.save(path / name, values, allow_pickle=True)
    return path / name


def text(path: Path, name: str) -> Path:
    (path / name).write_text("velocity 1 2 3\n" * 300)
    return path / name


def cut_short(path: Path) -> Path:
    whole = written(path / "a.hdf5", frames(9)[None])
    whole.write_bytes(whole.read_bytes()[:-2000])
    return whole


def mixed(path: Path) -> Path:
    written(path / "in" / "a.hdf5", frames(4)[None])
    cutout(path / "in" / "b.h5", jhtdb_steps(2), **BOX)
    return path / "in"


def without(path: Path, attribute: str) -> Path:
    source = written(path / "a.hdf5", frames(4)[None])
    with h5py.File(source, "r+") as file:
        del file.attrs[attribute]
    return source


def two_regions(path: Path) -> Path:
    cutout(path / "in" / "a.h5", {1: np.ones((5, 4, 6, 3))}, **BOX)
    cutout(path / "in" / "b.h5", {2: np.ones((5, 4, 6, 3))}, **{**BOX, "x": BOX["x"] + 1})
    return path / "in"


def twice(path: Path) -> Path:
    for name in "ab":
        cutout(path / "in" / f"{name}.h5", {1: np.ones((5, 4, 6, 3))}, **BOX)
    return path / "in"


HOSTILE: list[tuple[Callable[[Path], Path], str]] = [
    (lambda p: p / "nothing", "expected fields in The Well's layout"),
    (lambda p: p, "expected fields in The Well's layout"),
    (lambda p: text(p, "a.hdf5"), "not an HDF5 file"),
    (lambda p: text(p, "a.npy"), "expected a .npy array of numbers"),
    (cut_short, "truncated or damaged"),
    (lambda p: without(p, "dataset_name"), "must have the attribute 'dataset_name'"),
    (lambda p: without(p, "n_trajectories"), "must have the attribute 'n_trajectories'"),
    (nan_in_a_file, "velocity_y in frame 4 of trajectory 0 holds NaN"),
    (nan_in_an_array, "velocity_z in frame 4 of trajectory 0 holds NaN"),
    (lambda p: written(p / "a.hdf5", frames(1)[None]), "at least 2 frames in time, got 1"),
    (lambda p: saved(p, np.ones((1, 6, 5, 4, 3), np.float32)), "at least 2 frames in time, got 1"),
    (lambda p: cutout(p / "a.h5", jhtdb_steps(1), **BOX), "at least 2 frames in time, got 1"),
    (lambda p: saved(p, np.ones((4, 6, 5, 4, 5), np.float32)), "expected 3 or 4 components"),
    (lambda p: saved(p, np.ones((6, 5, 4, 3), np.float32)), r"expected real numbers \[run, frame, x, y, z"),
    (lambda p: saved(p, np.ones((4, 6, 5, 4, 3), np.int64)), "expected real numbers"),
    (lambda p: saved(p, np.array([{}, 1], object)), "expected a .npy array of numbers"),
    (mixed, "expected files of one kind"),
    (two_regions, "one grid"),
    (twice, "time index 1 is also in a.h5"),
    (lambda p: cutout(p / "a.h5", {1: np.ones((5, 4, 6, 1)), 2: np.ones((5, 4, 6, 1))}, **BOX), "expected '/Velocity"),
    (lambda p: cutout(p / "a.h5", {1: np.ones((6, 4, 5, 3)), 2: np.ones((6, 4, 5, 3))}, **BOX), "z, y, x, component"),
    (lambda p: cutout(p / "a.h5", {1: np.ones((5, 4, 6, 1))}, variable="Pressure", **BOX), "got Pressure"),
    (lambda p: cutout(p / "a.h5", jhtdb_steps(2), x=BOX["x"], y=BOX["y"]), "the coordinates along z"),
    (lambda p: cutout(p / "a.h5", {k: np.ones((5, 4, 6, 3)) for k in (1, 2, 4)}, **BOX), "equally spaced"),
]  # fmt: skip


@pytest.mark.parametrize(("make", "words"), HOSTILE, ids=[words for _, words in HOSTILE])
def test_names_the_broken_rule(tmp_path: Path, make: Callable[[Path], Path], words: str) -> None:
    (tmp_path / "source").mkdir()
    source = make(tmp_path / "source")
    before = {p: p.read_bytes() for p in source.parent.rglob("*") if p.is_file()}
    with pytest.raises(PenstockError, match=f"(?s){words}"):
        import_fields(source, tmp_path / "out", CONFIG)
    assert before == {p: p.read_bytes() for p in source.parent.rglob("*") if p.is_file()}


@pytest.mark.parametrize(
    "wrong",
    [{"validation": 0.6, "test": 0.5}, {"test": -0.1}, {"lengths": (1.0, 2.0)}, {"spacing": 0.0}, {"nu": -1.0}],
)
def test_settings_are_checked(wrong: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match="importing"):
        ImportConfig(**wrong)  # type: ignore[arg-type]
