"""Checkpoints under faults: kills, truncation, a full disk, hostile pickles; and exported models."""

import errno
import hashlib
import json
import os
import signal
import subprocess
import sys
import time
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch import nn

from data.atomic import DiskFullError
from data.checkpoint import (
    AtomicCheckpointIO,
    CheckpointWarning,
    checkpoint_step,
    find_problem,
    load_checkpoint,
    load_training_weights,
    newest_valid,
)
from data.errors import CheckpointError
from data.model_folder import read_model, write_model
from tests.data.toy_training import Regression, data, trainer

REPOSITORY = Path(__file__).resolve().parents[2]


def save(folder: Path, step: int) -> Path:
    path = folder / f"step-{step:08d}.ckpt"
    AtomicCheckpointIO().save_checkpoint({"state_dict": {"weight": torch.full((64,), float(step))}}, path)
    return path


class Hostile:
    """Unpickled without restriction, this makes the file `executed`."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        return Path.touch, (self.trace,)


class TestSaving:
    def test_gives_back_what_was_saved_and_leaves_nothing_else(self, tmp_path: Path) -> None:
        path = save(tmp_path, 7)
        assert torch.equal(load_checkpoint(path)["state_dict"]["weight"], torch.full((64,), 7.0))
        assert sorted(file.name for file in tmp_path.iterdir()) == ["step-00000007.ckpt", "step-00000007.ckpt.sha256"]

    def test_checksum_is_one_that_sha256sum_reads(self, tmp_path: Path) -> None:
        path = save(tmp_path, 7)
        checked = subprocess.run(["sha256sum", "-c", path.name + ".sha256"], cwd=tmp_path, capture_output=True)
        assert checked.returncode == 0

    def test_of_what_could_not_be_loaded_without_pickle_is_refused_and_keeps_the_old_file(self, tmp_path: Path) -> None:
        path = save(tmp_path, 7)
        with pytest.raises(CheckpointError, match=r"pathlib\.PosixPath"):
            AtomicCheckpointIO().save_checkpoint({"folder": Path("x")}, path)
        assert find_problem(path) is None
        assert len(list(tmp_path.iterdir())) == 2

    @pytest.mark.parametrize("moment", range(4))
    def test_over_an_older_file_leaves_a_good_one_whenever_it_is_cut_short(
        self, tmp_path: Path, moment: int, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Renames are the moments at which the folder changes: stop before each in turn."""
        path = save(tmp_path, 7)
        real, count = Path.replace, 0

        def stop(self: Path, target: Path) -> Path:
            nonlocal count
            if count == moment:
                os._exit(9)
            count += 1
            return real(self, target)

        child = os.fork()
        if child == 0:
            monkeypatch.setattr(Path, "replace", stop)
            AtomicCheckpointIO().save_checkpoint({"state_dict": {"weight": torch.zeros(3)}}, path)
            os._exit(0)
        _, status = os.waitpid(child, 0)
        assert os.waitstatus_to_exitcode(status) == (9 if moment < 3 else 0)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert newest_valid(tmp_path) == path
        assert len(load_checkpoint(path)["state_dict"]["weight"]) == (64 if moment < 2 else 3)

    @pytest.mark.parametrize("after", [0, 100, 1000])
    def test_on_a_full_disk_says_so_and_keeps_the_checkpoints_before(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, after: int
    ) -> None:
        save(tmp_path, 1)
        real_open = Path.open

        def full(self: Path, mode: str = "r", *args: Any, **options: Any) -> Any:
            file = real_open(self, mode, *args, **options)
            return FullDisk(file, after) if "w" in mode else file

        monkeypatch.setattr(Path, "open", full)
        with pytest.raises(DiskFullError, match=r"disk full.*step-00000002\.ckpt"):
            save(tmp_path, 2)
        assert newest_valid(tmp_path) == tmp_path / "step-00000001.ckpt"
        assert len(list(tmp_path.iterdir())) == 2

    def test_on_a_real_full_disk_too(self, small_disk: Path) -> None:
        save(small_disk, 1)
        with pytest.raises(DiskFullError, match="disk full"):
            AtomicCheckpointIO().save_checkpoint({"weight": torch.zeros(1_000_000)}, small_disk / "step-00000002.ckpt")
        assert newest_valid(small_disk) == small_disk / "step-00000001.ckpt"
        assert len(list(small_disk.iterdir())) == 2

    def test_removal_takes_the_checksum_with_it(self, tmp_path: Path) -> None:
        AtomicCheckpointIO().remove_checkpoint(save(tmp_path, 7))
        assert not list(tmp_path.iterdir())


