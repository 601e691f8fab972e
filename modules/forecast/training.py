"""Training of a forecaster on windows: what comes after them, or what is hidden in them."""

from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from lightning.pytorch import LightningModule
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor

from data.batch import WindowBatch
from data.errors import ConfigError, PenstockError
from modules.forecast.training_config import ForecastTrainingConfig
from modules.layers.random import rand_per_sample

HIDDEN_STREAM, SHIFT_STREAM = 61, 62


class ForecastTraining(LightningModule):
    """Fits a forecaster by the loss of its head, on what was measured.

    Validation logs `val/loss`, and `val/mse` and `val/mae` of the point forecast: means over all measured values of all
    windows, whatever the batches and devices. All are in units of the scaler.
    """

    def __init__(self, config: ForecastTrainingConfig) -> None:
        super().__init__()
        self.config = config
        self.model = config.network.build()
        shape = self.model.shape
        if config.task == "impute" and shape.horizon != shape.look_back:
            raise ConfigError(
                f"task impute: the horizon must be the look-back, {shape.look_back} steps, got {shape.horizon}."
            )
        self._sums: list[Float[Tensor, " sum"]] = []
        self._judged: Bool[Tensor, "batch horizon target"] | int | None = None

    def training_step(self, batch: WindowBatch, batch_idx: int) -> Tensor:
        window, truth, mask = self.task(batch)
        loss = self.model.head.error(self.model(window), truth, mask)
        self._judged = truth.numel() if mask is None else mask
        # Lightning forgets what is logged between two rows of the log, and takes a millisecond for it.
        trainer: Any = self.trainer  # its stubs do not know how often it logs
        if (trainer.global_step + 1) % max(trainer.log_every_n_steps, 1) == 0:
            self.log("train/loss", loss.detach(), batch_size=batch.counted)
        return loss

    def loss_counts(self) -> Tensor | int:
        """Over how many values the last training loss was a mean, for the mean over several processes."""
        assert self._judged is not None
        return self._judged if isinstance(self._judged, int) else self._judged.sum()

    def on_validation_epoch_start(self) -> None:
        self._sums = []

    def validation_step(self, batch: WindowBatch, batch_idx: int) -> None:
        window, truth, mask = self.task(batch)
        forecast = self.model(window)
        mask = torch.ones_like(truth, dtype=torch.bool) if mask is None else mask
        count = mask.sum()
        missed = (self.model.head.point(forecast) - truth).masked_fill(~mask, 0.0)
        loss = self.model.head.error(forecast, truth, mask)
        self._sums.append(torch.stack([loss * count, missed.square().sum(), missed.abs().sum(), count.to(loss)]))

    def on_validation_epoch_end(self) -> None:
        if not self._sums:
            return
        # Added up in float64, once: a set of many windows is more than float32 can count.
        total = torch.stack(self._sums).cpu().double().sum(dim=0)
        if self.trainer.world_size > 1:
            total = self.trainer.strategy.reduce(total.to(self.device), reduce_op="sum").cpu()
        means = (total[:3] / total[3].clamp(min=1)).float()
        # Every rank has the same numbers already; `sync_dist` would average equal ones.
        self.log_dict(dict(zip(("val/loss", "val/mse", "val/mae"), means.unbind(), strict=True)), sync_dist=True)
        self._sums = []

    def task(
        self, batch: WindowBatch
    ) -> tuple[WindowBatch, Float[Tensor, "batch horizon target"], Bool[Tensor, "batch horizon target"] | None]:
        """What the model sees of a batch, what it is to say, and where that counts (None: everywhere)."""
        if self.config.task == "forecast":
            if batch.future is None:
                raise PenstockError("a window without its future came to training; cut windows that end in the data.")
            return batch, batch.future, batch.future_mask
        hidden = hidden_steps(batch.seeds, batch.past.shape[1:], self.config.hidden, self.config.block)
        hidden = hidden.to(batch.past.device)
        measured = torch.ones_like(hidden) if batch.past_mask is None else batch.past_mask
        seen = measured & ~hidden
        window = replace(batch, past=batch.past.masked_fill(~seen, 0.0), past_mask=seen, future=None, future_mask=None)
        return window, batch.past, measured & hidden

    def configure_optimizers(self) -> OptimizerLRScheduler:
        optimizer, scheduler = self.config.optimizer.build(self.model, int(self.trainer.estimated_stepping_batches))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}


def hidden_steps(
    seeds: Int[Tensor, " batch"], shape: tuple[int, ...], share: float, block: int
) -> Bool[Tensor, "batch step target"]:
    """Which steps of which columns to hide: blocks, each with probability `share`, that begin anywhere.

    `shape` is (steps, columns) of a window. A window's blocks follow from its seed alone.
    """
    steps, columns = shape
    draws = rand_per_sample(seeds, (steps // block + 2, columns), stream=HIDDEN_STREAM) < share
    shift = (rand_per_sample(seeds, stream=SHIFT_STREAM) * block).long()
    rows = shift[:, None] + torch.arange(steps)
    return draws.repeat_interleave(block, dim=1).gather(1, rows[..., None].expand(-1, -1, columns))
