"""One process that has imported what steps need, and forks a child for each: a step then begins at once.

Metaflow starts a new Python for every step, and importing torch and Lightning takes each of them seconds. With this
server, which lives as long as the workflow's driver, that Python only asks and waits. It has no threads when it forks.
Where it cannot be reached, steps are done in the process that asked.
"""

import atexit
import contextlib
import importlib
import json
import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

from flows.stopping import SIGNALS, handled

ADDRESS = "PENSTOCK_STEP_SERVER"
PRELOAD = ("torch", "lightning")


class StepEnded(Exception):
    """A step failed in its own process; the run's log and status say why."""


@contextmanager
def served(environment: Mapping[str, str], domain: str) -> Iterator[dict[str, str]]:
    """A step server while the block runs; gives the environment in which processes find it."""
    folder = tempfile.mkdtemp(prefix="pen-")  # short: the path of a socket has room for 107 letters
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(f"{folder}/steps")
    listener.listen()
    alive, ours = os.pipe()  # closed by our end, whatever ends us
    command = [sys.executable, "-c", _START, str(listener.fileno()), str(alive), domain]
    here = {**environment, ADDRESS: f"{folder}/steps"}
    server = subprocess.Popen(command, stdin=subprocess.DEVNULL, env=here, pass_fds=[listener.fileno(), alive])
    listener.close()
    os.close(alive)
    try:
        yield here
    finally:
        os.close(ours)
        server.wait()
        shutil.rmtree(folder, ignore_errors=True)


_START = "import sys; from flows.step_server import serve; serve(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3])"


def serve(listening: int, alive: int, domain: str) -> None:
    """Answer requests at the socket `listening` until the pipe `alive` closes; children go on by themselves."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the steps and for who drives them
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    listener = socket.socket(fileno=listening)
    for module in (*PRELOAD, f"flows.steps.{domain}"):
        # What cannot be imported is reported by the step that needs it.
        with contextlib.suppress(Exception):
            importlib.import_module(module)
    while True:
        ready, _, _ = select.select([listening, alive], [], [])
        if listening in ready:
            connection, _ = listener.accept()
            if os.fork() == 0:
                listener.close()
                os.close(alive)
                _child(connection)
            connection.close()
        else:
            return


def _child(connection: socket.socket) -> None:
    """The steps of one request, then the end of this process."""
    for number in (signal.SIGTERM, signal.SIGCHLD):
        signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    error: str | None = "ended early"
    try:
        with connection, connection.makefile("rw") as channel:
            request: dict[str, Any] = json.loads(channel.readline())
            _say(channel, {"pid": os.getpid()})
            os.environ.pop(ADDRESS, None)
            error = _done(request["steps"])
            _say(channel, {"error": error})
    finally:
        atexit._run_exitfuncs()
        sys.stdout.flush()
        os._exit(0 if error is None else 1)


def _done(steps: Sequence[str]) -> str | None:
    from flows.workflow import do_steps

    try:
        do_steps(steps)
    except BaseException as error:
        return f"{type(error).__name__}: {error}"
    return None


def _say(channel: Any, message: Mapping[str, Any]) -> None:
    with contextlib.suppress(BrokenPipeError):  # who asked was killed; the step is worth finishing all the same
        channel.write(json.dumps(message) + "\n")
        channel.flush()


def asked(steps: Sequence[str], otherwise: Callable[[Sequence[str]], None]) -> None:
    """Have the server do `steps` and wait for their end; `otherwise` does them where there is no server.

    Raises:
        StepEnded: a step failed, or its process was killed.
    """
    connection = _connected()
    if connection is None:
        otherwise(steps)
        return
    with connection, connection.makefile("rw") as channel:
        _say(channel, {"steps": list(steps)})
        first = channel.readline()
        if not first:
            otherwise(steps)  # the server ended before it forked
            return
        with _passed_on(json.loads(first)["pid"]):
            last = channel.readline()
    error = json.loads(last)["error"] if last else "its process was killed"
    if error is not None:
        raise StepEnded(error)


def _connected() -> socket.socket | None:
    path = os.environ.get(ADDRESS)
    if path is None or not Path(path).exists():
        return None
    connection = socket.socket(socket.AF_UNIX)
    try:
        connection.connect(path)
    except OSError:
        connection.close()
        return None
    return connection


@contextmanager
def _passed_on(pid: int) -> Iterator[None]:
    """Pass the wish to end on to the step, and go on waiting for it."""

    def pass_on(number: int, frame: FrameType | None) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)

    with handled(pass_on, *SIGNALS):
        yield
