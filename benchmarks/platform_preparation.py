"""Preparation over two processes beside one: by the local pool and by a Ray cluster of as many cores.

    python -m benchmarks.platform preparation

The same synthetic objects each time, in turn; the items alone (from the first that is finished to the last), and the
whole with the start of the processes. The machine needs two cores with nothing else to do: one loop of pure Python,
done once and then twice side by side, says how far two processes can help at all just now.
"""

import multiprocessing
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

from cluster.on_ray.connection import ray
from cluster.on_ray.spread import RayPool
from configs import load
from data.preparing import Progress
from data.protein.preparation import prepare as prepare_proteins
from data.shape import prepare as prepare_shapes
from data.worker_pool import plugged
from flows.domain import load_domain
from flows.placement import Placement
from flows.run import Run, create

COUNTS = {"shape": 96, "protein": 400}
PREPARE: dict[str, Callable[..., Any]] = {"shape": prepare_shapes, "protein": prepare_proteins}


def _busy(_: int = 0) -> None:
    end = 0
    for k in range(15_000_000):
        end ^= k


def room() -> float:
    """How many times one process two of them get done in the same time, now."""
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        pool.map(_busy, range(2), chunksize=1)
        start = time.perf_counter()
        pool.map(_busy, range(1))
        between = time.perf_counter()
        pool.map(_busy, range(2), chunksize=1)
        return 2 * (between - start) / (time.perf_counter() - between)


@contextmanager
def ray_pool(run: Run, cores: int) -> Iterator[None]:
    """Work goes to a cluster of so many cores."""
    folder = tempfile.mkdtemp(prefix="bp-")
    options = {"include_dashboard": False, "log_to_driver": False, "logging_level": "ERROR"}
    ray().init(address="local", num_cpus=cores, _temp_dir=folder, object_store_memory=100 * 2**20, **options)
    try:
        with plugged(RayPool(run, Placement(on="ray"), lambda: None)):
            yield
    finally:
        ray().shutdown()
        shutil.rmtree(folder, ignore_errors=True)


def seconds(run: Run, processes: int) -> tuple[float, float]:
    """(items alone, whole) of one preparation."""
    config, moments = run.config, list[tuple[int, float]]()

    def note(progress: Progress) -> None:
        moments.append((progress.done, time.perf_counter()))

    folder = Path(tempfile.mkdtemp(dir=run.path))
    start = time.perf_counter()
    PREPARE[run.domain_name](config.synthetic, replace(config.prepare, processes=processes), folder, note)
    whole = time.perf_counter() - start
    shutil.rmtree(folder)
    (first, begun), (last, ended) = moments[1], moments[-1]
    return (ended - begun) * last / (last - first), whole


def preparation(runs: Path, rounds: int) -> None:
    """Print the gains of two processes over one."""
    os.environ |= {"IGL_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}  # as the worker processes of a pool have it
    print(f"  room on this machine: two processes get {room():.2f} times as much done as one")
    for name, count in COUNTS.items():
        domain = load_domain(name)
        layers = [*load.preset_layers(name, "demo"), load.override_layer({"synthetic.count": str(count)})]
        run = create(runs, domain, load.resolve(domain.config, layers), "demo", f"scaling-{name}")
        found: dict[tuple[str, int], list[tuple[float, float]]] = {}
        for k in range(rounds):
            for cores in (1, 2) if k % 2 == 0 else (2, 1):
                for where in ("local pool", "ray"):
                    with ray_pool(run, cores) if where == "ray" else nullcontext():
                        found.setdefault((where, cores), []).append(seconds(run, 0 if where == "ray" else cores))
        for where in ("local pool", "ray"):
            (one, one_whole), (two, two_whole) = (tuple(map(min, zip(*found[where, n], strict=True))) for n in (1, 2))
            print(
                f"  {name}, {count} objects, {where:<10}  1 process {one:6.1f} s, 2 processes {two:6.1f} s: "
                f"{one / two:.2f}x (bar: 1.7); with their start {one_whole / two_whole:.2f}x"
            )


if __name__ == "__main__":
    place = Path(tempfile.mkdtemp(prefix="platform-"))
    try:
        preparation(place, 2)
    finally:
        shutil.rmtree(place, ignore_errors=True)
