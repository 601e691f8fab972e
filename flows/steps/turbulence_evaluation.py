"""Rollouts against the simulation: frame by frame at first, by their statistics in the long run."""

import json
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from configs.turbulence import TurbulenceConfig
from data.errors import PenstockError
from data.turbulence.comparison import compare, stability
from data.turbulence.statistics import FlowStatistics, Statistics
from data.turbulence.well import WellFile
from flows.progress import Progress
from flows.run import Run, write_json
from flows.steps.turbulence_data import Fields, Start, fields_of, starts_of
from flows.steps.turbulence_rollout import journal_of, rollout_file
from flows.steps.turbulence_solvers import solved
from modules.turbulence.metrics import correlation, relative_l2, steps_until, vrmse

PERSISTENCE, SIMULATION, TEST = "persistence", "simulation", "simulation-test"
"""Saying that nothing changes; all frames of the simulation; its test part held against them, which shows how much is
chance."""
NO_BETTER = 1.0
"""VRMSE from which on a forecast says no more than the mean does."""


def evaluate(run: Run) -> None:
    """Write evaluation/results.json, and the statistics of every rollout as evaluation/NAME.h5."""
    config: TurbulenceConfig = run.config
    fields = fields_of(run)
    folder = run.path / "evaluation"
    folder.mkdir(exist_ok=True)
    simulation = _simulation(run, fields, SIMULATION)
    found: dict[str, Any] = {
        SIMULATION: {
            "kind": "reference",
            "statistics": [],
            "steps": simulation.frames,
            "measured": _measured(simulation),
        },
        **_held_out(run, fields, simulation),
        PERSISTENCE: {"kind": "floor", "statistics": [], "error_by_step": _errors(run, fields, None)},
    }
    for name in [*config.networks, *solved(run)]:
        found[name] = _judged(run, fields, name, simulation)
        print(f"  {name}: {found[name]['verdict']}", flush=True)
    results = {
        "models": found,
        "spacing": fields.spacing,
        "steps": config.sample.steps,
        "horizon": config.evaluate.horizon,
        "trajectories": len(starts_of(run, 1)),
        "data": {"name": fields.name, "units": fields.folder.attributes.get("units", ""), **fields.parameters},
    }
    write_json(folder / "results.json", results)


def read_results(run: Run) -> dict[str, Any]:
    """What `evaluate` found. Raises PenstockError before there is anything."""
    path = run.path / "evaluation" / "results.json"
    if not path.exists():
        raise PenstockError(f"{run.name} has no results yet. `penstock evaluate {run.name}` makes them.")
    found: dict[str, Any] = json.loads(path.read_text())
    return found


def read_statistics(run: Run, name: str) -> Statistics:
    """The statistics of a rollout, or of the simulation."""
    return Statistics.load(run.path / "evaluation" / f"{name}.h5")


def _simulation(run: Run, fields: Fields, name: str, *splits: str, like: Statistics | None = None) -> Statistics:
    """Statistics of the prepared frames."""
    statistics = _statistics(run, fields, like)
    for number, (file, trajectory) in enumerate(fields.trajectories(*splits)):
        for k in range(0, file.lengths[trajectory], fields.stride):
            statistics.add(file.read(trajectory, [k])[0], file.times[trajectory, k], number)
    found = statistics.finished()
    found.save(run.path / "evaluation" / f"{name}.h5")
    return found


def _statistics(run: Run, fields: Fields, like: Statistics | None) -> FlowStatistics:
    # A force that varies along y makes a mean flow along x that does, too.
    profile = "y" if "forcing_wavenumber" in fields.parameters and "y" in fields.grid.names else None
    return FlowStatistics(
        fields.grid, fields.components, nu=fields.nu, block=run.config.evaluate.block, profile=profile, like=like
    )


def _held_out(run: Run, fields: Fields, simulation: Statistics) -> dict[str, Any]:
    """The test part against all frames, as if it were a model."""
    found = _simulation(run, fields, TEST, "test", like=simulation)
    judged = {"kind": "reference", "statistics": _rows(found, simulation), "steps": found.frames}
    return {TEST: judged | {"measured": _measured(found)}}


def _judged(run: Run, fields: Fields, name: str, simulation: Statistics) -> dict[str, Any]:
    config: TurbulenceConfig = run.config
    journal, file = journal_of(run, name), WellFile(rollout_file(run, name))
    network = name in config.networks
    errors = _errors(run, fields, file, config.sample.members if network else 1)
    until = steps_until(errors["vrmse"], NO_BETTER)
    judged: dict[str, Any] = {
        "kind": "network" if network else "solver",
        "parameters": _parameters(run, name) if network else None,
        "seconds_per_frame": journal.seconds / max(1, journal.frames),
        "steps": min(file.lengths) - 1,
        "stopped": {str(k): {"step": step, "reason": reason} for k, (step, reason) in journal.stopped.items()},
        "error_by_step": errors,
        "spread_by_step": _spread(run, fields, file) if network and config.sample.members > 1 else [],
        "time_to_divergence": None if until is None else until * fields.spacing,
        "statistics": [],
    }
    statistics = _rollout_statistics(run, fields, name, file, simulation)
    if statistics is None:
        return judged | {"stable": False, "verdict": f"ended before step {config.evaluate.settle + 1}"}
    verdict = stability(statistics, simulation, until=config.sample.steps * fields.spacing)
    return judged | {
        "statistics": _rows(statistics, simulation),
        "measured": _measured(statistics),
        "stable": verdict.stable,
        "verdict": verdict.reason,
        "spectrum": {"largest": verdict.spectrum.error, "relative_l2": verdict.spectrum_l2.error},
    }


