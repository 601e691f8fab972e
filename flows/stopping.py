"""SIGTERM: the wish that a command ends in order, in the process that does the work."""

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType

from flows.lock import holder

LOOK_SECONDS = 0.1


@contextmanager
def like_ctrl_c() -> Iterator[None]:
    """While the block runs, SIGTERM raises KeyboardInterrupt, as Ctrl-C does: what is open is closed, and what is
    temporary removed. A training puts its own handler, which saves a checkpoint, over this one."""
    with _handled(signal.default_int_handler):
        yield


@contextmanager
def passed_on(lock: Path) -> Iterator[threading.Event]:
    """While the block runs, SIGTERM goes on to the process that holds the lock file, once, and to any that takes it
    later. The event is set from then on."""
    asked, over = threading.Event(), threading.Event()

    def tell() -> None:
        told: set[int] = set()
        while not over.wait(LOOK_SECONDS):
            other = holder(lock)
            if other is not None and other.pid > 0 and other.pid not in told:
                told.add(other.pid)
                with suppress(ProcessLookupError, PermissionError):
                    os.kill(other.pid, signal.SIGTERM)

    def ask(number: int, frame: FrameType | None) -> None:
        if not asked.is_set():
            asked.set()
            threading.Thread(target=tell, daemon=True).start()

    try:
        with _handled(ask):
            yield asked
    finally:
        over.set()


@contextmanager
def _handled(handler: Callable[[int, FrameType | None], object]) -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():
        yield  # whoever runs us there handles signals
        return
    before = signal.signal(signal.SIGTERM, handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
