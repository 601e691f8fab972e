"""Item-wise work on a cluster: every item once, whatever dies; what is in flight is bounded; nothing is left over."""

import os
import shutil
import signal
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

from cluster.on_ray.connection import ray
from cluster.on_ray.executor import OnRay
from cluster.on_ray.spread import AHEAD, RayPool, _Spread
from configs import load
from data.errors import PenstockError
from data.worker_pool import CRASHED, NO_MEMORY, worked
from flows.domain import load_domain
from flows.placement import Placement, write_placement
from flows.run import Run, create
from tests.cluster.simulated import simulated


@dataclass(frozen=True)
class Work:
    """Appends a line to the item's file, so that the test sees how often it was done, where and when."""

    folder: Path
    seconds: float = 0.0
    fatal: tuple[int, ...] = ()
    """Items that kill their process."""
    once: tuple[int, ...] = ()
    """Items that do so at the first attempt."""
    wrong: tuple[int, ...] = ()
    faulty: tuple[int, ...] = ()
    greedy: tuple[int, ...] = ()
    crowds: tuple[tuple[int, int], ...] = ()
    """(k, n): items from the k-th on last until n nodes have begun an item, however long those take to start."""

    def __call__(self, item: int) -> int:
        file = self.folder / f"{item:04d}"
        first = not file.exists()
        begun = time.time()
        with file.open("a") as log:
            log.write(f"{begun} {os.getpid()} {ray().get_runtime_context().get_node_id()}\n")
        if item in self.fatal or (first and item in self.once):
            os.kill(os.getpid(), signal.SIGKILL)
        if item in self.wrong:
            raise PenstockError("the item is wrong; mend it.")
        if item in self.faulty:
            raise ValueError(f"item {item}")
        if item in self.greedy:
            raise MemoryError
        time.sleep(self.seconds)
        while any(item >= k and len(self.places()) < nodes for k, nodes in self.crowds):
            time.sleep(0.1)
        with file.open("a") as log:
            log.write(f"{time.time()}\n")
        return item * item

    def starts(self, item: int) -> list[str]:
        return [line for line in (self.folder / f"{item:04d}").read_text().splitlines() if " " in line]

    def places(self) -> set[str]:
        """The nodes that have begun an item."""
        items = [int(file.name) for file in self.folder.glob("[0-9]" * 4)]
        return {line.split()[2] for item in items for line in self.starts(item)}

    def most_at_once(self, items: range) -> int:
        """Of undisturbed items: how many were under way at the same time."""
        moments = []
        for item in items:
            begun, ended = (self.folder / f"{item:04d}").read_text().splitlines()
            moments += [(float(begun.split()[0]), 1), (float(ended), -1)]
        level = most = 0
        for _, change in sorted(moments):
            level += change
            most = max(most, level)
        return most


@pytest.fixture(scope="module", autouse=True)
def by_value():
    """Processes of the cluster cannot import this file."""
    ray()
    from ray import cloudpickle

    cloudpickle.register_pickle_by_value(sys.modules[__name__])
    yield
    cloudpickle.unregister_pickle_by_value(sys.modules[__name__])


@pytest.fixture(scope="module")
def cluster():
    """Two nodes of one core each."""
    with simulated((1, 1)) as found:
        ray().init(address=found.address, log_to_driver=False, logging_level="ERROR")
        yield found


@pytest.fixture
def run(runs: Path) -> Run:
    domain = load_domain("toy")
    return create(runs, domain, load.resolve(domain.config, load.preset_layers("toy", "debug")), "debug")


def spread(run: Run, work: Work, count: int, processes: int = 0) -> dict[int, object]:
    found = {}
    with OnRay(run, Placement(on="ray")).spreading():
        answers = worked(range(count), work, processes, crashed=lambda item, reason: reason, preload="data.worker_pool")
        for item, answer in answers:
            assert item not in found
            found[item] = answer
    assert not list(run.path.glob(".*"))  # its token
    return found


def alive(pids: set[int]) -> set[int]:
    return {pid for pid in pids if Path(f"/proc/{pid}").exists()}


