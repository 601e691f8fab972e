"""One trial: a run that trains in the process of a Tune actor, or asks for several workers."""

import math
import os
import resource
import shutil
import tempfile
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from cluster.sweeps.results import (
    AT_ITS_END,
    FAILED,
    NAN,
    NO_METRIC,
    OUTCOME,
    PENDING,
    Sweep,
    history,
    read_outcome,
    read_sweep,
)
from cluster.sweeps.space import trainer_of
from configs import load
from data.atomic import SUFFIX, written_file
from data.checkpoint import CHECKSUM, checkpoint_step, find_problem
from data.errors import PenstockError
from flows import executor
from flows.executor import plug
from flows.lock import held
from flows.placement import write_placement
from flows.run import DONE, Interrupted, Run, user_message, write_json
from flows.workflow import output_to, waiting_message

BASE = "base"
"""Run beside the trials with the steps that all of them share."""
NOT_SHARED = {
    "config.yaml", "status.json", "placement.yaml", "provenance.json", "log.txt", "metrics.csv", "lock", "wandb",
    "workflow.lock", "metaflow.log", "checkpoints", "events.json", "ray", OUTCOME,
}  # fmt: skip
"""What of the shared run belongs to it alone."""


class NotANumber(PenstockError):
    """The metric of a trial is infinite or not a number."""


def work(config: Mapping[str, Any]) -> None:
    """What Tune calls in an actor: one trial, from wherever it is, to its end. Errors become its outcome, so that one
    bad trial is an answer and not a failure of the sweep; only the death of the process is left to Tune."""
    from ray import tune

    sweep = read_sweep(Path(config["sweep"]))
    plug("ray", "cluster.on_ray.executor:OnRay")
    trial = tune.get_context().get_trial_name()
    values = config["drawn"]["values"]
    if sweep.stop_file.exists():
        return
    run = sweep.make_run(trial, values)
    with held(run.path / "trial.lock", "trial", waiting_message):
        earlier = read_outcome(run.path)
        if earlier.get("state") in AT_ITS_END:
            return  # its end was not noted down any more before the sweep was killed
        facts = {"drawn": earlier.get("drawn", values), "took_over": earlier.get("took_over", [])}
        write_json(run.path / OUTCOME, {"state": PENDING, **facts})
        take_over(sweep, run, values, facts)
        with output_to(run.log_file), limited_memory(sweep.memory_per_trial):
            state, reason = _attempt(sweep, run)
        write_json(run.path / OUTCOME, {"state": state, "reason": reason, **facts})


def _attempt(sweep: Sweep, run: Run) -> tuple[str, str | None]:
    try:
        _do_steps(sweep, run)
    except Interrupted as stopped:
        return PENDING, str(stopped)
    except NotANumber as error:
        return NAN, str(error)
    except BaseException as error:
        if isinstance(error, SystemExit | KeyboardInterrupt):
            return PENDING, "interrupted"
        return FAILED, reason_of(error, run)
    values = history(run.metrics_file, sweep.stage, sweep.space.plan.metric)
    if not values:
        return FAILED, f"{NO_METRIC} '{sweep.space.plan.metric}' of {sweep.stage}"
    return DONE, None


def reason_of(error: BaseException, run: Run) -> str:
    """Why a trial failed, on one line."""
    text = " ".join((user_message(error) or f"{type(error).__name__}: {error}").split())
    text = text if len(text) <= 300 else f"{text[:300]} …"
    if is_out_of_memory(error):
        return f"out of memory: {text}"
    return text if user_message(error) else f"{text} (traceback in {run.log_file})"


def is_out_of_memory(error: BaseException) -> bool:
    """True where an allocation failed, of Python, torch or the GPU."""
    seen: BaseException | None = error
    while seen is not None:
        text = str(seen).lower()
        if isinstance(seen, MemoryError) or type(seen).__name__ in ("OutOfMemoryError", "_ArrayMemoryError"):
            return True
        if "can't allocate memory" in text or "out of memory" in text or "cannot allocate memory" in text:
            return True
        seen = seen.__cause__ or seen.__context__
    return False


def _do_steps(sweep: Sweep, run: Run) -> None:
    """All steps up to the training, those that the trials share from their shared run; then what is asked for."""
    workers = sweep.placement.workers
    if workers > 1:
        write_placement(run.path, sweep.placement)
    metric, stage = sweep.space.plan.metric, sweep.stage
    for step in run.missing(sweep.step):
        if step == "prepare" or not adopted(sweep, run, step):
            run.execute(step, waiting_message)
    if workers > 1:
        with polled(sweep, run):
            run.execute(sweep.step, waiting_message)
        raise_unless_numbers(run, stage, metric)
    else:
        executor.OBSERVERS[:] = [lambda: _watch(sweep, run)]
        try:
            run.execute(sweep.step, waiting_message)
        finally:
            executor.OBSERVERS.clear()
    if sweep.space.plan.then_for == "every":
        follow_up(sweep, run)


def follow_up(sweep: Sweep, run: Run) -> None:
    """The steps after the training that the space file asks for, and what they need."""
    for then in sweep.space.plan.then:
        for step in (*run.missing(then), then):
            run.execute(step, waiting_message)