def _rollout_statistics(
    run: Run, fields: Fields, name: str, file: WellFile, simulation: Statistics
) -> Statistics | None:
    """Statistics of a rollout after it has settled; None where no trajectory lived so long."""
    config: TurbulenceConfig = run.config
    statistics = _statistics(run, fields, simulation)
    progress, any_frame = Progress(f"measure {name}", sum(file.lengths), "frames"), False
    for trajectory, length in enumerate(file.lengths):
        for k in range(config.evaluate.settle + 1, length):
            statistics.add(file.read(trajectory, [k])[0], float(file.times[trajectory, k]), trajectory)
            any_frame = True
        progress.update(sum(file.lengths[: trajectory + 1]))
    if not any_frame:
        return None
    found = statistics.finished()
    found.save(run.path / "evaluation" / f"{name}.h5")
    return found


def _rows(found: Statistics, reference: Statistics) -> list[dict[str, Any]]:
    return [
        {
            "quantity": row.quantity,
            "error": row.error,
            "plus_minus": None if np.isnan(row.plus_minus) else row.plus_minus,
        }
        for row in compare(found, reference)
    ]


def _errors(run: Run, fields: Fields, file: WellFile | None, members: int = 1) -> dict[str, list[float]]:
    """Errors after each step for which there is a truth, means over the trajectories that have one; of no change at all
    where there is no file."""
    config: TurbulenceConfig = run.config
    found: dict[int, list[dict[str, float]]] = {}
    for k, start in enumerate(starts_of(run, 1)):
        for step, predicted in _predicted(file, k * members, start, config.sample.steps):
            found.setdefault(step, []).append(_error(predicted, start.frame(step), fields))
    curves: dict[str, list[float]] = {name: [] for name in ("relative_l2", "vrmse", "correlation")}
    for step in range(1, len(found) + 1):
        for name, curve in curves.items():
            curve.append(float(np.mean([error[name] for error in found[step]])))
    return curves


def _measured(statistics: Statistics) -> dict[str, list[float | None]]:
    """Single figures and their 95 % half-widths: energy, correlation time (mean over heights and components), and the
    divergence as a share of a velocity gradient."""
    energy, times, both = statistics.energy, statistics.correlation_time, statistics.divergence
    found = {
        "energy": (float(energy.value), float(energy.plus_minus)),
        "correlation time": (float(times.value.mean()), float(times.plus_minus.mean())),
        "divergence": (float(both.value[0] / both.value[1]), float(both.plus_minus[0] / both.value[1])),
    }
    return {name: [value if np.isfinite(value) else None for value in pair] for name, pair in found.items()}


def _spread(run: Run, fields: Fields, file: WellFile) -> list[float]:
    """Standard deviation between the members of an ensemble after each step, in units of the members' own variance in
    space, as VRMSE has it; a mean over trajectories, for as long as all members live."""
    members = run.config.sample.members
    curve = []
    for step in range(1, min(file.lengths)):
        shares = []
        for first in range(0, file.trajectories, members):
            frames = torch.from_numpy(np.stack([file.read(first + m, [step])[0] for m in range(members)])).double()
            between, within = frames.var(dim=0), frames.flatten(1, -2).var(dim=1)
            shares.append(float((between.flatten(0, -2).mean(dim=0) / within.mean(dim=0)).sqrt().mean()))
        curve.append(float(np.mean(shares)))
    return curve


def _predicted(file: WellFile | None, trajectory: int, start: Start, steps: int) -> Iterator[tuple[int, np.ndarray]]:
    known = min(steps, start.truths) if file is None else min(file.lengths[trajectory] - 1, start.truths)
    for step in range(1, known + 1):
        yield step, start.frame(0) if file is None else file.read(trajectory, [step])[0]


def _error(predicted: np.ndarray, truth: np.ndarray, fields: Fields) -> dict[str, float]:
    """Errors of one frame; VRMSE and correlation are means over components, with quadrature weights."""
    a, b = (torch.from_numpy(np.asarray(frame, np.float64))[None] for frame in (predicted, truth))
    weights: Tensor = torch.as_tensor(fields.grid.weights)
    return {
        "relative_l2": float(relative_l2(a, b)),
        "vrmse": float(vrmse(a, b, weights).mean()),
        "correlation": float(correlation(a, b, fields.grid).nan_to_num().mean()),
    }


def _parameters(run: Run, name: str) -> int:
    from flows.models import load_model

    return sum(p.numel() for p in load_model(run.model(name)).network.parameters())
