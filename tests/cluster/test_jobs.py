"""Jobs: what is asked of them, and the process that runs a command and leaves nothing behind. None starts Ray."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from cluster.cli import main
from cluster.jobs.client import Job, dashboard
from data.errors import PenstockError
from flows.run import Run
from flows.tracking import read_metrics

Penstock = Callable[..., tuple[int, str, str]]
LONG = ("--flow.trainer.steps", "100000", "--flow.trainer.checkpoint_every_steps", "100000")


@pytest.fixture(autouse=True)
def no_cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever cluster its user has on this machine."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    for name in ("RAY_API_SERVER_ADDRESS", "RAY_AUTH_TOKEN_PATH", "RAY_ADDRESS"):
        monkeypatch.delenv(name, raising=False)


# ------------------------------------------------------------------------------------------------------- command line


def test_the_words_after_two_dashes_are_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    monkeypatch.setattr("cluster.jobs.command.submit", lambda arguments: seen.append(arguments) or 7)
    words = ["run", "toy", "--preset", "debug", "--flow.network.width", "8", "--on", "ray", "--address", "B"]
    assert main(["submit", "--address", "A", "--pip", "x", "y", "--env", "N=1", "--no-wait", "--", *words]) == 7
    [arguments] = seen
    assert [word for word in arguments.command if word != "--"] == words
    assert (arguments.address, arguments.pip, arguments.env, arguments.no_wait) == ("A", ["x", "y"], ["N=1"], True)
    assert arguments.overrides == {}


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (["submit"], ["submit what?", "penstock submit -- run DOMAIN"]),
        (["submit", "--"], ["submit what?"]),
        (["submit", "--", "rum", "toy"], ["'rum' cannot be a job", "Did you mean 'run'"]),
        (["submit", "--", "submit", "--", "run"], ["'submit' cannot be a job"]),
        (["submit", "--flow.steps", "3", "--", "run", "toy"], ["--flow.steps is no option of submit", "after `--`"]),
        (["submit", "--env", "9=1", "--", "run", "toy"], ["--env expects NAME=VALUE", "'9=1'"]),
        (["submit", "--env", "NOT_SET_HERE", "--", "run", "toy"], ["no such variable here", "NOT_SET_HERE=VALUE"]),
        (["submit", "--runs-dir", "runs", "--", "run", "toy"], ["from the root on", "'runs'"]),
        (["submit", "--job-name", "a/b", "--", "run", "toy"], ["--job-name expects", "'a/b'"]),
        (["submit", "--", "run", "toy"], ["which cluster?", "penstock cluster up"]),
        (["jobs"], ["which cluster?"]),
        (["jobs", "list", "--address", "127.0.0.1:1"], ["nobody answers at http://127.0.0.1:1", "ssh -N -L"]),
        (["jobs", "--address", "ftp://here"], ["expects the URL of a dashboard", "ftp://here"]),
        (["jobs", "--address", "http://here:1", "--token-file", "nowhere"], ["no token file nowhere"]),
        (["jobs", "--address", "http://here:1", "--steps", "3"], ["--steps", "is no setting"]),
        (["cluster", "up", "--host", "everywhere"], ["expects an IP address", "'everywhere'"]),
        (["cluster", "up", "--nodes", "0"], ["must be at least 1"]),
        (["cluster", "up", "--steps", "3"], ["--steps", "is no setting"]),
    ],
)
def test_a_mistake_is_one_message(penstock: Penstock, words: list[str], parts: list[str]) -> None:
    code, out, err = penstock(*words)
    assert (code, err.count("\n")) == (2, 1), out + err
    for part in parts:
        assert part in err


def test_which_cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "token").write_text("a")
    assert dashboard("head:8265/", None) == ("http://head:8265", None)
    assert dashboard("https://head", tmp_path / "token") == ("https://head", tmp_path / "token")
    monkeypatch.setenv("RAY_API_SERVER_ADDRESS", "http://other:1")
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(tmp_path / "token"))
    assert dashboard(None, None) == ("http://other:1", tmp_path / "token")
    assert dashboard("http://head:8265", None)[0] == "http://head:8265"


def test_somebody_else_at_the_port(penstock: Penstock) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        server.settimeout(20)
        words = [sys.executable, "-m", "cluster.cli", "jobs", "--address", f"127.0.0.1:{port}"]
        process = subprocess.Popen(words, stderr=subprocess.PIPE, text=True)
        for _ in range(2):  # the look whether anybody is there, then the first request
            connection, _ = server.accept()
            connection.close()
        assert process.stderr is not None
        said = process.stderr.read()
    assert process.wait(timeout=30) == 2, said
    assert f"the cluster at http://127.0.0.1:{port} does not answer" in said
    assert said.count("\n") == 1


@pytest.mark.parametrize(
    ("status", "exit_code", "code"),
    [("SUCCEEDED", 0, 0), ("FAILED", 2, 2), ("FAILED", -9, 137), ("FAILED", None, 1), ("STOPPED", None, 130)],
)
def test_exit_code_of_a_job(status: str, exit_code: int | None, code: int) -> None:
    assert Job("a", status, "run toy", 0.0, 1.0, exit_code, "").code == code


def test_no_token_file(tmp_path: Path) -> None:
    with pytest.raises(PenstockError, match="no token file"):
        dashboard("http://head:8265", tmp_path / "nowhere")


# ------------------------------------------------------------------------------------------- the command on the cluster


@pytest.fixture
def entry(runs: Path, tmp_path: Path) -> Iterator[Callable[..., subprocess.Popen[bytes]]]:
    """Starts a job's command as Ray does: by a shell, in a session of its own. Everything has ended afterwards."""
    begun: list[subprocess.Popen[bytes]] = []
    mark = f"PENSTOCK_TEST_JOB={tmp_path}"

    def start(*words: str) -> subprocess.Popen[bytes]:
        with (tmp_path / "log").open("a") as log:
            command = f"exec {sys.executable} -m cluster.jobs.entry {' '.join(words)}"
            environment = {**os.environ, "PENSTOCK_TEST_JOB": str(tmp_path)}
            process = subprocess.Popen(
                command, shell=True, start_new_session=True, stdout=log, stderr=log, env=environment
            )
        begun.append(process)
        return process

    yield start
    left = _wait_for_end(mark)
    for pid in left:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    assert not left, (tmp_path / "log").read_text()


