"""What goes wrong in a distributed training, in words: who died and why, what was lost, where it goes on."""

import json
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from cluster.on_ray.bulletin import Attempt, Note
from flows.progress import duration
from flows.run import write_json

FILE = "events.json"

CUT_OFF = (
    "connection closed by peer",
    "connection reset by peer",
    "broken pipe",
    "connection refused",
    "socket closed",
    "remote process exited",
    "ncclremoteerror",
    "connectfullmesh",
    "gloo",
    "nccl",
    "distributed store",
    "tcpstore",
)
"""What a worker says when another one is gone: a consequence, not a cause."""


NO_MEMORY = ("due to memory pressure", "running low on memory", "memory usage threshold", "NODE_OUT_OF_MEMORY")
"""What Ray says of a worker that it has killed itself; every other death mentions memory too, as a possible cause."""

NODE_LOST = ("node has died", "node died", "dead node", "NODE_DIED", "Node died", "node failure")
"""What Ray says of a worker whose machine is gone."""


DEATHS = {"RayActorError", "WorkerCrashedError", "NodeDiedError", "OutOfMemoryError", "WorkerHealthCheckTimeoutError"}
"""Ray's classes for processes that are gone."""


def is_consequence(failure: Mapping[str, Any]) -> bool:
    """Whether what a worker raised only says that it lost another one."""
    text = f"{failure['type']} {failure['text']}".lower()
    return failure["type"].startswith("Dist") or any(part in text for part in CUT_OFF)


def cause_of_death(error: BaseException) -> str:
    """Why a worker's process is gone, from what Ray says of it."""
    inner = getattr(error, "health_check_failure", error)
    text = str(inner)
    if not {kind.__name__ for kind in type(inner).__mro__} & DEATHS:
        return f"could not go on: {text.strip().splitlines()[0] if text.strip() else type(inner).__name__}"
    if type(inner).__name__ == "OutOfMemoryError" or any(part in text for part in NO_MEMORY):
        return "was killed for want of memory on its machine"
    if getattr(inner, "preempted", False):
        return "was lost with its machine, which was taken away"
    if any(part in text for part in NODE_LOST):
        return "was lost with its machine"
    if "SIGTERM" in text or "INTENDED" in text:
        return "was ended from outside"
    if "health check" in text and "hanging" in text:
        return "no longer answers"
    return "died (killed, or crashed)"


def what_failed(errors: Mapping[int, BaseException], attempt: Attempt, silent: Sequence[int] = ()) -> list[str]:
    """One phrase for each worker that is the cause of a failure, by rank; `silent`: those that do not answer."""
    raised = {rank: failure for rank, failure in attempt.failures.items() if not is_consequence(failure)}
    dead = {rank: error for rank, error in errors.items() if rank not in attempt.failures and rank not in raised}
    found = [f"{_named(rank, attempt)} {cause_of_death(error)}" for rank, error in sorted(dead.items())]
    for rank, failure in sorted(raised.items()):
        # What the user can mend is the message in which the command ends.
        what = "cannot go on" if failure["mine"] else f"raised {failure['type']}: {failure['text']}"
        found.append(f"{_named(rank, attempt)} {what}")
    found += [f"{_named(rank, attempt)} is gone, or its machine is" for rank in silent]
    if not found:  # the dead one is not noticed yet: its peers were quicker
        found = [
            f"{_named(rank, attempt)} lost the connection to another one ({failure['type']})"
            for rank, failure in sorted(attempt.failures.items())[:1]
        ]
    return found or ["the workers could not be started"]


def _named(rank: int, attempt: Attempt) -> str:
    if rank >= len(attempt.workers):
        return f"worker {rank}"
    worker = attempt.workers[rank]
    return f"worker {rank} (process {worker['pid']} on {worker['host']})"


class Chronicle:
    """Follows the notes of a training; says what was lost whenever it begins again, and keeps that in RUN/events.json.

    Lost are the steps done after the checkpoint that the training goes on from, and the time from the end of that
    checkpoint's step to the moment in which the training is there again.
    """

    def __init__(
        self, folder: Path, place: str, say: Callable[[str], None], seen: tuple[int, float] = (0, 0.0)
    ) -> None:
        """`seen`: the step that an earlier driver, which was killed, came to at least, and when."""
        self._file, self._place, self._say = folder / FILE, place, say
        self._step, self._step_at = seen
        self._saved: dict[int, float] = {}
        self._fell: float | None = None
        self._earlier = seen[0] > 0
        self.working = False
        """Whether a group of workers is at its steps."""

    def take(self, note: Note) -> None:
        """One note, in the order of their times."""
        handler = getattr(self, f"_on_{note.kind}", None)
        if handler is not None:
            handler(note.time, **note.facts)

    def record(self, what: str, when: float | None = None, **facts: Any) -> None:
        """Append an event to RUN/events.json."""
        events = json.loads(self._file.read_text()) if self._file.exists() else []
        event = {"time": round(time.time() if when is None else when, 3), "place": self._place, "what": what, **facts}
        write_json(self._file, [*events, event])

    def _on_said(self, when: float, text: str) -> None:
        self._say(text)

    _on_warned = _on_said

    def _on_at(self, when: float, step: int) -> None:
        self._step, self._step_at, self.working = step, when, True

    def _on_saved(self, when: float, step: int) -> None:
        self._saved = {**dict(list(self._saved.items())[-7:]), step: when}
        self._on_at(when, step)

    def _on_notice(self, when: float, hosts: str) -> None:
        self._say(f"notice: {hosts} will be taken away; saving")
        self.record("notice", when, hosts=hosts)

    def _on_fell(self, when: float, causes: Sequence[str], again: bool, planned: bool, details: Sequence[str]) -> None:
        # A death is noticed late: the work stopped soon after the last step that was told of.
        self._fell, self.working = when, False
        step = f" after step {self._step}" if self._step else ""
        for cause in causes:
            self._say(f"{cause}{step}" + ("; beginning again" if again else ""))
        self.record(
            "moved" if planned else "lost",
            when,
            causes=list(causes),
            step=self._step,
            again=again,
            details=list(details),
        )

    def _on_waiting(self, when: float, text: str) -> None:
        self._say(f"waiting for machines: {text}")
        self.record("waiting", when, why=text)

    def _on_began(self, when: float, step: int, workers: int) -> None:
        if self._fell is not None or (self._earlier and self._step > step):
            self._say_lost(when, step, workers)
        self._fell, self._earlier = None, False
        self._saved.setdefault(step, when)
        self._on_at(when, step)

    def _say_lost(self, when: float, step: int, workers: int) -> None:
        steps = max(0, self._step - step)
        since = min(self._step_at, self._saved.get(step, self._step_at))
        seconds, again = when - since, when - self._step_at
        crew = f"{workers} worker{'s' if workers > 1 else ''}"
        done = f"{steps} step{'s' if steps != 1 else ''} and {duration(seconds)}"
        cut_off = self._fell is None
        if cut_off:
            text = f"going on from step {step} with {crew} (at least {steps} steps lost)"
            self._say(f"an earlier driver was cut off; {text}")
        else:
            self._say(f"going on from step {step} with {crew}; lost {done}, of it {duration(again)} to begin again")
        self.record(
            "went on",
            when,
            step=step,
            workers=workers,
            steps_lost=steps,
            seconds_lost=None if cut_off else round(seconds, 1),
            seconds_to_begin_again=None if cut_off else round(again, 1),
        )
