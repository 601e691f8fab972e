"""SIGKILL at chosen moments, then `penstock resume`: all is there, and what was finished was not done again."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from data.model_folder import read_model
from flows.run import DONE, Run, all_runs
from flows.tracking import read_metrics

PAUSING = Path(__file__).resolve().parent / "pausing"
Penstock = Callable[..., tuple[int, str, str]]


class Killer:
    """Starts `penstock` in a process group of its own, and kills it where it is told to."""

    def __init__(self, folder: Path) -> None:
        self.marker, self.log = folder / "paused", folder / "output.txt"

    def start(self, *words: str, pause: str = "", count: int = 1) -> subprocess.Popen[bytes]:
        environment = dict(os.environ)
        if pause:
            environment["PENSTOCK_TEST_PAUSE"] = f"{pause}:{count}:{self.marker}"
            environment["PYTHONPATH"] = os.pathsep.join([str(PAUSING), environment.get("PYTHONPATH", "")])
        with self.log.open("a") as output:
            return subprocess.Popen(
                [sys.executable, "-m", "cluster.cli", *words],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env=environment,
                start_new_session=True,
            )

    def wait_for_pause(self, process: subprocess.Popen[bytes]) -> None:
        while not self.marker.exists():
            assert process.poll() is None, f"ended before the pause:\n{self.log.read_text()}"
            time.sleep(0.02)

    def killed(self, *words: str, pause: str, count: int = 1) -> None:
        """Run until the pause, then SIGKILL for the command, the workflow and the step at once."""
        process = self.start(*words, pause=pause, count=count)
        self.wait_for_pause(process)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        self.marker.unlink()

    def finished(self, *words: str) -> str:
        """Run to the end; what was printed since."""
        before = len(self.log.read_text())
        process = self.start(*words)
        assert process.wait(timeout=300) == 0, self.log.read_text()
        return self.log.read_text()[before:]


@pytest.fixture
def killer(tmp_path: Path, runs: Path) -> Killer:
    return Killer(tmp_path)


def attempts(run: Run) -> dict[str, int]:
    return {name: record.attempts for name, record in run.steps().items()}


def test_killed_at_seven_moments_a_run_is_completed_and_nothing_done_twice(
    killer: Killer, runs: Path, penstock: Penstock
) -> None:
    """In preparation, in both trainings, while a checkpoint is written, among latents, in evaluation, in export."""
    killer.killed("run", "shape", "--preset", "debug", "--name", "cut", pause="*/parts-*/*.npz", count=4)
    [run] = all_runs(runs)
    assert len(list((runs / "prepared").glob("*/parts-*/*.npz"))) == 3
    # The first checkpoint is not there yet: the training begins again.
    killer.killed("resume", pause="*/vae/step-00000010.ckpt")
    # This one is written in full, but has not got its name: the one before counts.
    killer.killed("resume", "cut", pause="*/vae/step-00000020.ckpt")
    assert [path.name for path in run.checkpoints("vae").glob("*.ckpt")] == ["step-00000010.ckpt"]
    killer.killed("resume", pause="*/encoding-*/*.npz", count=4)
    [encoding] = run.path.glob("encoding-*")
    finished = {path.name: path.stat().st_mtime_ns for path in encoding.glob("*.npz")}
    assert len(finished) == 3
    killer.killed("resume", pause="*/cut/latents.h5")  # all are encoded, the file that holds them has not got its name
    assert finished.items() <= {path.name: path.stat().st_mtime_ns for path in encoding.glob("*.npz")}.items()
    killer.killed("resume", pause="*/flow/step-00000020.ckpt")
    killer.killed("resume", pause="*/evaluating-*/*.json")
    vae = (run.model("vae") / "model.safetensors").stat().st_mtime_ns
    killer.killed("resume", pause="*/exports/sample-*.glb", count=2)
    printed = killer.finished("resume")

    assert "export (again)" in printed.replace("(7 of 8) (again)", "export (again)")
    assert run.state() == DONE
    once = dict.fromkeys(["sample", "report"], 1)
    assert attempts(run) == once | {
        "encode": 3,
        "evaluate": 2,
        "prepare": 2,
        "train_vae": 3,
        "train_flow": 2,
        "export": 2,
    }
    assert (run.model("vae") / "model.safetensors").stat().st_mtime_ns == vae
    assert (run.path / "report.html").exists()
    assert not list(run.path.rglob("*.partial"))
    assert not list((runs / "prepared").glob("*/parts-*"))
    steps = [row.step for row in read_metrics(run.metrics_file) if (row.stage, row.name) == ("vae", "train/loss")]
    assert steps == sorted(set(steps))

    # What was cut so often equals what was never cut, bit for bit; and its preparation was not made again.
    code, out, err = penstock("report", "shape", "--preset", "debug", "--name", "whole")
    assert code == 0, err
    assert "found prepared" in out
    whole = Run(runs / "whole")
    for stage in ("vae", "flow"):
        ours, theirs = read_model(run.model(stage)).weights, read_model(whole.model(stage)).weights
        assert all(ours[name].equal(theirs[name]) for name in theirs)
    for path in [*whole.samples.glob("*.glb"), whole.path / "evaluation.json", *whole.path.glob("reconstructions/*")]:
        assert (run.path / path.relative_to(whole.path)).read_bytes() == path.read_bytes()
    assert not list(run.path.glob("e*ing-*"))


def test_resume_waits_for_a_step_that_outlived_its_workflow(killer: Killer, runs: Path) -> None:
    process = killer.start("run", "toy", "--name", "left", pause="*/flow/step-00000020.ckpt")
    killer.wait_for_pause(process)
    [run] = all_runs(runs)
    step = int(killer.marker.read_text())
    others = [pid for pid in _group(process.pid) if pid != step]
    assert len(others) > 1
    for pid in others:
        os.kill(pid, signal.SIGKILL)
    process.wait()

    impatient = killer.start("resume", "--no-wait")
    assert impatient.wait(timeout=60) == 2
    assert f"left is being worked on by process {step} (train_flow" in killer.log.read_text()

    patient = killer.start("resume")
    while "waiting for its end" not in killer.log.read_text():
        assert patient.poll() is None
        time.sleep(0.05)
    killer.marker.unlink()
    assert patient.wait(timeout=120) == 0, killer.log.read_text()
    assert run.state() == DONE
    assert attempts(run)["train_flow"] == 1


def _group(leader: int) -> list[int]:
    """The processes of a process group."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                if os.getpgid(int(entry.name)) == leader:
                    found.append(int(entry.name))
    return found


