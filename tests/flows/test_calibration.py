"""What is said before a training is true, and changes no bit of it."""

import os
import random
import signal
import threading
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from lightning import LightningModule
from torch import Tensor, nn

from configs.training import TrainerConfig
from data.datamodule import ItemDataModule
from data.errors import ConfigError
from data.splits import SplitConfig
from flows.run import Interrupted
from flows.steps import announcement, calibration
from flows.steps.announcement import Site, announce
from flows.steps.calibration import Machine, Measured, Needs, measure
from flows.steps.training import Training
from flows.tracking import read_metrics
from tests.data.toy_training import Points, Regression

FLOAT = 4


class Wide(LightningModule):
    """A linear layer and a ReLU, of which it is known what they keep."""

    def __init__(self, width: int = 1000, seconds: float = 0.0) -> None:
        super().__init__()
        self.model = nn.Sequential(nn.Linear(4, width), nn.ReLU(), nn.Linear(width, 4))
        self.seconds = seconds
        self.sizes: list[int] = []

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        self.sizes.append(len(batch))
        time.sleep(self.seconds)
        return self.model(batch.points).sum()

    def configure_optimizers(self) -> Any:
        return torch.optim.Adam(self.parameters())


def training(tmp_path: Path, build: Any = Wide, *, data: Any = None, **settings: Any) -> Training:
    chosen = TrainerConfig(**({"steps": 1000, "batch_size": 8, "validate_every": 0, "ema_decay": None} | settings))
    data = data or ItemDataModule(Points(), SplitConfig(), chosen.batch_size, seed=3)
    run: Any = SimpleNamespace(name=tmp_path.name, sweep=None, checkpoints=lambda place: tmp_path / place)
    return Training(run, "flow", "flow", 5, build, data, chosen, {"width": 1}, {})


def test_memory_is_what_the_layers_are_known_to_keep(tmp_path):
    """Weights, gradients, Adam's two moments by their count; a ReLU keeps its result, once, for itself and the layer
    after it, and a linear layer its input, which is the batch and counted there."""
    width, batch = 1000, 8
    needs = measure(training(tmp_path)).needs
    weights = (4 * width + width + 4 * width + 4) * FLOAT
    assert needs.weights == needs.gradients == weights
    assert needs.optimizer == pytest.approx(2 * weights, abs=64)  # and a step count for each
    assert needs.average == 0
    assert needs.activations == batch * width * FLOAT
    assert needs.data == batch * 4 * FLOAT + batch * 8  # points, and 64-bit seeds


def test_copies_of_the_weights_and_parts_of_the_batch_are_counted(tmp_path):
    asked = training(tmp_path, ema_decay=0.9, select="best")
    assert measure(asked).needs.average == 3 * measure(asked).needs.weights
    half = measure(asked, workers=2)
    assert half.samples == 4
    assert half.needs.activations == 4 * 1000 * FLOAT


def test_a_measured_training_is_bit_equal_to_one_that_was_not(penstock, runs, monkeypatch):
    """The whole run through the command line, metrics included."""

    def result(name: str) -> tuple[bytes, list[Any]]:
        code, out, err = penstock("train", "toy", "--preset", "debug", "--name", name)
        assert code == 0, err
        assert ("time: about" in out) == (name == "measured")
        rows = [replace(row, seconds=0.0) for row in read_metrics(runs / name / "metrics.csv")]
        return (runs / name / "models/flow/model.safetensors").read_bytes(), rows

    plain = result("plain")
    monkeypatch.setattr(announcement, "SHORT", 1)
    assert result("measured") == plain


def test_generators_the_data_and_the_trainers_position_are_put_back(tmp_path):
    data = ItemDataModule(Points(), SplitConfig(), 8, seed=3)
    asked = training(tmp_path, Regression, data=data)
    torch.manual_seed(1), np.random.seed(1), random.seed(1)
    expected = torch.rand(3), np.random.rand(3), random.random()
    torch.manual_seed(1), np.random.seed(1), random.seed(1)
    before = dict(vars(data))
    measure(asked)
    got = torch.rand(3), np.random.rand(3), random.random()
    assert torch.equal(got[0], expected[0])
    assert np.array_equal(got[1], expected[1])
    assert got[2] == expected[2]
    assert vars(data) == before
    assert data.trainer is None