def _marked(mark: str) -> list[int]:
    """The processes that carry a variable in their environment."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if mark.encode() in (entry / "environ").read_bytes().split(b"\0"):
                found.append(int(entry.name))
    return found


def _wait_for_end(mark: str, seconds: float = 30) -> list[int]:
    """The processes that carry the mark and are alive still after some time."""
    end = time.monotonic() + seconds
    while _marked(mark) and time.monotonic() < end:
        time.sleep(0.1)
    return _marked(mark)


def _wait_for_training(process: subprocess.Popen[bytes], run: Path, log: Path) -> None:
    end = time.monotonic() + 120
    while not (run / "metrics.csv").exists() or not read_metrics(run / "metrics.csv"):
        assert process.poll() is None, log.read_text()
        assert time.monotonic() < end, log.read_text()
        time.sleep(0.05)


Start = Callable[..., subprocess.Popen[bytes]]


def test_the_exit_code_is_that_of_the_command(entry: Start, tmp_path: Path) -> None:
    both = entry("version"), entry("run", "nothing")
    assert [process.wait(timeout=60) for process in both] == [0, 2]
    said = (tmp_path / "log").read_text()
    assert "penstock 0." in said
    assert "unknown domain 'nothing'" in said


def test_results_must_not_end_up_in_the_job_s_own_folder(
    entry: Start, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for value in ("", "runs"):
        monkeypatch.setenv("PENSTOCK_RUNS", value)
        assert entry("run", "toy").wait(timeout=60) == 2
    assert (tmp_path / "log").read_text().count("where are the runs to live?") == 2


STAND_IN = """
import os, signal, subprocess, sys, time
from pathlib import Path
worker = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
def end(number, frame):
    Path("asked").open("a").write("x")
    time.sleep(1)
    Path("saved").write_text("all" if worker.poll() is None else "its worker was ended before it")
    sys.exit(130)