class FullDisk:
    """A file on a disk with `room` bytes left."""

    def __init__(self, file: Any, room: int) -> None:
        self.file, self.room = file, room

    def write(self, block: Any) -> int:
        self.room -= len(block)
        if self.room < 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return self.file.write(block)

    def __enter__(self) -> "FullDisk":
        return self

    def flush(self) -> None:
        self.file.flush()

    def __exit__(self, *_: object) -> None:
        self.file.close()

    def close(self) -> None:
        self.file.close()


class TestNewestValid:
    def test_is_the_one_of_the_highest_step_whatever_the_order_of_writing(self, tmp_path: Path) -> None:
        for step in (20, 100, 3):
            save(tmp_path, step)
        assert newest_valid(tmp_path) == tmp_path / "step-00000100.ckpt"

    def test_of_an_empty_folder_is_none_without_a_warning(self, tmp_path: Path) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert newest_valid(tmp_path) is None

    @pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.99])
    def test_passes_over_a_truncated_file_and_says_which_and_what_instead(self, tmp_path: Path, share: float) -> None:
        save(tmp_path, 1)
        cut = save(tmp_path, 2)
        os.truncate(cut, int(cut.stat().st_size * share))
        with pytest.warns(CheckpointWarning, match=r"step-00000002\.ckpt is broken.*using step-00000001\.ckpt instead"):
            assert newest_valid(tmp_path) == tmp_path / "step-00000001.ckpt"
        with pytest.raises(CheckpointError, match="broken"):
            load_checkpoint(cut)

    def test_passes_over_one_flipped_bit(self, tmp_path: Path) -> None:
        save(tmp_path, 1)
        flipped = save(tmp_path, 2)
        content = bytearray(flipped.read_bytes())
        content[len(content) // 2] ^= 1
        flipped.write_bytes(content)
        with pytest.warns(CheckpointWarning):
            assert newest_valid(tmp_path) == tmp_path / "step-00000001.ckpt"

    @pytest.mark.parametrize("content", [None, b"", b"no checksum"])
    def test_passes_over_a_file_without_a_good_checksum(self, tmp_path: Path, content: bytes | None) -> None:
        save(tmp_path, 1)
        sums = Path(f"{save(tmp_path, 2)}.sha256")
        sums.unlink() if content is None else sums.write_bytes(content)
        with pytest.warns(CheckpointWarning, match="has no checksum"):
            assert newest_valid(tmp_path) == tmp_path / "step-00000001.ckpt"

    def test_is_none_where_all_are_broken_and_says_so(self, tmp_path: Path) -> None:
        save(tmp_path, 1).write_bytes(b"")
        with pytest.warns(CheckpointWarning, match="starting from step 0"):
            assert newest_valid(tmp_path) is None


class TestHostileFiles:
    def test_a_pickle_that_runs_code_is_refused_and_not_run(self, tmp_path: Path) -> None:
        """With a right checksum, as an attacker would make it, through our loader and through Lightning's argument."""
        trace, path = tmp_path / "executed", tmp_path / "step-00000001.ckpt"
        torch.save({"state_dict": Hostile(trace)}, path)
        Path(f"{path}.sha256").write_text(f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.name}\n")
        for load in (load_checkpoint, lambda p: AtomicCheckpointIO().load_checkpoint(p, weights_only=False)):
            with pytest.raises(CheckpointError, match="nothing in it was run"):
                load(path)
        assert not trace.exists()
        torch.load(path, weights_only=False)
        assert trace.exists(), "the file was not hostile: this test would prove nothing"

    def test_a_config_that_builds_objects_is_refused_and_not_run(self, tmp_path: Path) -> None:
        trace, folder = tmp_path / "executed", tmp_path / "model"
        write_model(folder, nn.Linear(2, 2), {}, {})
        (folder / "config.yaml").write_text(f"!!python/object/apply:os.mkdir ['{trace}']\n")
        with pytest.raises(CheckpointError, match="could not determine a constructor"):
            read_model(folder)
        assert not trace.exists()


@pytest.mark.parametrize("delay", [0.0, 0.003, 0.01, 0.02, 0.05, 0.1, 0.3])
def test_killed_while_saving_in_a_tight_loop_leaves_a_valid_checkpoint(tmp_path: Path, delay: float) -> None:
    """SIGKILL at moments nobody chose; the checkpoint found is one of the two newest, and it loads."""
    child = os.fork()
    if child == 0:
        for step in range(1_000_000):
            path = tmp_path / f"step-{step:08d}.ckpt"
            AtomicCheckpointIO().save_checkpoint({"step": step, "w": torch.full((20_000,), float(step))}, path)
            AtomicCheckpointIO().remove_checkpoint(path.with_name(f"step-{step - 3:08d}.ckpt"))
        os._exit(0)
    try:
        wait_for(lambda: any(checkpoint_step(p) >= 3 for p in tmp_path.glob("step-*.ckpt")))
        time.sleep(delay)
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    newest = max(map(checkpoint_step, tmp_path.glob("step-*.ckpt")))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", CheckpointWarning)
        found = newest_valid(tmp_path)
    assert found is not None
    assert checkpoint_step(found) >= newest - 1
    content = load_checkpoint(found)
    assert torch.equal(content["w"], torch.full((20_000,), float(content["step"])))
    # What the killed process left under temporary names goes when that checkpoint is saved again.
    for left in tmp_path.glob(".step-*.ckpt.*.partial"):
        AtomicCheckpointIO().save_checkpoint({}, tmp_path / f"{left.name[1:].split('.ckpt')[0]}.ckpt")
        assert not left.exists()


def test_a_training_that_is_killed_continues_as_if_it_had_not_been(tmp_path: Path) -> None:
    """SIGKILL of a real training process; resumed in this one, its weights equal those of a run never disturbed."""
    folder = tmp_path / "killed"
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.data.toy_training", str(folder)],
        cwd=REPOSITORY,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        wait_for(lambda: any(checkpoint_step(p) >= 7 for p in folder.glob("step-*.ckpt")), process)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", CheckpointWarning)
        found = newest_valid(folder)
    assert found is not None
    last = checkpoint_step(found) + 7
    resumed, whole = Regression(), Regression()
    trainer(tmp_path / "on", last, every_steps=1000).fit(resumed, datamodule=data(), ckpt_path=found, weights_only=True)
    trainer(tmp_path / "whole", last, every_steps=1000).fit(whole, datamodule=data())
    for name, value in whole.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name])


