"""What the turbulence benchmarks have in common: networks and solvers as one kind of thing, and how they are judged."""

import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from data.errors import PenstockError
from data.grid import Grid, fourier
from data.synthetic.turbulence.fourier import resized
from data.synthetic.turbulence.kolmogorov import KolmogorovConfig
from data.synthetic.turbulence.subgrid import Model, SubgridConfig
from data.turbulence.comparison import compare, stability
from data.turbulence.statistics import FlowStatistics, Statistics
from data.turbulence.well import WellWriter
from data.turbulence.well_folder import SPLITS, WellFolder
from modules.turbulence.metrics import relative_l2, vrmse
from modules.turbulence.rollout import Guard, rollout
from modules.turbulence.stepper import Stepper

STEP_TIMES_POINTS = 1.2
"""Time step of a coarse run times its points; four fifths of what the fastest flow seen would allow."""
TIMED = 5
DISCARDED = 100
"""Frames of a long rollout before those that are averaged: the reference frames' own memory is gone by then."""

Frames = Float[Tensor, "trajectory time *grid component"]


@dataclass
class Verdict:
    """What one model is worth."""

    kind: str
    parameters: int | None
    training_seconds: float | None
    seconds_per_frame: float
    vrmse: list[float] = field(default_factory=list)
    relative_l2: list[float] = field(default_factory=list)
    steps: int = 0
    stopped: str | None = None
    stable: bool | None = None
    reason: str = ""
    spectrum: float = float("nan")
    worst_shell: float = float("nan")
    statistics: dict[str, float] = field(default_factory=dict)


class Solver:
    """The equations on a grid of their own, from frame to frame, as a stepper of frames on the stored grid."""

    def __init__(self, folder: WellFolder, points: int, model: Model = "none", step: float | None = None) -> None:
        parameters = folder.parameters
        self.folder = folder
        self.config = KolmogorovConfig(
            points=points,
            nu=parameters["nu"],
            drag=parameters["drag"],
            forcing_wavenumber=round(parameters["forcing_wavenumber"]),
            step=step or STEP_TIMES_POINTS / points,
            subgrid=SubgridConfig(model=model),
        )

    def run(self, start: Float[Tensor, "*grid component"], steps: int) -> Iterator[Float[Tensor, "*grid component"]]:
        """Frames 1 … `steps` after `start`, on the stored grid, filtered or padded to it."""
        simulation = self.config.build(0)
        simulation.start_from(start, self.folder.grid)
        for k in range(1, steps + 1):
            simulation.advance(k * self.folder.spacing)
            yield simulation.fields(self.folder.grid).float()


def filtered(folder: WellFolder, points: int, path: Path) -> WellFolder:
    """A vorticity cut off sharply to so many points along each axis, in a folder of their own at `path`."""
    grid = Grid(tuple(fourier(axis.name, points, axis.length) for axis in folder.grid.axes))
    for split in SPLITS:
        for number, file in enumerate(folder.files(split)):
            target = path / "data" / split / f"{number}.hdf5"
            if target.exists():
                continue
            with WellWriter(
                target,
                name=folder.name,
                grid=grid,
                components=folder.components,
                parameters=folder.parameters,
                trajectories=len(file.lengths),
            ) as writer:
                for trajectory, length in enumerate(file.lengths):
                    frames = torch.from_numpy(file.read(trajectory, slice(0, length)))[..., 0]
                    modes = resized(torch.fft.rfft2(frames, norm="forward"), frames.shape[1:], grid.shape)
                    for k, frame in enumerate(torch.fft.irfft2(modes, s=grid.shape, norm="forward")):
                        writer.append(trajectory, k * folder.spacing, frame[..., None].numpy())
    return WellFolder(path)


def frames_of(folder: WellFolder, split: str) -> Frames:
    """All trajectories of a part, as long as its shortest."""
    files = folder.files(split)
    length = min(min(file.lengths) for file in files)
    parts = [file.read(t, slice(0, length)) for file in files for t in range(len(file.lengths))]
    return torch.from_numpy(np.stack(parts))


def persistence(frames: Frames, steps: int, stride: int) -> Verdict:
    """Nothing changes."""
    verdict = Verdict("reference", 0, None, 0.0)
    starts = range(0, frames.shape[1] - steps, stride)
    still = frames[:, starts].flatten(0, 1)
    for k in range(1, steps + 1):
        _judge(verdict, still, frames[:, [s + k for s in starts]].flatten(0, 1))
    return verdict


def errors_of_network(verdict: Verdict, model: Stepper, grid: Grid, frames: Frames, steps: int, stride: int) -> None:
    """Errors of the first `steps` frames from all starts."""
    starts = range(0, frames.shape[1] - steps, stride)
    past = frames[:, starts].flatten(0, 1)[:, None]
    for frame in rollout(model, past, grid, steps):
        truth = frames[:, [s + frame.step for s in starts]].flatten(0, 1)
        _judge(verdict, frame.fields, truth[list(frame.trajectories)])


