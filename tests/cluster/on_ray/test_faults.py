"""What is said, tried again and kept when parts of a distributed training die; and one death, the rest in the slow
tests of `test_faults_of_clusters`."""

import asyncio
import json
import os
import re
import signal
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from cluster.on_ray import connection
from cluster.on_ray.bulletin import Attempt, Bulletin, Lines, Moved, Note, Wish, WorkerFailed
from cluster.on_ray.faults import Chronicle, cause_of_death, is_consequence, what_failed
from data.errors import PenstockError
from flows.lock import held
from tests.cluster.on_ray.trainings import Training, descendants

CREW = [{"pid": 11, "host": "a", "node": "n1"}, {"pid": 22, "host": "b", "node": "n2"}]
LOST = {"type": "RuntimeError", "text": "Connection closed by peer [127.0.0.1]:3481", "step": 7, "mine": False}
WRONG = {"type": "ValueError", "text": "expected 3, got 4", "step": 7, "mine": False}
MINE = {"type": "DiskFullError", "text": "disk full", "step": 7, "mine": True}


def attempt(failures=None, wish=None) -> Attempt:
    return Attempt(7, CREW, failures or {}, frozenset(failures or ()), False, wish)


# --------------------------------------------------------------------------------------------------- what was lost


def chronicle(folder: Path) -> tuple[Chronicle, list[str]]:
    said: list[str] = []
    return Chronicle(folder, "flow", said.append), said


def test_what_was_lost_is_counted_from_the_checkpoint(tmp_path):
    story, said = chronicle(tmp_path)
    for when, kind, facts in [
        (100.0, "began", {"step": 0, "workers": 2}),
        (110.0, "saved", {"step": 10}),
        (114.0, "at", {"step": 14}),
        (116.0, "fell", {"causes": ["worker 1 died"], "again": True, "planned": False, "details": ["…"]}),
        (130.0, "began", {"step": 10, "workers": 1}),
    ]:
        story.take(Note(when, kind, facts))
    # 14 − 10 steps; from 110, when step 10 was saved, to 130, of which 4 s were work and 16 s were none.
    assert said == [
        "worker 1 died after step 14; beginning again",
        "going on from step 10 with 1 worker; lost 4 steps and 20 s, of it 16 s to begin again",
    ]
    events = json.loads((tmp_path / "events.json").read_text())
    assert [event["what"] for event in events] == ["lost", "went on"]
    went_on = events[1]
    assert (went_on["steps_lost"], went_on["seconds_lost"], went_on["seconds_to_begin_again"]) == (4, 20.0, 16.0)
    assert (went_on["workers"], went_on["step"], events[0]["step"]) == (1, 10, 14)


def test_an_undisturbed_training_leaves_no_events(tmp_path):
    story, said = chronicle(tmp_path)
    for when, kind, facts in [(1.0, "began", {"step": 0, "workers": 2}), (2.0, "at", {"step": 5})]:
        story.take(Note(when, kind, facts))
    assert said == []
    assert not (tmp_path / "events.json").exists()


def test_a_driver_that_was_killed_is_remembered_by_its_metrics(tmp_path):
    said: list[str] = []
    story = Chronicle(tmp_path, "flow", said.append, seen=(37, 50.0))
    story.take(Note(90.0, "began", {"step": 30, "workers": 2}))
    assert said == ["an earlier driver was cut off; going on from step 30 with 2 workers (at least 7 steps lost)"]


# ---------------------------------------------------------------------------------------------------- who is to blame


class RayActorError(Exception):
    preempted = False


def test_causes_of_death():
    crashed = RayActorError(
        "Worker exit type: SYSTEM_ERROR … Some common causes include: (1) the OOM killer due to high memory usage"
    )
    assert cause_of_death(crashed) == "died (killed, or crashed)"
    assert "memory" in cause_of_death(RayActorError("killed because the node was running low on memory"))
    assert "machine" in cause_of_death(RayActorError("its node has died"))
    assert cause_of_death(TypeError("no such thing")) == "could not go on: no such thing"
    wrapped = SimpleNamespace(health_check_failure=RayActorError("its node has died"))
    assert "machine" in cause_of_death(wrapped)


def test_the_one_who_died_is_named_and_not_the_ones_who_lost_it():
    assert is_consequence(LOST)
    assert not is_consequence(WRONG)
    found = what_failed({0: WorkerFailed("…"), 1: RayActorError("…")}, attempt({0: LOST}))
    assert found == ["worker 1 (process 22 on b) died (killed, or crashed)"]
    assert what_failed({0: WorkerFailed("…")}, attempt({0: LOST}), [1]) == [
        "worker 1 (process 22 on b) is gone, or its machine is"
    ]
    assert what_failed({0: WorkerFailed("…")}, attempt({0: WRONG})) == [
        "worker 0 (process 11 on a) raised ValueError: expected 3, got 4"
    ]


def test_what_the_user_can_mend_is_said_once_by_the_command():
    assert what_failed({0: WorkerFailed("…")}, attempt({0: MINE})) == ["worker 0 (process 11 on a) cannot go on"]


