"""Deaths of workers, nodes and drivers on a cluster of several nodes: the training completes, with the same weights."""

import os
import signal
import tempfile
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load

from cluster.on_ray.connection import ray
from tests.cluster.on_ray.trainings import Training, command, descendants
from tests.cluster.simulated import simulated

pytestmark = pytest.mark.slow

STEPS = ("--flow.trainer.steps", "1000", "--preset", "debug")
"""Seconds of training: Ray's workers may outlive their node by one or two."""


@pytest.fixture(scope="module")
def cluster():
    before = set(descendants(os.getpid()))
    with simulated((0, 1, 1, 1)) as made:
        folder = Path(made.head_node.get_session_dir_path()).parent
        yield made
    assert not folder.exists()
    left = {pid: command(pid)[:80] for pid in descendants(os.getpid()) - before}
    assert not left


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("faults")


@pytest.fixture(scope="module")
def plain(cluster, folder):
    """An undisturbed training by two workers."""
    training = started(cluster, folder, "plain")
    assert training.wait() == 0, training.text()
    assert training.events() == []
    return training.weights()


def started(cluster, folder, name, *words, workers=2, **environment) -> Training:
    where = ("--on", "ray", "--address", cluster.address, "--workers", str(workers))
    return Training(folder / "runs", name, "train", "toy", "--name", name, *where, *STEPS, *words, **environment)


def resumed(folder, name) -> Training:
    return Training(folder / "runs", name, "train", "toy", "--run", name)


def node_of(cluster, worker):
    """The node on which a worker's process runs."""
    parent = int(Path(f"/proc/{worker}/stat").read_text().rpartition(")")[2].split()[1])
    (node,) = [n for n in cluster.worker_nodes if any(i.process.pid == parent for i in n.all_processes["raylet"])]
    return node


def lost(training: Training) -> list[str]:
    return [
        f"{e['seconds_lost']} s, {e['steps_lost']} steps, to begin again {e['seconds_to_begin_again']} s"
        for e in training.events()
        if e["what"] == "went on"
    ]


def test_a_worker_a_node_and_the_driver_die(cluster, folder, plain):
    training = started(cluster, folder, "killed")
    training.wait_for(lambda: training.step() >= 60)
    os.kill(training.workers()[0], signal.SIGKILL)
    training.wait_for(lambda: len(lost(training)) == 1 and training.step() >= 150)
    cluster.remove_node(node_of(cluster, training.workers()[1]), allow_graceful=False)
    training.wait_for(lambda: len(lost(training)) == 2 and training.step() >= 230)
    workers = training.workers()
    os.kill(training.process.pid, signal.SIGKILL)
    killed_at = time.monotonic()
    while any(b"RayTrainWorker" in command(pid) for pid in workers):
        assert time.monotonic() - killed_at < 20, "workers outlive their driver"
        time.sleep(0.1)
    ended = time.monotonic() - killed_at
    again = resumed(folder, "killed")
    assert again.wait() == 0, again.text()
    assert "going on from step" in again.text()
    assert again.weights() == plain
    print("worker, node, driver:", lost(again), f"workers gone {ended:.1f} s after their driver")
    cluster.add_node(num_cpus=1, object_store_memory=100 * 2**20)


def test_sigterm_at_the_driver_saves(cluster, folder, plain):
    training = started(cluster, folder, "stopped")
    training.wait_for(lambda: training.step() >= 100)
    training.process.send_signal(signal.SIGTERM)
    begun = time.monotonic()
    assert training.wait() == 130, training.text()
    print(f"stopped after {time.monotonic() - begun:.1f} s")
    assert "a checkpoint is written" in training.text()
    assert not training.workers()
    assert [event["what"] for event in training.events()] == ["stopped"]
    again = resumed(folder, "stopped")
    assert again.wait() == 0, again.text()
    assert again.weights() == plain