def errors_of_solver(verdict: Verdict, solver: Solver, frames: Frames, steps: int, stride: int) -> None:
    """The same for a solver, from each start by itself."""
    starts = range(0, frames.shape[1] - steps, stride)
    runs = [list(solver.run(run[s], steps)) for run in frames for s in starts]
    for k in range(steps):
        _judge(verdict, torch.stack([run[k] for run in runs]), frames[:, [s + k + 1 for s in starts]].flatten(0, 1))


def _judge(verdict: Verdict, found: Tensor, truth: Tensor) -> None:
    verdict.vrmse.append(float(vrmse(found, truth).mean()))
    verdict.relative_l2.append(float(relative_l2(found, truth).mean()))


def reference_statistics(folder: WellFolder) -> Statistics:
    """Of all frames of the training and the test part."""
    found = FlowStatistics(folder.grid, folder.components, nu=folder.parameters["nu"])
    number = 0
    for split in ("train", "test"):
        for run in frames_of(folder, split):
            for k, frame in enumerate(run):
                found.add(frame, k * folder.spacing, number)
            number += 1
    return found.finished()


def long_network(
    verdict: Verdict, model: Stepper, folder: WellFolder, past: Tensor, steps: int, like: Statistics
) -> None:
    """A long rollout of a network from `past` [trajectory, history, …], with its statistics and verdict."""

    def frames() -> Iterator[tuple[int, int, Tensor]]:
        guard = Guard.around(model.energy_band)
        for frame in rollout(model, past, folder.grid, steps, guard):
            for stop in frame.stopped.values():
                verdict.stopped = f"step {stop.step}: {stop.reason}"
            for trajectory, fields in zip(frame.trajectories, frame.fields, strict=True):
                yield frame.step, trajectory, fields

    _long(verdict, frames(), folder, steps, like)


def long_solver(verdict: Verdict, solver: Solver, starts: Tensor, steps: int, like: Statistics) -> None:
    """The same for a solver."""

    def frames() -> Iterator[tuple[int, int, Tensor]]:
        for trajectory, start in enumerate(starts):
            try:
                for k, fields in enumerate(solver.run(start, steps), 1):
                    yield k, trajectory, fields
            except PenstockError as error:
                verdict.stopped = str(error)

    _long(verdict, frames(), solver.folder, steps, like)


def _long(
    verdict: Verdict, frames: Iterator[tuple[int, int, Tensor]], folder: WellFolder, steps: int, like: Statistics
) -> None:
    found = FlowStatistics(folder.grid, folder.components, nu=folder.parameters["nu"], like=like)
    last = 0
    for step, trajectory, fields in frames:
        last = max(last, step)
        if step > DISCARDED or steps <= DISCARDED:
            found.add(fields, step * folder.spacing, trajectory)
    verdict.steps = last
    try:
        statistics = found.finished()
    except PenstockError:  # stopped before the frames that count
        verdict.stable, verdict.reason = False, verdict.stopped or "no frame to average"
        return
    judged = stability(statistics, like, until=steps * folder.spacing)
    verdict.stable = judged.stable and verdict.stopped is None
    verdict.reason = verdict.stopped or judged.reason
    verdict.spectrum, verdict.worst_shell = judged.spectrum_l2.error, judged.spectrum.error
    verdict.statistics = {row.quantity: row.error for row in compare(statistics, like)}


def seconds(call: Callable[[], Any], times: int = TIMED) -> float:
    """Least CPU seconds of a call, after one that does not count."""
    call()
    best = float("inf")
    for _ in range(times):
        begun = time.process_time()
        call()
        best = min(best, time.process_time() - begun)
    return best


def _share(value: float) -> str:
    return "" if math.isnan(value) else f"{value:.1%}"


def table(verdicts: Mapping[str, Verdict], spacing: float, columns: tuple[str, ...]) -> str:
    """Rows of text: cost, errors and the verdict of the long run."""
    head = ["model", "parameters", "training s", "ms/frame", "s/unit time", "VRMSE 1", "VRMSE 10", "steps", "spectrum"]
    rows = [[*head, "worst shell", *columns, "verdict"]]
    for name, v in verdicts.items():
        errors = [f"{v.vrmse[k]:.3f}" if len(v.vrmse) > k else "" for k in (0, 9)]
        rows.append(
            [
                name,
                "" if v.parameters is None else f"{v.parameters}",
                "" if v.training_seconds is None else f"{v.training_seconds:.0f}",
                f"{1e3 * v.seconds_per_frame:.1f}",
                f"{v.seconds_per_frame / spacing:.3f}",
                *errors,
                f"{v.steps}",
                *(_share(value) for value in (v.spectrum, v.worst_shell)),
                *(_share(v.statistics.get(column, math.nan)) for column in columns),
                v.reason,
            ]
        )
    widths = [max(len(row[k]) for row in rows) for k in range(len(rows[0]))]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows)
