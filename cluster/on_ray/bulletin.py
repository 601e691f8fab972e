"""What the processes of one training tell one another: a board beside the driver that all of them can reach.

The board is an actor without a core of its own on the driver's node. Workers pin notes to it (lines of output, steps
done, how they ended), the driver reads them as they come. The other way, whoever wants the training to end in an
orderly way (the driver, a node that is about to go) leaves a wish there, and the first worker waits for one.

Nothing here is heavy to import: the board is a process of its own, and should be there at once.
"""

import asyncio
import io
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, TextIO

PATIENCE = 10.0
"""Seconds for which a question to the board waits for an answer before it is asked again."""

WATCH = 1.0
"""Seconds between two looks for nodes that are to be taken away."""


class Moved(Exception):
    """The training was saved and is to begin again elsewhere: no failure."""


class WorkerFailed(Exception):
    """What a worker raised, in words: the exception itself may not survive the way to another process."""


@dataclass(frozen=True)
class Note:
    """Something that happened, at a time of the board's clock (seconds since 1970)."""

    time: float
    kind: str
    facts: Mapping[str, Any]


@dataclass(frozen=True)
class Wish:
    """That the training end after the step under way, with a checkpoint."""

    text: str
    """Who wishes, as in "stopped by SIGTERM"."""
    move: bool = False
    """True: the training is to begin again at once, on other machines; False: it is over for now."""


@dataclass(frozen=True)
class Attempt:
    """What is known of the worker group that works now, or worked last."""

    step: int | None
    """The last step that it told of; None before its first."""
    workers: Sequence[Mapping[str, Any]]
    """By rank: pid, host, node."""
    failures: Mapping[int, Mapping[str, Any]]
    """By rank: type, text, step and traceback of what a worker raised, and whether it is the user's to mend."""
    left: frozenset[int]
    """The ranks that have ended, one way or the other."""
    running: bool
    wish: Wish | None


class Bulletin:
    """The board. Ray makes an actor of it; every method is quick or waits without blocking the others."""

    def __init__(self) -> None:
        self._notes: list[Note] = []
        self._at: Note | None = None
        self._wish: Wish | None = None
        self._news, self._wished = asyncio.Event(), asyncio.Event()
        self._step: int | None = None
        self._workers: Sequence[Mapping[str, Any]] = ()
        self._failures: dict[int, Mapping[str, Any]] = {}
        self._left: set[int] = set()
        self._watch: asyncio.Task[None] | None = None

    async def put(self, kind: str, **facts: Any) -> None:
        """Pin a note. Steps done (`at`) are many: only the newest is kept for the driver."""
        note = Note(time.time(), kind, facts)
        if kind == "opened":
            self._open(facts["workers"])
        if kind in ("began", "at"):
            self._step = int(facts["step"])
        if kind == "failed":
            self._failures[int(facts["rank"])] = facts
        if kind in ("failed", "left"):
            self._left.add(int(facts["rank"]))
        if kind == "fell":
            self._left = set(range(len(self._workers)))
        if kind == "at":
            self._at = note
            return
        self._notes.append(note)
        self._news.set()

    def _open(self, workers: Sequence[Mapping[str, Any]]) -> None:
        self._workers, self._step, self._failures, self._left = workers, None, {}, set()
        if self._wish is not None and self._wish.move:
            self._wish = None
            self._wished.clear()
        if self._watch is None:
            self._watch = asyncio.create_task(self._watch_nodes())

    async def news(self, patience: float) -> list[Note]:
        """The notes since the last call, the newest step among them; waits for the first of them."""
        with suppress(TimeoutError):
            await asyncio.wait_for(self._news.wait(), patience)
        self._news.clear()
        found, self._notes = self._notes, []
        if self._at is not None:
            found = sorted([*found, self._at], key=lambda note: note.time)
            self._at = None
        return found

    async def want(self, wish: Wish) -> None:
        """Leave a wish. One that the training be over is not taken back by one that it move."""
        if self._wish is None or self._wish.move:
            self._wish = wish
            self._wished.set()

    async def wish(self, patience: float) -> Wish | None:
        """The wish that is there; waits for one."""
        with suppress(TimeoutError):
            await asyncio.wait_for(self._wished.wait(), patience)
        return self._wish

    async def attempt(self) -> Attempt:
        running = self._step is not None and len(self._left) < len(self._workers)
        return Attempt(self._step, self._workers, dict(self._failures), frozenset(self._left), running, self._wish)

    async def gone(self, patience: float) -> bool:
        """Whether all workers of the attempt have ended; waits for that, or for one of them to fail: then another one
        is dead and will never say that it has ended."""
        end = time.monotonic() + patience
        while len(self._left) < len(self._workers) and not self._failures and time.monotonic() < end:
            await asyncio.sleep(0.05)
        return len(self._left) >= len(self._workers)

    async def _watch_nodes(self) -> None:
        """Nodes that Ray was told to drain are about to go: what runs there is saved while it still can be."""
        seen: set[str] = set()
        while True:
            await asyncio.sleep(WATCH)
            with suppress(Exception):
                going = await asyncio.get_running_loop().run_in_executor(None, draining_nodes)
                ours = {str(worker["node"]): worker["host"] for worker in self._workers}
                if fresh := (going & set(ours)) - seen:
                    seen |= fresh
                    hosts = ", ".join(sorted({str(ours[node]) for node in fresh}))
                    await self.put("notice", hosts=hosts)
                    await self.want(Wish(f"the notice that {hosts} will be taken away", move=True))


