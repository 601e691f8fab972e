"""The equations solved on the network's own grid, from the same frames on: the baseline that it has to beat."""

import time
from pathlib import Path

import torch
from torch import Tensor

from configs.turbulence import SOLVERS, TurbulenceConfig
from data.errors import PenstockError
from data.synthetic.turbulence.coarse import Solver, coarse_solver
from data.synthetic.turbulence.simulation import BlownUp, Simulation
from data.synthetic.turbulence.simulation import run as advance
from data.turbulence.well import WellWriter
from flows.progress import Progress
from flows.run import Run
from flows.steps.turbulence_data import Fields, fields_of, starts_of
from flows.steps.turbulence_rollout import Journal, journal_of, rollout_file, rollout_writer

NO_MODEL = "coarse"
SAVE_EVERY = 20
"""Frames after which a solver's state is written."""


class _OutOfTime(Exception):
    """The solver has had its seconds."""


def solve(run: Run) -> None:
    """Run every solver that the configuration asks for from the rollouts' starts: samples/NAME.hdf5.

    None where the fields do not tell their equations.
    """
    config: TurbulenceConfig = run.config
    fields = fields_of(run)
    for name in config.solvers.models:
        if rollout_file(run, name).exists():
            continue
        try:
            solver = coarse_solver(fields.grid, fields.components, fields.parameters, SOLVERS[name])
        except PenstockError as reason:
            print(f"no solver '{name}' for these fields: {reason}", flush=True)
        else:
            _solve(run, name, fields, solver)


def solved(run: Run) -> list[str]:
    """The solvers that have run."""
    return [name for name in run.config.solvers.models if rollout_file(run, name).exists()]


def _solve(run: Run, name: str, fields: Fields, solver: Solver) -> None:
    config: TurbulenceConfig = run.config
    starts, journal, steps = starts_of(run, 1), journal_of(run, name), config.sample.steps
    progress = Progress(f"solve {name}", len(starts) * steps, "frames")
    with rollout_writer(run, name, starts) as writer:
        for k, start in enumerate(starts):
            given = torch.from_numpy(start.frame(0))
            if not writer.frames(k):
                writer.append(k, 0.0, given)
            if k not in journal.stopped:
                simulation = solver.build(config.seed)
                simulation.start_from(given, fields.grid)
                receiver = _Receiver(writer, k, journal, config.solvers.seconds, progress, k * steps)
                _advance(simulation, receiver, fields, steps, _state_file(run, name, k))
    for k in range(len(starts)):
        _state_file(run, name, k).unlink(missing_ok=True)


def _state_file(run: Run, name: str, trajectory: int) -> Path:
    return run.samples / f"{name}-{trajectory}.state"


def _advance(simulation: Simulation, receiver: "_Receiver", fields: Fields, steps: int, state: Path) -> None:
    times = [step * fields.spacing for step in range(1, steps + 1)]
    journal, trajectory = receiver.journal, receiver.trajectory
    try:
        advance(simulation, times, receiver, grid=fields.grid, checkpoint=state, every=SAVE_EVERY)
    except BlownUp as error:
        journal.stopped[trajectory] = (receiver.writer.frames(trajectory), f"blown up at time {error.time:.4g}")
    except _OutOfTime:
        reason = f"stopped after {receiver.seconds:g} s of computing (solvers.seconds)"
        journal.stopped[trajectory] = (receiver.writer.frames(trajectory), reason)
    if trajectory in journal.stopped:
        print(f"  trajectory {trajectory}: {journal.stopped[trajectory][1]}", flush=True)
    journal.write()


class _Receiver:
    """Takes the frames of one trajectory of a solver, and counts what they cost."""

    def __init__(
        self, writer: WellWriter, trajectory: int, journal: Journal, seconds: float, progress: Progress, before: int
    ) -> None:
        self.writer, self.trajectory, self.journal = writer, trajectory, journal
        self.seconds, self.progress, self.before = seconds, progress, before
        self._began = time.process_time()

    def __call__(self, number: int, moment: float, frame: Tensor) -> None:
        self.journal.seconds += time.process_time() - self._began
        self.journal.frames += 1
        # Frames after the last state that was saved come a second time.
        self.writer.truncate(self.trajectory, number + 1)
        self.writer.append(self.trajectory, moment, frame)
        self.progress.update(self.before + number + 1)
        if self.journal.seconds > self.seconds:
            raise _OutOfTime
        self._began = time.process_time()
