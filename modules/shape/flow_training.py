"""Training of the velocity network on the latents of the shape VAE."""

from collections.abc import Iterable

import torch
from jaxtyping import Bool, Float
from lightning.pytorch import LightningModule
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor

from data.batch import LatentBatch
from data.errors import PenstockError
from modules.geometry.manifold import Euclidean
from modules.layers.random import rand_per_sample, randn_per_sample
from modules.shape.training_config import ShapeFlowTrainingConfig
from modules.transport.objective import VelocityMatching
from modules.transport.path import GeodesicPath

NOISE_STREAM, TIME_STREAM, DROPOUT_STREAM = 11, 12, 13
"""Separate draws of different purpose from the seed of one sample."""
DRAW_STRIDE = 100
"""Distance between the streams of repeated draws for one sample in validation."""


class ShapeFlowTraining(LightningModule):
    """Rectified flow on the latents of the shape VAE (Liu et al. 2022, algorithm 1).

    Noise, time and the dropping of the condition are functions of the batch's seeds alone. Call
    `model.set_latent_statistics(*latent_statistics(...))` before a training begins; a checkpoint brings them along.
    """

    def __init__(self, config: ShapeFlowTrainingConfig) -> None:
        super().__init__()
        self.config = config
        self.model = config.network.build()
        self.sample_time = config.times.build()
        self.matching = VelocityMatching(GeodesicPath(Euclidean()), config.weighting)

    def training_step(self, batch: LatentBatch, batch_idx: int) -> Tensor:
        keep = rand_per_sample(batch.seeds, stream=DROPOUT_STREAM) >= self.config.condition_dropout
        loss = self.velocity_loss(batch, keep.to(batch.latents.device)).mean()
        self.log("train/velocity_mse", loss, batch_size=batch.counted)
        return loss

    def validation_step(self, batch: LatentBatch, batch_idx: int) -> None:
        losses = [self.velocity_loss(batch, draw=draw) for draw in range(self.config.validation_draws)]
        self.log("val/velocity_mse", torch.stack(losses).mean(), batch_size=batch.counted, sync_dist=True)

    def velocity_loss(
        self, batch: LatentBatch, keep_condition: Bool[Tensor, " batch"] | None = None, *, draw: int = 0
    ) -> Float[Tensor, " batch"]:
        """Weighted mean squared error of the velocity of each sample; `draw` counts noises and times of one sample."""
        x1 = self.model.normalise(batch.latents)
        x0 = randn_per_sample(batch.seeds, x1.shape[1:], stream=NOISE_STREAM + draw * DRAW_STRIDE, device=x1.device)
        t = self.sample_time(batch.seeds, stream=TIME_STREAM + draw * DRAW_STRIDE).to(x1.device)
        condition = self.model.condition_tokens(batch.condition, self._labels(batch))
        if condition is not None and keep_condition is not None:
            condition = condition * keep_condition[:, None, None]
        return self.matching(lambda x, t: self.model(x, t, condition), x0, x1, t)

    def configure_optimizers(self) -> OptimizerLRScheduler:
        optimizer, scheduler = self.config.optimizer.build(self.model, int(self.trainer.estimated_stepping_batches))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def _labels(self, batch: LatentBatch) -> Tensor | None:
        """The labels where the network has classes; data may carry labels that a network does not look at."""
        return batch.labels if self.config.network.classes else None


def latent_statistics(
    latents: Iterable[Float[Tensor, "*tokens channel"]],
) -> tuple[Float[Tensor, " channel"], Float[Tensor, " channel"]]:
    """Mean and standard deviation of each channel over all tokens of all shapes; read once, item by item.

    Raises PenstockError when there is nothing to measure.
    """
    count, mean, deviations = 0, torch.zeros(1, dtype=torch.float64), torch.zeros(1, dtype=torch.float64)
    for item in latents:
        tokens = item.detach().cpu().double().flatten(end_dim=-2)
        new = len(tokens)
        # Chan et al. 1983: sums of squares about the mean, so that no precision is lost where the mean is large.
        difference = tokens.mean(dim=0) - mean
        deviations = deviations + (tokens - tokens.mean(dim=0)).square().sum(dim=0)
        deviations = deviations + difference.square() * count * new / (count + new)
        mean = mean + difference * new / (count + new)
        count += new
    if not count:
        raise PenstockError("no latents to take statistics of; encode at least one training shape first.")
    return mean.float(), (deviations / count).sqrt().float()
