"""Item-wise work of a step (`data.worker_pool`) over all free resources of a Ray cluster.

Each process of the cluster is an actor: it gets the work once, keeps the networks it loaded, and does one item after
the other, so that a death is laid to the item under way. Items wait here and not in the cluster: an actor holds the one
it works on and the next. What an item gives lies on the disk, and only small answers travel.
"""

import sys
import time
import uuid
from collections import defaultdict, deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, TypeVar

from cluster.on_ray.connection import ray
from data.atomic import SUFFIX
from data.errors import PenstockError
from data.worker_pool import CRASHED, NO_MEMORY, use_one_thread
from flows.placement import Placement
from flows.run import Run

Task = TypeVar("Task")
Answer = TypeVar("Answer")

ATTEMPTS = 3
"""How often an item may take its process down before it is given up; the loss of a whole node does not count."""
AHEAD = 2
"""Items that an actor holds: the one under way and the next, which spares a journey between the two."""
MOST_STILLBORN = 10
"""Processes that may die at their start, one after another."""
LOOK_SECONDS = 3.0
"""Between two looks at what the cluster has: nodes come and go."""
DETECTION_SECONDS = 5.0
"""For which Ray may be asked what became of a process."""
PATIENCE_SECONDS = 20.0
"""After which it is said that nothing is free."""


@dataclass(frozen=True)
class RayPool:
    """The pool of a run: every process gets the resources of one of the placement's workers if it runs a network, else
    one core."""

    run: Run
    placement: Placement
    connect: Callable[[], None]
    """Joins the cluster; called when there is work, as many steps have none."""

    def worked(
        self,
        tasks: Sequence[Task],
        work: Callable[[Task], Answer],
        most: int | None,
        *,
        crashed: Callable[[Task, str], Answer],
        network: bool,
    ) -> Iterator[tuple[Task, Answer]]:
        """See `data.worker_pool.Pool`.

        Raises:
            PenstockError: the cluster's processes cannot import the work, or none of its nodes sees the run's folder.
        """
        if not tasks:
            return
        self.connect()
        place = self.placement
        needs = {"CPU": place.cpus_per_worker, "GPU": place.gpus_per_worker} if network else {"CPU": 1.0, "GPU": 0.0}
        threads = self.run.config.threads or max(1, int(place.cpus_per_worker)) if network else None
        with _token(self.run.path) as token:
            paths = [token]
            if self.run.config.data is not None and Path(self.run.config.data).exists():
                paths.append(Path(self.run.config.data).resolve())
            yield from _Spread(tasks, work, most, crashed, needs, threads, paths).answers()


@contextmanager
def _token(folder: Path) -> Iterator[Path]:
    """A file by which a process elsewhere finds out whether it sees this very folder, or another one of that name."""
    path = folder / f".seen.{uuid.uuid4().hex[:12]}{SUFFIX}"
    path.touch()
    try:
        yield path
    finally:
        path.unlink(missing_ok=True)


class _Hand:
    """The process that does items; an actor."""

    def begin(self, boxed: list[Any], paths: list[Path], threads: int | None) -> tuple[str, str | None]:
        """(node, the first path that is not seen here); `boxed` holds a reference to the work."""
        use_one_thread()
        package = ray()
        node = package.get_runtime_context().get_node_id()
        missing = next((str(path) for path in paths if not path.exists()), None)
        if missing is None:
            self._work = package.get(boxed[0])
            if threads is not None:
                import torch

                torch.set_num_threads(threads)
        return node, missing

    def do(self, task: Any) -> Any:
        return self._work(task)

    def answer(self) -> None:
        """Answers, as long as it lives."""


@dataclass(eq=False)
class _Member:
    """An actor as the driver sees it."""

    actor: Any
    beginning: Any
    """Reference to its first answer; None when that came."""
    node: str | None = None
    calls: deque[tuple[Any, int]] = field(default_factory=deque)
    """(reference, item) in the order in which it does them."""


