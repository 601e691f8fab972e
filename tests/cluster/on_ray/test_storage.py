"""A run is where its workers need it, and comes back where it was lost."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from cluster.keeping import brought_back
from data.checkpoint import find_problem
from flows.tracking import read_metrics
from tests.cluster.on_ray.trainings import Training, descendants
from tests.cluster.simulated import STORE, simulated

SETTINGS = ("--preset", "debug")


def weights(run: Path) -> bytes:
    return (run / "models" / "flow" / "model.safetensors").read_bytes()


def points(run: Path) -> list[tuple[int, str, float]]:
    return [(row.step, row.name, row.value) for row in read_metrics(run / "metrics.csv")]


def test_a_finished_training_has_a_whole_copy(penstock, runs, tmp_path):
    code, _, err = penstock("train", "toy", *SETTINGS, "--name", "a", "--storage", f"file://{tmp_path}/there")
    assert code == 0, err
    copy = tmp_path / "there" / "a"
    for name in ("config.yaml", "status.json", "metrics.csv", "models/flow/model.safetensors", "placement.yaml"):
        assert (copy / name).read_bytes() == (runs / "a" / name).read_bytes(), name
    checkpoints = sorted(path.name for path in (runs / "a/checkpoints/flow").glob("*.ckpt"))
    assert sorted(path.name for path in (copy / "checkpoints/flow").glob("*.ckpt")) == checkpoints
    assert all(find_problem(copy / "checkpoints/flow" / name) is None for name in checkpoints)
    assert not list(copy.rglob("lock"))


def test_a_lost_run_is_brought_back_with_its_data_and_goes_on(penstock, runs, tmp_path):
    there = f"file://{tmp_path}/there"
    assert penstock("prepare", "toy", *SETTINGS, "--name", "a", "--storage", there)[0] == 0
    shutil.rmtree(runs)
    assert brought_back(f"{there}/a", runs).finished() == ["prepare"]
    code, out, err = penstock("train", "toy", "--run", "a")
    assert code == 0, err
    assert "── prepare" not in out
    assert penstock("train", "toy", *SETTINGS, "--name", "undisturbed")[0] == 0
    assert weights(runs / "a") == weights(runs / "undisturbed") == weights(tmp_path / "there/a")
    code, _, err = penstock("resume", f"{there}/a")
    assert code == 2
    assert "is here already" in err
    code, _, err = penstock("resume", f"{there}/b")
    assert code == 2
    assert "is not the copy of a run" in err


def test_a_storage_that_cannot_be_written_is_refused_before_anything_is_done(penstock, runs, tmp_path):
    (tmp_path / "file").write_text("not a folder")
    code, _, err = penstock("train", "toy", *SETTINGS, "--name", "a", "--storage", f"{tmp_path}/file/there")
    assert code == 2
    assert "cannot be written to" in err
    assert not (runs / "a").exists()


@pytest.mark.long
@pytest.mark.slow
def test_a_training_that_was_killed_and_lost_goes_on_from_its_copied_checkpoint(penstock, runs, tmp_path):
    """SIGKILL, then the disk is gone; a broken checkpoint in the copy is passed over. The result is bit-equal."""
    there = f"file://{tmp_path}/there"
    long = (*SETTINGS, "--flow.trainer.steps", "3000", "--flow.trainer.checkpoint_every_steps", "50")
    killed = Training(runs, "a", "train", "toy", *long, "--name", "a", "--storage", there)
    copies = tmp_path / "there/a/checkpoints/flow"
    killed.wait_for(lambda: len(list(copies.glob("*.ckpt.sha256"))) >= 2)
    os.killpg(killed.process.pid, signal.SIGKILL)
    killed.wait()
    shutil.rmtree(runs)
    newest = sorted(copies.glob("*.ckpt"))[-1]
    newest.write_bytes(newest.read_bytes()[:-100])
    code, out, err = penstock("resume", f"{there}/a")
    assert code == 0, err
    assert "going on from step" in out
    assert penstock("train", "toy", *long, "--name", "undisturbed")[0] == 0
    assert weights(runs / "a") == weights(runs / "undisturbed")


@contextmanager
def blind_node(address: str, hidden: Path, cpus: int) -> Iterator[None]:
    """A node that does not see a folder: in a mount namespace of its own an empty file system lies over it."""
    hidden.mkdir(parents=True, exist_ok=True)
    if os.geteuid() or subprocess.run(["unshare", "-m", "true"], capture_output=True).returncode:
        pytest.skip("needs a mount namespace, which only root may make")
    start = f"{sys.executable} -m ray.scripts.scripts start --address={address} --num-cpus={cpus} --block"
    process = subprocess.Popen(
        ["unshare", "-m", "sh", "-c", f"mount -t tmpfs none {hidden} && exec {start} --object-store-memory={STORE}"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        yield
    finally:
        # Ray's own way down takes half a minute; a node of a cluster that ends is not missed.
        for pid in (process.pid, *descendants(process.pid)):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        process.wait(30)


@pytest.fixture
def half_blind(runs: Path) -> Iterator[str]:
    """The address of a cluster: a head without work beside the driver, and a node that does not see the runs."""
    import ray

    with simulated((0,)) as cluster, blind_node(cluster.address, runs, cpus=2):
        ray.init(cluster.address, log_to_driver=False, logging_level="ERROR")
        end = time.monotonic() + 60
        while len([node for node in ray.nodes() if node["Alive"]]) < 2:
            assert time.monotonic() < end
            time.sleep(0.2)
        ray.shutdown()
        yield cluster.address


@pytest.mark.slow
def test_workers_that_do_not_see_the_run_are_refused_or_take_it_from_the_storage(penstock, runs, half_blind, tmp_path):
    placed = ("--on", "ray", "--address", half_blind)
    code, out, err = penstock("train", "toy", *SETTINGS, "--name", "refused", *placed)
    assert code == 2
    assert "is not there on" in err
    assert "--storage" in err
    assert "prepare" not in out  # before anything is done

    there = f"file://{tmp_path}/there"
    assert penstock("train", "toy", *SETTINGS, "--name", "here")[0] == 0
    code, out, err = penstock("train", "toy", *SETTINGS, "--name", "away", "--storage", there, *placed)
    assert code == 0, err
    assert weights(runs / "away") == weights(runs / "here")
    assert points(runs / "away") == points(runs / "here")
    assert weights(tmp_path / "there/away") == weights(runs / "away")
    names = [path.name for path in sorted((runs / "away/checkpoints/flow").glob("*.ckpt"))]
    assert names[-1] == "step-00000060.ckpt"


@pytest.mark.long
@pytest.mark.slow
def test_a_training_that_this_machine_began_goes_on_where_the_run_is_not_seen(penstock, runs, half_blind, tmp_path):
    """From the checkpoint that it left; result and metrics are those of one that stayed."""
    placed = ("--on", "ray", "--address", half_blind, "--storage", f"file://{tmp_path}/there")
    long = (*SETTINGS, "--flow.trainer.steps", "400", "--flow.trainer.checkpoint_every_steps", "50")
    begun = Training(runs, "moved", "train", "toy", *long, "--name", "moved")
    begun.wait_for(lambda: list((runs / "moved/checkpoints/flow").glob("*.ckpt.sha256")))
    begun.process.terminate()
    begun.wait()
    code, out, err = penstock("train", "toy", "--run", "moved", *placed)
    assert code == 0, err
    assert "going on from step" in out
    assert penstock("train", "toy", *long, "--name", "stayed")[0] == 0
    assert weights(runs / "moved") == weights(runs / "stayed")
    assert points(runs / "moved") == points(runs / "stayed")