def wait_for(condition: Any, process: subprocess.Popen[bytes] | None = None, seconds: float = 240) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert process is None or process.poll() is None, "the process ended by itself"
        assert time.monotonic() < end, "nothing came within the time"
        time.sleep(0.01)


class TestRollingCheckpoint:
    def test_keeps_the_last_ones_and_saves_the_last_step(self, tmp_path: Path) -> None:
        trainer(tmp_path, max_steps=11, every_steps=2, keep=2).fit(Regression(), datamodule=data())
        assert sorted(map(checkpoint_step, tmp_path.glob("*.ckpt"))) == [10, 11]
        assert len(list(tmp_path.iterdir())) == 4

    def test_retains_across_processes_and_drops_an_abandoned_future(self, tmp_path: Path) -> None:
        """Steps 8 and 9 lie after the one continued from: a past that did not happen."""
        for step in (2, 4, 8, 9):
            save(tmp_path, step)
        trainer(tmp_path, max_steps=3, every_steps=3, keep=2).fit(Regression(), datamodule=data())
        assert sorted(map(checkpoint_step, tmp_path.glob("*.ckpt"))) == [2, 3]


class TestAverage:
    def test_equals_the_recursion_written_out(self, tmp_path: Path) -> None:
        """e_1 = w_1, then e <- d e + (1 - d) w with d = min(0.9, (1 + n) / (10 + n)) after n updates."""
        model = Regression()
        trainer(tmp_path, max_steps=6).fit(model, datamodule=data())
        average = None
        for step in range(1, 7):
            raw = load_training_weights(tmp_path / f"step-{step:08d}.ckpt", averaged=False)
            decay = min(0.9, step / (9 + step))
            average = raw if average is None else {k: decay * average[k] + (1 - decay) * raw[k] for k in raw}
            stored = load_training_weights(tmp_path / f"step-{step:08d}.ckpt")
            for name in raw:
                torch.testing.assert_close(stored[name], average[name])
        assert not torch.equal(stored["network.0.weight"], raw["network.0.weight"])
        # After the fit the module itself holds the average: this is what is exported.
        assert all(torch.equal(model.state_dict()[name], stored[name]) for name in stored)


