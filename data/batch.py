"""Typed batches: all that `modules/` sees of `data/`."""

from dataclasses import dataclass, fields, replace
from typing import Any, Self

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor


@dataclass(frozen=True)
class TriangleMesh:
    """A triangle mesh in the cube [-1, 1]^3, faces counter-clockwise seen from outside."""

    vertices: Float[np.ndarray, "vertex 3"]
    faces: Int[np.ndarray, "face 3"]


@dataclass(frozen=True)
class Batch:
    """Samples that travel together.

    `seeds` holds one integer per sample, a function of (run seed, epoch, item id) alone: all randomness of a
    training step is drawn from it, so results do not depend on batch size, workers, ranks, or a restart.
    """

    ids: tuple[str, ...]
    seeds: Int[Tensor, " batch"]

    def __len__(self) -> int:
        return len(self.ids)

    def to(self, device: torch.device | str, **kwargs: Any) -> Self:
        """The same batch with every tensor on `device`."""
        moved: dict[str, Any] = {
            f.name: value.to(device, **kwargs)
            for f in fields(self)
            if isinstance(value := getattr(self, f.name), Tensor)
        }
        return replace(self, **moved)


@dataclass(frozen=True)
class SurfaceBatch(Batch):
    """What the shape VAE learns from. Lengths in cube units, distances positive outside and not truncated."""

    surface: Float[Tensor, "batch point 6"]
    """Encoder input: position and unit outward normal."""
    near_points: Float[Tensor, "batch near 3"]
    near_distances: Float[Tensor, "batch near"]
    volume_points: Float[Tensor, "batch volume 3"]
    volume_distances: Float[Tensor, "batch volume"]
    on_surface: Float[Tensor, "batch on 6"]
    """Points on the surface with unit outward normals, for the normal and eikonal losses."""


@dataclass(frozen=True)
class LatentBatch(Batch):
    """Encoded shapes, what the rectified flow learns from."""

    latents: Float[Tensor, "batch token channel"]
    condition: Float[Tensor, "batch condition_token width"] | None = None
    """Condition tokens (image features), where the data has them."""
    labels: Int[Tensor, " batch"] | None = None
    """Class index of each shape, where the data has classes."""
