"""What the platform itself costs: Ray over a local training, Metaflow over plain steps, and what spreading gains.

    python -m benchmarks.platform [overhead] [metaflow] [preparation] [--seconds 60] [--rounds 2]

Every figure is a ratio of commands run in turn on one machine: quote it together with how busy the machine was.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from flows.tracking import read_metrics

ONE_THREAD = {"OMP_NUM_THREADS": "1", "WANDB_MODE": "off"}


def penstock(runs: Path, *words: str) -> float:
    """Run a command; its wall seconds."""
    command = [sys.executable, "-m", "cluster.cli", *words, "--runs-dir", str(runs)]
    began = time.perf_counter()
    done = subprocess.run(command, env=os.environ | ONE_THREAD, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{' '.join(words)} ended with {done.returncode}:\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
    return time.perf_counter() - began


def loop_seconds(run: Path, stage: str) -> float:
    """Seconds between the first and the last row that a training logged: its steps, without what begins and ends it."""
    times = [row.seconds for row in read_metrics(run / "metrics.csv") if row.stage == stage]
    return max(times) - min(times)


def overhead(runs: Path, seconds: float, rounds: int) -> None:
    """The same training here and by one worker of a Ray cluster of its own, in turn."""
    words = ("train", "shape.vae", "--preset", "demo", "--synthetic.count", "40", "--seed", "7")
    penstock(runs, *words, "--name", "probe", "--vae.trainer.steps", "40")
    steps = int(40 * seconds / loop_seconds(runs / "probe", "vae") / 0.75)  # rows 10 to 40
    found: dict[str, list[tuple[float, float]]] = {"local": [], "ray": []}
    for k in range(rounds):
        for on in ("local", "ray") if k % 2 == 0 else ("ray", "local"):
            name = f"{on}-{k}"
            where = ("--on", on, *(("--workers", "1") if on == "ray" else ()))
            wall = penstock(runs, *words, "--name", name, "--vae.trainer.steps", str(steps), *where)
            found[on].append((loop_seconds(runs / name, "vae"), wall))
    (here, here_wall), (there, there_wall) = (min(found[on]) for on in ("local", "ray"))
    print(f"training of {steps} steps, {rounds} rounds, the faster of each:")
    print(f"  steps alone       local {here:6.1f} s   ray, 1 worker {there:6.1f} s   {there / here:.3f}x  (bar: 1.05)")
    print(f"  the whole command local {here_wall:6.1f} s   ray, 1 worker {there_wall:6.1f} s")
    print(f"  start-up and end of Ray: {(there_wall - there) - (here_wall - here):.1f} s")


def metaflow(runs: Path, rounds: int) -> None:
    """The same steps as a workflow, each in a process of its own, and one after another in the command's process."""
    walls: dict[str, list[float]] = {"run": [], "report": []}
    for k in range(rounds):
        for verb in ("run", "report") if k % 2 == 0 else ("report", "run"):
            words = (verb, "shape", "--preset", "debug", "--seed", str(k), "--name", f"{verb}-{k}")
            penstock(runs, "prepare", "shape", "--preset", "debug", "--seed", str(k), "--name", f"data-{verb}-{k}")
            walls[verb].append(penstock(runs, *words))
    steps = len(json.loads((runs / "run-0" / "status.json").read_text())["steps"])
    flow, plain = min(walls["run"]), min(walls["report"])
    print(f"  {steps} steps: as a workflow {flow:.1f} s, in one process {plain:.1f} s; the faster of {rounds}")
    print(f"  Metaflow and its processes: {(flow - plain) / steps:.2f} s per step (bar: 2)")


def main() -> None:
    parts = ("overhead", "metaflow", "preparation")
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("part", nargs="*", choices=[*parts, []], help="default: all")
    parser.add_argument("--seconds", type=float, default=60, help="how long the training of `overhead` is to take")
    parser.add_argument("--rounds", type=int, default=2)
    arguments = parser.parse_args()
    runs = Path(tempfile.mkdtemp(prefix="platform-"))
    print(f"load of the machine: {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")
    try:
        for part in arguments.part or parts:
            print(f"{part}:", flush=True)
            if part == "overhead":
                overhead(runs, arguments.seconds, arguments.rounds)
            elif part == "metaflow":
                metaflow(runs, arguments.rounds)
            else:
                from benchmarks.platform_preparation import preparation

                preparation(runs, arguments.rounds)
    finally:
        shutil.rmtree(runs, ignore_errors=True)


if __name__ == "__main__":
    main()