signal.signal(signal.SIGTERM, end)
Path("ready").touch()
time.sleep(600)
"""
"""In place of the command line: takes a second to save what it has, for which it needs its worker process."""


@pytest.fixture
def stand_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Puts a text in the place of the command line. The folder of a job comes first on the path of its command."""
    monkeypatch.chdir(tmp_path)

    def write(text: str) -> None:
        (tmp_path / "cluster" / "jobs").mkdir(parents=True)
        for package in ("cluster", "cluster/jobs"):
            (tmp_path / package / "__init__.py").touch()
        (tmp_path / "cluster" / "cli.py").write_text(text)
        real = Path(__file__).resolve().parents[2] / "cluster" / "jobs" / "entry.py"
        shorter = real.read_text().replace("seconds: float = 10.0", "seconds: float = 1.0")
        (tmp_path / "cluster" / "jobs" / "entry.py").write_text(shorter)

    return write


def test_stop_tells_the_command_alone_and_waits_for_it(
    entry: Start, stand_in: Callable[[str], None], tmp_path: Path
) -> None:
    stand_in(STAND_IN)
    process = entry("version")
    _wait_for_file(tmp_path / "ready")
    under = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text()
    assert not under, "Ray would send SIGTERM to these as well"
    process.terminate()
    time.sleep(0.3)
    process.terminate()  # said twice is no more than said once
    assert process.wait(timeout=20) == 130
    assert (tmp_path / "saved").read_text() == "all"
    assert (tmp_path / "asked").read_text() == "x"


@pytest.mark.parametrize("killed", ["job", "keeper"])
def test_a_killed_job_ends_its_command_in_order(
    entry: Start, stand_in: Callable[[str], None], tmp_path: Path, killed: str
) -> None:
    """When the node's supervisor dies, Ray kills the job's process group by SIGKILL; the keeper may be killed too."""
    stand_in(STAND_IN)
    process = entry("version")
    _wait_for_file(tmp_path / "ready")
    if killed == "job":
        os.killpg(process.pid, signal.SIGKILL)
    else:
        mark = f"PENSTOCK_TEST_JOB={tmp_path}"
        [keeper] = [pid for pid in _marked(mark) if pid != process.pid and b"cluster.jobs.entry" in _words(pid)]
        os.kill(keeper, signal.SIGKILL)
    process.wait(timeout=20)
    _wait_for_file(tmp_path / "saved")
    assert (tmp_path / "saved").read_text() == "all"
    if killed == "keeper":  # nobody is left who could end the worker; a real one ends with its parent
        [worker] = _wait_for_end(f"PENSTOCK_TEST_JOB={tmp_path}", seconds=2)
        os.kill(worker, signal.SIGKILL)


def _wait_for_file(file: Path, seconds: float = 30) -> None:
    end = time.monotonic() + seconds
    while not file.exists():
        assert time.monotonic() < end, f"{file.name} has not come"
        time.sleep(0.05)


def _words(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


@pytest.mark.slow
@pytest.mark.parametrize("verb", ["train", pytest.param("run", marks=pytest.mark.long)])
def test_stop_saves_a_checkpoint_and_nothing_lives_on(entry: Start, runs: Path, tmp_path: Path, verb: str) -> None:
    process = entry(verb, "toy", "--name", "a", *LONG)
    _wait_for_training(process, runs / "a", tmp_path / "log")
    begun = time.monotonic()
    process.terminate()
    assert process.wait(timeout=60) == 130
    assert time.monotonic() - begun < 20
    assert "stopped by SIGTERM" in (tmp_path / "log").read_text()
    assert list((runs / "a" / "checkpoints" / "flow").glob("step-*.ckpt"))
    assert Run(runs / "a").state() == "unfinished"
    assert Run(runs / "a").steps()["train_flow"].error == "interrupted"


LEAVES = """
import subprocess, sys
subprocess.Popen(["sleep", "600"], start_new_session=True)
subprocess.Popen([sys.executable, "-c", "import signal, time; signal.signal(15, signal.SIG_IGN); time.sleep(600)"])
open("left", "w").close()
"""


def test_what_a_command_leaves_behind_is_ended(entry: Start, stand_in: Callable[[str], None], tmp_path: Path) -> None:
    stand_in(LEAVES)
    assert entry("version").wait(timeout=30) == 0
    assert (tmp_path / "left").exists()
    assert not _wait_for_end(f"PENSTOCK_TEST_JOB={tmp_path}", seconds=2)
