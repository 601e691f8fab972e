"""Pictures of meshes: what is in front covers what is behind, and the file is a PNG that others read."""

from io import BytesIO

import numpy as np
import trimesh
from PIL import Image

from data.batch import TriangleMesh
from flows.reporting.snapshot import SIDE, palette_png, snapshot

PAPER = (251, 251, 249)


def ball(radius: float, centre: tuple[float, float, float] = (0.0, 0.0, 0.0)) -> TriangleMesh:
    mesh = trimesh.creation.icosphere(3, radius)
    return TriangleMesh(np.asarray(mesh.vertices) + centre, np.asarray(mesh.faces))


def together(*meshes: TriangleMesh) -> TriangleMesh:
    starts = np.cumsum([0, *(len(mesh.vertices) for mesh in meshes[:-1])])
    faces = [mesh.faces + start for mesh, start in zip(meshes, starts, strict=True)]
    return TriangleMesh(np.concatenate([mesh.vertices for mesh in meshes]), np.concatenate(faces))


def seen(content: bytes) -> np.ndarray:
    image = Image.open(BytesIO(content))
    assert image.format == "PNG"
    assert image.size == (SIDE, SIDE)
    return np.asarray(image)


def test_a_ball_is_a_disc_without_holes() -> None:
    picture = seen(snapshot(ball(1.0)))
    drawn = (picture != PAPER).any(axis=2)
    rows, columns = np.indices(drawn.shape) - SIDE / 2
    distance = np.hypot(rows, columns)
    radius = 0.46 * SIDE
    assert drawn[distance < radius - 3].all()
    assert not drawn[distance > radius + 3].any()
    upper, lower = picture[: SIDE // 2][drawn[: SIDE // 2]].mean(), picture[SIDE // 2 :][drawn[SIDE // 2 :]].mean()
    assert upper > lower + 10  # lit from above


def test_the_nearer_one_covers_the_other() -> None:
    eye = np.array([0.62, 0.42, 0.85]) / np.linalg.norm([0.62, 0.42, 0.85])
    for sign, name in ((1.0, "red"), (-1.0, "blue")):
        front, back = ball(0.5, tuple(sign * eye)), ball(0.5, tuple(-sign * eye))
        places = np.repeat([1.0, 0.0], [len(front.vertices), len(back.vertices)])
        red, _, blue = seen(snapshot(together(front, back), places))[SIDE // 2, SIDE // 2].astype(int)
        assert (red > blue) == (name == "red")


def test_nothing_to_see_is_empty_paper() -> None:
    empty = TriangleMesh(np.zeros((0, 3)), np.zeros((0, 3), int))
    diverged = TriangleMesh(np.full((3, 3), np.nan), np.array([[0, 1, 2]]))
    for mesh in (empty, diverged):
        assert (seen(snapshot(mesh)) == PAPER).all()


def test_the_same_mesh_gives_the_same_bytes() -> None:
    assert snapshot(ball(0.7)) == snapshot(ball(0.7))


def test_a_picture_with_a_palette_shows_its_colours():
    random = np.random.default_rng(3)
    indices = random.integers(0, 7, (9, 13)).astype(np.uint8)
    palette = random.integers(0, 256, (7, 3)).astype(np.uint8)
    found = Image.open(BytesIO(palette_png(indices, palette)))
    assert found.size == (13, 9)
    assert (np.asarray(found.convert("RGB")) == palette[indices]).all()
