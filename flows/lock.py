"""A lock that dies with its holder, and says who holds it."""

import fcntl
import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from data.errors import PenstockError


class BusyError(PenstockError):
    """Somebody else is at work there."""


@dataclass(frozen=True)
class Holder:
    """Who holds a lock, and since when (seconds since 1970)."""

    pid: int
    what: str
    since: float

    def __str__(self) -> str:
        return f"process {self.pid} ({self.what}, for {time.time() - self.since:.0f} s)"


_open_here: set[int] = set()


def _forget_in_child() -> None:
    # flock belongs to the open file, which a forked worker shares: without this an orphaned worker would
    # go on holding the lock of its dead parent.
    for descriptor in _open_here:
        os.close(descriptor)
    _open_here.clear()


os.register_at_fork(after_in_child=_forget_in_child)


def holder(path: Path) -> Holder | None:
    """Who holds the lock file `path`, or None."""
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        return None
    except BlockingIOError:
        return _read_holder(path)
    finally:
        os.close(descriptor)


@contextmanager
def held(path: Path, what: str, waiting: Callable[[Holder], None] | None = None) -> Iterator[int]:
    """Hold the lock file `path` while the block runs; gives the open descriptor, for a child that is to hold it too.

    Where another process holds it: BusyError at once, or, given `waiting`, wait for its end after calling that.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    _open_here.add(descriptor)
    try:
        _acquire(descriptor, path, waiting)
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, json.dumps(asdict(Holder(os.getpid(), what, time.time()))).encode(), 0)
        yield descriptor
        os.ftruncate(descriptor, 0)
    finally:
        _open_here.discard(descriptor)
        os.close(descriptor)


def _acquire(descriptor: int, path: Path, waiting: Callable[[Holder], None] | None) -> None:
    said = False
    for attempt in range(2**62):
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            # The first refusals may come from somebody who only looks who holds it.
            if attempt >= 5 and waiting is None:
                raise BusyError(f"{path.parent} is in use by {_read_holder(path)}.") from None
            if attempt >= 5 and not said and waiting is not None:
                waiting(_read_holder(path))
                said = True
            time.sleep(0.02 if attempt < 5 else 0.2)


def _read_holder(path: Path) -> Holder:
    try:
        return Holder(**json.loads(path.read_text()))
    except (OSError, ValueError, TypeError):
        return Holder(0, "unknown", time.time())
