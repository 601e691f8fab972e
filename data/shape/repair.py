"""From triangles to a solid: closed, consistently oriented, faces looking outwards, with what was done to it."""

from dataclasses import dataclass

import numpy as np
import trimesh
from jaxtyping import Bool, Float, Int

from data.errors import MeshError
from data.shape.distance import balanced, bodies, shells, unsigned_distances, winding_numbers
from data.shape.sampling import face_normals, sample_surface
from data.shape.watertight import enclose

_STEP = 2e-4
"""Cube units to either side of the surface where the winding number is probed."""
_PROBES = 2048
_TOLERATED = 1e-3
"""Fraction of probes that may fail by thin walls and rounding."""


@dataclass(frozen=True)
class Solid:
    """A closed triangle mesh in the cube and how it came about."""

    vertices: Float[np.ndarray, "vertex 3"]
    """float32"""
    faces: Int[np.ndarray, "face 3"]
    """int32"""
    treatment: str
    overlapping: bool = False
    """The bodies touch or cross each other; distances are then those of their union (see `signed_distances`)."""


def solidify(
    vertices: Float[np.ndarray, "vertex 3"],
    faces: Int[np.ndarray, "face 3"],
    *,
    resolution: int,
    thickness: float,
) -> Solid:
    """The solid that the triangles (in the cube) bound; used as they are where they bound one.

    In order: equal vertices are merged and collapsed faces dropped; a surface that is not closed and consistently
    oriented has its faces turned; bodies that look inwards are turned. What then is closed and has the inside on one
    side everywhere is used. Closed bodies that overlap are kept as their union. All else is enclosed anew
    (`data.shape.watertight`).

    Raises:
        MeshError: nothing that bounds or could be thickened to a solid.
    """
    vertices, faces = merge(vertices, faces)
    if not len(faces) or face_normals(vertices, faces)[1].sum() <= 0:
        raise MeshError("all triangles are degenerate: there is no surface.")
    done = []
    if not balanced(faces):
        turned = _consistent(vertices, faces)
        if balanced(turned) or not balanced(faces):
            done += ["faces turned to agree"] if not np.array_equal(turned, faces) else []
            faces = turned
    pieces = bodies(faces)
    faces, flipped = _turn_inverted(vertices, faces, pieces)
    done += [f"{flipped} of {len(pieces)} bodies turned inside out"] if flipped else []
    rounded = vertices.astype(np.float32).astype(np.float64)
    closed = balanced(faces)
    probes = _Probes(rounded, faces, pieces)
    if closed and probes.buried <= _TOLERATED:
        return Solid(vertices.astype(np.float32), faces.astype(np.int32), "; ".join(done) or "as is")
    if closed and len(pieces) > 1 and _each_is_solid(rounded, faces):
        done.append(f"{len(pieces)} overlapping bodies kept as their union")
        return Solid(vertices.astype(np.float32), faces.astype(np.int32), "; ".join(done), overlapping=True)
    reason = "self-intersecting" if closed else "not closed"
    return _enclosed(vertices, faces, probes.sheet(), done, reason, resolution, thickness)


def merge(
    vertices: Float[np.ndarray, "vertex 3"], faces: Int[np.ndarray, "face 3"]
) -> tuple[Float[np.ndarray, "merged 3"], Int[np.ndarray, "kept 3"]]:
    """Equal positions (in float32) made one vertex, faces without three different vertices dropped, the rest renamed.

    Faces of zero area with three different vertices stay: a closed surface needs them.
    """
    _, first, names = np.unique(vertices.astype(np.float32), axis=0, return_index=True, return_inverse=True)
    faces = names.reshape(-1)[faces]
    a, b, c = faces.T
    faces = faces[(a != b) & (b != c) & (c != a)]
    used, faces = np.unique(faces, return_inverse=True)
    return vertices[first[used]], faces.reshape(-1, 3)


def _consistent(vertices: np.ndarray, faces: np.ndarray) -> np.ndarray:
    """Faces turned so that neighbours agree where they can."""
    mesh = trimesh.Trimesh(vertices, faces, process=False)
    trimesh.repair.fix_winding(mesh)
    return np.asarray(mesh.faces, dtype=np.int64)