def adopted(sweep: Sweep, run: Run, step: str) -> bool:
    """Take the result of a step from the run that the trials share, where that rests on the same data."""
    path = sweep.trials / BASE
    if not (path / "status.json").is_file():
        return False
    base = Run(path)
    if step not in base.finished() or base.provenance().get("data") != run.provenance().get("data"):
        return False
    for file in path.rglob("*"):
        place = file.relative_to(path)
        if place.parts[0] in NOT_SHARED or not file.is_file() or (run.path / place).exists():
            continue
        (run.path / place).parent.mkdir(parents=True, exist_ok=True)
        try:
            os.link(file, run.path / place)  # what is written later replaces files and changes none
        except OSError:
            shutil.copy2(file, run.path / place)
    with held(run.path / "lock", step, waiting_message):
        run.record(step, state=DONE, origin=str(path))
    print(f"{step}: from {path}", flush=True)
    return True


# ------------------------------------------------------------------------------------------------- while it trains


def _watch(sweep: Sweep, run: Run) -> Any:
    from cluster.sweeps.watching import Watch

    population = getattr(sweep.space.plan.scheduler, "every", None) is not None
    return Watch(sweep.stage, sweep.space.plan.metric, sweep.stop_file, run.name, population)


def take_over(sweep: Sweep, run: Run, values: Mapping[str, Any], facts: dict[str, Any]) -> None:
    """Population-based training: weights of another trial, and the settings that were drawn for going on from them."""
    from ray import tune

    checkpoint = tune.get_checkpoint()
    if checkpoint is None:
        return
    with checkpoint.as_directory() as folder:
        said = read_outcome(Path(folder))
    donor = sweep.run(said.get("from", run.name))
    if donor is None or donor.name == run.name:
        return
    trainer = trainer_of(sweep.domain, sweep.stage, run.config)
    end = trainer.steps if trainer is not None else said["step"] + 1
    step = copy_checkpoint(donor.checkpoints(sweep.stage), run.checkpoints(sweep.stage), said["step"], end)
    if step is None:
        print(f"nothing to take over from {donor.name} any more; going on by itself", flush=True)
        return
    facts["drawn"] = dict(values)
    facts["took_over"] = [*facts["took_over"], {"from": donor.name, "step": step, "settings": dict(values)}]
    write_json(run.path / OUTCOME, {"state": PENDING, **facts})
    run.config = sweep.config(values)
    with written_file(run.path / "config.yaml") as temporary:
        temporary.write_text(load.to_yaml(run.config))


def copy_checkpoint(source: Path, target: Path, step: int, end: int) -> int | None:
    """Replace the checkpoints in `target` by one of `source`: that of `step`, else the next before step `end`; the step
    it is of, None where there is none. The trial that owns `source` goes on, and may remove some meanwhile."""
    found = sorted((checkpoint_step(path), path) for path in source.glob("step-*.ckpt"))
    chosen = [pair for pair in found if pair[0] == step] or [pair for pair in found if step < pair[0] < end][:1]
    for number, path in chosen:
        with tempfile.TemporaryDirectory(dir=target.parent, prefix=".", suffix=SUFFIX) as folder:
            try:
                for file in (path, path.with_name(path.name + CHECKSUM)):
                    shutil.copy2(file, Path(folder) / file.name)
            except FileNotFoundError:
                return None
            if find_problem(Path(folder) / path.name):
                return None
            shutil.rmtree(target, ignore_errors=True)
            target.mkdir(parents=True)
            # The sums first: a checkpoint under its name always has one.
            for name in (path.name + CHECKSUM, path.name):
                (Path(folder) / name).rename(target / name)
        return number
    return None


@contextmanager
def polled(sweep: Sweep, run: Run, seconds: float = 0.5) -> Iterator[None]:
    """While the block runs, rows that workers add to metrics.csv are reported to Tune, and they hear of its end."""
    from ray import tune

    ended = threading.Event()

    def follow() -> None:
        from cluster.on_ray.training import WISHES

        reported = 0
        while not ended.wait(seconds):
            if sweep.stop_file.exists() and not WISHES:
                WISHES.append("the sweep")
            for step, value in history(run.metrics_file, sweep.stage, sweep.space.plan.metric):
                if step > reported:
                    reported = int(step)
                    tune.report({"step": int(step), "value": value})

    thread = threading.Thread(target=follow, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join(timeout=5)


def raise_unless_numbers(run: Run, stage: str, metric: str) -> None:
    from flows.tracking import read_metrics

    for row in read_metrics(run.metrics_file):
        if row.stage == stage and row.name == metric and not math.isfinite(row.value):
            raise NotANumber(f"{metric} was {row.value} after step {row.step}")


@contextmanager
def limited_memory(gib: float | None) -> Iterator[None]:
    """Allocations beyond `gib` GiB fail while the block runs, on top of what is mapped but unused at its start."""
    if gib is None:
        yield
        return
    before = resource.getrlimit(resource.RLIMIT_DATA)
    mapped, used = _memory("VmData"), _memory("VmRSS")
    resource.setrlimit(resource.RLIMIT_DATA, (int(gib * 2**30) + max(0, mapped - used), before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, before)


def _memory(name: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024
    return 0