class TestExportedModel:
    def test_is_rebuilt_from_the_folder_alone(self, tmp_path: Path) -> None:
        model = nn.Sequential(nn.Linear(3, 5), nn.BatchNorm1d(5))
        config = {"network": {"width": 5, "rate": 1e-4, "name": "ü", "list": [1, None, True]}}
        write_model(tmp_path / "model", model, config, {"seed": 3})
        assert sorted(f.name for f in (tmp_path / "model").iterdir()) == [
            "config.yaml",
            "model.safetensors",
            "provenance.json",
        ]
        (tmp_path / "model").rename(tmp_path / "elsewhere")
        found = read_model(tmp_path / "elsewhere")
        rebuilt = nn.Sequential(nn.Linear(3, found.config["network"]["width"]), nn.BatchNorm1d(5))
        rebuilt.load_state_dict(found.weights)
        x = torch.randn(4, 3)
        assert torch.equal(rebuilt(x), model(x))
        assert found.config == config
        assert found.provenance["seed"] == 3

    def test_replaces_an_earlier_one_whole(self, tmp_path: Path) -> None:
        write_model(tmp_path / "model", nn.Linear(2, 2), {"first": 1}, {})
        (tmp_path / "model" / "stray").touch()
        write_model(tmp_path / "model", nn.Linear(2, 3), {"second": 2}, {})
        assert read_model(tmp_path / "model").config == {"second": 2}
        assert [f.name for f in tmp_path.iterdir()] == ["model"]
        assert len(list((tmp_path / "model").iterdir())) == 3

    def test_tied_weights_are_stored_under_each_name(self, tmp_path: Path) -> None:
        model = nn.ModuleDict({"a": nn.Linear(2, 2), "b": nn.Linear(2, 2)})
        model["b"].weight = model["a"].weight
        write_model(tmp_path / "model", model, {}, {})
        assert torch.equal(read_model(tmp_path / "model").weights["b.weight"], model["a"].weight)

    @pytest.mark.parametrize("config", [{"path": Path("x")}, {"tensor": torch.zeros(1)}])
    def test_a_config_of_other_than_plain_values_is_refused(self, tmp_path: Path, config: dict[str, Any]) -> None:
        with pytest.raises(CheckpointError, match="plain values"):
            write_model(tmp_path / "model", nn.Linear(2, 2), config, {})
        assert not (tmp_path / "model").exists()

    @pytest.mark.parametrize("name", ["model.safetensors", "config.yaml", "provenance.json"])
    def test_a_missing_or_damaged_file_is_named(self, tmp_path: Path, name: str) -> None:
        write_model(tmp_path / "model", nn.Linear(2, 2), {"width": 2}, {"seed": 1})
        file = tmp_path / "model" / name
        content = file.read_bytes()
        file.write_bytes(content[: len(content) // 2])
        with pytest.raises(CheckpointError):
            read_model(tmp_path / "model")
        file.unlink()
        with pytest.raises(CheckpointError, match=f"missing {name}"):
            read_model(tmp_path / "model")

    def test_a_safetensors_file_with_the_right_sum_but_wrong_content_is_refused(self, tmp_path: Path) -> None:
        write_model(tmp_path / "model", nn.Linear(2, 2), {}, {})
        content = b"\xff" * 64
        (tmp_path / "model" / "model.safetensors").write_bytes(content)
        config = (tmp_path / "model" / "config.yaml").read_bytes()
        sums = {
            "model.safetensors": hashlib.sha256(content).hexdigest(),
            "config.yaml": hashlib.sha256(config).hexdigest(),
        }
        (tmp_path / "model" / "provenance.json").write_text(json.dumps({"sha256": sums}))
        with pytest.raises(CheckpointError, match="expected a safetensors file"):
            read_model(tmp_path / "model")

    def test_config_is_plain_yaml(self, tmp_path: Path) -> None:
        write_model(tmp_path / "model", nn.Linear(2, 2), {"b": 1, "a": [1.5, "x"]}, {})
        assert yaml.safe_load((tmp_path / "model" / "config.yaml").read_text()) == {"b": 1, "a": [1.5, "x"]}

    def test_on_a_full_disk_leaves_the_earlier_model(self, small_disk: Path) -> None:
        write_model(small_disk / "model", nn.Linear(2, 2), {"width": 2}, {})
        with pytest.raises(DiskFullError):
            write_model(small_disk / "model", nn.Linear(1000, 1000), {"width": 1000}, {})
        assert read_model(small_disk / "model").config == {"width": 2}
        assert [file.name for file in small_disk.iterdir()] == ["model"]
