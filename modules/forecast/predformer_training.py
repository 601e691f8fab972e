"""Training of PredFormer: the mean squared error of all predicted pixels."""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from lightning.pytorch import LightningModule
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor

from data.batch import FrameBatch
from modules.forecast.film_metrics import film_floors, frame_errors
from modules.forecast.predformer_training_config import PredFormerTrainingConfig


class PredFormerTraining(LightningModule):
    """Logs `train/loss` and, of held-out films, `val/loss`, `val/mse` and `val/mae` per frame and `val/skill`."""

    def __init__(self, config: PredFormerTrainingConfig) -> None:
        super().__init__()
        self.config = config
        self.model = config.network.build()
        self._sums: list[Float[Tensor, " sum"]] = []

    def forward(self, past: Tensor) -> Tensor:
        """The frames after those seen."""
        predicted: Tensor = self.model(past)
        return predicted

    def training_step(self, batch: FrameBatch, batch_idx: int) -> Tensor:
        loss = F.mse_loss(self(batch.past), batch.future)
        self.log("train/loss", loss.detach(), batch_size=batch.counted)
        return loss

    def on_validation_epoch_start(self) -> None:
        self._sums = []

    def validation_step(self, batch: FrameBatch, batch_idx: int) -> None:
        predicted = self(batch.past)
        errors = [value.mean() for _, value in sorted(frame_errors(predicted, batch.future).items())]  # mae, mse
        floors = film_floors(batch.past, batch.future.shape[1])
        copied = [frame_errors(films, batch.future)["mse"].mean() for _, films in sorted(floors.items())]
        means = torch.stack([F.mse_loss(predicted, batch.future), *errors, *copied])
        self._sums.append(torch.cat([means, means.new_ones(1)]) * batch.counted)

    def on_validation_epoch_end(self) -> None:
        if not self._sums:
            return
        # Added up before they are compared: then the skill is the same, however the films lie in batches and processes.
        total = torch.stack(self._sums).double().sum(dim=0)
        if self.trainer.world_size > 1:
            total = self.trainer.strategy.reduce(total, reduce_op="sum")
        loss, mae, mse, *copied = (total[:-1] / total[-1]).float().unbind()
        skill = 1 - mse / torch.stack(copied).min().clamp(min=1e-12)
        self.log_dict({"val/loss": loss, "val/mse": mse, "val/mae": mae, "val/skill": skill}, sync_dist=True)
        self._sums = []

    def configure_optimizers(self) -> OptimizerLRScheduler:
        optimizer, scheduler = self.config.optimizer.build(self.model, int(self.trainer.estimated_stepping_batches))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}