def _turn_inverted(
    vertices: np.ndarray, faces: np.ndarray, pieces: list[np.ndarray]
) -> tuple[Int[np.ndarray, "face 3"], int]:
    """Bodies that enclose a negative volume turned, unless they line a cavity of another body; and their number."""
    faces, flipped = faces.copy(), 0
    for piece in pieces:
        corners = vertices[np.unique(faces[piece])]
        a, b, c = (vertices[faces[piece, k]] - corners.mean(axis=0) for k in range(3))
        if np.einsum("ij,ij->", a, np.cross(b, c)) >= 0:
            continue
        rest = np.ones(len(faces), dtype=bool)
        rest[piece] = False
        if rest.any() and np.median(np.abs(winding_numbers(vertices, faces[rest], corners[:64]))) > 0.5:
            continue
        faces[piece] = faces[piece, ::-1]
        flipped += 1
    return faces, flipped


class _Probes:
    """Winding numbers close to the surface, on both sides of random points on every body."""

    def __init__(self, vertices: np.ndarray, faces: np.ndarray, pieces: list[np.ndarray]) -> None:
        rng = np.random.default_rng(0)
        areas = np.array([face_normals(vertices, faces[piece])[1].sum() for piece in pieces])
        counts = np.ceil(_PROBES * areas / areas.sum()).astype(int) + 8 * (areas > 0)
        found = [sample_surface(vertices, faces[p], n, rng) for p, n in zip(pieces, counts, strict=True) if n]
        self.points = np.concatenate(found)[:, :3]
        normals = np.concatenate(found)[:, 3:]
        self._piece = np.repeat(np.arange(len(pieces)), counts)
        self._pieces, self._faces = pieces, len(faces)
        self.outside = winding_numbers(vertices, faces, self.points + _STEP * normals)
        self.inside = winding_numbers(vertices, faces, self.points - _STEP * normals)

    @property
    def buried(self) -> float:
        """Fraction of the surface that does not have the outside before it and the inside behind it."""
        return float(np.mean((np.abs(self.outside) > 0.3) | (np.abs(self.inside - 1) > 0.3)))

    def sheet(self) -> Bool[np.ndarray, " face"]:
        """Faces of bodies that mostly have no whole winding number beside them: they bound no solid."""
        fraction = np.maximum(
            np.abs(self.outside - np.round(self.outside)), np.abs(self.inside - np.round(self.inside))
        )
        total = np.bincount(self._piece, minlength=len(self._pieces))
        vague = np.bincount(self._piece, fraction > 0.25, minlength=len(self._pieces))
        marked = np.zeros(self._faces, dtype=bool)
        for piece, share in zip(self._pieces, vague / np.maximum(total, 1), strict=True):
            marked[piece] = share > 0.3
        return marked


def _each_is_solid(vertices: np.ndarray, faces: np.ndarray) -> bool:
    """True where each shell alone has the outside before it and the inside behind it."""
    for shell in shells(faces):
        if face_normals(vertices, faces[shell])[1].sum() <= 0:
            continue
        if _Probes(vertices, faces[shell], [np.arange(len(shell))]).buried > 10 * _TOLERATED:
            return False
    return True


def _enclosed(
    vertices: np.ndarray,
    faces: np.ndarray,
    sheet: np.ndarray,
    done: list[str],
    reason: str,
    resolution: int,
    thickness: float,
) -> Solid:
    cell = 2.0 / resolution
    thickness = max(thickness, 3 * cell)
    new_vertices, new_faces = enclose(vertices, faces, sheet, resolution=resolution, thickness=thickness)
    if not sheet.all():
        # Walls thinner than a cell fall between the grid points: thicken them rather than lose them.
        lost = _missed(vertices, faces, sheet, new_vertices, new_faces, 2 * cell)
        if lost.any():
            sheet = sheet | lost
            done.append("walls below the grid's cell thickened")
            new_vertices, new_faces = enclose(vertices, faces, sheet, resolution=resolution, thickness=thickness)
    done.append(f"{reason}: enclosed on {resolution}^3 cells of {cell:.4f}")
    if sheet.all():
        done = done[-1:]  # which way a sheet's faces look has no part in its thickening
    if sheet.any():
        done.append(f"{sheet.mean():.0%} of the faces thickened to {thickness:.4f}")
    return Solid(new_vertices.astype(np.float32), new_faces.astype(np.int32), "; ".join(done))


def _missed(
    vertices: np.ndarray,
    faces: np.ndarray,
    sheet: np.ndarray,
    new_vertices: np.ndarray,
    new_faces: np.ndarray,
    reach: float,
) -> Bool[np.ndarray, " face"]:
    """Faces outside of the new solid, or open to its outside, that its surface does not come near to."""
    centres = vertices[faces].mean(axis=1)
    far = unsigned_distances(new_vertices, new_faces, centres) > reach
    far &= ~sheet
    far[far] &= winding_numbers(new_vertices, new_faces, centres[far]) < 0.5
    return far
