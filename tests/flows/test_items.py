"""Items of a step: what is finished is not done again, what is missing is, and other settings mean other items."""

from dataclasses import dataclass
from functools import cached_property
from multiprocessing.reduction import ForkingPickler
from pathlib import Path
from types import SimpleNamespace

import pytest

from data.errors import PenstockError
from data.worker_pool import NO_MEMORY, plugged
from flows.items import Loaded, done_items, parts_folder, plain_answers


def test_a_broken_off_step_goes_on_with_what_is_missing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    asked: list[int] = []

    def work(number: int) -> dict[str, float]:
        asked.append(number)
        if len(asked) == 3:
            raise KeyboardInterrupt
        return {"third": number / 3}

    with pytest.raises(KeyboardInterrupt):
        plain_answers("think", "numbers", [5, 6, 7, 8], work, tmp_path, preload="math")
    capsys.readouterr()
    found = plain_answers("think", "numbers", [5, 6, 7, 8], work, tmp_path, preload="math")
    assert asked == [5, 6, 7, 7, 8]
    assert found == [{"third": number / 3} for number in (5, 6, 7, 8)]  # to the last bit, through the files
    assert "4/4 numbers" in capsys.readouterr().out
    assert plain_answers("think", "numbers", [5, 6], work, None, preload="math") == found[:2]


def test_other_settings_have_other_items(tmp_path: Path) -> None:
    run = SimpleNamespace(path=tmp_path)
    (tmp_path / "encoding-of-mine").mkdir()
    first = parts_folder(run, "encoding", [{"width": 3}, 1])
    (first / "0.npz").touch()
    assert parts_folder(run, "encoding", [{"width": 3}, 1]) == first
    assert (first / "0.npz").exists()
    other = parts_folder(run, "encoding", [{"width": 4}, 1])
    assert other != first
    assert {path.name for path in tmp_path.iterdir()} == {other.name, "encoding-of-mine"}


def test_an_item_that_cannot_be_done_is_named(tmp_path: Path) -> None:
    def work(name: str) -> None:
        if name == "b":
            raise MemoryError
        (tmp_path / name).touch()

    with pytest.raises(PenstockError, match=f"encode: b could not be done: {NO_MEMORY}.*kept"):
        done_items("encode", "objects", ["a", "b", "c"], lambda name: tmp_path / name, work, preload="math")
    assert (tmp_path / "a").exists()


class Elsewhere:
    """A pool that does the work here and notes how many tasks it got, and how many at a time."""

    def __init__(self) -> None:
        self.asked: list[tuple[int, int | None]] = []

    def worked(self, tasks, work, most, *, crashed, network):
        self.asked.append((len(tasks), most))
        yield from ((task, work(task)) for task in tasks)


def test_networks_go_elsewhere_however_few_and_other_work_where_it_is_much(tmp_path: Path) -> None:
    pool = Elsewhere()
    with plugged(pool):
        plain_answers("few", "items", range(3), float, tmp_path, preload="math")
        plain_answers("few with a network", "items", range(3), float, tmp_path, preload="math", network=True)
        plain_answers("many", "items", range(40), float, tmp_path, preload="math")
    assert pool.asked == [(3, None), (40, None)]


@dataclass(frozen=True)
class Heavy(Loaded):
    number: int

    @cached_property
    def network(self) -> bytes:
        return bytes(10**6)


def test_what_was_loaded_does_not_travel() -> None:
    work = Heavy(7)
    assert len(work.network) == 10**6
    travelling = bytes(ForkingPickler.dumps(work))
    assert len(travelling) < 1000
    assert ForkingPickler.loads(travelling) == work