def test_a_batch_that_would_not_fit_is_not_tried_and_what_would_is_named(tmp_path, monkeypatch):
    """The network and 16 samples need more than there is; the advice is followed, and then it fits."""
    modules: list[Wide] = []

    def build() -> Wide:
        modules.append(Wide(width=100_000))
        return modules[-1]

    one = 100_000 * FLOAT
    fixed = 4 * (9 * one + 16)
    monkeypatch.setattr(calibration, "free_memory", lambda: fixed + 10 * one)
    with pytest.raises(ConfigError, match=r"cannot fit.*batch_size (\d+) would fit") as refused:
        asked = training(tmp_path, build, batch_size=16)
        announce(asked, Site("here"), lambda: measure(asked))
    assert modules[-1].sizes == [2]
    fits = int(str(refused.value).split("batch_size ")[1].split()[0])
    assert 8 <= fits <= 9  # the points themselves take a little
    asked = training(tmp_path, build, batch_size=fits)
    announce(asked, Site("here"), lambda: measure(asked))
    assert modules[-1].sizes[1] == fits


def test_expected_time_is_that_of_steps_that_take_a_known_time(tmp_path, capsys):
    asked = training(tmp_path, lambda: Wide(width=1, seconds=0.02), steps=3000)
    found = measure(asked)
    assert 0.02 <= found.step < 0.06
    announce(asked, Site("here"), lambda: replace(found, step=0.02))
    assert "time: about 60 s (20 ms a step" in capsys.readouterr().out


def test_the_steps_still_to_do_are_those_after_the_newest_checkpoint(tmp_path, capsys):
    asked = training(tmp_path, steps=2000)
    (tmp_path / "flow").mkdir()
    (tmp_path / "flow" / "step-00001500.ckpt").touch()
    announce(asked, Site("here"), lambda: _measured(1.0))
    assert "500 steps" in (said := capsys.readouterr().out)
    assert "about 8 min" in said


def test_a_short_training_and_one_like_another_are_not_measured(tmp_path, capsys):
    calls: list[int] = []

    def count() -> Measured:
        calls.append(1)
        return _measured(1.0)

    announce(training(tmp_path, steps=announcement.SHORT - 1), Site("here"), count)
    assert not calls
    for place in ("flow-seed0", "flow-seed1"):
        announce(replace(training(tmp_path), place=place), Site("here"), count)
    assert len(calls) == 1
    assert "train flow-seed1: here; 1000 steps, batch 8" in capsys.readouterr().out


@pytest.mark.parametrize(("gpu", "together", "refused"), [(False, 1, False), (False, 3, True), (True, 3, False)])
def test_workers_of_one_machine_share_its_memory_but_not_a_gpus(tmp_path, gpu, together, refused):
    machine = Machine("box", "H200" if gpu else "CPU", 1, memory=250)
    found = Measured(machine, Needs(10, 10, 20, 0, 40, 20), samples=4, steps=3, step=1.0)
    site = Site("workers", workers=3, together=together)
    asked = training(tmp_path / f"{gpu}{together}")
    if not refused:
        announce(asked, site, lambda: found)
        return
    with pytest.raises(ConfigError, match=r"box has 250 B free for 3 workers.*batch_size 6 would fit"):
        announce(asked, site, lambda: found)  # (250 / 3 - 40) / 60 of 4 samples: 2 in each of 3 workers


def test_sharded_weights_are_divided(tmp_path, capsys):
    found = Measured(Machine("box", "CPU", 1, 10_000), Needs(100, 100, 200, 100, 40, 20), 4, 3, 1.0)
    announce(training(tmp_path), Site("workers", workers=2, sharded=True), lambda: found)
    said = capsys.readouterr().out
    assert "about 310 B a worker (weights 50 B, gradients 50 B, optimizer 100 B, average 50 B" in said


def test_what_fails_in_measuring_is_left_to_the_training_but_memory_is_not(tmp_path, capsys):
    def broken() -> Measured:
        raise RuntimeError("a fault of the network")

    def full() -> Measured:
        raise RuntimeError("[enforce fail at alloc_cpu.cpp:75] DefaultCPUAllocator: can't allocate memory: 8 bytes")

    announce(training(tmp_path / "a"), Site("here"), broken)
    assert "not measured: RuntimeError: a fault of the network" in capsys.readouterr().out
    with pytest.raises(ConfigError, match=r"ran out of memory. Take a smaller trainer.batch_size"):
        announce(training(tmp_path / "b"), Site("here"), full)


def test_sigterm_while_measuring_ends_it_and_handlers_are_put_back(tmp_path):
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    asked = training(tmp_path, lambda: Wide(seconds=0.3))
    killer = threading.Timer(0.4, os.kill, (os.getpid(), signal.SIGTERM))
    killer.start()
    with pytest.raises(Interrupted, match="SIGTERM"):
        announce(asked, Site("here"), lambda: measure(asked))
    killer.join()
    assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == before


def _measured(step: float) -> Measured:
    return Measured(Machine("box", "CPU", 1, 10**9), Needs(1, 1, 1, 1, 1, 1), 8, 3, step)
