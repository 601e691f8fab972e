"""Training of the sequence classifier."""

import torch.nn.functional as F
from jaxtyping import Float
from lightning.pytorch import LightningModule
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor

from data.batch import SequenceBatch
from data.errors import PenstockError
from modules.forecast.classifier_training_config import ClassifierTrainingConfig


class ClassifierTraining(LightningModule):
    """Cross entropy; loss and share of right answers on the validation part, each sequence counting the same."""

    def __init__(self, config: ClassifierTrainingConfig) -> None:
        super().__init__()
        self.config = config
        self.model = config.network.build()

    def training_step(self, batch: SequenceBatch, batch_idx: int) -> Tensor:
        logits = self._logits(batch)
        loss = F.cross_entropy(logits, batch.labels, label_smoothing=self.config.label_smoothing)
        values = {"train/loss": loss.detach(), "train/accuracy": accuracy(logits, batch)}
        self.log_dict(values, batch_size=batch.counted)
        return loss

    def validation_step(self, batch: SequenceBatch, batch_idx: int) -> None:
        logits = self._logits(batch)
        means = {"val/loss": F.cross_entropy(logits, batch.labels), "val/accuracy": accuracy(logits, batch)}
        self.log_dict(means, batch_size=batch.counted, sync_dist=True)

    def _logits(self, batch: SequenceBatch) -> Tensor:
        if bool((batch.labels < 0).any()):
            raise PenstockError("a sequence without a class came to training or validation; leave such items out.")
        logits: Tensor = self.model(batch)
        return logits

    def configure_optimizers(self) -> OptimizerLRScheduler:
        optimizer, scheduler = self.config.optimizer.build(self.model, int(self.trainer.estimated_stepping_batches))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}


def accuracy(logits: Float[Tensor, "batch class"], batch: SequenceBatch) -> Float[Tensor, ""]:
    """Share of the sequences whose most likely class is theirs."""
    return (logits.argmax(dim=-1) == batch.labels).float().mean()
