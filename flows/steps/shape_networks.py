"""The trained networks of a shape run, and the two ways through the autoencoder."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from configs.shape import ShapeConfig
from data.batch import TriangleMesh
from data.shape import ShapeSamples
from data.splits import sample_seed
from flows.items import Loaded
from flows.models import load_model
from flows.run import Run
from modules.geometry.surface import ExtractionConfig, extract_surface
from modules.shape.transformer import ShapeTransformer
from modules.shape.vae import ShapeVAE


def load_vae(run: Run) -> ShapeVAE:
    """The trained autoencoder, on the GPU where there is one."""
    network = _on_device(load_model(run.model("vae")).network)
    assert isinstance(network, ShapeVAE)
    return network


def load_flow(run: Run) -> ShapeTransformer:
    """The trained velocity network, on the GPU where there is one."""
    network = _on_device(load_model(run.model("flow")).network)
    assert isinstance(network, ShapeTransformer)
    return network


def _on_device(network: nn.Module) -> nn.Module:
    return network.to("cuda" if torch.cuda.is_available() else "cpu")


def device_of(network: nn.Module) -> torch.device:
    return next(network.parameters()).device


@torch.no_grad()
def encode_solid(
    vae: ShapeVAE, samples: ShapeSamples, index: int, seed: int
) -> tuple[Float[np.ndarray, "token channel"], Float[np.ndarray, "token channel"]]:
    """Mean and log-variance of one solid's latents, from points that depend on (seed, item id) alone."""
    batch = samples.collate([samples.load(index, sample_seed(seed, 0, samples.ids[index]))])
    posterior = vae.encode(batch.surface.to(device_of(vae)), seeds=batch.seeds)
    return posterior.mean[0].cpu().numpy(), posterior.logvar[0].cpu().numpy()


@torch.no_grad()
def decode_solid(vae: ShapeVAE, latents: Float[Tensor, "token channel"], extraction: ExtractionConfig) -> TriangleMesh:
    """The surface that the latents describe, in the cube; without faces where the field has no inside."""
    device = device_of(vae)
    decoded = vae.decode(latents[None].to(device))
    mesh, _ = extract_surface(lambda points: vae.field(decoded, points[None])[0], extraction, device=device)
    return mesh


@dataclass(frozen=True)
class SolidByIndex(Loaded):
    """Work on the solids of a run, one by one, with its autoencoder."""

    run: Run

    @cached_property
    def config(self) -> ShapeConfig:
        found: ShapeConfig = self.run.config
        return found

    @cached_property
    def vae(self) -> ShapeVAE:
        return load_vae(self.run)

    @cached_property
    def samples(self) -> ShapeSamples:
        return ShapeSamples(self.run.data_file, self.config.vae.draw)