@dataclass
class _Spread(Generic[Task, Answer]):
    """One round of work."""

    tasks: Sequence[Task]
    work: Callable[[Task], Answer]
    most: int | None
    crashed: Callable[[Task, str], Answer]
    needs: dict[str, float]
    threads: int | None
    paths: list[Path]

    def __post_init__(self) -> None:
        self.queue = deque(range(len(self.tasks)))
        self.deaths: defaultdict[int, list[str | None]] = defaultdict(list)
        """The nodes on which processes died that were at an item."""
        self.members: list[_Member] = []
        self.blind: dict[str, str] = {}
        """The path that is not seen, by node."""
        self.limit = sys.maxsize
        """Fewer processes at a time after the memory of a node ran out."""
        self.stillborn = 0
        """Processes that died at their start, one after another."""
        self.looked = self.said = float("-inf")
        self.room = 0
        self.waiting_since = time.monotonic()

    def answers(self) -> Iterator[tuple[Task, Answer]]:
        """(task, answer) as they come."""
        self.boxed = [ray().put(self.work)]
        self.maker = ray().remote(_Hand)
        try:
            while self.queue or any(member.calls for member in self.members):
                self._staff()
                self._hand_out()
                yield from self._arrived()
        finally:
            for member in self.members:
                ray().kill(member.actor)

    # ------------------------------------------------------------------------------------------------ processes

    def _staff(self) -> None:
        """As many actors as there is room for and work left."""
        if time.monotonic() - self.looked > LOOK_SECONDS:
            self.looked, self.room = time.monotonic(), self._slots()
        idle = [member for member in self.members if not member.calls and not member.beginning]
        wanted = min(self.room, self.limit, self.most or sys.maxsize, len(self.queue) + len(self.members) - len(idle))
        for _ in range(wanted - len(self.members)):
            options: dict[str, Any] = {"num_cpus": self.needs["CPU"], "num_gpus": self.needs.get("GPU", 0.0)}
            if self.blind:
                options["label_selector"] = {"ray.io/node-id": f"!in({','.join(self.blind)})"}
            actor = self.maker.options(scheduling_strategy="SPREAD", max_restarts=0, **options).remote()
            self.members.append(_Member(actor, actor.begin.remote(self.boxed, self.paths, self.threads)))
        self._say_waiting()

    def _slots(self) -> int:
        """How many actors the cluster has room for when it does nothing else; at least one, which then waits for a node
        that may yet come."""
        found = 0
        nodes = [node for node in ray().nodes() if node["Alive"]]
        if nodes and all(node["NodeID"] in self.blind for node in nodes):
            raise PenstockError(
                f"no node of the cluster sees {next(iter(self.blind.values()))}. Preparation, encoding, pairs and "
                "evaluation need a folder that the nodes share: choose one as --runs-dir (and for --data), or leave "
                "out --on ray for these steps."
            )
        for node in nodes:
            if node["NodeID"] not in self.blind:
                have = node["Resources"]
                found += min(int(have.get(name, 0.0) / need + 1e-9) for name, need in self.needs.items() if need > 0)
        return max(found, 1)

    def _say_waiting(self) -> None:
        """Once in a while: nothing is done as nothing is free."""
        now = time.monotonic()
        if any(not member.beginning for member in self.members):
            self.waiting_since = now
        elif now - max(self.waiting_since, self.said) > PATIENCE_SECONDS:
            self.said = now
            wanted = " and ".join(f"{need:g} {name}" for name, need in self.needs.items() if need > 0)
            print(f"waiting for the cluster: no node has {wanted} free", flush=True)

    # ------------------------------------------------------------------------------------------------------ work

    def _hand_out(self) -> None:
        for depth in range(AHEAD):  # the first of each before the second of any
            for member in self.members:
                if self.queue and not member.beginning and len(member.calls) == depth:
                    # An answer may be lost when the next item kills the process, so that a death is laid to the one
                    # before. Whatever has a death to its name is therefore done with nothing before or after it.
                    if depth and any(self.deaths[k] for k in (self.queue[0], member.calls[0][1])):
                        continue
                    k = self.queue.popleft()
                    member.calls.append((member.actor.do.remote(self.tasks[k]), k))

    def _arrived(self) -> Iterator[tuple[Task, Answer]]:
        """Wait for something to happen, and deal with all that did."""
        pending = {reference: member for member in self.members for reference, _ in member.calls}
        pending |= {member.beginning: member for member in self.members if member.beginning}
        if not pending:
            time.sleep(0.1)
            return
        done, _ = ray().wait(list(pending), num_returns=1, timeout=1.0)
        if done:
            done, _ = ray().wait(list(pending), num_returns=len(pending), timeout=0)
        for member in dict.fromkeys(pending[reference] for reference in done):
            if member.beginning:
                self._begun(member)
            else:
                yield from self._collected(member, set(done))

    def _begun(self, member: _Member) -> None:
        exceptions = ray().exceptions
        try:
            member.node, missing = ray().get(member.beginning)
        except exceptions.RayTaskError as error:
            raise PenstockError(
                f"a process of the cluster cannot begin to work: {error.cause!r}. Its nodes need the same Python, the "
                "same packages and the same penstock as this machine; `penstock submit` brings the code along."
            ) from None
        except exceptions.RayError as error:
            self.stillborn += 1
            if self.stillborn > MOST_STILLBORN:
                raise PenstockError(f"the cluster's processes end before they begin to work: {error}") from None
            self._lost(member, error)
            return
        member.beginning, self.stillborn = None, 0
        if missing is not None:
            if member.node not in self.blind:
                print(f"a node of the cluster ({member.node[:8]}) does not see {missing}: it is left out", flush=True)
            self.blind[member.node] = missing
            self.looked = float("-inf")
            self._dismiss(member)

    def _collected(self, member: _Member, done: set[Any]) -> Iterator[tuple[Task, Answer]]:
        """The answers that a member has given, in order."""
        exceptions = ray().exceptions
        while member.calls and member.calls[0][0] in done:
            reference, k = member.calls[0]
            try:
                answer = ray().get(reference)
            except exceptions.RayTaskError as error:
                if not isinstance(error.cause, MemoryError):
                    raise _told(error) from None
                yield from self._lost(member, error)
                return
            except exceptions.RayError as error:
                yield from self._lost(member, error)
                return
            member.calls.popleft()
            yield self.tasks[k], answer

    def _lost(self, member: _Member, error: Exception) -> list[tuple[Task, Answer]]:
        """Its items go to others; the one under way is given up where it has taken too many down with it."""
        error = _cause(member, error)
        under_way, others = [k for _, k in member.calls][:1], [k for _, k in member.calls][1:]
        self._dismiss(member)
        self.looked = float("-inf")
        self.queue.extendleft(reversed(others))
        memory = _is_memory(error)
        if memory:
            self.limit = max(1, len(self.members))
            print(f"memory ran out on a node: {self.limit} at a time from now on", flush=True)
        for k in under_way:
            self.deaths[k].append(member.node)
            count = self._counted(k)
            if count >= ATTEMPTS:
                return [(self.tasks[k], self.crashed(self.tasks[k], NO_MEMORY if memory else CRASHED))]
            print(f"a process or its node was lost: the item is done again ({count + 1} of {ATTEMPTS})", flush=True)
            self.queue.appendleft(k)
        return []

    def _counted(self, k: int) -> int:
        """How often an item took its process down: the deaths on nodes that live. A node's death shows late."""
        gone = {node["NodeID"] for node in ray().nodes() if not node["Alive"]}
        return sum(node not in gone for node in self.deaths[k])

    def _dismiss(self, member: _Member) -> None:
        self.members.remove(member)
        ray().kill(member.actor)


def _cause(member: _Member, error: Exception) -> Exception:
    """Why a member is lost: a connection that broke may mean its process or its whole node, which Ray finds out in
    seconds."""
    exceptions = ray().exceptions
    if isinstance(error, exceptions.ActorUnavailableError):
        try:
            ray().get(member.actor.answer.remote(), timeout=DETECTION_SECONDS)
        except exceptions.RayError as found:
            return found if not isinstance(found, exceptions.GetTimeoutError) else error
    return error


def _is_memory(error: Exception) -> bool:
    """True where Ray ended the process to save the node, or where the process itself could get no more."""
    exceptions = ray().exceptions
    raised = isinstance(error, exceptions.RayTaskError) and isinstance(error.cause, MemoryError)
    return raised or isinstance(error, exceptions.OutOfMemoryError) or "low on memory" in str(error)


def _told(error: Any) -> BaseException:
    """The error as the work raised it, with where it did so."""
    cause: BaseException = error.cause
    if not isinstance(cause, PenstockError):
        cause.add_note(f"raised in a process of the cluster:\n{error}")
    return cause