def test_every_item_once_on_all_nodes_and_not_too_many_at_a_time(cluster, run, tmp_path):
    work = Work(tmp_path, seconds=0.02)
    assert spread(run, work, 60) == {item: item * item for item in range(60)}
    starts = [work.starts(item) for item in range(60)]
    assert all(len(lines) == 1 for lines in starts)
    assert work.places() == {node["NodeID"] for node in ray().nodes()}
    assert work.most_at_once(range(60)) == 2
    # The cluster's processes end with the work: what they loaded would lie in the memory of the training that follows.
    pids = {int(line.split()[1]) for lines in starts for line in lines}
    end = time.monotonic() + 20
    while alive(pids) and time.monotonic() < end:
        time.sleep(0.1)
    assert not alive(pids)


def test_what_is_in_flight_is_bounded(cluster, run, tmp_path):
    tasks = list(range(40))
    work = _Spread(tasks, Work(tmp_path), None, lambda item, reason: -1, {"CPU": 1.0}, None, [])
    done = 0
    for _ in work.answers():
        done += 1
        held = sum(len(member.calls) for member in work.members)
        assert held <= 2 * AHEAD
        # Those read but not yet given out count among the answers that came.
        assert len(work.queue) >= len(tasks) - done - 2 * AHEAD
    assert done == 40


def test_at_most_so_many_processes_as_asked_for(cluster, run, tmp_path):
    work = Work(tmp_path, seconds=0.05)
    answers = RayPool(run, Placement(on="ray"), lambda: None).worked(
        range(6), work, 1, crashed=lambda item, reason: -1, network=False
    )
    assert dict(answers) == {item: item * item for item in range(6)}
    assert work.most_at_once(range(6)) == 1


def test_items_that_kill_their_process(cluster, run, tmp_path, capfd):
    work = Work(tmp_path, fatal=(4,), once=(7, 8))
    found = spread(run, work, 16)
    assert found == {item: item * item for item in range(16)} | {4: CRASHED}
    # One death of an item may be laid to the one before it, whose answer was lost; never two.
    times = [len(work.starts(item)) for item in range(16)]
    assert 3 <= times.pop(4) <= 4
    assert max(times) <= 3
    assert sum(times) <= 15 + 2 + 3
    assert "a process or its node was lost: the item is done again (2 of 3)" in capfd.readouterr().out


def test_an_item_without_memory_is_answered_for_and_fewer_go_on(cluster, run, tmp_path, capfd):
    work = Work(tmp_path, greedy=(3,))
    found = spread(run, work, 12)
    assert found == {item: item * item for item in range(12)} | {3: NO_MEMORY}
    assert "memory ran out on a node: 1 at a time from now on" in capfd.readouterr().out


def test_a_mistake_of_the_user_comes_out_as_it_was_raised(cluster, run, tmp_path):
    with pytest.raises(PenstockError) as caught:
        spread(run, Work(tmp_path, seconds=0.01, wrong=(5,)), 200)
    assert str(caught.value) == "the item is wrong; mend it."
    assert len(list(tmp_path.glob("????"))) < 200  # the others were called off


def test_a_fault_of_ours_comes_out_with_where_it_was_raised(cluster, run, tmp_path):
    with pytest.raises(ValueError, match="item 5") as caught:
        spread(run, Work(tmp_path, seconds=0.01, faulty=(5,)), 20)
    (note,) = caught.value.__notes__
    assert note.startswith("raised in a process of the cluster:") and 'raise ValueError(f"item {item}")' in note


def test_nodes_that_do_not_see_the_run_are_refused(cluster, run, tmp_path):
    elsewhere = tmp_path / "not-here"
    work = _Spread([1, 2, 3], Work(tmp_path), None, lambda item, reason: -1, {"CPU": 1.0}, None, [elsewhere])
    with pytest.raises(PenstockError, match=r"no node of the cluster sees .*not-here.*--runs-dir"):
        list(work.answers())


