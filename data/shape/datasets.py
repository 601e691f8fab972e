"""Prepared shapes and latents as items that the data module draws samples from."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from data.batch import LatentBatch, SurfaceBatch, TriangleMesh
from data.errors import ConfigError
from data.item_cache import ItemCache
from data.shape.kinds import SHAPE_LATENTS, SHAPE_SAMPLES
from data.store import Reader, Writer

_POINTS = ("surface", "sharp", "near", "volume")


@dataclass(frozen=True, kw_only=True)
class ShapeSamplesConfig:
    """How many points of an object make one training sample."""

    input_points: int = 1024
    """Encoder input."""
    sharp_fraction: float = 0.5
    """Share of the encoder input taken from sharp edges, for objects that have any."""
    near: int = 512
    volume: int = 512
    on: int = 512
    """Points on the surface for the normal loss, never from the sharp edges."""

    def __post_init__(self) -> None:
        if min(self.input_points, self.near, self.volume, self.on) < 1:
            raise ConfigError("input_points, near, volume and on must each be at least 1.")
        if not 0 <= self.sharp_fraction <= 1:
            raise ConfigError(f"sharp_fraction must lie in [0, 1], got {self.sharp_fraction}.")


@dataclass(frozen=True)
class ShapeSample:
    """Points drawn from one prepared object."""

    item_id: str
    seed: int
    surface: Float[Tensor, "point 6"]
    near: Float[Tensor, "near 4"]
    volume: Float[Tensor, "volume 4"]
    on: Float[Tensor, "on 6"]


class ShapeSamples:
    """The objects of a `samples.h5`; a sample is a fresh draw of its stored points.

    Rows are drawn without replacement where the object stores enough of them, and with replacement otherwise. The
    points of up to `cache_bytes` are kept in memory, per process.
    """

    def __init__(self, path: Path, config: ShapeSamplesConfig | None = None, *, cache_bytes: int = 2**30) -> None:
        self.config = config or ShapeSamplesConfig()
        self._reader = Reader(path, SHAPE_SAMPLES)
        self._stored = ItemCache(self._read_points, cache_bytes)
        self.ids = self._reader.ids
        self.classes: tuple[str, ...] = tuple(json.loads(str(self._reader.attributes["classes"])))
        self.fingerprint = self._reader.fingerprint

    def __len__(self) -> int:
        return len(self.ids)

    def load(self, index: int, seed: int) -> ShapeSample:
        """One draw of the points of object `index`, a function of both arguments alone."""
        stored, config = self._stored[index], self.config
        rng = np.random.default_rng(seed)
        num_sharp = round(config.sharp_fraction * config.input_points) if len(stored["sharp"]) else 0
        # The normal loss must not see only the encoder's own input: one draw, cut in two.
        surface = _draw(stored["surface"], config.input_points - num_sharp + config.on, rng)
        sharp = _draw(stored["sharp"], num_sharp, rng)
        return ShapeSample(
            self.ids[index],
            seed,
            surface=torch.from_numpy(np.concatenate([surface[config.on :], sharp])),
            near=torch.from_numpy(_draw(stored["near"], config.near, rng)),
            volume=torch.from_numpy(_draw(stored["volume"], config.volume, rng)),
            on=torch.from_numpy(surface[: config.on]),
        )

    def collate(self, samples: list[ShapeSample]) -> SurfaceBatch:
        """The samples as one batch."""
        near, volume = torch.stack([s.near for s in samples]), torch.stack([s.volume for s in samples])
        return SurfaceBatch(
            ids=tuple(s.item_id for s in samples),
            seeds=torch.tensor([s.seed for s in samples], dtype=torch.int64),
            surface=torch.stack([s.surface for s in samples]),
            near_points=near[..., :3].contiguous(),
            near_distances=near[..., 3].contiguous(),
            volume_points=volume[..., :3].contiguous(),
            volume_distances=volume[..., 3].contiguous(),
            on_surface=torch.stack([s.on for s in samples]),
        )

    def mesh(self, index: int) -> TriangleMesh:
        """The solid itself, in the cube; with bodies that overlap, their union is meant."""
        stored = self._reader.read(index, ["vertices", "faces"])
        return TriangleMesh(stored["vertices"], stored["faces"])

    def placement(self, index: int) -> tuple[Float[np.ndarray, " 3"], float]:
        """(centre, scale) with cube position = (source position - centre) * scale."""
        stored = self._reader.read(index, ["centre", "scale"])
        return stored["centre"], float(stored["scale"])

    def label(self, index: int) -> int:
        """Position of the object's class in `classes`, -1 without a class."""
        return int(self._reader.read(index, ["label"])["label"])

    def treatment(self, index: int) -> str:
        """What was done to the source mesh."""
        return str(self._reader.read(index, ["treatment"])["treatment"])

    def _read_points(self, index: int) -> dict[str, np.ndarray]:
        return self._reader.read(index, _POINTS)


