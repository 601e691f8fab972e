"""What is known of the trials of a sweep: SWEEP/sweep.yaml says what was asked, SWEEP/trials.json how far it is."""

import json
import math
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml

from cluster.sweeps.space import Space, flattened, parse_space, trainer_of, trial_config
from configs import load
from data.atomic import written_file, written_folder
from data.errors import PenstockError
from flows.domain import TRAIN, Domain, load_domain
from flows.placement import Placement
from flows.run import DONE, SWEEP, Run, create, write_json
from flows.tracking import read_metrics

PENDING, RUNNING, STOPPED, FAILED, NAN = "pending", "running", "stopped", "failed", "nan"
"""States of a trial besides `done`. Stopped: by the scheduler. nan: its metric was no longer a number."""
AT_ITS_END = (DONE, STOPPED, FAILED, NAN)
NO_METRIC = "metrics.csv has no"
"""How the reason of a trial begins whose training does not have the metric of the sweep."""
RESULTS = "trials.json"
OUTCOME = "trial.json"
"""In a trial's run directory: how it ended, written by the process that ran it."""
STOP = "stop"
"""While this file is in the sweep's folder, running trials save a checkpoint and end."""


@dataclass(frozen=True)
class Sweep:
    """What was asked for, as it is kept in the sweep's folder."""

    folder: Path
    target: str
    preset: str
    command: str
    samples: int | None
    concurrent: int | None
    memory_per_trial: float | None
    """GiB."""
    placement: Placement
    space_file: str
    described: Mapping[str, Any]
    """The content of the space file."""

    @property
    def name(self) -> str:
        return self.folder.name

    @cached_property
    def domain(self) -> Domain:
        return load_domain(self.target.partition(".")[0])

    @property
    def stage(self) -> str:
        return self.target.partition(".")[2]

    @property
    def step(self) -> str:
        return TRAIN + self.stage

    @cached_property
    def space(self) -> Space:
        return parse_space(self.described, self.space_file)

    @cached_property
    def base(self) -> Any:
        """The configuration that all trials start from."""
        return load.read_saved(self.domain.config, self.folder / "config.yaml")

    @property
    def trials(self) -> Path:
        return self.folder / "trials"

    @property
    def stop_file(self) -> Path:
        return self.folder / STOP

    def config(self, drawn: Mapping[str, Any]) -> Any:
        """The configuration of a trial with these settings; with the checkpoints that its scheduler needs."""
        every = getattr(self.space.plan.scheduler, "every", None)
        config = trial_config(self.domain, self.base, self.space, drawn)
        if every is None:
            return config
        layer = {
            f"{self.stage}.trainer": {"validate_every": every, "checkpoint_every_steps": every, "keep_checkpoints": 3}
        }
        return load.resolve(self.domain.config, [load.tagged(layer, self.space_file)], default=config)

    @cached_property
    def example(self) -> Any:
        """The configuration of some trial: a section that is null without the space's keys is there."""
        return self.config({key.name: key.tried()[0] for key in self.space.keys})

    def run(self, trial: str) -> Run | None:
        """The run directory of a trial, None before it was made."""
        path = self.trials / trial
        return Run(path) if (path / "status.json").is_file() else None

    def make_run(self, trial: str, drawn: Mapping[str, Any]) -> Run:
        """The run directory of a trial, made where it is not there."""
        found = self.run(trial)
        if found is not None:
            return found
        shutil.rmtree(self.trials / trial, ignore_errors=True)  # killed while it was being made
        return create(self.trials, self.domain, self.config(drawn), self.preset, trial, self.command)

    def better(self, one: float, other: float) -> bool:
        return one < other if self.space.plan.mode == "min" else one > other

    def write(self, base: Any) -> None:
        """Begin a sweep's folder; sweep.yaml last, by which it is known."""
        with written_file(self.folder / "config.yaml") as temporary:
            temporary.write_text(load.to_yaml(base))
        values = {entry.name: getattr(self, entry.name) for entry in fields(self) if entry.name != "folder"}
        values["placement"] = load.to_plain(self.placement)
        with written_file(self.folder / SWEEP) as temporary:
            temporary.write_text(yaml.safe_dump(values, sort_keys=False, allow_unicode=True, width=120))


