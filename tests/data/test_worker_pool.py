"""Work over processes: all answers, and a task that kills its process is answered for while the others go on."""

import math
import signal

from data.worker_pool import plugged, worked


def test_answers_of_all_tasks():
    tasks = [4.0, 9.0, 16.0, 25.0, 36.0]
    for processes in (1, 2):
        found = dict(worked(tasks, math.sqrt, processes, crashed=lambda task, reason: -1.0, preload="data.worker_pool"))
        assert found == {4.0: 2.0, 9.0: 3.0, 16.0: 4.0, 25.0: 5.0, 36.0: 6.0}
    assert list(worked([], math.sqrt, 0, crashed=lambda task, reason: 0.0, preload="data.worker_pool")) == []


def test_a_task_that_kills_its_process():
    tasks = [0, 0, int(signal.SIGKILL), 0]  # raising signal 0 does nothing
    answers = worked(tasks, signal.raise_signal, 2, crashed=lambda task, reason: reason, preload="data.worker_pool")
    found = list(answers)
    assert sorted(task for task, _ in found) == [0, 0, 0, 9]
    assert [answer for task, answer in found if task == 9] == [
        "the process that worked on it crashed or ran out of memory."
    ]
    assert all(answer is None for task, answer in found if task == 0)


def refuse_two(task):
    if task == 2:
        raise MemoryError
    return task


def test_a_task_without_memory():
    for processes in (1, 2):
        answers = worked(
            [1, 2, 3], refuse_two, processes, crashed=lambda task, reason: reason, preload="data.worker_pool"
        )
        assert dict(answers) == {1: 1, 2: "there was not enough memory for it.", 3: 3}


class Recording:
    """A pool that does the work here and notes what it was asked."""

    def __init__(self):
        self.asked = []

    def worked(self, tasks, work, most, *, crashed, network):
        self.asked.append((list(tasks), most, network))
        yield from ((task, work(task)) for task in tasks)


def test_a_plugged_pool_gets_what_may_be_spread():
    pool = Recording()

    def ask(tasks, processes, network=False):
        crashed = lambda task, reason: None
        found = worked(tasks, math.sqrt, processes, crashed=crashed, preload="data.worker_pool", network=network)
        assert list(found) == [(task, math.sqrt(task)) for task in tasks]

    with plugged(pool):
        ask([4.0, 9.0], 0)
        ask([4.0, 9.0], 3)
        ask([4.0, 9.0], 1)  # one process is this one
        ask([4.0], 0)  # and so is that of a single task,
        ask([4.0], 0, network=True)  # but a network may need a GPU that this machine lacks
    ask([4.0, 9.0], 1, network=True)  # pulled out again
    assert pool.asked == [([4.0, 9.0], None, False), ([4.0, 9.0], 3, False), ([4.0], None, True)]
