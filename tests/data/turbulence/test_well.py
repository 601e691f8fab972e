"""Files in The Well's layout: what goes in comes out, whatever stops the writer on the way."""

import multiprocessing
import os
import signal
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

from data.atomic import DiskFullError
from data.errors import ConfigError, PenstockError, SchemaError
from data.grid import Grid, between_walls
from data.turbulence.well import UNFINISHED, WellFile, WellWriter
from tests.data.turbulence.well_files import CHANNEL, PLANE, VELOCITY, follows_the_well, frames, written

REPOSITORY = Path(__file__).parents[3]


def writer(path: Path, trajectories: int = 1, scalars: tuple[str, ...] = ()) -> WellWriter:
    return WellWriter(
        path,
        name="toy",
        grid=CHANNEL,
        components=VELOCITY,
        parameters={"nu": 0.01},
        trajectories=trajectories,
        scalars=scalars,
    )


class TestRoundTrip:
    def test_every_number_comes_back(self, tmp_path: Path) -> None:
        values = np.stack([frames(4), frames(4, seed=1)])
        file = WellFile(written(tmp_path / "a.hdf5", values, attributes={"units": "h", "modes": [3, 4]}))
        assert file.grid.same(CHANNEL)
        assert [axis.length for axis in file.grid.axes] == [axis.length for axis in CHANNEL.axes]  # not in float32
        assert (file.name, file.components, file.trajectories, file.lengths) == ("toy", VELOCITY, 2, (4, 4))
        assert (file.parameters, file.attributes) == ({"nu": 0.01}, {"units": "h", "modes": [3, 4]})
        np.testing.assert_array_equal(file.times, [[0, 0.5, 1, 1.5]] * 2)
        assert file.spacing == 0.5
        for trajectory in range(2):
            np.testing.assert_array_equal(file.read(trajectory, slice(None)), values[trajectory])
            np.testing.assert_array_equal(file.read(trajectory, slice(1, 4, 2)), values[trajectory, 1::2])
            np.testing.assert_array_equal(file.read(trajectory, [3, 0, 0]), values[trajectory, [3, 0, 0]])
            assert file.read(trajectory, slice(4, 9)).shape == (0, *file.frame_shape)

    def test_scalars_and_vectors_in_the_order_of_the_layout(self, tmp_path: Path) -> None:
        names = ("pressure", *VELOCITY)
        values = frames(2, components=4)[None]
        file = WellFile(written(tmp_path / "a.hdf5", values, components=names))
        assert file.components == names
        np.testing.assert_array_equal(file.read(0, slice(None)), values[0])
        with h5py.File(file.path) as raw:
            np.testing.assert_array_equal(raw["t0_fields/pressure"][()], values[..., 0])
            np.testing.assert_array_equal(raw["t1_fields/velocity"][()], values[..., 1:])

    def test_a_tensor_field(self, tmp_path: Path) -> None:
        names = ("stress_xx", "stress_xy", "stress_yx", "stress_yy")
        values = frames(2, PLANE, 4)[None]
        file = WellFile(written(tmp_path / "a.hdf5", values, PLANE, names))
        assert file.components == names
        np.testing.assert_array_equal(file.read(0, slice(None)), values[0])
        with h5py.File(file.path) as raw:
            assert raw["t2_fields/stress"].shape == (1, 2, 8, 8, 2, 2)

    def test_scalars_of_every_frame(self, tmp_path: Path) -> None:
        with writer(tmp_path / "a.hdf5", scalars=("u_tau",)) as open_writer:
            for k, frame in enumerate(frames(3)):
                open_writer.append(0, float(k), torch.from_numpy(frame), {"u_tau": 1 + k / 8})
        follows_the_well(tmp_path / "a.hdf5")
        with h5py.File(tmp_path / "a.hdf5") as raw:
            np.testing.assert_array_equal(raw["scalars/u_tau"][()], [[1, 1.125, 1.25]])

    def test_statistics_travel_with_the_frames(self, tmp_path: Path) -> None:
        with writer(tmp_path / "a.hdf5") as open_writer:
            open_writer.append(0, 0.0, frames(1)[0])
            open_writer.statistics["profiles"] = np.arange(6.0).reshape(2, 3)
        np.testing.assert_array_equal(WellFile(tmp_path / "a.hdf5").statistics["profiles"], [[0, 1, 2], [3, 4, 5]])

    def test_trajectories_of_different_length(self, tmp_path: Path) -> None:
        """One that blew up early: its missing frames are NaN, and nobody is given them."""
        long, short = frames(5), frames(2, seed=1)
        with writer(tmp_path / "a.hdf5", 2) as open_writer:
            for k, frame in enumerate(long):
                open_writer.append(0, 0.5 * k, frame)
            for k, frame in enumerate(short):
                open_writer.append(1, 0.5 * k, frame)
        file = WellFile(tmp_path / "a.hdf5")
        follows_the_well(file.path)
        assert file.lengths == (5, 2)
        assert file.spacing == 0.5
        np.testing.assert_array_equal(file.read(1, slice(None)), short)
        with h5py.File(file.path) as raw:
            assert np.isnan(raw["t1_fields/velocity"][1, 2:]).all()
        assert file.fingerprint == file.checked()

    def test_fields_that_do_not_vary_along_everything_are_spread(self, tmp_path: Path) -> None:
        path = written(tmp_path / "a.hdf5", np.stack([frames(3), frames(3)]))
        profile = np.arange(15, dtype=np.float32).reshape(3, 5)
        with h5py.File(path, "r+") as raw:
            raw["t0_fields"].attrs["field_names"] = np.array(["forcing", "mask"], object)
            forcing = raw["t0_fields"].create_dataset("forcing", data=profile)
            mask = raw["t0_fields"].create_dataset("mask", data=np.ones((6, 5, 4), np.float32))
            for dataset, time, axes in ((forcing, True, [False, True, False]), (mask, False, [True, True, True])):
                dataset.attrs["sample_varying"] = np.False_
                dataset.attrs["time_varying"] = np.bool_(time)
                dataset.attrs["dim_varying"] = np.array(axes)
        file = WellFile(path)
        assert file.components == ("forcing", *VELOCITY)  # what does not vary in time is no component
        expected = np.broadcast_to(profile[1:, None, :, None], (2, 6, 5, 4))
        np.testing.assert_array_equal(file.read(1, slice(1, 3))[..., 0], expected)

    def test_in_another_process_a_file_is_opened_anew(self, tmp_path: Path) -> None:
        values = frames(4)
        file = WellFile(written(tmp_path / "a.hdf5", values[None]))
        file.read(0, [0])  # the handle is open when the process is forked
        with multiprocessing.get_context("fork").Pool(2) as pool:
            found = pool.starmap(file.read, [(0, [k]) for k in range(4)])
        np.testing.assert_array_equal(np.concatenate(found), values)


