"""Training steps and rolling forecasts beside plain transcriptions and neuralforecast: python -m benchmarks forecast

Both sides have the published sizes, the same series, windows and weights, dropout on, float32, one thread; they are
compared first. A step is everything from the series to the changed weights: windows cut, forward, backward, optimizer.
Times are CPU seconds of processes that take turns. neuralforecast is asked where an interpreter that has it is named
(--peer-python, or PENSTOCK_PEER_PYTHON).
"""

import argparse
import importlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
ROWS, COLUMNS, LOOK_BACK, HORIZON, BATCH = 8640, 7, 96, 96, 32
TEST_WINDOWS, FORECAST_BATCH = 2785, 1024
WARM_UP, CHUNK = 5, 10
ROUNDS, ROLLING_ROUNDS, PEER_ROUNDS = 7, 5, 3
LIGHTNING_STEPS = (200, 800)
LEAST_STEPS = 60
LEARNING_RATE = 1e-3
ATOL = 2e-5
SIDES, LIGHTNING = ("baseline", "penstock"), "lightning"
INSTALL = (
    "neuralforecast is not measured: name an interpreter that has it by --peer-python or PENSTOCK_PEER_PYTHON. To make "
    "one: python -m venv PEER && PEER/bin/pip install torch neuralforecast"
)


@dataclass(frozen=True)
class Case:
    """A network of published size: its transcription, and who turns its weights into ours."""

    network: str
    """Class in `benchmarks.forecast_baseline`."""
    converter: str
    """Module in `modules.forecast.reference`."""
    sizes: dict[str, Any]
    settings: dict[str, Any]
    """What the weights do not tell, under the published argument names."""


TRANSFORMER = {"dropout": 0.1}
CASES = {
    "DLinear": Case("DLinear", "dlinear", {}, {}),
    "iTransformer": Case(
        "ITransformer",
        "itransformer",
        TRANSFORMER | {"layers": 2, "width": 256, "heads": 8, "hidden": 256},
        TRANSFORMER | {"n_heads": 8},
    ),
    "PatchTST": Case(
        "PatchTST",
        "patchtst_tslib",
        TRANSFORMER | {"layers": 1, "width": 512, "heads": 2, "hidden": 2048},
        TRANSFORMER | {"n_heads": 2},
    ),
}


def write_series(folder: Path) -> None:
    """Two years of something hourly with a day, a week and noise, about as long as ETTh1's training part."""
    from data.forecast.kinds import FORECAST_SERIES
    from data.store import Writer

    source = np.random.default_rng(0)
    hours = np.arange(ROWS)[:, None]
    phase, trend = source.uniform(0, 2 * np.pi, COLUMNS), np.cumsum(source.normal(0, 0.03, (ROWS, COLUMNS)), axis=0)
    day, week = np.sin(2 * np.pi * hours / 24 + phase), np.sin(2 * np.pi * hours / 168 - phase)
    values = day + 0.5 * week + trend + source.normal(0, 0.3, (ROWS, COLUMNS))
    names = [f"column {i}" for i in range(COLUMNS)]
    attributes = {
        "columns": json.dumps({"targets": names, "observed": [], "known": [], "static": []}),
        "step": "h",
        "zone": "",
        "gaps": False,
        "reading": "{}",
    }
    start = np.datetime64("2016-07-01", "ns").astype(np.int64)
    with Writer(folder / "series.h5", FORECAST_SERIES, attributes) as writer:
        writer.add("series", {"targets": values, "start": start})
    np.save(folder / "series.npy", values.astype(np.float32))


def our_windows(folder: Path, *, calendar: bool = True) -> tuple[Any, Any]:
    """Windows cut from the prepared file, and the numbers of all of them."""
    from data.forecast.scaling import Scaler
    from data.forecast.series_store import SeriesStore
    from data.forecast.time_split import Spans, WindowIndex
    from data.forecast.windows import Windows

    store = SeriesStore(folder / "series.h5")
    scaler = Scaler.fit(store, store.lengths)
    spans = Spans(np.array([LOOK_BACK]), store.lengths - HORIZON + 1)
    return Windows(store, LOOK_BACK, HORIZON, scaler, calendar=calendar), WindowIndex(spans)


