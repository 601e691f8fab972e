"""From one mesh to the arrays of `SHAPE_SAMPLES`."""

import hashlib
from dataclasses import dataclass
from typing import Any

import numpy as np

from data.errors import ConfigError, MeshError
from data.shape.distance import signed_distances, winding_numbers
from data.shape.mesh_reading import SourceMesh
from data.shape.repair import Solid, solidify
from data.shape.sampling import sample_sharp_edges, sample_surface


@dataclass(frozen=True, kw_only=True)
class PrepareConfig:
    """How meshes become samples. The defaults suit many small objects; the paper's counts are 20,480 and 8,192."""

    surface_points: int = 4096
    """Points on the surface, stored per object; a training sample draws its own from them."""
    sharp_points: int = 2048
    """Points on sharp edges, where there are any."""
    near_points: int = 4096
    volume_points: int = 4096
    near_sigmas: tuple[float, ...] = (0.01, 0.04)
    """Standard deviations of the noise on near points, cube units; each takes an equal share of them."""
    sharp_angle: float = 30.0
    """Degrees between the normals of two faces, from which on their edge is sharp."""
    half_extent: float = 0.95
    """Half of the longest side of the normalised bounding box."""
    watertight_resolution: int = 256
    """Cells along the cube where a mesh has to be enclosed anew."""
    sheet_thickness: float = 0.03
    """Thickness given to surfaces that bound no solid, cube units; at least three cells."""
    max_faces: int = 4_000_000
    """Meshes with more faces are refused."""
    seed: int = 0
    processes: int = 0
    """Worker processes; 0 takes one per core."""

    def __post_init__(self) -> None:
        for name in ("surface_points", "near_points", "volume_points"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} must be at least 1, got {getattr(self, name)}.")
        if self.sharp_points < 0 or self.processes < 0:
            raise ConfigError("sharp_points and processes must not be negative; 0 means none, or one per core.")
        if not self.near_sigmas or min(self.near_sigmas) <= 0:
            raise ConfigError(f"near_sigmas must be one or more positive lengths, got {self.near_sigmas}.")
        if not 0 < self.half_extent <= 0.98:
            raise ConfigError(f"half_extent must lie in (0, 0.98], got {self.half_extent}.")
        if self.watertight_resolution < 32 or self.watertight_resolution % 2:
            raise ConfigError(f"watertight_resolution must be even and at least 32, got {self.watertight_resolution}.")
        if not 0 < self.sheet_thickness <= 0.2:
            raise ConfigError(f"sheet_thickness must lie in (0, 0.2] of the cube, got {self.sheet_thickness}.")


def prepare_item(source: SourceMesh, config: PrepareConfig, item_id: str, label: int = -1) -> dict[str, Any]:
    """The arrays of one object, a function of (its triangles, config without `processes`, item id, label) alone.

    Raises:
        MeshError: the triangles cannot be used; the message is the reason.
    """
    corners = source.vertices[np.unique(source.faces)]
    if not np.isfinite(corners).all():
        raise MeshError("some vertices are not finite numbers (NaN or infinity).")
    low, high = corners.min(axis=0), corners.max(axis=0)
    longest = float((high - low).max())
    if not 1e-30 < longest < 1e30:
        raise MeshError(f"its bounding box has a longest side of {longest:g}: there is nothing to scale to the cube.")
    centre, scale = (low + high) / 2, 2 * config.half_extent / longest
    solid = solidify(
        (source.vertices - centre) * scale,
        source.faces,
        resolution=config.watertight_resolution,
        thickness=config.sheet_thickness,
    )
    arrays = _samples(solid, config, np.random.default_rng(_seed(config.seed, item_id)))
    return {
        **{name: np.ascontiguousarray(value, dtype=np.float32) for name, value in arrays.items()},
        "vertices": solid.vertices,
        "faces": solid.faces,
        "centre": centre,
        "scale": np.float64(scale),
        "label": np.int32(label),
        "treatment": solid.treatment,
    }


def _samples(solid: Solid, config: PrepareConfig, rng: np.random.Generator) -> dict[str, np.ndarray]:
    surface = _exposed_surface(solid, config.surface_points, rng)
    sharp = sample_sharp_edges(solid.vertices, solid.faces, config.sharp_points, config.sharp_angle, rng)
    if solid.overlapping and len(sharp):
        sharp = sharp[_exposed(solid, sharp)]
    centres = _exposed_surface(solid, config.near_points, rng)[:, :3]
    sigmas = np.resize(np.asarray(config.near_sigmas), config.near_points)
    near = centres + sigmas[:, None] * rng.standard_normal(centres.shape)
    volume = rng.uniform(-1, 1, size=(config.volume_points, 3))
    # Distances are taken where the stored float32 points lie, so that the labels are exact for what is stored.
    points = np.concatenate([near, volume]).astype(np.float32).astype(np.float64)
    distances = signed_distances(solid.vertices.astype(np.float64), solid.faces, points, overlapping=solid.overlapping)
    labelled = np.concatenate([points, distances[:, None]], axis=1)
    return {"surface": surface, "sharp": sharp, "near": labelled[: len(near)], "volume": labelled[len(near) :]}


def _exposed_surface(solid: Solid, count: int, rng: np.random.Generator) -> np.ndarray:
    """Points uniform on the boundary of the solid; where bodies overlap, walls inside of other bodies are left out."""
    if not solid.overlapping:
        return sample_surface(solid.vertices, solid.faces, count, rng)
    found: list[np.ndarray] = []
    for _ in range(20):
        drawn = sample_surface(solid.vertices, solid.faces, count, rng)
        found.append(drawn[_exposed(solid, drawn)])
        if sum(map(len, found)) >= count:
            return np.concatenate(found)[:count]
    raise MeshError("nearly all of its surface lies inside of its other bodies.")


def _exposed(solid: Solid, points: np.ndarray, step: float = 2e-4) -> np.ndarray:
    ahead = points[:, :3] + step * points[:, 3:]
    return winding_numbers(solid.vertices.astype(np.float64), solid.faces, ahead) < 0.5


def _seed(seed: int, item_id: str) -> int:
    return int.from_bytes(hashlib.blake2b(f"{seed}:{item_id}".encode(), digest_size=8).digest(), "little")