def test_fewer_workers_and_more_again(cluster, folder, plain):
    few = ("--min-workers", "1")
    training = started(cluster, folder, "elastic", *few, workers=3, PENSTOCK_RESIZE_SECONDS="4")
    training.wait_for(lambda: training.step() >= 60)
    before = len(lost(training))
    cluster.remove_node(node_of(cluster, training.workers()[-1]), allow_graceful=False)
    training.wait_for(lambda: len(lost(training)) > before)
    cluster.add_node(num_cpus=1, object_store_memory=100 * 2**20)
    assert training.wait() == 0, training.text()
    sizes = [event["workers"] for event in training.events() if event["what"] == "went on"]
    # Two, or one where Ray had not yet counted the other; it may have begun with two and taken the third since.
    assert min(sizes[before:]) < 3
    print("elastic:", sizes, lost(training))
    mine, theirs = load(training.weights()), load(plain)
    for name, weight in theirs.items():
        torch.testing.assert_close(mine[name], weight, rtol=1e-3, atol=1e-4)


def test_a_notice_is_heeded(cluster, folder, plain):
    training = started(cluster, folder, "noticed")
    training.wait_for(lambda: training.step() >= 100)
    node = node_of(cluster, training.workers()[0])
    ray()
    from ray._raylet import GcsClient
    from ray.core.generated import autoscaler_pb2

    reason = autoscaler_pb2.DrainNodeReason.Value("DRAIN_NODE_REASON_PREEMPTION")
    deadline = int((time.time() + 60) * 1000)
    assert GcsClient(address=cluster.address).drain_node(node.node_id, reason, "preemption", deadline)[0]
    assert training.wait() == 0, training.text()
    events = training.events()
    print("notice:", [event["what"] for event in events], lost(training))
    assert [event["what"] for event in events[:3]] == ["notice", "moved", "went on"]
    assert events[2]["steps_lost"] == 0
    assert training.weights() == plain
    cluster.remove_node(node, allow_graceful=False)
    cluster.add_node(num_cpus=1, object_store_memory=100 * 2**20)


@pytest.mark.long
def test_sigterm_at_a_worker_is_a_notice(cluster, folder, plain):
    training = started(cluster, folder, "told")
    training.wait_for(lambda: training.step() >= 100)
    os.kill(training.workers()[0], signal.SIGTERM)
    assert training.wait() == 0, training.text()
    assert [event["what"] for event in training.events()] == ["moved", "went on"]
    assert training.events()[1]["steps_lost"] == 0
    assert training.weights() == plain


@pytest.mark.long
def test_a_full_disk_is_said_and_not_tried_again(cluster, folder):
    training = started(cluster, folder, "full", "--flow.trainer.log_every", "5")
    training.wait_for(lambda: training.step() >= 60)
    link = folder / "link"
    link.symlink_to("/dev/full")
    link.replace(training.run / "metrics.csv")
    assert training.wait() == 2, training.text()
    assert training.text().count("disk full") == 1
    assert "Traceback" not in training.text()
    assert "beginning again" not in training.text()
    (training.run / "metrics.csv").unlink()
    again = resumed(folder, "full")
    assert again.wait() == 0, again.text()


@pytest.fixture
def temporary():
    """A folder for temporary files with a name short enough for Ray's sockets."""
    with tempfile.TemporaryDirectory(prefix="pt-", dir="/tmp") as made:
        yield Path(made)


@pytest.mark.long
def test_a_cluster_of_its_own_dies_with_its_command(folder, temporary):
    training = Training(
        folder / "runs", "own", "train", "toy", "--name", "own", "--on", "ray", *STEPS, TMPDIR=str(temporary)
    )
    training.wait_for(lambda: training.step() >= 50)
    os.killpg(training.process.pid, signal.SIGTERM)
    assert training.wait() == 130, training.text()
    assert "a checkpoint is written" in training.text()
    assert not list(temporary.glob("pen-*"))

    training = Training(folder / "runs", "own", "train", "toy", "--run", "own", TMPDIR=str(temporary))
    training.wait_for(lambda: training.step() >= 100)
    processes = descendants(training.process.pid)
    assert len(list(temporary.glob("pen-*"))) == 1
    assert len(processes) > 3
    os.kill(training.process.pid, signal.SIGKILL)
    training.process.wait()
    end = time.monotonic() + 60
    while any(command(pid) for pid in processes):
        assert time.monotonic() < end, [command(pid)[:80] for pid in processes if command(pid)]
        time.sleep(0.2)
    again = Training(folder / "runs", "own", "train", "toy", "--run", "own", TMPDIR=str(temporary))
    assert again.wait() == 0, again.text()
    assert "going on from step" in again.text()
    assert not list(temporary.glob("pen-*"))
