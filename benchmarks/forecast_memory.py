"""Memory and time of training on few and on many time series: they must be those of a batch, not of the data.

    python -m benchmarks.forecast_memory [--series 10000] [--steps 10000] [--training 300]

Each row is a process of its own that trains DLinear for some steps on series it reads by memory map. Memory is RssAnon
of /proc/self/status, the process's own; pages of the mapped file belong to the kernel's cache and go when others need
the room. `begin` is measured with all modules imported and an earlier training on a tiny set done, so that what
Lightning and torch take once does not count.
"""

import argparse
import itertools
import json
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

LOOK_BACK, HORIZON, BATCH = 336, 96, 256


def write(path: Path, series: int, steps: int) -> None:
    """Hourly univariate series: a day's wave on a random walk."""
    from data.forecast.kinds import FORECAST_SERIES
    from data.store import Writer

    attributes = {"columns": '{"targets": ["value"]}', "step": "h", "zone": "", "gaps": False, "reading": "{}"}
    hours = np.arange(steps)
    with Writer(path, FORECAST_SERIES, attributes) as writer:
        for number in range(series):
            rng = np.random.default_rng(number)
            values = np.sin(hours * (2 * np.pi / 24) + number) + rng.normal(scale=0.1, size=steps).cumsum()
            start = np.int64((409_008 + number) * 3600 * 10**9)
            writer.add(f"series-{number}", {"targets": values[:, None], "start": start})


def own_memory() -> int:
    """Anonymous memory of this process, bytes."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("RssAnon"))
    return 1024 * int(line.split()[1])


@contextmanager
def watched() -> Iterator[list[int]]:
    """A list whose only number is the largest `own_memory` so far, looked at every two milliseconds."""
    largest, stop = [own_memory()], threading.Event()

    def watch() -> None:
        while not stop.wait(0.002):
            largest[0] = max(largest[0], own_memory())

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield largest
    finally:
        stop.set()
        thread.join()


def train(path: Path, training: int, folder: Path) -> dict[str, float]:
    """Everything that a training does with its data, from opening the file on."""
    import lightning

    from data.forecast.scaling import Scaler
    from data.forecast.series_store import SeriesStore
    from data.forecast.time_split import TimeSplitConfig, spans
    from data.forecast.window_module import WindowDataModule
    from data.forecast.windows import Windows
    from modules.forecast.heads import Head
    from modules.forecast.interface import Forecaster, WindowShape
    from modules.forecast.linear import DLinearConfig
    from modules.forecast.training_config import ForecastTrainingConfig

    class Network:
        def build(self) -> Forecaster:
            return DLinearConfig().build(WindowShape(look_back=LOOK_BACK, horizon=HORIZON), Head())

    store = SeriesStore(path)
    split = spans(store.lengths, LOOK_BACK, HORIZON, TimeSplitConfig())
    windows = Windows(store, LOOK_BACK, HORIZON, Scaler.fit(store, split.train_ends))
    data = WindowDataModule(windows, split, BATCH, seed=0, steps_per_epoch=training)
    module = ForecastTrainingConfig(network=Network()).build()
    trainer = lightning.Trainer(
        accelerator="cpu",
        max_steps=training,
        limit_val_batches=20,
        num_sanity_val_steps=0,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=folder,
    )
    trainer.fit(module, datamodule=data)
    costs = []
    for number in range(200):
        draw = data.part(number, 0, 1)
        begin = time.process_time()
        items, origins = data.index["train"].locate(draw.numbers)
        batch = windows.cut(items, origins, draw.seeds)
        costs.append(time.process_time() - begin)
    tensors = [value for value in vars(batch).values() if hasattr(value, "nbytes")]
    # Weights, gradients and the two moments of the optimizer.
    model = 4 * sum(p.nbytes for p in module.parameters())
    return {
        "windows": len(data.index["train"]),
        "cut_ms": 1e3 * float(np.median(costs)),
        "batch_bytes": sum(tensor.nbytes for tensor in tensors),
        "model_bytes": model,
    }


def child(path: Path, tiny: Path, training: int) -> None:
    import logging
    import warnings

    import torch

    torch.set_num_threads(1)
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore")
    with tempfile.TemporaryDirectory() as folder:
        train(tiny, 20, Path(folder))
        begin = own_memory()
        with watched() as largest:
            found = train(path, training, Path(folder))
    print(json.dumps({**found, "begin": begin, "largest": largest[0]}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--series", type=int, default=10_000)
    parser.add_argument("--steps", type=int, default=10_000)
    parser.add_argument("--training", type=int, default=300, help="training steps")
    parser.add_argument("--child", type=Path, nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        child(*options.child, options.training)
        return
    few, short = max(options.series // 1000, 1), max(options.steps // 10, LOOK_BACK + 4 * HORIZON)
    with tempfile.TemporaryDirectory() as folder:
        tiny = Path(folder, "tiny.h5")
        write(tiny, 2, LOOK_BACK + 5 * HORIZON)
        print("| series | steps each | file, MB | windows | begin, MB | growth, MB | CPU ms to cut a batch |")
        print("| ---: | ---: | ---: | ---: | ---: | ---: | ---: |")
        growths = []
        for series, steps in itertools.product((few, options.series), (short, options.steps)):
            path = Path(folder, "series.h5")
            write(path, series, steps)
            command = [sys.executable, "-m", "benchmarks.forecast_memory", "--training", str(options.training)]
            done = subprocess.run([*command, "--child", str(path), str(tiny)], capture_output=True, text=True)
            if done.returncode:
                sys.exit(done.stderr)
            found = json.loads(done.stdout.splitlines()[-1])
            growths.append(found["largest"] - found["begin"])
            print(
                f"| {series} | {steps} | {path.stat().st_size / 1e6:.1f} | {found['windows']} | "
                f"{found['begin'] / 1e6:.1f} | {growths[-1] / 1e6:.1f} | {found['cut_ms']:.3f} |",
                flush=True,
            )
            path.unlink()
        unit = (found["batch_bytes"] + found["model_bytes"]) / 1e6
        print(f"\na batch of {BATCH} windows of {LOOK_BACK} + {HORIZON} steps, the model, its optimizer: {unit:.1f} MB")
        print(f"growth with {options.series} series of {options.steps} steps: {growths[-1] / 1e6 / unit:.2f} of that")


if __name__ == "__main__":
    main()
