"""Training of PredFormer: the mean squared error of all predicted pixels."""

import torch.nn.functional as F
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

    def forward(self, past: Tensor) -> Tensor:
        """The frames after those seen."""
        predicted: Tensor = self.model(past)
        return predicted

    def training_step(self, batch: FrameBatch, batch_idx: int) -> Tensor:
        loss = F.mse_loss(self(batch.past), batch.future)
        self.log("train/loss", loss.detach(), batch_size=len(batch))
        return loss

    def validation_step(self, batch: FrameBatch, batch_idx: int) -> None:
        predicted = self(batch.past)
        errors = {name: value.mean() for name, value in frame_errors(predicted, batch.future).items()}
        floors = film_floors(batch.past, batch.future.shape[1])
        floor = min(float(frame_errors(film, batch.future)["mse"].mean()) for film in floors.values())
        found = {"loss": F.mse_loss(predicted, batch.future), **errors, "skill": 1 - errors["mse"] / max(floor, 1e-12)}
        self.log_dict({f"val/{name}": value for name, value in found.items()}, batch_size=len(batch), sync_dist=True)

    def configure_optimizers(self) -> OptimizerLRScheduler:
        optimizer, scheduler = self.config.optimizer.build(self.model, int(self.trainer.estimated_stepping_batches))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}
