"""Triangle meshes of the zero level of a field, from as few questions to the field as the surface allows."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from data.batch import TriangleMesh
from data.errors import ConfigError, PenstockError
from modules.geometry.marching import CLEARANCE, CrossedEdges, march
from modules.geometry.octree import CornerValues, Level, Octree

Field = Callable[[Tensor], Tensor]
"""Points float32 [Q, 3] in the box → values [Q], positive outside, zero on the surface, in any unit."""


FAR = 1e30
"""Larger magnitudes, infinity among them, count as this one."""


@dataclass(frozen=True, kw_only=True)
class ExtractionConfig:
    resolution: int = 256
    """Cells per axis, any number: the grid has resolution + 1 points per axis from -bound to bound."""
    bound: float = 1.005
    """Half the edge of the box."""
    coarse: int = 32
    """Fewest cells per axis of the coarsest level, which is asked everywhere: 33^3 questions by default. Parts thinner
    than a coarse cell are found where they are connected with larger ones or where the field is close to a distance."""
    chunk: int = 4096
    """Most points in one question to the field; bounds the field's memory."""
    safety: float = 1.0
    """How far to trust the measured variation of the field when deciding that a cell without a change of sign is empty:
    1 suits distances, larger asks more, 0 looks at signs alone."""
    root_steps: int = 0
    """Questions per vertex that move it from the straight line's zero to the field's own along its grid edge. Worth
    2 to 4 where the field is far from linear within a cell (clipped, saturated, steep)."""
    closed: bool = True
    """Cap a solid that the box cuts, as if the solid ended there; otherwise the mesh is open there."""

    def __post_init__(self) -> None:
        for name, least in (("resolution", 2), ("coarse", 2), ("chunk", 1), ("root_steps", 0)):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise ConfigError(f"{name} must be a whole number of at least {least}, got {value!r}; change it.")
        if self.resolution > 1 << 20:
            raise ConfigError(f"resolution must be at most {1 << 20} (grid keys are 64 bit), got {self.resolution}.")
        if not (np.isfinite(self.bound) and self.bound > 0):
            raise ConfigError(f"bound must be a positive length, got {self.bound!r}; the cube of shapes needs 1.005.")
        if not (np.isfinite(self.safety) and self.safety >= 0):
            raise ConfigError(f"safety must be a number of at least 0, got {self.safety!r}; 1 suits distances.")


@dataclass(frozen=True)
class ExtractionStats:
    """What an extraction asked and found."""

    resolution: int
    levels: tuple[Level, ...]
    """From the coarsest to the finest."""
    follow_queries: int
    """Asked while following the surface on the finest grid beyond the refined cells."""
    root_queries: int
    empty: Literal["", "outside", "inside"]
    """Why the mesh has no faces: no question found the inside ("outside") or the outside ("inside"); else ""."""
    cut_by_box: bool
    """The solid reaches the boundary of the box."""

    @property
    def queries(self) -> int:
        """Points that the field was asked at, each once."""
        return sum(level.queries for level in self.levels) + self.follow_queries + self.root_queries

    @property
    def dense_queries(self) -> int:
        """What a dense grid of the same resolution asks."""
        return (self.resolution + 1) ** 3


def extract_surface(
    field: Field, config: ExtractionConfig, *, device: torch.device | str = "cpu"
) -> tuple[TriangleMesh, ExtractionStats]:
    """The zero level of `field` as a closed, manifold mesh, faces counter-clockwise seen from outside, and statistics.

    Vertices float32 [V, 3] in the field's coordinates, faces int32 [F, 3]. The grid point i of an axis is the float32
    nearest to -bound + 2 bound i / resolution; each is asked at most once, `config.chunk` at a time, on `device` and
    without gradients. The field's scale does not matter: signs and ratios of differences decide what is refined, so a
    distance, its truncation or a logit will do. The triangles are those of a dense grid wherever a solid is connected
    on the finest grid with something that the coarser levels saw; a separate body that lies wholly between the points
    of the coarsest level, in a field clipped so closely that no neighbouring value tells of it, can be missed.

    Without any change of sign the mesh has no faces and `stats.empty` says which sign was everywhere.

    Raises PenstockError when the field returns NaN or a wrong number of values.

    Example:
        mesh, stats = extract_surface(lambda points: points.norm(dim=1) - 0.8, ExtractionConfig(resolution=128))
    """
    axis = (config.bound * (2 * np.arange(config.resolution + 1) / config.resolution - 1)).astype(np.float32)

    def ask_corners(index: Int[np.ndarray, "point 3"]) -> Float[np.ndarray, " point"]:
        return _ask(field, lambda part: axis[index[part] - 1], len(index), config.chunk, device)

    def ask_points(points: Float[np.ndarray, "point 3"]) -> Float[np.ndarray, " point"]:
        return _ask(field, lambda part: points[part], len(points), config.chunk, device)

    corners = CornerValues(ask_corners, config.resolution)
    octree = Octree(corners, coarse=config.coarse, safety=config.safety, closed=config.closed)
    cells, values, levels = octree.refine()
    # Inside at every question: a field without a surface, not a solid that fills the box and wants capping.
    empty = corners.only_sign()
    if empty:
        cells, values = cells[:0], values[:0]
    cells, values, follow_queries = octree.follow(cells, values)
    edges, faces = march(cells, values, corners.size)
    fractions, root_queries = _find_roots(edges, axis, ask_points, config.root_steps)
    mesh = TriangleMesh(_place(edges, axis, fractions).astype(np.float32), faces)
    stats = ExtractionStats(
        config.resolution, tuple(levels), follow_queries, root_queries, empty, corners.inside_at_boundary()
    )
    return mesh, stats