def test_sigterm_saves_a_checkpoint_first(killer: Killer, runs: Path) -> None:
    words = ("train", "toy", "--name", "stopped", "--flow.trainer.steps", "100000")
    process = killer.start(*words, "--flow.trainer.checkpoint_every_steps", "100000")
    while not read_metrics(runs / "stopped" / "metrics.csv"):
        assert process.poll() is None, killer.log.read_text()
        time.sleep(0.05)
    process.terminate()
    assert process.wait(timeout=60) == 130
    assert "stopped by SIGTERM after step" in killer.log.read_text()
    assert list((runs / "stopped" / "checkpoints" / "flow").glob("step-*.ckpt"))
    assert Run(runs / "stopped").steps()["train_flow"].error == "interrupted"


SIGNALLED_LATE = """
import os, signal, sys
from flows.steps.training_callbacks import StopWhenAsked
looked = StopWhenAsked.on_train_batch_end
def late(self, trainer, *rest):
    looked(self, trainer, *rest)
    if trainer.global_step == 5:
        os.kill(os.getpid(), signal.SIGTERM)
StopWhenAsked.on_train_batch_end = late
from cluster.cli import main
sys.exit(main(sys.argv[1:]))
"""


def test_sigterm_just_after_the_look_at_it_saves_a_checkpoint_too(runs: Path) -> None:
    """Lightning has a look of its own a moment later, which ended the process without a word and with exit code 0."""
    words = ("train", "toy", "--name", "late", "--flow.trainer.steps", "100000", "--flow.trainer.log_every", "1")
    done = subprocess.run([sys.executable, "-c", SIGNALLED_LATE, *words], capture_output=True, text=True, timeout=60)
    assert (done.returncode, "stopped by SIGTERM after step 6" in done.stderr) == (130, True), done.stderr
    assert [path.name for path in (runs / "late" / "checkpoints" / "flow").glob("*.ckpt")] == ["step-00000006.ckpt"]
    assert [row.step for row in read_metrics(runs / "late" / "metrics.csv")] == [1, 2, 3, 4, 5, 6]