def draining_nodes() -> set[str]:
    """Ids of the nodes that Ray was told to drain (a preemption notice, a cluster that shrinks)."""
    import ray

    return set(ray._private.state.state.get_draining_nodes() or {})


class Desk:
    """The board as one worker sees it: where it leaves its notes, and whose wishes it follows."""

    def __init__(self, bulletin: Any, rank: int) -> None:
        self._bulletin, self.rank = bulletin, rank
        self._wish: Wish | None = None
        if rank == 0:
            threading.Thread(target=self._listen, daemon=True, name="wishes").start()

    def _listen(self) -> None:
        import ray

        while self._wish is None:
            try:
                self._wish = ray.get(self._bulletin.wish.remote(PATIENCE), timeout=3 * PATIENCE)
            except ray.exceptions.GetTimeoutError:
                continue
            except Exception:
                return  # the board is gone, and with it the driver: Ray ends this process

    def stop(self) -> str | None:
        """Who wishes that the training end; asked after every step, so it looks at nothing but a variable."""
        return None if self._wish is None else self._wish.text

    def put(self, kind: str, **facts: Any) -> None:
        """Pin a note, without waiting; a board that is gone is no reason to stop."""
        with suppress(Exception):
            self._bulletin.put.remote(kind, **facts)

    def hand_in(self, kind: str, **facts: Any) -> None:
        """Pin a note and wait until it and all earlier ones are there."""
        import ray

        with suppress(Exception):
            ray.get(self._bulletin.put.remote(kind, **facts), timeout=PATIENCE)

    def wish(self) -> Wish | None:
        """The wish on the board now, the same for every worker that asks after the training has ended by one."""
        import ray

        with suppress(Exception):
            found: Wish | None = ray.get(self._bulletin.wish.remote(0.01), timeout=PATIENCE)
            return found
        return None


class Lines(io.TextIOBase):
    """A text stream whose whole lines are pinned to the board, besides going where they went before."""

    def __init__(self, desk: Desk, before: TextIO, kind: str) -> None:
        self._desk, self._before, self._kind = desk, before, kind
        self._rest = ""
        self._lock = threading.Lock()

    def write(self, text: str) -> int:
        with self._lock:
            *lines, self._rest = (self._rest + text).split("\n")
            for line in lines:
                self._desk.put(self._kind, text=line)
        self._before.write(text)
        return len(text)

    def flush(self) -> None:
        self._before.flush()

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        return self._before.fileno()