class TestFingerprint:
    def test_follows_from_the_content_alone(self, tmp_path: Path) -> None:
        values = np.stack([frames(3), frames(3, seed=1)])
        one = WellFile(written(tmp_path / "a.hdf5", values))
        two = written(tmp_path / "b.hdf5", values, attributes={"made": "elsewhere"})
        with h5py.File(two, "r+") as raw:  # a file of others, which says no fingerprint
            del raw.attrs["fingerprint"]
        assert one.fingerprint == WellFile(two).fingerprint == one.checked()
        other = values.copy()
        other[1, 2, 0, 0, 0, 0] += 1e-3
        assert WellFile(written(tmp_path / "c.hdf5", other)).fingerprint != one.fingerprint

    def test_finds_values_that_were_changed_afterwards(self, tmp_path: Path) -> None:
        path = written(tmp_path / "a.hdf5", frames(3)[None])
        with h5py.File(path, "r+") as raw:
            raw["t1_fields/velocity"][0, 1, 0, 0, 0, 0] = 7
        with pytest.raises(SchemaError, match="not those that were written"):
            WellFile(path).checked()

    def test_a_flipped_bit_is_found_when_it_is_read(self, tmp_path: Path) -> None:
        path = written(tmp_path / "a.hdf5", frames(3)[None])
        with h5py.File(path) as raw:
            place = raw["t1_fields/velocity"].id.get_chunk_info(1).byte_offset
        raw_bytes = bytearray(path.read_bytes())
        raw_bytes[place + 5] ^= 1
        path.write_bytes(raw_bytes)
        file = WellFile(path)
        file.read(0, [0, 2])
        with pytest.raises(SchemaError, match="damaged"):
            file.read(0, [1])


