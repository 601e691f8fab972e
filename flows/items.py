"""The items of a step, each in a file of its own until all are done: a killed step goes on with what is missing."""

import hashlib
import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, NoReturn, TypeVar

from data.errors import PenstockError
from data.worker_pool import worked
from flows.progress import Progress
from flows.run import Run, write_json

Task = TypeVar("Task")
Answer = TypeVar("Answer")

FEW = 32
"""Items that this process does sooner than others are started."""


class Loaded:
    """Base of dataclasses that do items: what they load at first use (cached properties) does not travel with them."""

    def __getstate__(self) -> dict[str, Any]:
        return {field.name: getattr(self, field.name) for field in fields(self)}  # type: ignore[arg-type]


def parts_folder(run: Run, what: str, words: Sequence[Any]) -> Path:
    """The folder `what`-KEY of a run for the files of a step's items. KEY follows from `words`: plain values, all that
    the items depend on. Folders of other words, which nobody will ask for again, are removed."""
    key = hashlib.sha256(json.dumps(words, sort_keys=True).encode()).hexdigest()[:16]
    folder = run.path / f"{what}-{key}"
    for other in run.path.glob(f"{what}-{'[0-9a-f]' * 16}"):
        if other != folder:
            shutil.rmtree(other)
    folder.mkdir(exist_ok=True)
    return folder


def done_items(
    what: str,
    unit: str,
    tasks: Sequence[Task],
    part: Callable[[Task], Path],
    work: Callable[[Task], Answer],
    *,
    preload: str,
    network: bool = False,
    tell: Callable[[Answer], Mapping[str, Any]] = lambda answer: {},
) -> None:
    """Do every task that has no file `part(task)` yet, which `work` writes; shows how far it is.

    Args:
        preload, network: see `data.worker_pool.worked`.
        tell: what is worth seeing beside the progress, after each answer.

    Raises:
        PenstockError: a task took its process down again and again.
    """
    todo = [task for task in tasks if not part(task).exists()]
    start = len(tasks) - len(todo)
    progress = Progress(what, len(tasks), unit, start=start)

    def crashed(task: Task, reason: str) -> NoReturn:
        raise PenstockError(
            f"{what}: {part(task).stem} could not be done: {reason} What was finished is kept, and the same command "
            "goes on from there; give it a machine with more memory."
        )

    processes = 1 if len(todo) < FEW and not network else 0
    answers = worked(todo, work, processes, crashed=crashed, preload=preload, network=network)
    for done, (_, answer) in enumerate(answers, start=start + 1):
        progress.update(done, **tell(answer))


@dataclass(frozen=True)
class _Kept:
    """Work whose plain answer goes to a file."""

    work: Callable[[Any], Any]
    folder: Path
    what: str

    def part(self, task: Any) -> Path:
        name = task if isinstance(task, str) else json.dumps(task)
        return self.folder / f"{self.what}-{hashlib.sha256(name.encode()).hexdigest()[:16]}.json"

    def __call__(self, task: Any) -> Any:
        answer = self.work(task)
        write_json(self.part(task), {"task": task, "answer": answer})
        return answer


def plain_answers(
    what: str,
    unit: str,
    tasks: Sequence[Task],
    work: Callable[[Task], Any],
    folder: Path | None,
    *,
    preload: str,
    network: bool = False,
    tell: Callable[[Any], Mapping[str, Any]] = lambda answer: {},
) -> list[Any]:
    """`work(task)` for each of distinct tasks (names or numbers), in order; plain values, kept in `folder` if given."""
    if folder is None:
        found = dict[Any, Any]()
        progress = Progress(what, len(tasks), unit)
        for task in tasks:
            found[task] = work(task)
            progress.update(len(found), **tell(found[task]))
        return [found[task] for task in tasks]
    kept = _Kept(work, folder, "".join(letter if letter.isalnum() else "-" for letter in what))
    done_items(what, unit, tasks, kept.part, kept, preload=preload, network=network, tell=tell)
    return [json.loads(kept.part(task).read_text())["answer"] for task in tasks]
