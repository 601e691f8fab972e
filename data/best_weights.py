"""The weights that did best on the validation part, and an end to trainings that no longer improve."""

import math
from typing import Any

import lightning
from lightning.pytorch.callbacks import Callback
from torch import Tensor, nn


class BestWeights(Callback):
    """Remembers the weights of `module.model` at the lowest validation value of `monitor`.

    Its state is part of every checkpoint, so a training that is killed and resumed chooses as an undisturbed one. Put
    it before a weight average: it then remembers the averaged weights, which are what was validated.

    `patience` ends the training after so many validations without improvement; None never does.
    """

    def __init__(self, monitor: str = "val/loss", patience: int | None = None) -> None:
        self.monitor = monitor
        self.patience = patience
        self.value = math.inf
        """Lowest value so far; infinite before the first validation."""
        self.step = 0
        """Optimizer steps done when it was reached."""
        self.weights: dict[str, Tensor] = {}
        self._waited = 0
        self._candidate: dict[str, Tensor] = {}

    def on_train_start(self, trainer: "lightning.Trainer", pl_module: "lightning.LightningModule") -> None:
        self._stop_when_waited(trainer)  # resumed from the checkpoint of an early end

    def on_validation_epoch_end(self, trainer: "lightning.Trainer", pl_module: "lightning.LightningModule") -> None:
        # Now, because the averaged weights are in place; the value is known a moment later only.
        model: Any = pl_module.model
        assert isinstance(model, nn.Module)
        self._candidate = {name: value.detach().clone() for name, value in model.state_dict().items()}

    def on_validation_end(self, trainer: "lightning.Trainer", pl_module: "lightning.LightningModule") -> None:
        value = float(trainer.callback_metrics.get(self.monitor, math.inf))
        if value < self.value:
            self.value, self.step, self.weights, self._waited = value, trainer.global_step, self._candidate, 0
        else:
            self._waited += 1
            self._stop_when_waited(trainer)
        self._candidate = {}

    def _stop_when_waited(self, trainer: "lightning.Trainer") -> None:
        if self.patience is not None and self._waited >= self.patience:
            trainer.should_stop = True

    def state_dict(self) -> dict[str, Any]:
        return {"value": self.value, "step": self.step, "weights": self.weights, "waited": self._waited}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.value, self.step = state_dict["value"], state_dict["step"]
        self.weights, self._waited = dict(state_dict["weights"]), state_dict["waited"]
