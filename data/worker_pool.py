"""Independent pieces of work over several processes, none of which outlives the one that started it."""

import multiprocessing
import os
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from typing import TypeVar

Task = TypeVar("Task")
Answer = TypeVar("Answer")


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
) -> Iterator[tuple[Task, Answer]]:
    """(task, `work(task)`) as they finish, over `processes` processes (0: one per core), in order where that is one.

    A task that takes its process down (out of memory, a crash in a library) is answered by `crashed(task, reason)`, and
    the others go on. `preload` names the module that every worker needs; `tasks`, `work` and answers are picklable.
    """
    processes = min(processes or cores(), len(tasks))
    if processes <= 1:
        yield from ((task, work(task)) for task in tasks)
        return
    finished: set[int] = set()
    try:
        for k, answer in _pooled(enumerate(tasks), work, processes, preload):
            finished.add(k)
            yield tasks[k], answer
    except BrokenProcessPool:
        # One of them is guilty, and the pool cannot say which: each gets a process of its own.
        for k, task in enumerate(tasks):
            if k in finished:
                continue
            try:
                yield task, next(_pooled([(k, task)], work, 1, preload))[1]
            except BrokenProcessPool:
                yield task, crashed(task, "the process that prepared it crashed or ran out of memory.")


def _pooled(
    tasks: Iterable[tuple[int, Task]], work: Callable[[Task], Answer], processes: int, preload: str
) -> Iterator[tuple[int, Answer]]:
    # Forked workers would inherit the threads' locks of torch and HDF5 in unknown states; a fork server has none.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([preload])
    pool = ProcessPoolExecutor(processes, mp_context=context, initializer=_start_worker)
    try:
        futures: dict[Future[Answer], int] = {pool.submit(work, task): k for k, task in tasks}
        for future in as_completed(futures):
            yield futures[future], future.result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _start_worker() -> None:
    """One thread per worker, and no worker outlives the process that started it."""
    os.environ["IGL_NUM_THREADS"] = "1"
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
