"""Work over processes: all answers, and a task that kills its process is answered for while the others go on."""

import math
import signal

from data.worker_pool import worked


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
        "the process that prepared it crashed or ran out of memory."
    ]
    assert all(answer is None for task, answer in found if task == 0)