def read_sweep(folder: Path) -> Sweep:
    """The sweep in a folder. Raises PenstockError where there is none."""
    if not (folder / SWEEP).is_file():
        raise PenstockError(f"{folder} is not the folder of a sweep: it has no {SWEEP}.")
    values = load.read_yaml(folder / SWEEP)
    placement = load.resolve(Placement, [load.tagged(values.pop("placement"), str(folder / SWEEP))])
    return Sweep(folder.resolve(), placement=placement, **values)


@dataclass
class Trial:
    """One trial as trials.json has it."""

    name: str
    drawn: dict[str, Any]
    """Key of the space → value; a choice of a section is a mapping."""
    config: dict[str, Any] = field(default_factory=dict)
    """The same as dotted keys with single values."""
    state: str = PENDING
    reason: str | None = None
    metric: float | None = None
    """The value that the trial is judged by: of the weights that it exported, once it is done; else the best so far."""
    last: float | None = None
    step: int = 0
    seconds: float = 0.0
    attempts: int = 0
    history: list[list[float]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.config = flattened(self.drawn)


class Board:
    """All trials of a sweep; every change is written to trials.json at once, whole or not at all."""

    def __init__(self, sweep: Sweep) -> None:
        self.sweep = sweep
        self.trials: dict[str, Trial] = {}
        self.stopping: str | None = None
        """Who asked for an end of the sweep."""
        path = sweep.folder / RESULTS
        if path.is_file():
            names = {entry.name for entry in fields(Trial)}
            for said in json.loads(path.read_text())["trials"]:
                trial = Trial(**{key: value for key, value in said.items() if key in names})
                self.trials[trial.name] = trial

    def __deepcopy__(self, memo: Any) -> "Board":
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        return Board, (self.sweep,)

    def add(self, drawn: Mapping[str, Any]) -> Trial:
        trial = Trial(f"t{len(self.trials):03d}", dict(drawn))
        self.trials[trial.name] = trial
        return trial

    def save(self) -> None:
        plan = self.sweep.space.plan
        said = {
            "sweep": self.sweep.name,
            "target": self.sweep.target,
            "metric": plan.metric,
            "mode": plan.mode,
            "search": type(plan.search).__name__,
            "scheduler": type(plan.scheduler).__name__ if plan.scheduler else None,
            "samples": self.sweep.samples,
            "written": time.time(),
            "keys": self.sweep.space.described(),
            "trials": [asdict(trial) for trial in self.trials.values()],
        }
        write_json(self.sweep.folder / RESULTS, said)

    def unfinished(self) -> list[Trial]:
        return [trial for trial in self.trials.values() if trial.state not in AT_ITS_END]

    def best(self) -> Trial | None:
        """The best of the trials that came to their end."""
        found: Trial | None = None
        for trial in self.trials.values():
            if trial.state != DONE or trial.metric is None:
                continue
            if found is None or found.metric is None or self.sweep.better(trial.metric, found.metric):
                found = trial
        return found

    # ------------------------------------------------------------------------------------ from what the trials leave

    def refresh(self, trial: Trial) -> None:
        """Take over what the trial's run directory says: its outcome, its metrics, its attempts."""
        run = self.sweep.run(trial.name)
        if run is None:
            return
        outcome = read_outcome(run.path)
        if outcome.get("drawn") and isinstance(outcome["drawn"], dict):
            trial.drawn, trial.config = outcome["drawn"], flattened(outcome["drawn"])
        record = run.steps().get(self.sweep.step)
        if record is not None:
            trial.attempts, trial.seconds = record.attempts, round(record.seconds, 3)
        trial.history = history(run.metrics_file, self.sweep.stage, self.sweep.space.plan.metric)
        if trial.history:
            trial.step, trial.last = int(trial.history[-1][0]), trial.history[-1][1]
        if outcome.get("state") in AT_ITS_END:
            trial.state, trial.reason = outcome["state"], outcome.get("reason")
        elif trial.state not in AT_ITS_END:
            trial.state, trial.reason = PENDING, None
        trial.metric = self._judged(trial)

    def _judged(self, trial: Trial) -> float | None:
        if not trial.history:
            return None
        values = [value for _, value in trial.history]
        best = min(values) if self.sweep.space.plan.mode == "min" else max(values)
        if trial.state != DONE:
            return best
        # A trial is worth what its exported weights are worth.
        trainer = trainer_of(self.sweep.domain, self.sweep.stage, self.sweep.config(trial.drawn))
        return values[-1] if trainer is not None and trainer.select == "last" else best

    def result(self, trial: Trial, step: int, value: float) -> None:
        """A value that a running trial reported."""
        if trial.history and step <= trial.history[-1][0]:
            return
        trial.history.append([step, value])
        trial.step, trial.last = step, value
        trial.metric = self._judged(trial)


def sweeps_in(folder: Path) -> list[Path]:
    """The folders of all sweeps among the runs, the oldest first."""
    found = folder.glob(f"*/{SWEEP}") if folder.is_dir() else ()
    return [path.parent for path in sorted(found, key=lambda path: path.stat().st_mtime)]


def counts(folder: Path) -> tuple[dict[str, Any], int, int]:
    """Of a sweep: what trials.json says, how many trials are at their end, and how many there will be."""
    path = folder / RESULTS
    said: dict[str, Any] = json.loads(path.read_text()) if path.is_file() else {"trials": []}
    ended = sum(trial["state"] in AT_ITS_END for trial in said["trials"])
    return said, ended, max(len(said["trials"]), said.get("samples") or 0)


def history(metrics: Path, stage: str, metric: str) -> list[list[float]]:
    """Step and value of every row of a stage's metric that is a number."""
    rows = [row for row in read_metrics(metrics) if row.stage == stage and row.name == metric]
    return [[row.step, row.value] for row in rows if math.isfinite(row.value)]


def read_outcome(run_folder: Path) -> dict[str, Any]:
    """What the trial's process left behind; nothing where it was killed."""
    try:
        found = json.loads((run_folder / OUTCOME).read_text())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def export_best(board: Board) -> Path | None:
    """Copy the best trial's model and configuration to SWEEP/best; None where no trial is done."""
    best = board.best()
    run = board.sweep.run(best.name) if best is not None else None
    if best is None or run is None:
        return None
    folder = board.sweep.folder / "best"
    with written_folder(folder) as temporary:
        shutil.copytree(run.model(board.sweep.stage), temporary / "model")
        shutil.copy(run.path / "config.yaml", temporary / "config.yaml")
        facts = {
            "trial": best.name,
            "run": str(run.path),
            "metric": board.sweep.space.plan.metric,
            "value": best.metric,
            "step": best.step,
            "settings": best.config,
        }
        write_json(temporary / "best.json", facts)
    return folder


def table(board: Board, most: int = 10) -> str:
    """The best trials and every one that failed, as lines."""
    plan = board.sweep.space.plan
    ranked = sorted(
        (trial for trial in board.trials.values() if trial.metric is not None and trial.state in (DONE, STOPPED)),
        key=lambda trial: (trial.state != DONE, (trial.metric or 0.0) * (1 if plan.mode == "min" else -1)),
    )
    shown = ranked[:most]
    lines = [f"{'trial':<8}{'state':<9}{plan.metric:>14}  settings"]
    lines += [f"{t.name:<8}{t.state:<9}{t.metric:>14.6g}  {settings(t)}" for t in shown]
    if len(ranked) > len(shown):
        lines.append(f"… and {len(ranked) - len(shown)} more in {RESULTS}")
    bad = [trial for trial in board.trials.values() if trial.state in (FAILED, NAN)]
    lines += [f"{t.name:<8}{t.state:<9}{'':>14}  {t.reason}" for t in bad]
    return "\n".join(lines)


def settings(trial: Trial) -> str:
    """A trial's settings on one line, with the last part of each key."""
    shown: Sequence[str] = [
        f"{key.rpartition('.')[2]}={value:.4g}" if isinstance(value, float) else f"{key.rpartition('.')[2]}={value}"
        for key, value in trial.config.items()
    ]
    return "  ".join(shown)
