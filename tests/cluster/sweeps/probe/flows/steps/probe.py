"""A domain whose trainings do what a test tells them: the value is known beforehand, and so are the faults."""

import math
import os
import signal
import time
from pathlib import Path

import torch
from torch.optim.lr_scheduler import LambdaLR

from configs.probe import ProbeConfig
from data.datamodule import ItemDataModule
from data.splits import SplitConfig
from data.toy import POINTS, Points, write_circle
from flows.domain import Domain
from flows.steps.training import train
from modules.toy import ToyNetworkConfig, ToyTraining


def value(lr, step):
    """The validation loss by definition: best at lr = 1e-2, falling with the steps."""
    return abs(math.log10(lr) + 2) + 1 / (1 + step)


class Probe(ToyTraining):
    def __init__(self, flow):
        super().__init__(flow.network)
        self.flow = flow

    def training_step(self, batch, batch_idx):
        time.sleep(self.flow.pause)
        loss = super().training_step(batch, batch_idx)
        self.log("train/lr", self.optimizers().param_groups[0]["lr"], batch_size=len(batch.ids))
        return self.troubled(loss) if self.global_step == self.flow.fault_at else loss

    def troubled(self, loss):
        fault = self.flow.fault
        if fault == "raise":
            raise RuntimeError("a fault that the test asked for")
        if fault == "memory":
            torch.ones(3 * 2**30, dtype=torch.uint8)
        mark = Path(self.flow.marks or "")
        if fault == "kill" or (fault == "kill-once" and not mark.exists()):
            if fault == "kill-once":
                mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return loss

    def validation_step(self, batch, batch_idx):
        late = self.global_step > self.flow.fault_at
        wrong = late and self.flow.fault == "nan"
        result = math.nan if wrong else value(self.flow.optimizer.lr, self.global_step)
        self.log("val/loss", result, batch_size=len(batch.ids))

    def configure_optimizers(self):
        adam = self.flow.optimizer
        made = torch.optim.AdamW(self.parameters(), lr=adam.lr, weight_decay=adam.decay)
        return {"optimizer": made, "lr_scheduler": {"scheduler": LambdaLR(made, falling), "interval": "step"}}


def falling(step):
    return 1 / (1 + step / 100)


def prepare(run):
    with run.prepared("circle") as folder:
        file = write_circle(folder / "samples.h5", 40)
        run.record_data(file, Points(file, POINTS).fingerprint)


def train_flow(run):
    flow = run.config.flow
    data = ItemDataModule(
        Points(run.data_file, POINTS), SplitConfig(validation=0.2), flow.trainer.batch_size, run.config.seed
    )
    train(run, "flow", lambda: Probe(flow), data, flow.trainer, network=flow.network)


def sample(run):
    (run.samples / "drawn.txt").write_text(run.name)


STEPS = {f.__name__: f for f in (prepare, train_flow, sample)}
DOMAIN = Domain("probe", ProbeConfig, STEPS, models={"flow": ToyNetworkConfig})