def _ask(
    field: Field,
    points_at: Callable[[slice], Float[np.ndarray, "point 3"]],
    count: int,
    chunk: int,
    device: torch.device | str,
) -> Float[np.ndarray, " point"]:
    """The field's values in float32, kept within FAR so that infinities and their differences can be computed with."""
    values = np.empty(count, dtype=np.float32)
    with torch.no_grad():
        for start in range(0, count, chunk):
            part = slice(start, min(start + chunk, count))
            points = points_at(part)
            answer = field(torch.from_numpy(points).to(device))
            if answer.shape != (len(points),):
                raise PenstockError(
                    f"the field must return one value per point: for points {points.shape} it should have "
                    f"returned shape ({len(points)},), it returned {tuple(answer.shape)}; reshape its result."
                )
            values[part] = answer.detach().to("cpu", torch.float32).numpy()
            bad = np.flatnonzero(np.isnan(values[part]))
            if len(bad):
                raise PenstockError(
                    f"the field must return numbers, it returned NaN at {len(bad)} of {len(points)} points, first at "
                    f"{points[bad[0]].tolist()}; check the weights and the latents that it was built from."
                )
    return np.clip(values, -FAR, FAR)


def _place(
    edges: CrossedEdges, axis: Float[np.ndarray, " point"], fractions: Float[np.ndarray, " vertex"]
) -> Float[np.ndarray, "vertex 3"]:
    """The points at the given parts of their grid edges, float64."""
    positions = axis.astype(np.float64)
    before, after = 2 * positions[0] - positions[1], 2 * positions[-1] - positions[-2]
    positions = np.concatenate([[before], positions, [after]])  # the layer around the box has indices 0 and n + 2
    points = positions[edges.corners]
    rows = np.arange(len(points))
    low = edges.corners[rows, edges.axes]
    points[rows, edges.axes] += fractions * (positions[low + 1] - positions[low])
    return points


def _find_roots(
    edges: CrossedEdges,
    axis: Float[np.ndarray, " point"],
    ask: Callable[[Float[np.ndarray, "point 3"]], Float[np.ndarray, " point"]],
    steps: int,
) -> tuple[Float[np.ndarray, " vertex"], int]:
    """Parts of the edges at which the field is zero, and the number of questions: the regula falsi in the Illinois
    form, which keeps the bracket and halves the value of an end that stays (Dowell and Jarratt 1971)."""
    if not steps:
        return edges.fractions(), 0
    rows = np.arange(len(edges.axes))
    in_box = (edges.corners[rows, edges.axes] >= 1) & (edges.corners[rows, edges.axes] < len(axis))
    inner = CrossedEdges(*(column[in_box] for column in edges))
    left, right = np.zeros(len(inner.axes)), np.ones(len(inner.axes))
    low, high = inner.low.astype(np.float64), inner.high.astype(np.float64)
    roots = inner.fractions()
    moved_before = np.zeros(len(roots), dtype=int)  # the end that the last question replaced: -1 left, 1 right
    for _ in range(steps if len(roots) else 0):
        value = ask(_place(inner, axis, roots).astype(np.float32)).astype(np.float64)
        on_left = (value < 0) == (low < 0)
        left, low = np.where(on_left, roots, left), np.where(on_left, value, low)
        right, high = np.where(on_left, right, roots), np.where(on_left, high, value)
        moved = np.where(on_left, -1, 1)
        stayed = moved == moved_before
        high = np.where(stayed & on_left, high / 2, high)
        low = np.where(stayed & ~on_left, low / 2, low)
        moved_before = moved
        roots = np.clip(left + (right - left) * (low / (low - high)), CLEARANCE, 1 - CLEARANCE)
    fractions = edges.fractions()
    fractions[in_box] = roots
    return fractions, steps * len(roots)
