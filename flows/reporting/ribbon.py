"""A protein backbone as the ribbon that molecular viewers draw: helices and strands flat, the rest a thin tube."""

from itertools import pairwise

import numpy as np
from jaxtyping import Float, Int

from data.batch import Backbone, TriangleMesh
from flows.reporting.geometry import PREVIEW_FACES

AROUND = 10
"""Corners of a cross-section: of a round one, neighbouring faces meet below the viewer's crease angle."""
BREAK = 5.5
"""CA-CA distance in ångström beyond which the ribbon is cut: no bond, cis (2.9) or trans (3.8), is that long."""
HALF_WIDTH = {"H": 1.3, "E": 1.1, "C": 0.28}
HALF_THICKNESS = {"H": 0.22, "E": 0.22, "C": 0.28}
ARROW = 1.9
"""Half the width of a strand's arrow at its base; ångström, as all lengths here."""


def ribbon(
    backbone: Backbone, secondary: np.ndarray | None = None
) -> tuple[TriangleMesh, Float[np.ndarray, " vertex"]]:
    """The ribbon's mesh in ångström, and each vertex' place along the chains, 0 at the first residue, 1 at the last.

    Args:
        secondary: "H" (helix), "E" (strand) or "C" of each residue; without it, all is drawn as a tube.

    Residues without CA are left out, and the ribbon is cut where residues are not bonded.
    """
    kinds = np.full(len(backbone), "C") if secondary is None else np.asarray(secondary)
    samples = int(np.clip(PREVIEW_FACES // (2 * AROUND * max(len(backbone), 1)), 2, 6))
    vertices, faces, places, offset = [np.zeros((0, 3))], [np.zeros((0, 3), np.int64)], [np.zeros(0)], 0
    for first, end in _segments(backbone):
        rings, along = _rings(backbone, kinds, first, end, samples)
        vertices.append(rings.reshape(-1, 3))
        faces.append(_skin(len(rings)) + offset)
        places.append(np.repeat(along / max(len(backbone) - 1, 1), AROUND))
        offset += len(rings) * AROUND
    return TriangleMesh(np.concatenate(vertices), np.concatenate(faces)), np.concatenate(places)


def _segments(backbone: Backbone) -> list[tuple[int, int]]:
    """(first, end) of the stretches of at least two bonded residues."""
    calpha = backbone.atoms[:, 1]
    usable = backbone.present[:, 1] & np.isfinite(calpha).all(axis=1)
    gaps = np.linalg.norm(np.diff(calpha, axis=0), axis=1) if len(calpha) > 1 else np.zeros(0)
    bonded = usable[:-1] & usable[1:] & (backbone.chain[:-1] == backbone.chain[1:]) & (gaps < BREAK)
    edges = [0, *(np.flatnonzero(~bonded) + 1).tolist(), len(backbone)]
    return [(first, end) for first, end in pairwise(edges) if end - first >= 2]


def _rings(
    backbone: Backbone, kinds: np.ndarray, first: int, end: int, samples: int
) -> tuple[Float[np.ndarray, "ring corner 3"], Float[np.ndarray, " ring"]]:
    """Cross-sections along one stretch, `samples` per residue, and the residue position of each."""
    calpha = backbone.atoms[first:end, 1].astype(float)
    along = np.linspace(0, end - first - 1, (end - first - 1) * samples + 1)
    centres, tangents = _catmull_rom(calpha, along)
    sides, _ = _catmull_rom(_sides(backbone, first, end, calpha), along)
    tangents = _unit(tangents)
    sides = _unit(sides - (sides * tangents).sum(1, keepdims=True) * tangents)
    widths, thicknesses = _profile(kinds[first:end], along)
    angles = np.arange(AROUND) * 2 * np.pi / AROUND
    offsets = (widths[:, None] * np.cos(angles))[..., None] * sides[:, None] + (thicknesses[:, None] * np.sin(angles))[
        ..., None
    ] * np.cross(tangents, sides)[:, None]
    return centres[:, None] + offsets, along + first


def _sides(backbone: Backbone, first: int, end: int, calpha: np.ndarray) -> np.ndarray:
    """Direction across the ribbon at each residue: along C=O, which helices and strands hold steady, never flipping."""
    carbonyl = backbone.atoms[first:end, 3] - backbone.atoms[first:end, 2]
    known = backbone.present[first:end, 2] & backbone.present[first:end, 3] & np.isfinite(carbonyl).all(axis=1)
    forward = np.gradient(calpha, axis=0)
    # Any direction will do where O is not known, as long as it is not along the chain.
    spare = np.cross(forward, np.eye(3)[np.abs(forward).argmin(axis=1)])
    sides = _unit(np.where(known[:, None], carbonyl, spare))
    for k in range(1, len(sides)):
        # Neighbouring peptides of a strand point to opposite sides; the ribbon must not twist to follow them.
        if sides[k] @ sides[k - 1] < 0:
            sides[k] = -sides[k]
    return sides


def _profile(kinds: np.ndarray, along: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Half width and half thickness at each position; a strand ends in an arrow over its last bond."""
    at = np.arange(len(kinds))
    width = np.interp(along, at, [HALF_WIDTH[k] for k in kinds])
    thickness = np.interp(along, at, [HALF_THICKNESS[k] for k in kinds])
    for k in at[:-1]:
        if kinds[k] == "E" and kinds[k + 1] != "E":
            head = (along >= k) & (along <= k + 1)
            width[head] = ARROW + (along[head] - k) * (HALF_WIDTH[kinds[k + 1]] - ARROW)
    return width, thickness


def _catmull_rom(points: np.ndarray, along: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Position and derivative at `along` of the cubic through all points (Catmull & Rom 1974)."""
    padded = np.concatenate([2 * points[:1] - points[1:2], points, 2 * points[-1:] - points[-2:-1]])
    k = np.minimum(along.astype(int), len(points) - 2)
    u = (along - k)[:, None]
    p0, p1, p2, p3 = (padded[k + j] for j in range(4))
    a, b, c = 3 * (p1 - p2) + p3 - p0, 2 * p0 - 5 * p1 + 4 * p2 - p3, p2 - p0
    return p1 + 0.5 * u * (c + u * (b + u * a)), 0.5 * (c + u * (2 * b + 3 * u * a))


def _unit(rows: np.ndarray) -> np.ndarray:
    return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-9)


def _skin(rings: int) -> Int[np.ndarray, "face 3"]:
    """Triangles between neighbouring rings, and a fan over either end; counter-clockwise seen from outside."""
    corner = np.arange(AROUND)
    following = (corner + 1) % AROUND
    start = np.arange(rings - 1)[:, None] * AROUND
    a, b = start + corner, start + following
    walls = np.concatenate([np.stack([a, b, b + AROUND], -1), np.stack([a, b + AROUND, a + AROUND], -1)], axis=1)
    fan = np.stack([np.zeros(AROUND - 2, np.int64), corner[1:-1], corner[2:]], axis=-1)
    last = (rings - 1) * AROUND
    return np.concatenate([walls.reshape(-1, 3), fan[:, ::-1], fan + last])
