"""The backbone network against a plain transcription of its description: python -m benchmarks protein

Both sides have the published size, the same weights, inputs and loss, float32, one thread; they are compared first.
Times are CPU seconds of processes that take turns. Memory is the peak above the loaded model, each figure in a process
of its own.
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

LENGTHS, ROUNDS, STEP = (60, 100, 200, 300), 5, (2, 100)
ATOMS_LENGTH, IGSO3_ROWS = 200, 5
SIDES = ("baseline", "penstock")
ATOL_ANGSTROM, ATOL_QUATERNION, RTOL_LOSS = 1e-3, 5e-5, 1e-4
STATUS, REFERENCES = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def save_models(folder: Path) -> None:
    """Writes the weights of both sides, none of them zero."""
    import torch
    from safetensors.torch import save_file

    from benchmarks.protein_baseline import Baseline
    from modules.protein.import_weights import import_reqflow
    from modules.protein.network import ProteinNetworkConfig

    torch.manual_seed(0)
    state = Baseline(ProteinNetworkConfig()).state_dict()
    save_file(state, folder / "baseline.safetensors")
    save_file(import_reqflow(state)[1], folder / "penstock.safetensors")


def load(side: str, folder: Path) -> Any:
    """The network of one side, in eval mode."""
    import torch
    from safetensors.torch import load_file

    from benchmarks.protein_baseline import Baseline
    from modules.protein.network import ProteinNetwork, ProteinNetworkConfig

    torch.set_num_threads(1)
    with torch.device("meta"):
        network = (Baseline if side == "baseline" else ProteinNetwork)(ProteinNetworkConfig())
    # A copy, since what is read from a mapped file is not in memory before it is used.
    state = {key: tensor.clone() for key, tensor in load_file(folder / f"{side}.safetensors").items()}
    network.load_state_dict(state, assign=True)
    return network.eval()


def inputs(batch: int, length: int) -> dict[str, Any]:
    """Noise, as at the beginning of a trajectory."""
    import torch

    source = torch.Generator().manual_seed(length)
    quaternions = torch.randn(batch, length, 4, generator=source)
    positions = 10 * torch.randn(batch, length, 3, generator=source)
    everywhere = torch.ones(batch, length, dtype=torch.bool)
    return {
        "frames": torch.cat([quaternions / quaternions.norm(dim=-1, keepdim=True), positions], dim=-1),
        "t_rotation": torch.full((batch,), 0.4),
        "t_translation": torch.full((batch,), 0.5),
        "resolved": everywhere,
        "generated": everywhere,
        "residue_index": torch.arange(1, length + 1).expand(batch, length),
        "self_condition": positions + torch.randn(batch, length, 3, generator=source),
    }


def loss_of(network: Any, given: dict[str, Any]) -> Any:
    """A loss that reaches every output: squared distance to frames at the origin, with some weight for each channel."""
    import torch

    return (network(**given) * torch.tensor([1.0, 2.0, 3.0, 4.0, 0.1, 0.2, 0.3])).square().mean()


def cpu_seconds(call: Callable[[], Any]) -> float:
    begin = time.process_time()
    call()
    return time.process_time() - begin


def resident(field: str) -> float:
    """Memory of this process in MB: VmRSS now, or VmHWM, the peak."""
    lines = STATUS.read_text().splitlines() if STATUS.exists() else []
    for line in lines:
        if line.startswith(field):
            return int(line.split()[1]) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def peak_above(call: Callable[[], Any]) -> float:
    """MB that the process held at most during `call`, above what it held before."""
    before = resident("VmRSS")
    REFERENCES.write_text("5")  # the peak begins anew
    call()
    return resident("VmHWM") - before


def serve(side: str, folder: Path) -> None:
    """A worker: reads one task a line, writes one answer a line."""
    import torch

    network = load(side, folder)
    optimizers: list[torch.optim.AdamW] = []

    def forward(given: dict[str, Any]) -> None:
        with torch.no_grad():
            network(**given)

    def backward(given: dict[str, Any]) -> None:
        loss_of(network, given).backward()

    def step(given: dict[str, Any]) -> None:
        if not optimizers:
            optimizers.append(torch.optim.AdamW(network.parameters(), lr=1e-4))
        optimizers[0].zero_grad()
        loss_of(network, given).backward()
        optimizers[0].step()

    kinds = {"forward": forward, "backward": backward, "step": step}
    for line in sys.stdin:
        task = json.loads(line)
        call = partial(kinds[task["kind"]], inputs(task["batch"], task["length"]))
        print(json.dumps(peak_above(call) if task["memory"] else cpu_seconds(call)), flush=True)


class Worker:
    """A process that holds the network of one side."""

    def __init__(self, side: str, folder: Path) -> None:
        command = [sys.executable, "-m", "benchmarks.protein", "--serve", side, "--models", str(folder)]
        environment = os.environ | {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
        root = Path(__file__).resolve().parent.parent
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=root, env=environment
        )

    def __call__(self, kind: str, batch: int, length: int, *, memory: bool = False) -> float:
        assert self.process.stdin is not None and self.process.stdout is not None
        task = {"kind": kind, "batch": batch, "length": length, "memory": memory}
        self.process.stdin.write(json.dumps(task) + "\n")
        self.process.stdin.flush()
        return float(json.loads(self.process.stdout.readline()))

    def close(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()


def assert_equal(folder: Path) -> None:
    """Raises AssertionError unless both sides answer alike, with and without self-conditioning, and in their loss."""
    import torch

    baseline, penstock = (load(side, folder) for side in SIDES)
    deviations = []
    for length, conditioned in ((60, True), (100, False)):
        given = inputs(2, length) | ({} if conditioned else {"self_condition": None})
        with torch.no_grad():
            difference = (baseline(**given) - penstock(**given)).abs()
            losses = loss_of(baseline, given), loss_of(penstock, given)
        deviations.append((difference[..., 4:].max().item(), difference[..., :4].max().item()))
        assert deviations[-1][0] < ATOL_ANGSTROM and deviations[-1][1] < ATOL_QUATERNION, deviations
        torch.testing.assert_close(*losses, rtol=RTOL_LOSS, atol=0)
    worst = [max(values) for values in zip(*deviations, strict=True)]
    print(f"largest deviation: {worst[0]:.1e} angstrom, {worst[1]:.1e} in quaternions")


def compare_times(kind: str, batch: int, length: int, rounds: int, workers: dict[str, Worker]) -> None:
    for worker in workers.values():
        worker(kind, batch, length)  # the first call fetches pages and plans
    seconds: dict[str, list[float]] = {side: [] for side in SIDES}
    for _ in range(rounds):
        for side, worker in workers.items():
            seconds[side].append(worker(kind, batch, length))
    (a, b), (c, d) = ((min(seconds[side]), statistics.median(seconds[side])) for side in SIDES)
    print(
        f"{kind} {batch} x {length}: baseline {a:.3f} s (median {b:.3f}), penstock {c:.3f} s (median {d:.3f}); "
        f"{a / c:.2f}x (medians {b / d:.2f}x)",
        flush=True,
    )


def compare_memory(kind: str, batch: int, length: int, folder: Path) -> None:
    peaks = []
    for side in SIDES:
        worker = Worker(side, folder)
        peaks.append(worker(kind, batch, length, memory=True))
        worker.close()
    what = "forward" if kind == "forward" else "forward and backward"
    print(
        f"peak memory above the model, {what} {batch} x {length}: baseline {peaks[0]:.0f} MB, penstock "
        f"{peaks[1]:.0f} MB; {peaks[1] / peaks[0]:.2f}x",
        flush=True,
    )


def compare_parts(rounds: int) -> None:
    """Atoms from frames, and what has to be made ready before rotations can be noised."""
    import torch

    from benchmarks.protein_baseline import alanine_tables, backbone_atoms, igso3_rows
    from modules.geometry.frames import backbone_from_frames
    from modules.geometry.igso3 import IGSO3

    torch.set_num_threads(1)
    frames, torsions = inputs(1, ATOMS_LENGTH)["frames"][0], torch.randn(ATOMS_LENGTH, 7, 2)
    tables = alanine_tables()
    expected = backbone_atoms(frames[:, :4], frames[:, 4:], torsions, tables)
    torch.testing.assert_close(backbone_from_frames(frames), expected, rtol=0, atol=1e-4)
    plain = min(
        cpu_seconds(lambda: [backbone_atoms(frames[:, :4], frames[:, 4:], torsions, tables) for _ in range(10)])
        for _ in range(rounds)
    )
    ours = min(cpu_seconds(lambda: [backbone_from_frames(frames) for _ in range(100)]) for _ in range(rounds))
    print(
        f"atoms from {ATOMS_LENGTH} frames: {plain / 10 * 1e3:.2f} ms, {ours / 100 * 1e3:.3f} ms; "
        f"{10 * plain / ours:.0f}x"
    )

    sigmas = torch.linspace(0.1, 1.5, IGSO3_ROWS + 1, dtype=torch.float64)[1:]
    angles = torch.linspace(0, torch.pi, 1001, dtype=torch.float64)[1:]
    torch.testing.assert_close(IGSO3(1.5).cdf(angles), igso3_rows(sigmas)[-1], rtol=0, atol=2e-3)
    row = min(cpu_seconds(lambda: igso3_rows(sigmas)) for _ in range(rounds)) / IGSO3_ROWS
    ours = min(cpu_seconds(lambda: [IGSO3(1.5).table for _ in range(100)]) for _ in range(rounds)) / 100
    print(
        f"IGSO(3): {row * 1e3:.1f} ms for each of the 1000 rows of the whole table (from {IGSO3_ROWS} rows), "
        f"{ours * 1e3:.2f} ms for the one row that is used; {1000 * row / ours:.0f}x"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--serve", choices=SIDES, help=argparse.SUPPRESS)
    parser.add_argument("--models", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        serve(options.serve, options.models)
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        save_models(folder)
        assert_equal(folder)
        print(f"load average {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")
        for length in LENGTHS[1:]:
            compare_memory("forward", 1, length, folder)
        compare_memory("backward", *STEP, folder)
        workers = {side: Worker(side, folder) for side in SIDES}
        for length in LENGTHS:
            compare_times("forward", 1, length, options.rounds, workers)
        compare_times("step", *STEP, options.rounds, workers)
        for worker in workers.values():
            worker.close()
    compare_parts(options.rounds)


if __name__ == "__main__":
    main()
