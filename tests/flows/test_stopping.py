"""SIGTERM: as Ctrl-C in a step, and passed on by whoever drives the workflow."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from flows import stopping
from flows.lock import holder
from flows.stopping import TWICE, Asked, like_ctrl_c, passed_on

HOLDS = """
import sys, time
from pathlib import Path
from flows.lock import held
with held(Path(sys.argv[1]), "step"):
    time.sleep(600)
"""


def test_sigterm_closes_what_is_open() -> None:
    before = signal.getsignal(signal.SIGTERM)
    closed = []
    with pytest.raises(KeyboardInterrupt), like_ctrl_c():
        try:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(5)
        finally:
            closed.append(True)
    assert closed
    assert signal.getsignal(signal.SIGTERM) is before


def test_in_another_thread_signals_are_left_alone(tmp_path: Path) -> None:
    before, entered = signal.getsignal(signal.SIGTERM), []

    def inside() -> None:
        with like_ctrl_c(), passed_on(tmp_path / "lock") as asked:
            entered.append(asked.is_set())

    thread = threading.Thread(target=inside)
    thread.start()
    thread.join()
    assert entered == [False]
    assert signal.getsignal(signal.SIGTERM) is before


def test_the_one_at_work_is_told_and_the_next_one_too(tmp_path: Path) -> None:
    lock = tmp_path / "lock"

    def working() -> subprocess.Popen[bytes]:
        process = subprocess.Popen([sys.executable, "-c", HOLDS, str(lock)])
        while holder(lock) is None and process.poll() is None:
            time.sleep(0.02)
        return process

    with passed_on(lock) as asked:
        first = working()
        assert not asked.is_set()
        os.kill(os.getpid(), signal.SIGTERM)
        assert first.wait(timeout=20) == -signal.SIGTERM
        assert asked.is_set()
        assert working().wait(timeout=20) == -signal.SIGTERM
    third = working()
    time.sleep(0.5)
    assert third.poll() is None  # nobody is told any more
    third.kill()
    third.wait()


def test_a_wish_that_comes_by_two_ways_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """A second signal soon after the first is the same wish; a later one ends at once."""
    now, told = [100.0], []
    monkeypatch.setattr(stopping.time, "monotonic", lambda: now[0])
    asked = Asked(told.append)
    asked(signal.SIGTERM, None)
    now[0] += TWICE - 0.1
    asked(signal.SIGINT, None)
    assert (asked.by, told) == ("SIGTERM", ["SIGTERM"])
    now[0] += 0.2
    with pytest.raises(KeyboardInterrupt):
        asked(signal.SIGINT, None)