class TestRefusals:
    def test_of_frames(self, tmp_path: Path) -> None:
        frame = frames(1)[0]
        bad = frame.copy()
        bad[0, 0, 0, 1] = np.nan
        huge = frame.astype(np.float64)
        huge[0, 0, 0, 0] = 1e39  # no float32
        open_writer = writer(tmp_path / "a.hdf5")
        open_writer.append(0, 1.0, frame)
        for time, values, words in (
            (2.0, bad, "not finite"),
            (2.0, huge, "not finite"),
            (np.inf, frame, "not finite"),
            (1.0, frame, "after the last"),
            (1 + 1e-9, frame, "after the last"),  # the same time in float32
            (2.0, frame[..., :2], "expected frames"),
        ):
            with np.errstate(over="ignore"), pytest.raises(PenstockError, match=words):
                open_writer.append(0, time, values)
        with pytest.raises(PenstockError, match="expected the scalars"):
            open_writer.append(0, 2.0, frame, {"u_tau": 1.0})
        assert open_writer.frames() == 1
        open_writer.close()

    @pytest.mark.parametrize(
        "wrong",
        [
            {"components": ("velocity_x", "velocity_y", "velocity_z", "pressure")},
            {"components": ()},
            {"components": ("p", "p")},
            {"attributes": {"nu": 1.0}},
            {"attributes": {"n_trajectories": 3}},
            {"scalars": ("nu",)},
            {"trajectories": 0},
        ],
    )
    def test_of_what_the_layout_has_no_place_for(self, tmp_path: Path, wrong: dict[str, object]) -> None:
        settings = {"name": "toy", "grid": CHANNEL, "components": VELOCITY, "parameters": {"nu": 0.1}, **wrong}
        with pytest.raises(ConfigError):
            WellWriter(tmp_path / "a.hdf5", **settings)  # type: ignore[arg-type]
        assert not list(tmp_path.iterdir())

    def test_of_a_second_writer(self, tmp_path: Path) -> None:
        first = writer(tmp_path / "a.hdf5")
        with pytest.raises(PenstockError, match="another process writes"):
            writer(tmp_path / "a.hdf5")
        first.close()
        writer(tmp_path / "a.hdf5").close()

    def test_of_a_trajectory_without_frames(self, tmp_path: Path) -> None:
        with pytest.raises(PenstockError, match=r"none in \[1\]"), writer(tmp_path / "a.hdf5", 2) as open_writer:
            open_writer.append(0, 0.0, frames(1)[0])
        assert not (tmp_path / "a.hdf5").exists()

    def test_of_unequal_spacing_and_a_single_frame(self, tmp_path: Path) -> None:
        with writer(tmp_path / "a.hdf5") as open_writer:
            for time, frame in zip((0.0, 1.0, 2.1), frames(3), strict=True):
                open_writer.append(0, time, frame)
        with pytest.raises(SchemaError, match=r"equally spaced in time, got spacings from 1 to 1\.1"):
            _ = WellFile(tmp_path / "a.hdf5").spacing
        with pytest.raises(SchemaError, match="at least 2 frames in time, got 1"):
            _ = WellFile(written(tmp_path / "b.hdf5", frames(1)[None])).spacing

    def test_late_times_in_single_precision_count_as_equally_spaced(self, tmp_path: Path) -> None:
        with writer(tmp_path / "a.hdf5") as open_writer:
            for k, frame in enumerate(frames(9)):
                open_writer.append(0, 4321 + 3 / 70 * k, frame)
        assert WellFile(tmp_path / "a.hdf5").spacing == pytest.approx(3 / 70, rel=1e-2)

    def test_of_a_skewed_or_varying_grid(self, tmp_path: Path) -> None:
        path = written(tmp_path / "a.hdf5", frames(2)[None])
        with h5py.File(path, "r+") as raw:
            raw["dimensions/x"][2] += 0.1
        with pytest.raises(SchemaError, match="a periodic axis of length"):
            WellFile(path)
        with h5py.File(path, "r+") as raw:
            raw.attrs["grid_type"] = "spherical"
        with pytest.raises(SchemaError, match="cartesian"):
            WellFile(path)


