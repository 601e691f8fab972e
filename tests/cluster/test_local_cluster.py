"""`penstock cluster up | status | down`, and jobs on it from a clean checkout: real processes of Ray, nothing left."""

import contextlib
import json
import os
import shutil
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from cluster.clusters import local
from cluster.clusters.command import _warnings
from flows.run import DONE, Run
from flows.tracking import read_metrics

Penstock = Callable[..., tuple[int, str, str]]
REPOSITORY = Path(__file__).resolve().parents[2]
ORDERS = {"host": "127.0.0.1", "port": 8265, "token_file": "token"}


@pytest.fixture(autouse=True)
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A state folder of the test's own; the machine may have another cluster."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    for name in ("RAY_API_SERVER_ADDRESS", "RAY_AUTH_TOKEN_PATH", "RAY_AUTH_MODE", "RAY_ADDRESS"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path / "state"


def test_none_is_up(penstock: Penstock) -> None:
    assert penstock("cluster")[:2] == (
        1,
        "no cluster is up on this machine. `penstock cluster up --nodes 3` starts one.\n",
    )
    assert penstock("cluster", "down")[0] == 0
    assert local.find() is None
    assert local.admitted(None) is None
    assert local.admitted("10.0.0.1:6379") == "10.0.0.1:6379"


def test_an_open_door_is_named() -> None:
    assert _warnings(ORDERS) == []
    [wide] = _warnings(ORDERS | {"host": "0.0.0.0"})
    assert "0.0.0.0:8265" in wide
    assert "and has the token can run any program as you" in wide
    wide, without = _warnings(ORDERS | {"host": "10.1.2.3", "token_file": None})
    assert "anybody who reaches it can run any program as you" in wide
    assert "--no-token" in without


def test_a_dead_cluster_is_cleared_away(penstock: Penstock, tmp_path: Path) -> None:
    """Its keeper was killed, and with it the power of saying so: a process and a folder are left."""
    (tmp_path / "left").mkdir()
    name = f"test-{os.getpid()}"
    child = subprocess.Popen(["sleep", "600"], env={**os.environ, local.MARK: name})
    cluster = local.LocalCluster(
        name, "127.0.0.1:1", "http://127.0.0.1:2", 1, 1, 0, None, "runs", str(tmp_path / "left"), 0.0
    )
    local.record(cluster)
    assert local.find() is None
    code, out, _ = penstock("cluster", "down")
    assert (code, "What a dead one had left is removed" in out) == (0, True)
    assert child.wait(timeout=10) == -signal.SIGTERM
    assert not (tmp_path / "left").exists()
    assert local.read() is None


