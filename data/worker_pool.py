"""Independent pieces of work over several processes, none of which outlives the one that started it.

The socket for whatever does such work elsewhere: a `Pool` that is plugged in takes all of it.
"""

import multiprocessing
import os
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from functools import partial
from multiprocessing.reduction import ForkingPickler
from typing import Any, Protocol, TypeVar

Task = TypeVar("Task")
Answer = TypeVar("Answer")

CRASHED = "the process that worked on it crashed or ran out of memory."
NO_MEMORY = "there was not enough memory for it."


class Pool(Protocol):
    """Does pieces of work in processes that may be on other machines."""

    def worked(
        self,
        tasks: Sequence[Task],
        work: Callable[[Task], Answer],
        most: int | None,
        *,
        crashed: Callable[[Task, str], Answer],
        network: bool,
    ) -> Iterator[tuple[Task, Answer]]:
        """As `worked` of this module: answers as they come, an error of `work` raised here. `most` at the same time."""


_plugged: list[Pool] = []


@contextmanager
def plugged(pool: Pool) -> Iterator[None]:
    """While the block runs, `worked` hands its work to `pool`."""
    _plugged.append(pool)
    try:
        yield
    finally:
        _plugged.remove(pool)


def cores() -> int:
    """Processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def worked(
    tasks: Sequence[Task],
    work: Callable[[Task], Answer],
    processes: int,
    *,
    crashed: Callable[[Task, str], Answer],
    preload: str,
    network: bool = False,
) -> Iterator[tuple[Task, Answer]]:
    """(task, `work(task)`) as they finish, over `processes` processes (0: as many as there is room for: one per core
    here, whatever a plugged pool has), in order and in this process where that is one.

    A task that takes its process down (out of memory, a crash in a library) is answered by `crashed(task, reason)`, and
    the others go on. `preload` names the module that every worker needs; `tasks`, `work` and answers are picklable.
    `network`: the work runs a network, on a GPU where there is one. Without a plugged pool such work stays in this
    process, whose tensor operations use the cores already.
    """
    if _plugged and (network or (processes != 1 and len(tasks) > 1)):
        yield from _plugged[-1].worked(tasks, work, processes or None, crashed=crashed, network=network)
        return
    processes = 1 if network else min(processes or cores(), len(tasks))
    if processes <= 1:
        for task in tasks:
            yield task, _answer(partial(work, task), task, crashed)
        return
    finished: set[int] = set()
    try:
        for k, answer in _pooled(enumerate(tasks), work, processes, preload):
            finished.add(k)
            yield tasks[k], _answer(answer, tasks[k], crashed)
    except BrokenProcessPool:
        # One of them is guilty, and the pool cannot say which: each gets a process of its own.
        for k, task in enumerate(tasks):
            if k in finished:
                continue
            try:
                yield task, _answer(next(_pooled([(k, task)], work, 1, preload))[1], task, crashed)
            except BrokenProcessPool:
                yield task, crashed(task, CRASHED)


def _answer(given: Callable[[], Answer], task: Task, crashed: Callable[[Task, str], Answer]) -> Answer:
    """What came of a task, where there was memory for it."""
    try:
        return given()
    except MemoryError:
        return crashed(task, NO_MEMORY)


def _pooled(
    tasks: Iterable[tuple[int, Task]], work: Callable[[Task], Answer], processes: int, preload: str
) -> Iterator[tuple[int, Callable[[], Answer]]]:
    # Forked workers would inherit the threads' locks of torch and HDF5 in unknown states; a fork server has none.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([preload])
    # The work may hold much, so it travels once per process and not with every task.
    travelling = bytes(ForkingPickler.dumps(work))
    pool = ProcessPoolExecutor(processes, mp_context=context, initializer=_start_worker, initargs=(travelling,))
    try:
        futures: dict[Future[Answer], int] = {pool.submit(_do, task): k for k, task in tasks}
        for future in as_completed(futures):
            if isinstance(future.exception(), BrokenProcessPool):
                future.result()  # raises
            yield futures[future], future.result
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def use_one_thread() -> None:
    """What a worker process sets before its first piece of work: the processes share the cores, not their threads."""
    os.environ["IGL_NUM_THREADS"] = "1"


_work: list[Any] = []
"""In a worker: the work that every task is handed to, as it travelled until the first of them."""


def _do(task: Any) -> Any:
    if isinstance(_work[0], bytes):
        _work[0] = ForkingPickler.loads(_work[0])
    return _work[0](task)


def _start_worker(travelling: bytes) -> None:
    """One thread per worker, and no worker outlives the process that started it."""
    use_one_thread()
    _work[:] = [travelling]
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
