"""Typed batches: all that `modules/` sees of `data/`."""

from dataclasses import dataclass, field, fields, replace
from typing import Any, Self

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from data.grid import Grid


@dataclass(frozen=True)
class TriangleMesh:
    """A triangle mesh in the cube [-1, 1]^3, faces counter-clockwise seen from outside."""

    vertices: Float[np.ndarray, "vertex 3"]
    faces: Int[np.ndarray, "face 3"]


@dataclass(frozen=True)
class Backbone:
    """The backbone of one protein, of one chain or several; positions in ångström."""

    atoms: Float[np.ndarray, "residue 4 3"]
    """N, CA, C, O; zero where absent."""
    present: Bool[np.ndarray, "residue 4"]
    chain: Int[np.ndarray, " residue"]
    """0-based, not decreasing."""
    residue_index: Int[np.ndarray, " residue"]
    """From 1 in each chain, increasing; a gap in it is a gap in the chain."""
    residue_type: Int[np.ndarray, " residue"]
    """Position in RESIDUE_TYPES; UNKNOWN where it is not known or was never chosen."""
    motif: Bool[np.ndarray, " residue"] | None = None
    """True where the residue was given and not generated."""

    def __len__(self) -> int:
        return len(self.atoms)

    @property
    def resolved(self) -> Bool[np.ndarray, " residue"]:
        """True where N, CA and C are present, which is what a frame needs."""
        return np.logical_and.reduce(self.present[:, :3], axis=1)


RESIDUE_TYPES = (
    "ALA", "ARG", "ASN", "ASP", "CYS", "GLN", "GLU", "GLY", "HIS", "ILE",
    "LEU", "LYS", "MET", "PHE", "PRO", "SER", "THR", "TRP", "TYR", "VAL", "UNK",
)  # fmt: skip
UNKNOWN = len(RESIDUE_TYPES) - 1


@dataclass(frozen=True)
class Share:
    """What these samples are of a batch that several processes have among them."""

    samples: int
    """Of the whole batch, over all processes."""
    seed: int
    """Of the first sample of the whole batch: for what is drawn once for all of them."""
    counted: bool = True
    """False where the samples only keep this process in step with the others, and are not to count."""


@dataclass(frozen=True)
class Batch:
    """Samples that travel together.

    `seeds` holds one integer per sample, a function of (run seed, epoch, item id) alone: all randomness of a
    training step is drawn from it, so results do not depend on batch size, workers, ranks, or a restart.
    """

    ids: tuple[str, ...]
    seeds: Int[Tensor, " batch"]
    share: Share | None = field(default=None, kw_only=True)
    """None: these samples are the whole batch."""

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def counted(self) -> int:
        """Samples that count in a mean over all processes."""
        return len(self) if self.share is None or self.share.counted else 0

    @property
    def whole(self) -> Share:
        """The batch of all processes, of which this is a part."""
        return self.share or Share(len(self), int(self.seeds[0]))

    def to(self, device: torch.device | str, **kwargs: Any) -> Self:
        """The same batch with every tensor on `device`."""
        moved: dict[str, Any] = {
            f.name: value.to(device, **kwargs)
            for f in fields(self)
            if isinstance(value := getattr(self, f.name), Tensor)
        }
        return replace(self, **moved)

    def double(self) -> Self:
        """The same batch with every floating-point tensor in float64."""
        wide: dict[str, Any] = {
            f.name: value.double()
            for f in fields(self)
            if isinstance(value := getattr(self, f.name), Tensor) and value.is_floating_point()
        }
        return replace(self, **wide)


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


@dataclass(frozen=True)
class BackboneBatch(Batch):
    """Protein backbones padded to one length; positions in ångström."""

    atoms: Float[Tensor, "batch residue 4 3"]
    """N, CA, C, O; zero where absent."""
    present: Bool[Tensor, "batch residue 4"]
    """All False where padded."""
    residue_index: Int[Tensor, "batch residue"]
    """From 1; keeps the gaps of the numbering; 0 where padded."""
    chain: Int[Tensor, "batch residue"]

    @property
    def resolved(self) -> Bool[Tensor, "batch residue"]:
        """True where N, CA and C are present, which is what a frame needs."""
        return self.present[..., :3].all(dim=-1)


@dataclass(frozen=True)
class FramePairBatch(Batch):
    """Stored couplings of noise and sample, what a rectified flow learns from.

    A frame is a unit quaternion (w, x, y, z) and a translation in ångström.
    """

    source: Float[Tensor, "batch residue 7"]
    """Noise, t = 0."""
    target: Float[Tensor, "batch residue 7"]
    """Sample, t = 1."""
    residue_index: Int[Tensor, "batch residue"]
    resolved: Bool[Tensor, "batch residue"]
    """False where padded."""


@dataclass(frozen=True)
class WindowBatch(Batch):
    """Windows of time series: what a forecaster sees, and what it is to say. Every window has the same step.

    Values are in the units of the scaler that made the batch. What was not measured is 0, and False in its mask; a
    mask of None says that everything was measured. A field of None says that the data has no such columns. `ids` may be
    empty: `series` says where each window comes from.
    """

    past: Float[Tensor, "batch look_back target"]
    """The last steps before the origin, the newest last."""
    past_mask: Bool[Tensor, "batch look_back target"] | None = None
    future: Float[Tensor, "batch horizon target"] | None = None
    """The steps from the origin on; None where nobody knows them yet."""
    future_mask: Bool[Tensor, "batch horizon target"] | None = None
    observed: Float[Tensor, "batch look_back observed"] | None = None
    """Covariates that are known up to the origin only."""
    observed_mask: Bool[Tensor, "batch look_back observed"] | None = None
    known: Float[Tensor, "batch step known"] | None = None
    """Covariates known ahead (prices, holidays, forecasts of others), over look_back + horizon steps."""
    known_mask: Bool[Tensor, "batch step known"] | None = None
    calendar: Float[Tensor, "batch step calendar"] | None = None
    """Features of the time stamps in [-0.5, 0.5], over look_back + horizon steps."""
    static: Float[Tensor, "batch static"] | None = None
    """What does not change along a series."""
    position: Int[Tensor, " batch"] | None = None
    """Number of the window's first input step on the time grid: its remainder by a season's length is its phase."""
    series: Int[Tensor, " batch"] | None = None
    """Which series of the data set each window is cut from."""

    def __len__(self) -> int:
        return len(self.past)


@dataclass(frozen=True)
class SequenceBatch(Batch):
    """Labelled sequences of different length, padded at the end."""

    values: Float[Tensor, "batch step feature"]
    """0 where padded or not measured."""
    present: Bool[Tensor, "batch step"]
    """True for real steps."""
    labels: Int[Tensor, " batch"]
    """Class index; -1 where it is not known."""


@dataclass(frozen=True)
class FrameBatch(Batch):
    """Short films: frames to see and frames to predict."""

    past: Float[Tensor, "batch time channel height width"]
    future: Float[Tensor, "batch later channel height width"]


@dataclass(frozen=True)
class FieldBatch(Batch):
    """Windows of the history of fields on one grid, in the units of the file."""

    past: Float[Tensor, "batch history *grid component"]
    """The newest frame last."""
    future: Float[Tensor, "batch horizon *grid component"]
    """The frames after them, at the same spacing in time."""
    grid: Grid