def _draw(rows: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """`count` rows without replacement where there are enough, with replacement otherwise."""
    if not count:
        return rows[:0]
    # Without shuffling, numpy picks a subset in linear time of `count`; its order is random enough for a set.
    return rows[rng.choice(len(rows), count, replace=len(rows) < count, shuffle=False)]


@dataclass(frozen=True)
class LatentSample:
    """One latent drawn from a stored posterior."""

    item_id: str
    seed: int
    latents: Float[Tensor, "token channel"]
    condition: Float[Tensor, "condition_token width"] | None
    label: int


class LatentSamples:
    """Encoded shapes; a sample is a draw from the posterior by its seed, or the mean with `draw=False`.

    Up to `cache_bytes` of what was read are kept in memory, per process.
    """

    def __init__(self, path: Path, *, draw: bool = True, cache_bytes: int = 2**30) -> None:
        self._reader = Reader(path, SHAPE_LATENTS)
        self._draw = draw
        self.ids = self._reader.ids
        self.classes: tuple[str, ...] = tuple(json.loads(str(self._reader.attributes["classes"])))
        self.fingerprint = self._reader.fingerprint
        self._stored = ItemCache(self._reader.read, cache_bytes)

    def __len__(self) -> int:
        return len(self.ids)

    def load(self, index: int, seed: int) -> LatentSample:
        """One latent of shape `index`, a function of both arguments alone."""
        stored = self._stored[index]
        latents = stored["mean"]
        if self._draw:
            noise = np.random.default_rng(seed).standard_normal(latents.shape, dtype=np.float32)
            latents = latents + np.exp(0.5 * stored["logvar"]) * noise
        condition = torch.from_numpy(stored["condition"]) if "condition" in stored else None
        return LatentSample(self.ids[index], seed, torch.from_numpy(latents), condition, int(stored["label"]))

    def collate(self, samples: list[LatentSample]) -> LatentBatch:
        """The samples as one batch; labels only where the file knows classes."""
        conditions = [s.condition for s in samples if s.condition is not None]
        return LatentBatch(
            ids=tuple(s.item_id for s in samples),
            seeds=torch.tensor([s.seed for s in samples], dtype=torch.int64),
            latents=torch.stack([s.latents for s in samples]),
            condition=torch.stack(conditions) if conditions else None,
            labels=torch.tensor([s.label for s in samples], dtype=torch.int64) if self.classes else None,
        )


def write_latents(
    path: Path, items: Iterable[tuple[str, Mapping[str, Any]]], *, vae: str, samples: str, classes: tuple[str, ...]
) -> str:
    """Write (id, arrays of SHAPE_LATENTS) to a file; its fingerprint."""
    attributes = {"vae": vae, "samples": samples, "classes": json.dumps(classes)}
    with Writer(path, SHAPE_LATENTS, attributes) as writer:
        for item_id, arrays in items:
            writer.add(item_id, arrays)
    assert writer.fingerprint is not None
    return writer.fingerprint