def their_windows(folder: Path) -> Any:
    """The same windows, one by one."""
    from benchmarks.forecast_baseline import WindowDataset
    from data.forecast.calendar import calendar_features, stamps

    windows, _ = our_windows(folder)
    store = windows.store
    values = windows.scaler.apply("targets", np.array([0]), store.read(0, "targets", 0, ROWS)[None])[0]
    marks = calendar_features(stamps(int(store.starts[0]), store.step, 0, ROWS), store.step)
    return WindowDataset(values, marks.astype(np.float64), LOOK_BACK, HORIZON, overlap=LOOK_BACK // 2)


def transcription(case: Case) -> Any:
    """The transcribed network; the same weights in every process."""
    import torch

    from benchmarks import forecast_baseline

    torch.set_num_threads(1)
    torch.manual_seed(0)
    return getattr(forecast_baseline, case.network)(LOOK_BACK, HORIZON, **case.sizes)


def ours(case: Case) -> Any:
    """Our network with the weights of the transcription."""
    from modules.forecast.heads import Head

    converter = importlib.import_module(f"modules.forecast.reference.{case.converter}")
    settings = {"seq_len": LOOK_BACK, "pred_len": HORIZON, "enc_in": COLUMNS, "freq": "h", **case.settings}
    state = transcription(case).state_dict()
    assert converter.recognises(state), case.converter
    config, shape, weights = converter.convert(state, settings)
    network = config.build(shape, Head())
    network.load_state_dict(weights, strict=True)
    return network


class OurLoop:
    """Endless steps of training on windows cut by number."""

    def __init__(self, network: Any, windows: Any, index: Any) -> None:
        from modules.layers.optimization import OptimizerConfig

        self.network, self.windows, self.index = network.train(), windows, index
        config = OptimizerConfig(kind="adam", learning_rate=LEARNING_RATE, beta2=0.999, warmup=0.0)
        self.optimizer, self.schedule = config.build(network, 100_000)
        self.source = np.random.default_rng(0)
        self.order = np.empty(0, np.int64)
        self.losses: list[float] = []

    def step(self) -> None:
        if not len(self.order):
            self.order = self.source.permutation(len(self.index))
        numbers, self.order = self.order[:BATCH], self.order[BATCH:]
        window = self.windows.cut(*self.index.locate(numbers), numbers)
        loss = self.network.head.error(self.network(window), window.future, window.future_mask)
        self.losses.append(loss.item())
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        self.schedule.step()


def training(side: str, case: Case, folder: Path) -> Any:
    if side == "penstock":
        network = ours(case)
        return OurLoop(network, *our_windows(folder, calendar=network.takes_calendar))
    from benchmarks.forecast_baseline import TrainingLoop

    return TrainingLoop(transcription(case), their_windows(folder), BATCH, LEARNING_RATE)


def serve(side: str, name: str, folder: Path) -> None:
    """A worker: warm-up, then for each line read so many steps, answered by the CPU seconds of each."""
    loop = training(side, CASES[name], folder)
    for _ in range(WARM_UP):
        loop.step()
    for line in sys.stdin:
        seconds = []
        for _ in range(int(line)):
            begin = time.process_time()
            loop.step()
            seconds.append(time.process_time() - begin)
        print(json.dumps(seconds), flush=True)


class Worker:
    """A process that trains one side."""

    def __init__(self, side: str, name: str, folder: Path) -> None:
        command = [sys.executable, "-m", "benchmarks.forecast", "--serve", side, name, str(folder)]
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT, env=one_thread()
        )

    def __call__(self, steps: int) -> list[float]:
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.write(f"{steps}\n")
        self.process.stdin.flush()
        answer: list[float] = json.loads(self.process.stdout.readline())
        return answer

    def close(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()


def lightning_step(folder: Path) -> float:
    """CPU seconds of one DLinear step through data module, training module and Lightning's loop, its setting up off."""
    import logging
    import warnings

    import lightning
    import torch

    from data.forecast.time_split import TimeSplitConfig, spans
    from data.forecast.window_module import WindowDataModule
    from modules.forecast.interface import WindowShape
    from modules.forecast.linear import DLinearConfig
    from modules.forecast.network import ForecastNetwork
    from modules.forecast.training import ForecastTraining
    from modules.forecast.training_config import ForecastTrainingConfig
    from modules.layers.optimization import OptimizerConfig

    torch.set_num_threads(1)
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore")
    windows, _ = our_windows(folder)
    split = spans(windows.store.lengths, LOOK_BACK, HORIZON, TimeSplitConfig(validation=0.0, test=0.0))
    optimizer = OptimizerConfig(kind="adam", learning_rate=LEARNING_RATE, beta2=0.999, warmup=0.0)
    sizes = {"look_back": LOOK_BACK, "horizon": HORIZON}
    network = ForecastNetwork(shape=WindowShape(**sizes, **windows.counts), model=DLinearConfig())

    def seconds(steps: int) -> float:
        module = ForecastTraining(ForecastTrainingConfig(network=network, optimizer=optimizer))
        quiet = {"enable_progress_bar": False, "enable_model_summary": False, "enable_checkpointing": False}
        trainer = lightning.Trainer(max_steps=steps, accelerator="cpu", logger=False, num_sanity_val_steps=0, **quiet)
        begin = time.process_time()
        trainer.fit(module, datamodule=WindowDataModule(windows, split, BATCH, seed=0))
        return time.process_time() - begin

    seconds(WARM_UP)
    few, many = LIGHTNING_STEPS
    short = seconds(few)
    return (seconds(many) - short) / (many - few)


def one_thread() -> dict[str, str]:
    return os.environ | {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}


def assert_equal(name: str, folder: Path) -> None:
    """Raises AssertionError unless windows, forecasts and losses of both sides are alike, without dropout."""
    import torch

    case, data = CASES[name], their_windows(folder)
    windows, index = our_windows(folder)
    numbers = np.array([0, 1, 500, 1000, len(data) - 1])
    assert len(index) == len(data), (len(index), len(data))
    items = [[torch.as_tensor(part).float() for part in data[n]] for n in numbers]
    past, future, marks, _ = (torch.stack(parts) for parts in zip(*items, strict=True))
    window = windows.cut(*index.locate(numbers))
    future = future[:, -HORIZON:]
    for mine, other in ((window.past, past), (window.future, future), (window.calendar[:, :LOOK_BACK], marks)):
        torch.testing.assert_close(mine, other, rtol=0, atol=1e-6)
    network, plain = ours(case).eval(), transcription(case).eval()
    with torch.no_grad():
        forecast, expected = network(window), plain(past, marks)
        losses = network.head.error(forecast, window.future), torch.nn.functional.mse_loss(expected, future)
    deviation = (forecast[..., 0] - expected).abs().max() / expected.abs().max()
    assert deviation < ATOL, f"{name}: {deviation}"
    torch.testing.assert_close(*losses, rtol=1e-5, atol=0)
    count = sum(p.numel() for p in network.parameters())
    print(f"{name}: {count} parameters, largest deviation {deviation:.1e} of the largest value")


def compare_steps(name: str, folder: Path, rounds: int) -> tuple[float, float]:
    """Prints what a step costs on both sides; CPU seconds of both, the transcription first."""
    workers = {side: Worker(side, name, folder) for side in SIDES}
    seconds: dict[str, list[float]] = {side: [] for side in SIDES}
    for _ in range(max(rounds, -(-LEAST_STEPS // CHUNK))):
        for side, worker in workers.items():
            seconds[side] += worker(CHUNK)
    for worker in workers.values():
        worker.close()
    (low, middle), (our_low, our_middle) = ((min(s), statistics.median(s)) for s in seconds.values())
    print(
        f"{name}, step of {BATCH} windows: transcription {1e3 * middle:.2f} ms (least {1e3 * low:.2f}), penstock "
        f"{1e3 * our_middle:.2f} ms (least {1e3 * our_low:.2f}); {our_middle / middle:.3f}x (least "
        f"{our_low / low:.3f}x), {len(seconds['penstock'])} steps each",
        flush=True,
    )
    return middle, our_middle


def through_lightning(folder: Path, rounds: int, theirs: float) -> float:
    """Prints what a step costs in a whole training; CPU seconds."""
    command = [sys.executable, "-m", "benchmarks.forecast", "--serve", LIGHTNING, "DLinear", str(folder)]
    found = []
    for _ in range(rounds):
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, cwd=ROOT, env=one_thread(), check=True)
        found.append(float(done.stdout.splitlines()[-1]))
    step = statistics.median(found)
    print(
        f"DLinear, step of {BATCH} windows in a training through Lightning: penstock {1e3 * step:.2f} ms; "
        f"{step / theirs:.3f}x of the transcription's own loop",
        flush=True,
    )
    return step


def compare_rolling(folder: Path, rounds: int) -> tuple[float, float]:
    """Prints what forecasts from many origins cost in batches and one by one; CPU seconds of all, both ways."""
    from modules.forecast.backtest import forecast_all

    network = ours(CASES["DLinear"]).eval()
    windows, index = our_windows(folder, calendar=network.takes_calendar)
    items, origins = index.locate(np.arange(TEST_WINDOWS))
    seen = partial(windows.cut, future=False)

    def forecasts(calls: int) -> tuple[Any, float]:
        """All windows by so many calls of what the backtest calls."""
        parts = np.array_split(np.arange(TEST_WINDOWS), calls)
        begin = time.process_time()
        found = [forecast_all(network, seen, items[part], origins[part], FORECAST_BATCH) for part in parts]
        seconds = time.process_time() - begin
        return np.concatenate(found), seconds

    (together, _), (alone, _) = forecasts(1), forecasts(TEST_WINDOWS)
    np.testing.assert_allclose(together, alone, rtol=0, atol=ATOL)
    pairs = [(forecasts(1)[1], forecasts(TEST_WINDOWS)[1]) for _ in range(rounds)]
    batched, single = (statistics.median(values) for values in zip(*pairs, strict=True))
    print(
        f"DLinear, {TEST_WINDOWS} rolling forecasts: one call (batches of {FORECAST_BATCH}) {batched:.3f} s, one "
        f"call per origin {single:.3f} s; {batched / single:.3f}x",
        flush=True,
    )
    return batched, single


def compare_peer(python: str, folder: Path, rounds: int, step: float, whole_step: float, batched: float) -> None:
    """Prints what a DLinear step and a forecast cost in neuralforecast, beside ours."""
    command = [python, str(ROOT / "benchmarks" / "forecast_peer.py"), str(folder / "series.npy"), "--batch", str(BATCH)]
    answers = []
    for _ in range(rounds):
        done = subprocess.run(command, capture_output=True, text=True, cwd=folder, env=one_thread())
        if done.returncode:
            print(f"{INSTALL}\n{python}: {done.stderr.strip().splitlines()[-1:]}")
            return
        answers.append(json.loads(done.stdout.splitlines()[-1]))
    theirs, call = (statistics.median(answer[key] for answer in answers) for key in ("step", "call"))
    peer = f"neuralforecast {answers[0]['version']}"
    print(
        f"DLinear, step of {BATCH} windows of {ROWS} rows: {peer} {1e3 * theirs:.1f} ms, penstock {1e3 * step:.2f} ms; "
        f"{step / theirs:.4f}x, through Lightning as it is too {1e3 * whole_step:.2f} ms; {whole_step / theirs:.4f}x\n"
        f"DLinear, {TEST_WINDOWS} rolling forecasts: {peer}, one call per origin, {call * TEST_WINDOWS:.1f} s (from "
        f"{1e3 * call:.1f} ms each), penstock in batches {batched:.3f} s; {batched / (call * TEST_WINDOWS):.4f}x",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=ROUNDS, help=f"alternations of {CHUNK} steps")
    parser.add_argument("--only", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--peer-python", default=os.environ.get("PENSTOCK_PEER_PYTHON"), metavar="PYTHON")
    parser.add_argument("--serve", nargs=3, metavar=("SIDE", "CASE", "FOLDER"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        side, name, folder = options.serve
        if side == LIGHTNING:
            print(lightning_step(Path(folder)))
        else:
            serve(side, name, Path(folder))
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_series(folder)
        print(f"load average {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")
        for name in options.only:
            assert_equal(name, folder)
        steps = {name: compare_steps(name, folder, options.rounds) for name in options.only}
        if "DLinear" not in steps:
            return
        theirs, step = steps["DLinear"]
        whole_step = through_lightning(folder, PEER_ROUNDS, theirs)
        batched, _ = compare_rolling(folder, ROLLING_ROUNDS)
        if options.peer_python:
            compare_peer(options.peer_python, folder, PEER_ROUNDS, step, whole_step, batched)
        else:
            print(INSTALL)


if __name__ == "__main__":
    main()
