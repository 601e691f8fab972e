"""Training of the shape VAE: truncated distances, surface normals, eikonal equation, KL (Li et al. 2025, TripoSG)."""

from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from lightning import LightningModule
from torch import Tensor

from data.batch import SurfaceBatch
from modules.layers.random import randn_per_sample
from modules.shape.training_config import ShapeVAETrainingConfig
from modules.shape.vae import DecodedLatents, Posterior, ShapeVAE

POSTERIOR_STREAM = 1
"""Stream of a sample's seed from which the posterior noise is drawn."""


class ShapeVAETraining(LightningModule):
    """Learns `model`, a shape VAE, from batches of surface points and signed distances."""

    def __init__(self, config: ShapeVAETrainingConfig, seed: int = 0) -> None:
        super().__init__()
        self.config = config
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.model: ShapeVAE = config.network.build()
        if config.initialisation is not None:
            config.initialisation.apply(self.model, seed)
        assert config.network.truncation is not None
        self.truncation = config.network.truncation

    def training_step(self, batch: SurfaceBatch, batch_idx: int) -> Tensor:
        posterior = self.model.encode(batch.surface, seeds=batch.seeds)
        noise = randn_per_sample(
            batch.seeds, tuple(posterior.mean.shape[1:]), stream=POSTERIOR_STREAM, device=self.device
        )
        decoded = self.model.decode(posterior.sample(noise.to(posterior.mean.dtype)))
        terms = self.distance_terms(batch, decoded) | {"kl": posterior.kl().mean()}
        if self.uses_gradient:
            terms |= self.gradient_terms(batch, decoded)
        loss = self.weighted(terms)
        self.log_dict({f"train/{name}": value.detach() for name, value in terms.items()}, batch_size=batch.counted)
        self.log("train/loss", loss.detach(), prog_bar=True, batch_size=batch.counted)
        return loss

    def validation_step(self, batch: SurfaceBatch, batch_idx: int) -> None:
        posterior = self.model.encode(batch.surface, seeds=batch.seeds)
        measured = self.distance_terms(batch, self.model.decode(posterior.mean)) | self.measures(batch, posterior)
        values = {f"val/{name}": value for name, value in measured.items()}
        self.log_dict(values, batch_size=batch.counted, sync_dist=True)

    def configure_optimizers(self) -> Any:
        optimizer, schedule = self.config.optimizer.build(self, int(self.trainer.estimated_stepping_batches))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    @property
    def differentiates_twice(self) -> bool:
        """Whether the loss has terms in the field's gradient, at any step."""
        return bool(self.config.loss.normal or self.config.loss.eikonal)

    @property
    def uses_gradient(self) -> bool:
        """Whether this step has the normal and eikonal terms."""
        loss, step = self.config.loss, self.global_step
        if not (loss.normal or loss.eikonal) or step % loss.gradient_every:
            return False
        return loss.gradient_from == 0 or step >= loss.gradient_from * int(self.trainer.estimated_stepping_batches)

    def weighted(self, terms: dict[str, Tensor]) -> Tensor:
        """The terms times their weights, summed."""
        return torch.stack([getattr(self.config.loss, name) * value for name, value in terms.items()]).sum()

    def distance_terms(self, batch: SurfaceBatch, decoded: DecodedLatents) -> dict[str, Tensor]:
        """L1 + L2 of the truncated distance: `near` the surface and in the `volume`."""
        points = torch.cat([batch.near_points, batch.volume_points], dim=1)
        near, volume = self.model.field(decoded, points).split(
            [batch.near_points.shape[1], batch.volume_points.shape[1]], dim=1
        )
        return {
            "near": self.distance_loss(near, batch.near_distances),
            "volume": self.distance_loss(volume, batch.volume_distances),
        }

    def distance_loss(self, field: Float[Tensor, "batch query"], distances: Float[Tensor, "batch query"]) -> Tensor:
        """Mean of |e| + e², e the deviation of the field from distance / truncation, clipped to ±1."""
        target = (distances / self.truncation).clamp(-1, 1)
        error = field - target
        if self.config.loss.one_sided:
            # min(|field| - 1, 0) on the right side of the surface; on the wrong side it is the whole deviation.
            error = torch.where(target.abs() < 1, error, (field * target - 1).clamp(max=0))
        return error.abs().mean() + error.square().mean()

    def gradient_terms(self, batch: SurfaceBatch, decoded: DecodedLatents) -> dict[str, Tensor]:
        """On surface points: the field's gradient along the `normal`, and of length one (`eikonal`)."""
        count = self.config.loss.gradient_points or batch.on_surface.shape[1]
        points, normals = batch.on_surface[:, :count].split(3, dim=-1)
        points = points.detach().requires_grad_()
        with torch.enable_grad():
            field = self.model.field(decoded, points, differentiable_twice=True)
            (gradient,) = torch.autograd.grad(field.sum(), points, create_graph=True)
        # The field is in units of the truncation, so a true distance has a gradient of length 1 / truncation.
        gradient = self.truncation * gradient
        return {
            "normal": (1 - F.cosine_similarity(gradient, normals, dim=-1)).mean(),
            "eikonal": (gradient.norm(dim=-1) - 1).square().mean(),
        }

    @torch.no_grad()
    def measures(self, batch: SurfaceBatch, posterior: Posterior) -> dict[str, Tensor]:
        """What the reconstruction is worth: volume IoU over the volume points, sign accuracy near the surface."""
        decoded = self.model.decode(posterior.mean)
        inside = self.model.field(decoded, batch.volume_points) < 0
        truth = batch.volume_distances < 0
        union = (inside | truth).sum(dim=1)
        iou = torch.where(union > 0, (inside & truth).sum(dim=1) / union.clamp(min=1), 1.0)
        near = (self.model.field(decoded, batch.near_points) < 0) == (batch.near_distances < 0)
        return {"volume_iou": iou.mean(), "near_sign_accuracy": near.float().mean(), "kl": posterior.kl().mean()}
