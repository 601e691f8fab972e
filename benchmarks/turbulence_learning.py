"""Small networks trained for the same CPU time on the Kolmogorov set, beside persistence and the solver without them.

    python -m benchmarks.turbulence_learning --seconds 240 --out runs/learning
    python -m benchmarks.turbulence_learning --out runs/learning --seconds 240 --models operator fno

Every network sees the same batches by the same recipe for the same CPU seconds of one thread; the FNO is as wide as
makes one of its frames cost what one of the operator's does. All are then judged on the test runs (errors of ten
steps, from every third frame on) and by a long rollout, whose spectrum is compared with that of all DNS frames. The
coarse runs are the project's solver on the stored grid, and on the grid on which it costs what the operator does.
Weights, figures and the table are written to `--out`; what is there already is not done again.
"""

import argparse
import json
import math
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

import safetensors.torch
import torch

from benchmarks.turbulence_models import (
    Solver,
    Verdict,
    errors_of_network,
    errors_of_solver,
    filtered,
    frames_of,
    long_network,
    long_solver,
    persistence,
    reference_statistics,
    seconds,
    table,
)
from data.turbulence.well_folder import WellFolder
from data.turbulence.windows import FieldWindows
from modules.layers.optimization import OptimizerConfig
from modules.layers.random import mix
from modules.turbulence.fno import FNOConfig
from modules.turbulence.ifactformer import IFactFormerConfig
from modules.turbulence.losses import LossConfig
from modules.turbulence.projections import ProjectionConfig
from modules.turbulence.scales import measured
from modules.turbulence.stepper import Stepper, StepperConfig
from modules.turbulence.training import shifted

DATA = Path("../shared/datasets/turbulence/kolmogorov2d")
OPERATOR = IFactFormerConfig(dim=24, heads=4, dim_head=8, depth=4, iterations=1, coordinates="harmonic")
FNO_WIDTHS = {32: 40, 64: 40}
"""By points: what makes a frame cost what one of the operator's does."""
RATES = {"operator": 6e-3, "chained": 6e-3, "fno": 4e-3}
KINDS = {"operator": "muon", "chained": "muon", "fno": "adamw"}
POINTS_OF_BATCH = 4096
"""Points of all frames of a batch: on a finer grid fewer frames, each of which says more."""
VELOCITY = 1.0
"""Weight of the velocity's error beside that of the vorticity."""
HORIZON, CURRICULUM = 3, 0.8
"""Steps trained on at the end, and the share of the training over which they grow from one."""
CLIPPED = 1.0
ERRORS, STRIDE = 10, 3
"""Steps of which the errors are measured, and frames from one start to the next."""
COLUMNS = ("energy", "enstrophy")