def test_what_is_tried_again(monkeypatch):
    connection.ray()
    from ray.train import FailureConfig
    from ray.train.v2._internal.execution.failure_handling import FailureDecision
    from ray.train.v2.api.exceptions import WorkerGroupError

    from cluster.on_ray import controller

    now = attempt()
    monkeypatch.setattr(controller, "_attempt", lambda bulletin: now)
    judge = controller.Judge(FailureConfig(max_failures=2), None)

    def verdict(failures=None, wish=None, error=None):
        nonlocal now
        now = attempt(failures, wish)
        return judge.make_decision(WorkerGroupError("…", {0: error or WorkerFailed("…"), 1: RayActorError("…")}))

    again, over = FailureDecision.RETRY, FailureDecision.RAISE
    assert verdict({0: MINE}) == over
    assert [verdict({0: LOST}, Wish("a move", move=True), Moved("saved")) for _ in range(5)] == [again] * 5
    assert verdict({0: LOST}, Wish("SIGTERM")) == over
    assert [verdict({0: WRONG}), verdict({0: {**WRONG, "step": 8}}), verdict({0: WRONG})] == [again, again, over]
    judge = controller.Judge(FailureConfig(max_failures=2), None)
    assert [verdict({0: LOST}) for _ in range(3)] == [again, again, over]


# --------------------------------------------------------------------------------------------------------- the board


def test_the_board():
    async def story() -> None:
        board = Bulletin()
        assert await board.news(0.01) == []
        await board.put("opened", workers=CREW)
        for step in range(5):
            await board.put("at", step=step)
        notes = await board.news(1.0)
        assert [(note.kind, dict(note.facts).get("step")) for note in notes] == [("opened", None), ("at", 4)]
        assert (await board.attempt()).running
        await board.put("left", rank=0)
        await board.put("fell", causes=[], again=True, planned=False, details=[])
        assert not (await board.attempt()).running

        waiting = asyncio.create_task(board.wish(5.0))
        await asyncio.sleep(0)
        await board.want(Wish("a notice", move=True))
        assert await waiting == Wish("a notice", move=True)
        await board.put("opened", workers=CREW[:1])
        assert await board.wish(0.01) is None, "a new group has moved already"
        await board.want(Wish("SIGTERM"))
        await board.want(Wish("a notice", move=True))
        await board.put("opened", workers=CREW[:1])
        assert await board.wish(0.01) == Wish("SIGTERM"), "an end is not taken back"

    asyncio.run(story())


def test_lines_are_told_when_they_are_whole():
    told = []
    before = SimpleNamespace(write=lambda text: None, flush=lambda: None)
    lines = Lines(SimpleNamespace(put=lambda kind, text: told.append((kind, text))), before, "said")
    for text in ("one", " line\ntwo", "\n", "rest"):
        lines.write(text)
    assert told == [("said", "one line"), ("said", "two")]


# ---------------------------------------------------------------------------------------------------------- clusters


def test_what_killed_commands_left_is_swept(tmp_path):
    dead, alive, young, old = (tmp_path / f"pen-{name}" for name in ("dead", "alive", "young", "old"))
    for folder in (dead, alive, young, old):
        folder.mkdir()
    (dead / "owner").touch()
    os.utime(old, (1, 1))
    with held(alive / "owner", "a test"):
        connection._sweep(tmp_path)
    assert sorted(folder.name for folder in tmp_path.iterdir()) == ["pen-alive", "pen-young"]


@pytest.mark.parametrize("address", ["http://head:8265", "ray://head:10001", "head", "head:port"])
def test_an_address_that_is_none(address):
    with pytest.raises(PenstockError, match="expected HOST:PORT"):
        connection._check_address(address)


def test_an_address_where_nobody_is():
    begun = time.monotonic()
    with pytest.raises(PenstockError, match=r"no Ray cluster answers at 127\.0\.0\.1:1 "):
        connection._check_address("127.0.0.1:1")
    assert time.monotonic() - begun < 2 * connection.REACH


def test_a_worker_that_is_killed_changes_no_bit(tmp_path):
    steps = ("--flow.trainer.steps", "600", "--preset", "debug")
    plain = Training(tmp_path / "runs", "plain", "train", "toy", "--name", "plain", *steps)
    assert plain.wait() == 0, plain.text()
    killed = Training(tmp_path / "runs", "killed", "train", "toy", "--name", "killed", "--on", "ray", *steps)
    killed.wait_for(lambda: killed.step() >= 100)
    (worker,) = killed.workers()
    os.kill(worker, signal.SIGKILL)
    assert killed.wait() == 0, killed.text()
    assert killed.weights() == plain.weights()
    assert re.search(rf"process {worker} on .* died", killed.text())
    assert [event["what"] for event in killed.events()] == ["lost", "went on"]
    print(f"lost {killed.events()[1]['seconds_lost']} s")
    assert not descendants(killed.process.pid)
    assert not (killed.run / "ray").exists()


@pytest.mark.parametrize(("kind", "answer"), [("failed", False), ("left", True)])
def test_who_waits_for_a_group_does_not_wait_for_its_dead(kind: str, answer: bool) -> None:
    """The first worker's machine died, and the second one says what it makes of it; or both end in order."""

    async def scene() -> bool:
        board = Bulletin()
        await board.put("opened", workers=[{"pid": 1, "host": "a", "node": "x"}, {"pid": 2, "host": "b", "node": "y"}])
        if kind == "left":
            await board.put("left", rank=0)
        waiting = asyncio.create_task(board.gone(60.0))
        await asyncio.sleep(0.2)
        assert not waiting.done()
        await board.put(kind, rank=1, type="RuntimeError", text="connection closed by peer", step=3, traceback="")
        return await asyncio.wait_for(waiting, 5.0)

    assert asyncio.run(scene()) is answer
