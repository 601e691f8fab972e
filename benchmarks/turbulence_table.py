"""The honest table: what networks, DNS and coarse runs with and without a subgrid model cost, and how wrong they are.

    python -m benchmarks.turbulence_table --networks runs/turbulence_learning        # Kolmogorov flow: cost and errors
    python -m benchmarks.turbulence_table --flow channel                             # channel: cost alone

All on one thread of the same processor, in CPU seconds per unit of time. Kolmogorov flow: every model goes on from the
same frames of the test runs, and its statistics after the first frames are compared with those of all stored DNS
frames; the DNS itself, begun alike, says how far chance goes. Networks are those that `benchmarks.turbulence_learning`
has left in the folder. Channel: the published operator and an FNO on 32 x 33 x 16 points, untrained (it costs the
same), beside the solver on that grid and on the DNS's.
"""

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import safetensors.torch
import torch

from benchmarks.turbulence_learning import DATA, ERRORS, RATES, STRIDE, starts_of, stepper_config
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
from data.synthetic.turbulence.channel import ChannelConfig
from data.synthetic.turbulence.subgrid import SubgridConfig
from data.turbulence.well import WellFile
from data.turbulence.well_folder import WellFolder
from modules.turbulence.fno import FNOConfig
from modules.turbulence.ifactformer import IFactFormerConfig
from modules.turbulence.stepper import StepperConfig

CHANNEL = Path("../shared/datasets/turbulence/channel180.h5")
COLUMNS = ("energy", "enstrophy", "spectrum, intermediate", "spectrum, tail")
SOLVERS = {
    "DNS 96": (96, "none"),
    "no model 64": (64, "none"),
    "dynamic 64": (64, "dynamic"),
    "no model 48": (48, "none"),
    "dynamic 48": (48, "dynamic"),
    "no model 32": (32, "none"),
    "dynamic 32": (32, "dynamic"),
    "Smagorinsky 32": (32, "smagorinsky"),
}
DNS = (80, 97, 72)
"""Points of the channel's DNS, from which the stored frames were filtered."""


def kolmogorov(arguments: argparse.Namespace) -> tuple[dict[str, Verdict], float]:
    """Cost and errors of all models of the plane flow, and the spacing of its frames."""
    folder = filtered(WellFolder(arguments.data or DATA), arguments.points, arguments.networks / "fields")
    test, reference = frames_of(folder, "test"), reference_statistics(folder)
    starts = starts_of(test, arguments.trajectories)
    verdicts = {"persistence": persistence(test, ERRORS, STRIDE)}
    for name in RATES:
        weights, notes = (arguments.networks / f"{name}{ending}" for ending in (".safetensors", ".training.json"))
        if not weights.exists():
            print(f"{weights}: not there, left out")
            continue
        model = stepper_config(name, arguments.points).build().eval()
        model.load_state_dict(safetensors.torch.load_file(weights))
        past = starts[:, None]
        with torch.no_grad():
            cost = seconds(lambda model=model, past=past: model(past[:1], folder.grid))
        parameters = sum(p.numel() for p in model.parameters())
        verdict = Verdict("network", parameters, json.loads(notes.read_text())["seconds"], cost)
        errors_of_network(verdict, model, folder.grid, test, ERRORS, STRIDE)
        long_network(verdict, model, folder, past, arguments.steps, reference)
        verdicts[name] = verdict
    for name, (points, subgrid) in SOLVERS.items():
        solver = Solver(folder, points, subgrid)
        cost = seconds(lambda solver=solver: list(solver.run(starts[0], 4)), 2) / 4
        verdict = Verdict("solver", None, None, cost)
        errors_of_solver(verdict, solver, test, ERRORS, 3 * STRIDE)
        long_solver(verdict, solver, starts, arguments.steps, reference)
        verdicts[name] = verdict
        print(name, verdict.reason, flush=True)
    return verdicts, folder.spacing


def channel(arguments: argparse.Namespace) -> tuple[dict[str, Verdict], float]:
    """Cost of all models of the channel, and the spacing of its frames in h/u_tau."""
    file = WellFile(arguments.data or CHANNEL)
    grid, frame = file.grid, torch.from_numpy(file.read(0, [0])[0])
    spacing = file.spacing
    verdicts = {}
    networks = {"operator (published size)": IFactFormerConfig(), "FNO (8 modes, width 80)": FNOConfig(width=80)}
    for name, network in networks.items():
        model = StepperConfig(network=network).build().eval()
        past = frame[None, None, ..., :3]
        with torch.no_grad():
            cost = seconds(lambda model=model, past=past: model(past, grid), 2)
        verdicts[name] = Verdict("network", sum(p.numel() for p in model.parameters()), None, cost)
    for points in (grid.shape, DNS):
        for subgrid in ("none", "dynamic", "wale"):
            if points == DNS and subgrid != "none":
                continue
            config = ChannelConfig(
                points=points,
                length_x=grid.axes[0].length,
                length_z=grid.axes[2].length,
                nu=file.parameters["nu"],
                bulk_velocity=file.parameters["U_bulk"],
                subgrid=SubgridConfig(model=subgrid),
            )
            simulation = config.build(0)
            simulation.start_from(frame[..., :3], grid)

            def one_frame(simulation=simulation) -> None:
                simulation.advance(simulation.time + spacing)

            name = f"{'DNS' if points == DNS else 'coarse'} {'x'.join(map(str, points))}, {subgrid}"
            verdicts[name] = Verdict("solver", None, None, seconds(one_frame, 2))
            print(name, verdicts[name].seconds_per_frame, flush=True)
    return verdicts, spacing


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--flow", choices=["kolmogorov", "channel"], default="kolmogorov")
    parser.add_argument("--data", type=Path, default=None)
    parser.add_argument("--points", type=int, default=32, help="of the grid to which the fields are filtered")
    parser.add_argument("--networks", type=Path, default=Path("runs/turbulence_learning"))
    parser.add_argument("--out", type=Path, default=Path("runs/turbulence_table"))
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--trajectories", type=int, default=2)
    arguments = parser.parse_args(argv)
    torch.set_num_threads(1)
    arguments.out.mkdir(parents=True, exist_ok=True)
    verdicts, spacing = (kolmogorov if arguments.flow == "kolmogorov" else channel)(arguments)
    written = table(verdicts, spacing, COLUMNS if arguments.flow == "kolmogorov" else ())
    print(written)
    (arguments.out / f"{arguments.flow}.txt").write_text(written + "\n")
    record = {name: asdict(verdict) for name, verdict in verdicts.items()}
    (arguments.out / f"{arguments.flow}.json").write_text(json.dumps(record, indent=1))


if __name__ == "__main__":
    main()
