"""Training of the backbone network: quaternion flow matching, and rectification on stored pairs."""

import torch
from jaxtyping import Float, Int
from lightning.pytorch import LightningModule
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor

from data.batch import BackboneBatch, FramePairBatch
from data.errors import PenstockError
from modules.geometry.frames import frames_from_backbone
from modules.geometry.igso3 import IGSO3
from modules.geometry.manifold import FRAMES
from modules.layers.random import mix, rand_per_sample
from modules.layers.whole_batch import whole_batch
from modules.protein.corruption import (
    IGSO3_SIGMA,
    SELF_CONDITION_STREAM,
    TIME_STREAM,
    Corrupted,
    around,
    centre,
    corrupt,
    draw_motifs,
    draw_noise,
    identity_where,
)
from modules.protein.losses import ProteinLosses, protein_losses
from modules.protein.training_config import ProteinFlowTrainingConfig
from modules.transport.coupling import couple


class ProteinFlowTraining(LightningModule):
    """Flow matching on residue frames (Yim et al. 2023; with quaternions Yue et al. 2025, algorithm 1).

    With a `BackboneBatch` the noise is drawn; with a `FramePairBatch` both ends of every path are given (rectified
    flow, Liu et al. 2022, algorithm 2). Noise, time and motif of a sample follow from its seed alone, unless
    `coupling` is optimal, which pairs the noise of a batch.
    """

    def __init__(self, config: ProteinFlowTrainingConfig) -> None:
        super().__init__()
        self.config = config
        self.model = config.network.build()
        if config.start is not None:
            config.start.apply(self.model)
        self.sample_time = config.times.build()
        self.igso3 = IGSO3(IGSO3_SIGMA)

    def training_step(self, batch: BackboneBatch | FramePairBatch, batch_idx: int) -> Tensor:
        # One draw for the whole batch, from the seed of its first sample: a forward pass is saved where it says no.
        share = self.config.self_condition
        first = torch.tensor([batch.whole.seed])
        conditioned = share > 0 and float(rand_per_sample(first, stream=SELF_CONDITION_STREAM)) < share
        means = self.losses(self.corrupted(batch), self_condition=conditioned).means()
        self.log_dict({f"train/{name}": value.detach() for name, value in means.items()}, batch_size=batch.counted)
        return means["loss"]

    def validation_step(self, batch: BackboneBatch | FramePairBatch, batch_idx: int) -> None:
        draws = [self.losses(self.corrupted(batch, draw=draw)).means() for draw in range(self.config.validation_draws)]
        means = {f"val/{name}": torch.stack([draw[name] for draw in draws]).mean() for name in draws[0]}
        self.log_dict(means, batch_size=batch.counted, sync_dist=True)

    def corrupted(self, batch: BackboneBatch | FramePairBatch, *, draw: int = 0) -> Corrupted:
        """The batch at its times; `draw` counts noises and times of one sample."""
        seeds = torch.tensor([mix(seed, draw) for seed in batch.seeds.tolist()]) if draw else batch.seeds
        times = self.times(seeds).to(self.device)
        if isinstance(batch, FramePairBatch):
            generated = torch.ones_like(batch.resolved)
            ends = (batch.source, batch.target)
        else:
            generated = draw_motifs(seeds, batch.resolved, share=self.config.motif_share)
            ends = self.ends(batch, seeds, generated)
        return corrupt(*ends, times, resolved=batch.resolved, generated=generated, residue_index=batch.residue_index)

    def times(self, seeds: Int[Tensor, " batch"]) -> Float[Tensor, " batch"]:
        """Training times in [least_time, 1 - least_time]."""
        least = self.config.least_time
        return (least + (1 - 2 * least) * self.sample_time(seeds, stream=TIME_STREAM)).float()

    def ends(self, batch: BackboneBatch, seeds: Int[Tensor, " batch"], generated: Tensor) -> tuple[Tensor, Tensor]:
        """Noise and data, each centred; data with a motif is centred on the motif."""
        resolved = batch.resolved
        motif = resolved & ~generated
        target = frames_from_backbone(torch.where(resolved[..., None, None], batch.atoms, 0.0))
        target = centre(target, torch.where(motif.any(1, keepdim=True), motif, resolved))
        target = identity_where(target, ~resolved)
        source = draw_noise(seeds, resolved)
        if self.config.coupling == "optimal":
            whole, own = whole_batch([source, target, resolved], batch.counted > 0)
            source = self._coupled(*whole)[own, : resolved.shape[1]]
        if self.config.rotation_noise == "igso3":
            source = around(source, target, resolved, self.igso3)
        return source, target

    def _coupled(self, source: Tensor, target: Tensor, resolved: Tensor) -> Tensor:
        """`source` with each noise given to the target it is nearest to, among targets resolved in the same places."""
        # Rotations around the data belong to their sample; then only translations are paired.
        turning = 0.0 if self.config.rotation_noise == "igso3" else 1.0
        weights = source.new_tensor([turning] * 3 + [0.01] * 3)
        coupled = source.clone()
        patterns = [tuple(row) for row in resolved.tolist()]
        for pattern in dict.fromkeys(patterns):
            rows = torch.tensor([i for i, other in enumerate(patterns) if other == pattern], device=source.device)
            coupled[rows] = couple("optimal", FRAMES, source[rows], target[rows], mask=resolved[rows], weights=weights)
        return coupled

    def losses(self, at: Corrupted, *, self_condition: bool = False) -> ProteinLosses:
        """The losses of the network's prediction, which with `self_condition` it also sees beforehand."""
        seen = None
        if self_condition:
            with torch.no_grad():
                seen = self._predict(at, None)[..., 4:]
        predicted = self._predict(at, seen)
        return protein_losses(
            self.config.loss,
            predicted,
            at.target,
            at.noised,
            at.t,
            at.t,
            resolved=at.resolved,
            generated=at.generated,
            residue_index=at.residue_index,
        )

    def _predict(self, at: Corrupted, seen: Tensor | None) -> Tensor:
        if not at.resolved.any():
            raise PenstockError("a batch without a single resolved residue came to training; filter such chains out.")
        predicted: Tensor = self.model(
            at.noised,
            at.t,
            at.t,
            resolved=at.resolved,
            generated=at.generated,
            residue_index=at.residue_index,
            self_condition=seen,
        )
        return predicted

    def configure_optimizers(self) -> OptimizerLRScheduler:
        optimizer, scheduler = self.config.optimizer.build(self.model, int(self.trainer.estimated_stepping_batches))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}
