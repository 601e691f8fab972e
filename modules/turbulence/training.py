"""Training of a stepper: one step as published, and what makes rollouts last."""

from typing import Any

import torch
from jaxtyping import Float
from lightning import LightningModule
from torch import Tensor

from data.batch import FieldBatch
from data.errors import ConfigError, PenstockError
from data.grid import Grid
from modules.layers.random import mix, randn_per_sample
from modules.turbulence.fields import point_weights
from modules.turbulence.metrics import relative_l2, vrmse
from modules.turbulence.scales import FieldScales
from modules.turbulence.training_config import TurbulenceTrainingConfig

NOISE_STREAM, PUSHFORWARD_STREAM = 71, 72


class TurbulenceTraining(LightningModule):
    """Fits `model`, a stepper, on windows of frames.

    Validation rolls the stepper over `validation_horizon` frames and logs, as means over all windows: `val/loss` of
    these steps; `val/relative_l2` and `val/vrmse` of the first step, and of the last one with `_last`; and with
    `val/persistence_` before them the same errors of saying that nothing changes. VRMSE is the mean over components.
    """

    fluctuation: Float[Tensor, "height component"] | None
    """What the loss `fluctuation` measures errors in."""

    def __init__(self, config: TurbulenceTrainingConfig, seed: int = 0) -> None:
        super().__init__()
        self.config = config
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.model = config.stepper.build()
        # Of the data and not of the run: set anew before each training, also before one that goes on.
        self.register_buffer("fluctuation", None, persistent=False)

    def set_scales(self, scales: FieldScales) -> None:
        """Take the units of the stepper and of the loss from measured training frames."""
        self.model.set_scales(scales)
        self.fluctuation = scales.fluctuation.to(self.model.std)

    def training_step(self, batch: FieldBatch, batch_idx: int) -> Tensor:
        before = self.pushed(batch)
        horizon = self.horizon()
        self._check(batch, before + horizon)
        past = self.noisy(batch)
        with torch.no_grad():
            for _ in range(before):
                past = shifted(past, self.model(past, batch.grid))
        if before:
            torch.clear_autocast_cache()  # of weights cast without gradients, which would be used again with them
        losses = []
        for step in range(before, before + horizon):
            found = self.model(past, batch.grid)
            losses.append(self.loss(found, batch.future[:, step], batch.grid))
            past = shifted(past, found)
        loss = torch.stack(losses).mean()
        self.log("train/loss", loss.detach(), prog_bar=True, batch_size=batch.counted)
        return loss

    def validation_step(self, batch: FieldBatch, batch_idx: int) -> None:
        steps = self.config.validation_horizon
        self._check(batch, steps)
        past, grid, still = batch.past, batch.grid, batch.past[:, -1]
        values: dict[str, Tensor] = {}
        losses = []
        for step in range(steps):
            found, truth = self.model(past, grid), batch.future[:, step]
            losses.append(self.loss(found, truth, grid))
            past = shifted(past, found)
            for name in [""] * (step == 0) + ["_last"] * (step == steps - 1):
                values |= {f"val/{key}{name}": value for key, value in self.errors(found, truth, grid).items()}
                of_still = self.errors(still, truth, grid)
                values |= {f"val/persistence_{key}{name}": value for key, value in of_still.items()}
        values["val/loss"] = torch.stack(losses).mean()
        self.log_dict(values, batch_size=batch.counted, sync_dist=True)

    def configure_optimizers(self) -> Any:
        optimizer, schedule = self.config.optimizer.build(self.model, int(self.trainer.estimated_stepping_batches))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def loss(
        self,
        found: Float[Tensor, "batch *grid component"],
        truth: Float[Tensor, "batch *grid component"],
        grid: Grid,
    ) -> Float[Tensor, ""]:
        """Mean of the loss over the samples.

        Raises:
            ConfigError: a loss in units of the fluctuation, which were not set.
        """
        unit: Tensor | None = self.model.std_delta[None]
        if self.config.loss.kind == "fluctuation":
            unit = self.fluctuation
        if unit is None:
            raise ConfigError("loss.kind fluctuation: hand the scales of the training frames to set_scales first.")
        return self.config.loss.per_sample(found, truth, grid, unit).mean()

    def errors(
        self,
        found: Float[Tensor, "batch *grid component"],
        truth: Float[Tensor, "batch *grid component"],
        grid: Grid,
    ) -> dict[str, Tensor]:
        """Relative L2 and VRMSE, means over the samples, by quadrature where the loss has it."""
        weights = point_weights(grid, truth) if self.config.loss.quadrature else None
        return {
            "relative_l2": relative_l2(found, truth, weights).mean(),
            "vrmse": vrmse(found, truth, weights).mean(),
        }

    def horizon(self) -> int:
        """Steps that this training step learns from."""
        longest = self.config.horizon
        if longest == 1 or not self.config.curriculum:
            return longest
        span = self.config.curriculum * int(self.trainer.estimated_stepping_batches)
        return min(longest, 1 + int((longest - 1) * self.global_step / max(span, 1.0)))

    def pushed(self, batch: FieldBatch) -> int:
        """Steps to be taken without gradients first: the same for the parts of a batch in all processes."""
        return mix(batch.whole.seed, PUSHFORWARD_STREAM) % (self.config.pushforward + 1)

    def noisy(self, batch: FieldBatch) -> Float[Tensor, "batch history *grid component"]:
        """The frames given, with the noise that belongs to each sample."""
        if not self.config.noise:
            return batch.past
        noise = randn_per_sample(
            batch.seeds, tuple(batch.past.shape[1:]), stream=NOISE_STREAM, device=batch.past.device
        ).to(batch.past.dtype)
        return batch.past + self.config.noise * self.model.std_delta * noise

    def _check(self, batch: FieldBatch, frames: int) -> None:
        if batch.future.shape[1] < frames:
            raise PenstockError(
                f"this training needs windows with {self.config.frames} frames after the history, "
                f"got {batch.future.shape[1]}. Cut longer windows, or take a shorter horizon."
            )


def shifted(
    past: Float[Tensor, "batch history *grid component"], newest: Float[Tensor, "batch *grid component"]
) -> Float[Tensor, "batch history *grid component"]:
    """The history one frame later: the oldest dropped, `newest` at its end."""
    return torch.cat([past[:, 1:], newest[:, None]], dim=1)