class TestBreakingOff:
    def test_keeps_the_frames_and_no_file(self, tmp_path: Path) -> None:
        path = tmp_path / "a.hdf5"
        with pytest.raises(ZeroDivisionError), writer(path) as open_writer:
            open_writer.append(0, 0.0, frames(2)[0])
            raise ZeroDivisionError
        assert not path.exists()
        assert WellWriter.unfinished(path)
        with WellWriter.resumed(path) as again:
            assert (again.frames(), again.last_time()) == (1, 0.0)
            again.append(0, 0.5, frames(2)[1])
        assert [p.name for p in tmp_path.iterdir()] == ["a.hdf5"]
        assert WellFile(path).fingerprint == WellFile(written(tmp_path / "b.hdf5", frames(2)[None])).fingerprint
        with pytest.raises(PenstockError, match="nothing unfinished"):
            WellWriter.resumed(path)

    def test_a_new_writer_begins_anew_and_an_older_file_stays_meanwhile(self, tmp_path: Path) -> None:
        path = written(tmp_path / "a.hdf5", frames(3)[None])
        before = WellFile(path).fingerprint
        half = writer(path)
        half.append(0, 0.0, frames(1, seed=5)[0])
        half.close()
        assert WellFile(path).fingerprint == before
        with writer(path) as anew:
            assert anew.frames() == 0
            anew.append(0, 0.0, frames(1, seed=6)[0])
        np.testing.assert_array_equal(WellFile(path).read(0, [0])[0], frames(1, seed=6)[0])

    @pytest.mark.parametrize("cut", [1, 12, 700])
    def test_a_torn_or_damaged_last_record_is_dropped(self, tmp_path: Path, cut: int) -> None:
        path = tmp_path / "a.hdf5"
        open_writer = writer(path)
        for k, frame in enumerate(frames(3)):
            open_writer.append(0, float(k), frame)
        open_writer.close()
        (log,) = (tmp_path / f"a.hdf5{UNFINISHED}").glob("*.frames")
        whole = log.read_bytes()
        log.write_bytes(whole[:-cut])
        again = WellWriter.resumed(path)
        assert again.frames() == 2
        again.close()
        damaged = bytearray(whole)
        damaged[-cut] ^= 4
        log.write_bytes(damaged)
        with WellWriter.resumed(path) as last:
            assert last.frames() == 2
            last.append(0, 2.0, frames(3)[2])
        np.testing.assert_array_equal(WellFile(path).read(0, slice(None)), frames(3))

    def test_truncating_goes_back_to_an_earlier_state(self, tmp_path: Path) -> None:
        path = tmp_path / "a.hdf5"
        with writer(path) as open_writer:
            for k, frame in enumerate(frames(4)):
                open_writer.append(0, float(k), frame)
            open_writer.truncate(0, 1)
            assert (open_writer.frames(), open_writer.last_time()) == (1, 0.0)
            open_writer.append(0, 1.0, frames(4)[3])
        np.testing.assert_array_equal(WellFile(path).read(0, slice(None)), frames(4)[[0, 3]])

    def test_a_full_disk_says_so_and_keeps_what_was_written(self, small_disk: Path) -> None:
        grid = Grid((CHANNEL.axes[0], between_walls("y", 33), CHANNEL.axes[2]))  # 9.5 kB a frame
        values = frames(200, grid)
        path = small_disk / "a.hdf5"
        open_writer = WellWriter(path, name="toy", grid=grid, components=VELOCITY, parameters={})
        with pytest.raises(DiskFullError):
            for k, frame in enumerate(values):
                open_writer.append(0, float(k), frame)
        count = open_writer.frames()
        assert 50 < count < 120
        with pytest.raises(DiskFullError):
            open_writer.finish()  # the copy has no room either
        open_writer.close()
        assert not path.exists()
        again = WellWriter.resumed(path)
        assert again.frames() == count
        np.testing.assert_array_equal(again.frame(0, count - 1), values[count - 1])
        again.close()

    def test_a_killed_process_loses_no_frame_that_it_was_told_of(self, tmp_path: Path) -> None:
        path = tmp_path / "a.hdf5"
        code = (
            "import sys; from pathlib import Path\n"
            "from tests.data.turbulence.test_well import writer\n"
            "from tests.data.turbulence.well_files import frames\n"
            "w = writer(Path(sys.argv[1]), 2)\n"
            "for k in range(100000):\n"
            "    w.append(k % 2, k / 2, frames(1, seed=k)[0]); print(k, flush=True)\n"
        )
        process = subprocess.Popen(
            [sys.executable, "-c", code, str(path)],
            cwd=REPOSITORY,
            stdout=subprocess.PIPE,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        assert process.stdout is not None
        told = 0
        while told < 40:
            told = int(process.stdout.readline())
        process.send_signal(signal.SIGKILL)
        rest = process.stdout.read().splitlines(keepends=True)
        process.wait()
        told = max([told, *(int(line) for line in rest if line.endswith(b"\n"))])
        assert not path.exists()
        with WellWriter.resumed(path) as again:
            count = again.frames(0) + again.frames(1)
            assert count >= told + 1
            for k in range(count, count + 3):
                again.append(k % 2, k / 2, frames(1, seed=k)[0])
        file = WellFile(path)
        for k in range(count + 3):
            np.testing.assert_array_equal(file.read(k % 2, [k // 2])[0], frames(1, seed=k)[0])