@pytest.mark.slow
def test_a_node_dies_and_another_comes(cluster, run, tmp_path, capfd):
    work = Work(tmp_path, seconds=0.3, crowds=((8, 3), (40, 4)))
    second, third, found = cluster.add_node(num_cpus=1), None, {}
    pool = RayPool(run, Placement(on="ray"), lambda: None)
    for item, answer in pool.worked(range(100), work, None, crashed=lambda item, reason: reason, network=False):
        found[item] = answer
        if len(found) == 12:
            cluster.remove_node(second, allow_graceful=False)
        if len(found) == 20:
            third = cluster.add_node(num_cpus=1)
    cluster.remove_node(third)
    assert found == {item: item * item for item in range(100)}
    assert len(work.places()) == 4
    assert "a process or its node was lost: the item is done again" in capfd.readouterr().out
    # At most what was under way there was done twice.
    assert sum(len(work.starts(item)) for item in range(100)) <= 101


# The steps of the domains: what a cluster gives is what this process gives, bit for bit.


@pytest.fixture
def on_own_cluster(cluster, monkeypatch):
    """A cluster that `penstock` finds."""
    monkeypatch.setenv("RAY_ADDRESS", cluster.address)


def twins(penstock, runs: Path, domain: str, step: str) -> tuple[Run, Run]:
    """A run up to a step, done here; and a copy of it that works on the cluster."""
    code, _, err = penstock(step, domain, "--preset", "debug", "--name", "here")
    assert code == 0, err
    shutil.copytree(runs / "here", runs / "there")
    write_placement(runs / "there", Placement(on="ray"))
    return Run(runs / "here"), Run(runs / "there")


def same(here: Run, there: Run, pattern: str) -> None:
    paths = [path for path in sorted(here.path.glob(pattern)) if path.is_file()]
    assert paths
    for path in paths:
        assert (there.path / path.relative_to(here.path)).read_bytes() == path.read_bytes(), path


@pytest.mark.slow
def test_the_steps_of_shape(penstock, runs: Path, on_own_cluster, monkeypatch, capfd):
    here, there = twins(penstock, runs, "shape", "sample")
    handed = spied(monkeypatch)
    for run in (here, there):
        run.execute("encode", again=True)
        run.record("train_flow", state="done")  # as before: the latents are the same
        run.record("sample", state="done")
        run.execute("evaluate")
    same(here, there, "latents.h5")
    same(here, there, "evaluation.json")
    same(here, there, "reconstructions/*")
    assert len(handed) == 2

    monkeypatch.setenv("PENSTOCK_RUNS", str(runs / "elsewhere"))
    code, _, err = penstock("prepare", "shape", "--preset", "debug", "--on", "ray", "--prepare.processes", "0")
    assert code == 0, err
    assert len(handed) == 3
    [ours], [theirs] = (list(place.glob("prepared/*/samples.h5")) for place in (runs, runs / "elsewhere"))
    assert ours.read_bytes() == theirs.read_bytes()


@pytest.mark.long
@pytest.mark.slow
def test_the_steps_of_protein(penstock, runs: Path, on_own_cluster, monkeypatch, tmp_path):
    judge = tmp_path / "judge.py"
    judge.write_text('import sys; print(\'{"accept": true, "score": %d}\' % len(open(sys.argv[1]).read()))')
    here, there = twins(penstock, runs, "protein", "sample")
    handed = spied(monkeypatch)
    for run in (here, there):
        run.configure({"evaluate.judge": f"{sys.executable} {judge} {{pdb}}"})
        run.execute("pairs")
        run.execute("evaluate")
    same(here, there, "pairs.h5")
    same(here, there, "pairs.json")
    same(here, there, "evaluation.json")
    assert len(handed) == 2  # the pairs, and the samples for the judge


def spied(monkeypatch) -> list[int]:
    """Fills with the number of tasks, whenever work is handed to a cluster."""
    handed: list[int] = []
    worked_there = RayPool.worked

    def noting(self, tasks, *others, **named):
        handed.append(len(tasks))
        return worked_there(self, tasks, *others, **named)

    monkeypatch.setattr(RayPool, "worked", noting)
    return handed
