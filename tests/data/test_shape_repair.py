"""Meshes that are not solids: repaired or refused with a reason, never mis-signed; every body kept."""

from pathlib import Path

import numpy as np
import pytest
import trimesh

from data.errors import MeshError
from data.shape.distance import balanced, bodies, signed_distances, unsigned_distances, winding_numbers
from data.shape.mesh_reading import read_mesh
from data.shape.repair import Solid, merge, solidify
from data.shape.sampling import sample_surface

MESHES = Path(__file__).parents[3] / "shared" / "datasets" / "meshes"


def solid(vertices, faces, resolution: int = 64) -> Solid:
    return solidify(np.asarray(vertices, float), np.asarray(faces, np.int64), resolution=resolution, thickness=0.05)


def from_file(name: str, resolution: int = 64) -> tuple[Solid, np.ndarray, np.ndarray]:
    path = MESHES / name
    if not path.is_file():
        pytest.skip(f"no mesh at {path}")
    source = read_mesh(path)
    low, high = source.vertices.min(axis=0), source.vertices.max(axis=0)
    vertices = (source.vertices - (low + high) / 2) * (1.9 / (high - low).max())
    return solid(vertices, source.faces, resolution), *merge(vertices, source.faces)


def volume(found: Solid) -> float:
    a, b, c = (found.vertices[found.faces[:, k]].astype(np.float64) for k in range(3))
    return float(np.einsum("ij,ij->", a, np.cross(b, c)) / 6)


def test_a_closed_mesh_is_used_as_it_is():
    box = trimesh.creation.box(extents=[1, 0.8, 0.6])
    found = solid(box.vertices, box.faces)
    assert found.treatment == "as is" and len(found.faces) == 12
    assert volume(found) == pytest.approx(0.48)


def test_soup_is_merged_and_inside_out_is_turned():
    box = trimesh.creation.box(extents=[1, 0.8, 0.6])
    soup = box.vertices[box.faces].reshape(-1, 3)
    found = solid(soup, np.arange(36).reshape(-1, 3)[:, ::-1])
    assert found.treatment == "1 of 1 bodies turned inside out"
    assert len(found.vertices) == 8 and volume(found) == pytest.approx(0.48)


def test_faces_that_disagree_are_turned():
    ball = trimesh.creation.icosphere(subdivisions=2, radius=0.8)
    faces = np.array(ball.faces)
    faces[::3] = faces[::3, ::-1]
    found = solid(ball.vertices, faces)
    assert "faces turned to agree" in found.treatment
    assert volume(found) == pytest.approx(ball.volume, rel=1e-5)


def test_a_cavity_stays_a_cavity():
    outer, inner = trimesh.creation.box(extents=[1.6] * 3), trimesh.creation.box(extents=[0.8] * 3)
    inner.invert()
    hollow = trimesh.util.concatenate([outer, inner])
    found = solid(hollow.vertices, hollow.faces)
    assert found.treatment == "as is" and volume(found) == pytest.approx(1.6**3 - 0.8**3, rel=1e-5)


def test_a_ball_with_a_hole_is_closed():
    ball = trimesh.creation.icosphere(subdivisions=4, radius=0.8)
    cap = np.asarray(ball.triangles_center[:, 2] > 0.75)
    found = solid(ball.vertices, ball.faces[~cap])
    assert "not closed: enclosed on 64^3 cells" in found.treatment and "thickened" not in found.treatment
    assert balanced(found.faces) and volume(found) == pytest.approx(ball.volume, rel=0.02)
    points = sample_surface(found.vertices, found.faces, 2000, np.random.default_rng(0))[:, :3]
    rest = points[points[:, 2] < 0.7]
    assert unsigned_distances(np.asarray(ball.vertices), ball.faces, rest).max() < 2 / 64


def test_an_open_sheet_becomes_a_plate_of_the_stated_thickness():
    found = solid([[-0.9, -0.6, 0], [0.9, -0.6, 0], [0.9, 0.6, 0], [-0.9, 0.6, 0]], [[0, 1, 2], [0, 2, 3]])
    thickness = 3 * 2 / 64  # three cells, more than the 0.05 asked for
    assert f"thickened to {thickness:.4f}" in found.treatment and balanced(found.faces)
    rim = np.pi * (thickness / 2) ** 2 / 2  # half a disc along the circumference
    expected = thickness * 1.8 * 1.2 + 6.0 * rim
    assert volume(found) == pytest.approx(expected, rel=0.05)


def test_degenerate_triangles_are_refused():
    with pytest.raises(MeshError, match="degenerate"):
        solid([[0, 0, 0], [0.5, 0, 0], [1, 0, 0]], [[0, 1, 2]])


@pytest.mark.parametrize(
    ("name", "word"),
    [
        ("cube_soup.obj", "as is"),
        ("moebius.ply", "thickened"),
        ("nonmanifold_edge.obj", "thickened"),
        ("self_intersect.obj", "self-intersecting: enclosed"),
        ("avocado.obj", "enclosed"),
        ("blub_open.obj", "not closed: enclosed"),
    ],
)
def test_nasty_meshes_come_out_closed_and_near_to_the_source(name, word):
    found, vertices, faces = from_file(name)
    assert word in found.treatment
    assert balanced(found.faces) and volume(found) > 0
    # All of the source is inside, or within half the thickness and two cells of the new surface.
    points = sample_surface(vertices, faces, 2000, np.random.default_rng(0))[:, :3]
    distance = signed_distances(found.vertices, found.faces, points)
    assert np.quantile(distance, 0.99) < 2 * 2 / 64
    # Just inside and outside of the new surface, the sign is what it says.
    drawn = sample_surface(found.vertices, found.faces, 2000, np.random.default_rng(1))
    for side in (-1, 1):
        beside = drawn[:, :3] + side * 1e-4 * drawn[:, 3:]
        assert np.mean((winding_numbers(found.vertices, found.faces, beside) < 0.5) == (side > 0)) > 0.99


@pytest.mark.parametrize(("name", "count"), [("cubes_29.obj", 29), ("cycloidal.ply", 100), ("torus3.obj", 3)])
def test_all_bodies_are_kept(name, count):
    found, vertices, faces = from_file(name)
    assert "enclosed" not in found.treatment
    assert len(bodies(found.faces)) == count == len(bodies(faces))
    rng = np.random.default_rng(0)
    for body in bodies(faces):
        drawn = sample_surface(vertices, faces[body], 8, rng)
        inner = drawn[:, :3] - 1e-4 * drawn[:, 3:]
        assert (winding_numbers(found.vertices, found.faces, inner) > 0.5).mean() > 0.6
