"""Training of the forecasters that a configuration asks for."""

import json
import time
from dataclasses import replace
from typing import Any

import torch

from configs.forecast import ForecastConfig
from configs.training import TrainerConfig
from data.forecast.time_split import WindowIndex
from data.forecast.windows import Windows
from flows.run import Run, write_json
from flows.steps.forecast_workbench import Workbench, workbench
from modules.forecast.network import ForecastNetwork


def places(config: ForecastConfig, name: str) -> list[tuple[str, int, int]]:
    """What is trained of one network: the name of its files, the seed's number, the fold."""
    found = [(repeated(name, seed), seed, 0) for seed in range(config.seeds)]
    if config.evaluate.refit:
        found += [(f"{name}-fold{fold}", 0, fold) for fold in range(1, config.evaluate.folds)]
    return found


def repeated(name: str, seed: int) -> str:
    """The name of a network's training with another seed."""
    return name if seed == 0 else f"{name}-{seed}"


def train_network(run: Run, name: str) -> None:
    """Train one network on the first fold's windows, once per seed, and for each later fold where that is asked for."""
    for place, seed, fold in places(run.config, name):
        if not run.model(place).exists():
            _train(run, name, place, seed, fold)


def _train(run: Run, name: str, place: str, seed: int, fold: int) -> None:
    from data.forecast.window_module import WindowDataModule
    from flows.steps.training import train
    from modules.forecast.training import ForecastTraining
    from modules.forecast.training_config import ForecastTrainingConfig

    config: ForecastConfig = run.config
    section: Any = getattr(config, name)
    bench = workbench(run, fold)
    network = ForecastNetwork(shape=bench.shape, head=section.head, model=section.model)
    settings = in_steps(section.epochs, section.trainer, len(WindowIndex(bench.split.train)))
    data = WindowDataModule(
        _windows(bench, network), bench.split, settings.batch_size, config.seed + seed, settings.workers
    )
    training = ForecastTrainingConfig(network=network, optimizer=section.optimizer, task=trained_task(config))
    began = time.process_time()
    train(
        run, name, lambda: ForecastTraining(training), data, settings, network=network, place=place,
        seed=config.seed + seed,
    )  # fmt: skip
    add_seconds(run, place, time.process_time() - began)


def _windows(bench: Workbench, network: ForecastNetwork) -> Windows:
    """What this network is trained on: without calendar features where it does not read them."""
    with torch.device("meta"):
        reads = network.build().takes_calendar
    return bench.windows if reads else bench.windows_without_calendar


def trained_task(config: ForecastConfig) -> Any:
    """What the networks learn: the future, or what is hidden of a window."""
    return "impute" if config.task == "impute" else "forecast"


def in_steps(epochs: float | None, trainer: TrainerConfig, windows: int) -> TrainerConfig:
    """The training with its length in passes over the windows turned into steps, and a validation after each pass."""
    if epochs is None:
        return trainer
    per_pass = max(1, windows // trainer.batch_size)
    steps = max(1, min(trainer.steps, round(epochs * per_pass)))
    return replace(trainer, steps=steps, validate_every=min(per_pass, steps))


def add_seconds(run: Run, name: str, seconds: float) -> None:
    """Note down what fitting a model cost, in CPU seconds."""
    write_json(run.path / "seconds.json", seconds_of(run) | {name: round(seconds, 3)})


def seconds_of(run: Run) -> dict[str, float]:
    """CPU seconds of every fit and training of a run, as far as they ended without being resumed."""
    path = run.path / "seconds.json"
    found: dict[str, float] = json.loads(path.read_text()) if path.exists() else {}
    return found