def test_the_token_is_for_its_owner_only(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        first = local.new_token(tmp_path).read_text()
        assert stat.S_IMODE((tmp_path / "token").stat().st_mode) == 0o600
        assert len(first) == 64
        assert local.new_token(tmp_path).read_text() != first
    finally:
        os.umask(before)


# ------------------------------------------------------------------------------------------------------ a real cluster


class User:
    """Types commands in a clean checkout: no folder of ours is on any path."""

    def __init__(self, checkout: Path, runs: Path, log: Path) -> None:
        self.checkout, self.runs, self.log = checkout, runs, log

    def start(self, *words: str) -> subprocess.Popen[str]:
        environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        environment |= {"PENSTOCK_RUNS": str(self.runs), "WANDB_MODE": "off", "OMP_NUM_THREADS": "1"}
        return subprocess.Popen(
            [sys.executable, "-m", "cluster.cli", *words],
            cwd=self.checkout,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def __call__(self, *words: str, code: int = 0, seconds: float = 300) -> str:
        process = self.start(*words)
        said, _ = process.communicate(timeout=seconds)
        with self.log.open("a") as log:
            log.write(f"$ penstock {' '.join(words)}\n{said}")
        assert process.returncode == code, self.log.read_text()
        return said


@pytest.fixture
def user(tmp_path: Path) -> Iterator[User]:
    """A user whose cluster of two nodes is up, and of which nothing is left afterwards."""
    checkout = tmp_path / "checkout"
    listed = subprocess.run(
        ["git", "-C", str(REPOSITORY), "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        capture_output=True,
        check=True,
    )
    for name in listed.stdout.decode().split("\0"):
        if name and (REPOSITORY / name).is_file():
            (checkout / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(REPOSITORY / name, checkout / name)
    subprocess.run(["git", "init", "-q"], cwd=checkout, check=True)
    folders = set(Path("/tmp").iterdir())
    user = User(checkout, tmp_path / "runs", tmp_path / "said")
    user("cluster", "up", "--nodes", "2", "--cpus", "2")
    there = local.find()
    assert there is not None
    try:
        yield user
    finally:
        user("cluster", "down")
        assert local.keeper() is None
        assert local.processes(there.name) == []
        assert not Path(there.temporary).exists()
        ours = [path for path in set(Path("/tmp").iterdir()) - folders if path.name.startswith(("pencl-", "penstock-"))]
        assert ours == []


def _listening(name: str) -> set[str]:
    """The addresses (hexadecimal, as in /proc/net) at which processes of a cluster listen."""
    sockets = set()
    for pid in local.processes(name):
        for descriptor in Path(f"/proc/{pid}/fd").iterdir():
            with contextlib.suppress(OSError):
                sockets.add(str(descriptor.readlink()))
    found = set()
    for table in ("tcp", "tcp6"):
        for line in Path("/proc/net", table).read_text().splitlines()[1:]:
            words = line.split()
            if words[3] == "0A" and f"socket:[{words[9]}]" in sockets:
                found.add(words[1].split(":")[0])
    return found


LOOPBACK = {"0100007F", "0000000000000000FFFF00000100007F", "00000000000000000000000001000000"}
"""127.0.0.1, the same in IPv6, and ::1."""
TOY = ("--env", "PYTHONPATH=tests/toy", "--")


@pytest.mark.slow
def test_a_job_from_a_clean_checkout_and_a_stop_that_can_be_resumed(user: User) -> None:
    there = local.find()
    assert there is not None
    addresses = _listening(there.name)
    assert addresses
    assert addresses <= LOOPBACK
    (user.checkout / "other").write_text("a" * 64)
    stranger = ("jobs", "--address", there.dashboard, "--token-file", "other")
    assert "asks for a token, and ours is missing or another one" in user(*stranger, code=2)
    assert "alive:        2 nodes" in user("cluster", "status")
    assert "up already" in user("cluster", "up", "--nodes", "2")
    assert "a cluster of 2 nodes is up already" in user("cluster", "up", "--nodes", "3", code=2)

    said = user("submit", "--job-name", "whole", *TOY, "run", "toy", "--preset", "debug", "--name", "whole")
    assert "job whole: succeeded" in said
    assert Run(user.runs / "whole").state() == DONE
    kept = json.loads((user.runs / "whole" / "provenance.json").read_text())
    assert there.temporary in kept["directory"]
    assert "unknown domain 'nothing'" in user("submit", *TOY, "run", "nothing", code=2)

    user("submit", "--no-wait", "--job-name", "cut", *TOY, "run", "toy", "--name", "cut", *LONG)
    run = user.runs / "cut"
    end = time.monotonic() + 120
    while not (run / "metrics.csv").exists() or not read_metrics(run / "metrics.csv"):
        assert time.monotonic() < end, user("jobs", "logs", "cut")
        time.sleep(0.2)
    assert "running" in user("jobs", "status", "cut")
    begun = time.monotonic()
    stopped = user("jobs", "stop", "cut")
    print(f"stopped after {time.monotonic() - begun:.1f} s")
    assert time.monotonic() - begun < 30
    assert "go on with it: penstock submit -- resume cut" in stopped
    assert [*run.glob("checkpoints/flow/step-*.ckpt")]
    assert Run(run).state() == "unfinished"
    pids = [int(entry.name) for entry in Path("/proc").glob("[0-9]*")]
    assert not [pid for pid in pids if f"PENSTOCK_RUN={run}".encode() in _environment(pid)]
    listed = user("jobs")
    assert [listed.count(state) for state in ("succeeded", "failed", "stopped")] == [1, 1, 1]
    user("submit", "--no-wait", "--job-name", "on", *TOY, "resume", "cut")
    # A cluster that goes down stops its jobs first.
    end = time.monotonic() + 120
    while Run(run).state() != "running":
        assert time.monotonic() < end, user("jobs", "logs", "on")
        time.sleep(0.2)
    time.sleep(5)
    assert "stopping on" in user("cluster", "down")
    assert Run(run).holder() is None


LONG = ("--flow.trainer.steps", "100000", "--flow.trainer.checkpoint_every_steps", "100000")


def _environment(pid: int) -> list[bytes]:
    try:
        return Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError:
        return []


@pytest.mark.long
@pytest.mark.slow
def test_two_workers_on_two_nodes_in_a_job(user: User) -> None:
    """Both nodes get the job's files, and neither takes them from the other."""
    words = ("run", "toy", "--preset", "debug", "--name", "two", "--on", "ray", "--workers", "2")
    said = user("submit", *TOY, *words)
    assert "succeeded" in said
    assert Run(user.runs / "two").state() == DONE


@pytest.mark.slow
def test_a_command_without_an_address_finds_it_and_a_killed_keeper_takes_all_with_it(user: User) -> None:
    there = local.find()
    assert there is not None
    code = "from cluster.on_ray.connection import connected, ray\n"
    code += "with connected(None): print(len(ray().nodes()), ray().get_runtime_context().gcs_address)"
    done = subprocess.run([sys.executable, "-c", code], cwd=user.checkout, capture_output=True, text=True, timeout=60)
    assert done.stdout.split() == ["2", there.address], done.stderr
    keeper = local.keeper()
    assert keeper is not None
    os.kill(keeper.pid, signal.SIGKILL)
    end = time.monotonic() + 30
    while local.processes(there.name) and time.monotonic() < end:
        time.sleep(0.2)
    assert local.processes(there.name) == []
    assert "no cluster is up" in user("cluster", "status", code=1)