def stepper_config(name: str, points: int) -> StepperConfig:
    """How each network is asked for the next frame: all alike."""
    operator = replace(OPERATOR, kernel_multiplier=points // OPERATOR.dim_head)
    networks = {
        "operator": operator,
        "chained": replace(operator, variant="chained"),
        "fno": FNOConfig(modes=16, width=FNO_WIDTHS.get(points, 48), layers=4),
    }
    return StepperConfig(
        components=1,
        axes=2,
        increment=True,
        velocity=True,
        projection=ProjectionConfig(mass_flux=True),
        network=networks[name],
    )


def train(name: str, folder: WellFolder, windows: FieldWindows, limit: float, seed: int) -> tuple[Stepper, float, int]:
    """The trained stepper, the CPU seconds that it took, and its steps."""
    torch.manual_seed(seed)
    stepper = stepper_config(name, len(folder.grid.axes[0])).build()
    stepper.set_scales(measured(frames_of(folder, "train"), folder.grid))
    optimizer_config = OptimizerConfig(kind=KINDS[name], learning_rate=RATES[name], final=0.01)
    optimizer, _ = optimizer_config.build(stepper, 1)
    loss_of, unit = LossConfig(kind="increment", velocity=VELOCITY), stepper.std_delta[None].clone()
    draw = torch.Generator().manual_seed(seed)
    size = max(1, POINTS_OF_BATCH // math.prod(folder.grid.shape))
    train_places = torch.tensor(windows.splits["train"])
    begun, step, shown = time.process_time(), 0, 0
    while (share := (time.process_time() - begun) / limit) < 1:
        for group in optimizer.param_groups:
            group["lr"] = RATES[name] * optimizer_config.factor(round(1e4 * share), 10_000)
        horizon = min(HORIZON, 1 + int((HORIZON - 1) * share / CURRICULUM))
        chosen = train_places[torch.randint(len(train_places), (size,), generator=draw)].tolist()
        batch = windows.collate([windows.load(index, mix(seed, step, index)) for index in chosen])
        past, losses = batch.past, []
        for k in range(horizon):
            found = stepper(past, batch.grid)
            losses.append(loss_of.per_sample(found, batch.future[:, k], batch.grid, unit).mean())
            past = shifted(past, found)
        loss = torch.stack(losses).mean()
        optimizer.zero_grad()
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(stepper.parameters(), CLIPPED)
        if math.isfinite(float(norm)):
            optimizer.step()
        step += 1
        if share * 20 >= shown:
            print(f"{name}: {share:4.0%} of {limit:.0f} s, step {step}, loss {float(loss):.3f}", flush=True)
            shown += 1
    return stepper.eval(), time.process_time() - begun, step


def network(
    name: str, folder: WellFolder, windows: FieldWindows, arguments: argparse.Namespace
) -> tuple[Stepper, float]:
    """A network from its file, or trained; and the CPU seconds of its training."""
    weights, notes = (arguments.out / f"{name}{ending}" for ending in (".safetensors", ".training.json"))
    if weights.exists() and notes.exists():
        model = stepper_config(name, len(folder.grid.axes[0])).build()
        model.load_state_dict(safetensors.torch.load_file(weights))
        return model.eval(), json.loads(notes.read_text())["seconds"]
    model, took, steps = train(name, folder, windows, arguments.seconds, arguments.seed)
    safetensors.torch.save_file(model.state_dict(), weights)
    notes.write_text(json.dumps({"seconds": took, "steps": steps}))
    return model, took


def starts_of(test: torch.Tensor, count: int) -> torch.Tensor:
    """First frames of the long runs, spread over the test runs: [trajectory, *grid, component]."""
    per_run = -(-count // len(test))
    places = [round(k * (test.shape[1] - 1) / per_run) for k in range(per_run)]
    return test[:, places].flatten(0, 1)[:count]


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--out", type=Path, default=Path("runs/turbulence_learning"))
    parser.add_argument("--points", type=int, default=32, help="of the grid to which the fields are filtered")
    parser.add_argument("--seconds", type=float, default=240.0, help="CPU seconds of each training")
    parser.add_argument("--models", nargs="+", default=list(RATES), choices=list(RATES))
    parser.add_argument("--coarse", nargs="*", type=int, default=[32, 48, 64], help="points of runs without a network")
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--trajectories", type=int, default=4)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args(argv)
    torch.set_num_threads(1)
    arguments.out.mkdir(parents=True, exist_ok=True)
    folder = filtered(WellFolder(arguments.data), arguments.points, arguments.out / "fields")
    windows = FieldWindows(folder, 1, HORIZON)
    test, reference = frames_of(folder, "test"), reference_statistics(folder)
    starts = starts_of(test, arguments.trajectories)
    verdicts = {"persistence": persistence(test, ERRORS, STRIDE)}
    for name in arguments.models:
        model, took = network(name, folder, windows, arguments)
        cost = seconds(lambda model=model: _one(model, starts[:1, None], folder))
        verdict = Verdict("network", sum(p.numel() for p in model.parameters()), took, cost)
        errors_of_network(verdict, model, folder.grid, test, ERRORS, STRIDE)
        long_network(verdict, model, folder, starts[:, None], arguments.steps, reference)
        verdicts[name] = verdict
        print(table(verdicts, folder.spacing, COLUMNS), flush=True)
    for points in arguments.coarse:
        solver = Solver(folder, points)
        verdict = Verdict("solver", None, None, seconds(lambda solver=solver: list(solver.run(starts[0], 4))) / 4)
        errors_of_solver(verdict, solver, test, ERRORS, STRIDE)
        long_solver(verdict, solver, starts, arguments.steps, reference)
        verdicts[f"coarse {points}"] = verdict
    written = table(verdicts, folder.spacing, COLUMNS)
    print(written)
    (arguments.out / "table.txt").write_text(written + "\n")
    (arguments.out / "results.json").write_text(json.dumps({k: asdict(v) for k, v in verdicts.items()}, indent=1))


@torch.no_grad()
def _one(model: Stepper, past: torch.Tensor, folder: WellFolder) -> None:
    model(past, folder.grid)


if __name__ == "__main__":
    main()
