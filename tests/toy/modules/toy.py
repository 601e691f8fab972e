from dataclasses import dataclass

import torch
from lightning import LightningModule
from torch import nn

from modules.layers.random import rand_per_sample, randn_per_sample


@dataclass(frozen=True, kw_only=True)
class ToyNetworkConfig:
    width: int = 32

    def build(self):
        return nn.Sequential(nn.Linear(3, self.width), nn.SiLU(), nn.Linear(self.width, 2))


class ToyTraining(LightningModule):
    def __init__(self, config):
        super().__init__()
        self.model = config.build()

    def training_step(self, batch, batch_idx):
        x0, t = randn_per_sample(batch.seeds, (2,)), rand_per_sample(batch.seeds, (1,), stream=1)
        loss = (self.model(torch.cat([(1 - t) * x0 + t * batch.points, t], 1)) - (batch.points - x0)).square().mean()
        self.log("train/loss", loss)
        return loss

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=1e-2)
