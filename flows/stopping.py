"""SIGTERM and Ctrl-C: the wish that a command ends in order, in the process that does the work."""

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType

from flows.lock import holder

LOOK_SECONDS = 0.1
SIGNALS = (signal.SIGTERM, signal.SIGINT)
TWICE = 2.0
"""Seconds within which a second signal is the same wish: it may come to the whole process group, and once more from the
command that started this process."""


class Asked:
    """A signal handler that notes who asked first, and ends at once when asked again.

    Args:
        then: what is done with the signal's name, once.
    """

    def __init__(self, then: Callable[[str], object] = lambda name: None) -> None:
        self.by: str | None = None
        """The name of the first signal."""
        self._then, self._at = then, 0.0

    def __call__(self, number: int, frame: FrameType | None) -> None:
        if self.by is None:
            self.by, self._at = signal.Signals(number).name, time.monotonic()
            self._then(self.by)
        elif time.monotonic() > self._at + TWICE:
            raise KeyboardInterrupt


@contextmanager
def like_ctrl_c() -> Iterator[None]:
    """While the block runs, SIGTERM raises KeyboardInterrupt, as Ctrl-C does: what is open is closed, and what is
    temporary removed. A training puts its own handler, which saves a checkpoint, over this one."""
    with handled(signal.default_int_handler, signal.SIGTERM):
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
        with handled(ask, signal.SIGTERM):
            yield asked
    finally:
        over.set()


@contextmanager
def handled(handler: Callable[[int, FrameType | None], object], *numbers: int) -> Iterator[None]:
    """While the block runs, `handler` gets the signals; not in another thread than the main one, which has none."""
    if threading.current_thread() is not threading.main_thread():
        yield  # whoever runs us there handles signals
        return
    before = {number: signal.signal(number, handler) for number in numbers}
    try:
        yield
    finally:
        for number, earlier in before.items():
            signal.signal(number, earlier)
