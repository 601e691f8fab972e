"""A mesh as a small PNG, for places that can show a picture and no 3D view."""

import struct
import zlib

import numpy as np
from jaxtyping import Float, UInt8

from data.batch import TriangleMesh

SIDE = 300
"""Pixels."""
_POINTS = 200_000  # each three pixels wide and high: no holes in a mesh that fills the picture
_VIEW = np.array([0.62, 0.42, 0.85])  # from where the report's 3D views begin; y is up
_LIGHT = np.array([-0.25, 0.75, 0.6])  # in the picture's axes: right, up, towards the eye
_PAPER, _MADE = np.array([251.0, 251.0, 249.0]), np.array([90.0, 159.0, 179.0])


def snapshot(mesh: TriangleMesh, places: np.ndarray | None = None) -> bytes:
    """The mesh on white paper, SIDE x SIDE, lit from above; a mesh without faces of any size gives empty paper.

    `places` is a number in [0, 1] per vertex, shown as a colour from blue to red. Points are spread over the surface,
    always the same ones, and the nearest to the eye of each pixel is seen: no renderer is needed, nor a display.
    """
    picture = np.tile(_PAPER, (SIDE * SIDE, 1))
    points, normals, colours = _spread(mesh, places)
    if len(points):
        right, up, eye = _axes()
        centre = (points.min(axis=0) + points.max(axis=0)) / 2
        across = (points - centre) @ np.stack([right, up, eye], axis=1)
        scale = 0.46 * SIDE / (np.linalg.norm(points - centre, axis=1).max() or 1.0)
        facing = normals @ np.stack([right, up, eye], axis=1)
        facing *= np.where(facing[:, 2:] < 0, -1.0, 1.0)  # what is seen from behind is lit as well
        shade = 0.45 + 0.65 * np.clip(facing @ (_LIGHT / np.linalg.norm(_LIGHT)), 0, None)
        lit = np.clip(colours * shade[:, None], 0, 255)
        column = (SIDE / 2 + scale * across[:, 0]).astype(int)
        row = (SIDE / 2 - scale * across[:, 1]).astype(int)
        order = np.argsort(across[:, 2], kind="stable")  # the nearest is written last, and stays
        spread = (np.arange(-1, 2)[:, None] * SIDE + np.arange(-1, 2)).ravel()
        picture[((row * SIDE + column)[order, None] + spread).ravel()] = np.repeat(lit[order], 9, axis=0)
    return png(picture.reshape(SIDE, SIDE, 3).round().astype(np.uint8))


def png(pixels: UInt8[np.ndarray, "row column 3"]) -> bytes:
    """The picture as a PNG file, 8 bits per colour."""
    rows, columns, _ = pixels.shape
    lines = np.concatenate([np.zeros((rows, 1), np.uint8), pixels.reshape(rows, -1)], axis=1)
    return _file(rows, columns, 2, lines)


def palette_png(indices: UInt8[np.ndarray, "row column"], palette: UInt8[np.ndarray, "colour 3"]) -> bytes:
    """The picture as a PNG file with a palette: a third of the size for what has few colours.

    Rows are stored as differences from the one above, which pack well where neighbours in the palette are alike.
    """
    rows, columns = indices.shape
    differences = np.diff(indices, axis=0, prepend=np.zeros((1, columns), np.uint8))
    lines = np.concatenate([np.full((rows, 1), 2, np.uint8), differences], axis=1)
    return _file(rows, columns, 3, lines, _chunk(b"PLTE", palette.tobytes()))


def _file(rows: int, columns: int, kind: int, lines: np.ndarray, palette: bytes = b"") -> bytes:
    head = _chunk(b"IHDR", struct.pack(">IIBBBBB", columns, rows, 8, kind, 0, 0, 0))
    content = _chunk(b"IDAT", zlib.compress(lines.tobytes(), 9))
    return b"\x89PNG\r\n\x1a\n" + head + palette + content + _chunk(b"IEND", b"")


def _chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def _axes() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    eye = _VIEW / np.linalg.norm(_VIEW)
    right = np.cross([0.0, 1.0, 0.0], eye)
    right /= np.linalg.norm(right)
    return right, np.cross(eye, right), eye


def _spread(
    mesh: TriangleMesh, places: np.ndarray | None
) -> tuple[Float[np.ndarray, "point 3"], Float[np.ndarray, "point 3"], Float[np.ndarray, "point 3"]]:
    """Points on the surface, evenly by area, with the normal of their face and their colour."""
    corners = np.asarray(mesh.vertices, float)[np.asarray(mesh.faces)]
    cross = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    area = np.linalg.norm(cross, axis=1)
    usable = np.isfinite(corners).all(axis=(1, 2)) & (area > 0)
    if not usable.any():
        return (np.zeros((0, 3)),) * 3
    corners, cross, area = corners[usable], cross[usable], area[usable]
    random = np.random.default_rng(0)
    stops = np.cumsum(area)
    at = (np.arange(_POINTS) + random.random(_POINTS)) / _POINTS * stops[-1]
    face = np.minimum(np.searchsorted(stops, at), len(area) - 1)
    u, v = random.random((2, _POINTS, 1))
    u, v = np.where(u + v > 1, 1 - u, u), np.where(u + v > 1, 1 - v, v)
    weights = np.concatenate([1 - u - v, u, v], axis=1)
    points = np.einsum("pc,pcx->px", weights, corners[face])
    normals = (cross / area[:, None])[face]
    if places is None:
        return points, normals, np.tile(_MADE, (_POINTS, 1))
    along = np.einsum("pc,pc->p", weights, np.asarray(places, float)[np.asarray(mesh.faces)[usable]][face])
    return points, normals, _spectrum(along)


def _spectrum(along: Float[np.ndarray, " point"]) -> Float[np.ndarray, "point 3"]:
    """Blue at 0 over green to red at 1, as molecular viewers colour a chain."""
    hue = 4.0 * (1 - np.clip(along, 0, 1))
    ramps = [np.abs(hue - 3) - 1, 2 - np.abs(hue - 2), 2 - np.abs(hue - 4)]
    return 60.0 + 180.0 * np.clip(np.stack(ramps, axis=1), 0, 1)
