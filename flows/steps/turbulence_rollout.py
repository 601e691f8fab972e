"""Rollouts of the trained networks, streamed to files as they grow; a rollout that was killed goes on where it was."""

import json
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from configs.load import to_plain
from configs.turbulence import TurbulenceConfig
from data.turbulence.well import WellWriter
from flows.models import load_model
from flows.progress import Progress
from flows.run import Run, write_json
from flows.steps.turbulence_data import Start, fields_of, starts_of
from flows.steps.turbulence_import import FROM_DATA, SCALES
from flows.steps.turbulence_train import training_scales
from modules.turbulence.rollout import Guard, ensemble, rollout
from modules.turbulence.stepper import Stepper

SETTINGS = "settings.json"
"""What the rollouts in samples/ were asked to be."""
REFERENCE = "reference"
"""The simulation's own frames from the same starts on, for as long as all of them have some."""


@dataclass
class Journal:
    """What a rollout's file does not say: which trajectories ended early and why, and what it cost."""

    path: Path
    stopped: dict[int, tuple[int, str]] = field(default_factory=dict)
    """Trajectory → the step at which it was given up, and why."""
    seconds: float = 0.0
    """CPU seconds of the steps alone."""
    frames: int = 0
    """Frames that these seconds were spent on, all trajectories together."""

    @classmethod
    def at(cls, path: Path) -> "Journal":
        """The journal written before, or an empty one."""
        if not path.exists():
            return cls(path)
        found: dict[str, Any] = json.loads(path.read_text())
        stopped = {int(key): (int(step), str(reason)) for key, (step, reason) in found["stopped"].items()}
        return cls(path, stopped, float(found["seconds"]), int(found["frames"]))

    def write(self) -> None:
        write_json(self.path, {"stopped": self.stopped, "seconds": self.seconds, "frames": self.frames})


def roll_out(run: Run) -> None:
    """Roll every network out from the same frames of the test part: samples/NAME.hdf5.

    What is there of rollouts with the same settings is kept or gone on with; of others, nothing.
    """
    config: TurbulenceConfig = run.config
    asked, told = {**to_plain(config.sample), "horizon": config.evaluate.horizon}, run.samples / SETTINGS
    if not told.exists() or json.loads(told.read_text()) != asked:
        shutil.rmtree(run.samples)
        write_json(run.samples / SETTINGS, asked)
    _write_reference(run)
    for name in config.networks:
        if not rollout_file(run, name).exists():
            _roll_out(run, name)


def rollout_file(run: Run, name: str) -> Path:
    """Where the rollout of a network or a solver lies. Frame 0 of each trajectory is the one that it began with."""
    return run.samples / f"{name}.hdf5"


def journal_of(run: Run, name: str) -> Journal:
    """The journal of a rollout."""
    return Journal.at(run.samples / f"{name}.json")


def rollout_writer(run: Run, name: str, starts: list[Start], members: int = 1) -> WellWriter:
    """The file of a rollout, begun with its first frames, or as it was left."""
    path, fields = rollout_file(run, name), fields_of(run)
    if WellWriter.unfinished(path):
        return WellWriter.resumed(path)
    return WellWriter(
        path,
        name=f"{fields.name}_{name}",
        grid=fields.grid,
        components=fields.components,
        parameters=fields.parameters,
        trajectories=len(starts) * members,
        attributes={"description": f"rollout by {name}; frame 0 is given"},
    )


def load_stepper(run: Run, name: str) -> Stepper:
    """A trained or imported network; the latter takes its statistics from the run's training part."""
    loaded: Any = load_model(run.model(name))
    stepper: Stepper = loaded.network
    if loaded.config.get(SCALES) == FROM_DATA:
        stepper.set_scales(training_scales(fields_of(run)))
    return stepper


def _roll_out(run: Run, name: str) -> None:
    config: TurbulenceConfig = run.config
    wanted, fields = config.sample, fields_of(run)
    stepper = load_stepper(run, name)
    starts = starts_of(run, stepper.config.history)
    given = torch.stack([torch.from_numpy(start.history) for start in starts])
    given = ensemble(given, fields.grid, wanted.members, wanted.amplitude, config.seed)
    journal = journal_of(run, name)
    progress = Progress(f"roll out {name}", wanted.steps, "frames")
    with rollout_writer(run, name, starts, wanted.members) as writer:
        for k, frames in enumerate(given):
            if not writer.frames(k):
                writer.append(k, 0.0, frames[-1])
        running = [k for k in range(len(given)) if k not in journal.stopped]
        done = min((writer.frames(k) - 1 for k in running), default=wanted.steps)
        for k in running:
            writer.truncate(k, done + 1)  # a kill comes between two trajectories of a step, too
        past = torch.stack([_past(given[k], writer, k, done) for k in running]) if running else given[:0]
        guard = Guard.around(stepper.energy_band, wanted.guard)
        frames = rollout(
            _timed(stepper, journal), past, fields.grid, wanted.steps, guard, done=done, trajectories=running
        )
        for frame in frames if running else ():
            for trajectory, stop in frame.stopped.items():
                journal.stopped[trajectory] = (stop.step, stop.reason)
                journal.write()  # before other trajectories go on: a rollout that is resumed must know
                print(f"  {name}, trajectory {trajectory}: ended at step {stop.step}, {stop.reason}", flush=True)
            for place, trajectory in enumerate(frame.trajectories):
                writer.append(trajectory, frame.step * fields.spacing, frame.fields[place])
            progress.update(frame.step, running=len(frame.trajectories))
    journal.write()


def _past(given: Tensor, writer: WellWriter, trajectory: int, done: int) -> Tensor:
    """The last `history` frames after `done` steps, from what was given and what is written."""
    history = len(given)
    written = [torch.from_numpy(writer.frame(trajectory, k)) for k in range(max(1, done + 1 - history), done + 1)]
    return torch.stack([*given[len(written) :], *written]) if written else given


def _timed(step: Callable[..., Tensor], journal: Journal) -> Callable[..., Tensor]:
    def timed(past: Tensor, grid: Any) -> Tensor:
        began = time.process_time()
        found = step(past, grid)
        journal.seconds += time.process_time() - began
        journal.frames += len(past)
        return found

    return timed


def _write_reference(run: Run) -> None:
    """The truth after each start, as long as the shortest of them."""
    if rollout_file(run, REFERENCE).exists():
        return
    starts = starts_of(run, 1)
    common = min(start.truths for start in starts)
    with rollout_writer(run, REFERENCE, starts) as writer:
        for k, start in enumerate(starts):
            for position in range(writer.frames(k), common + 1):
                writer.append(k, position * fields_of(run).spacing, start.frame(position))
