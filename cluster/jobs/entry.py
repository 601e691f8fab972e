"""What a job runs on the cluster: a `penstock` command, and nothing of it is left when the job has ended.

Ray ends a job by SIGTERM for every process that it finds under the job's own, and by SIGKILL some seconds later. Worker
processes of a preparation would count such an end as crashes of their own, and a training would lose its data loaders
before its checkpoint is written. So the command runs under a keeper, a process that has left the job's tree: on SIGTERM
the job's own process tells the keeper, and the keeper tells the command alone, waits for it, and then ends whatever the
command has left. The keeper does the same when the job's process dies.
"""

import ctypes
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from types import FrameType

STOP_SECONDS = 120
"""How long a job has after `stop`, before Ray kills it."""
GRACE_SECONDS = 30.0
"""How long a command goes on after SIGTERM where nobody waits for it any more."""
NO_RUNS_NEEDED = ("doctor", "version", "--help", "-h")
SUBREAPER, DEATH_SIGNAL = 36, 1
"""Of prctl(2): what loses its parent becomes a child of the process that asks so; the signal when one's parent dies."""


def main(words: Sequence[str]) -> int:
    """Run `penstock WORDS`; its exit code."""
    refusal = _refusal(words)
    if refusal is not None:
        print(f"penstock: {refusal}", file=sys.stderr)
        return 2
    told, tell = os.pipe()
    answer, answers = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(tell)
        os.close(answer)
        if os.fork() == 0:
            os.setsid()
            _keep(words, told, answers)
        os._exit(0)
    os.close(told)
    os.close(answers)

    def stop(number: int, frame: FrameType | None) -> None:
        with suppress(OSError):
            os.write(tell, b"stop")

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, stop)
    os.waitpid(child, 0)
    with os.fdopen(answer) as lines:
        code = lines.read()
    return int(code) if code else 1


def _refusal(words: Sequence[str]) -> str | None:
    """Why a command would lose its results: the job's own folder is gone when the job has ended."""
    if not words or words[0] in NO_RUNS_NEEDED or "--help" in words or "-h" in words:
        return None
    given = [word for word in words if word == "--runs-dir" or word.startswith("--runs-dir=")]
    runs = os.environ.get("PENSTOCK_RUNS", "")
    if given or Path(runs).is_absolute():
        return None
    return (
        "where are the runs to live? The folder of a job is gone when it has ended. Give `penstock submit --runs-dir "
        "DIR`, a folder that all nodes of the cluster see, or set PENSTOCK_RUNS where its nodes are started."
    )


# ------------------------------------------------------------------------------------------------------------- keeper


def _keep(words: Sequence[str], told: int, answers: int) -> None:
    """Run the command until it ends, or until the pipe `told` says so or closes; never returns."""
    code = 1
    try:
        _prctl(SUBREAPER, 1)
        command = subprocess.Popen(
            [sys.executable, "-m", "cluster.cli", *words],
            stdin=subprocess.DEVNULL,
            preexec_fn=lambda: _prctl(DEATH_SIGNAL, signal.SIGTERM),
        )
        code = _exit_code(_watched(command, told))
        _end_rest()
        with suppress(BrokenPipeError):
            os.write(answers, str(code).encode())
    finally:
        sys.stdout.flush()
        os._exit(code)


def _watched(command: "subprocess.Popen[bytes]", told: int) -> int:
    asked, alone_since = False, None
    while command.poll() is None:
        ready, _, _ = select.select([told] if alone_since is None else [], [], [], 0.1)
        if ready and not os.read(told, 100):
            alone_since = time.monotonic()  # the job's own process is gone
        if (ready or alone_since is not None) and not asked:
            asked = True
            command.terminate()
        if alone_since is not None and time.monotonic() > alone_since + GRACE_SECONDS:
            command.kill()
    return command.wait()


def _exit_code(code: int) -> int:
    return code if code >= 0 else 128 - code


def _prctl(what: int, value: int) -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(what, value, 0, 0, 0)


def _end_rest(seconds: float = 10.0) -> None:
    """End what the command has left: SIGTERM, and SIGKILL for what is there `seconds` later."""
    end = time.monotonic() + seconds
    told: set[int] = set()
    while True:
        _reap()
        left = _descendants(os.getpid())
        if not left:
            return
        late = time.monotonic() > end
        for pid in left if late else left - told:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL if late else signal.SIGTERM)
        told |= left
        time.sleep(0.05)


def _reap() -> None:
    with suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass


def _descendants(root: int) -> set[int]:
    """All processes under `root`."""
    parents: dict[int, int] = {}
    for entry in Path("/proc").glob("[0-9]*"):
        with suppress(OSError, IndexError, ValueError):
            parents[int(entry.name)] = int((entry / "stat").read_text().rsplit(")", 1)[1].split()[1])
    found: set[int] = set()
    fresh = {root}
    while fresh:
        fresh = {pid for pid, parent in parents.items() if parent in fresh} - found
        found |= fresh
    return found


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
