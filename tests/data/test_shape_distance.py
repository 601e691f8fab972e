"""Signed distances against solids whose distance is known by formula."""

import numpy as np
import pytest
import trimesh

from data.shape.distance import balanced, bodies, shells, signed_distances, winding_numbers


def box_distance(points: np.ndarray, half: np.ndarray) -> np.ndarray:
    q = np.abs(points) - half
    return np.linalg.norm(np.maximum(q, 0), axis=1) + np.minimum(q.max(axis=1), 0)


def test_box_is_exact():
    half = np.array([0.7, 0.4, 0.55])
    box = trimesh.creation.box(extents=2 * half)
    points = np.random.default_rng(0).uniform(-1, 1, (20_000, 3))
    found = signed_distances(box.vertices, box.faces, points)
    assert np.abs(found - box_distance(points, half)).max() < 1e-12


def test_sphere_within_the_height_of_its_facets():
    sphere = trimesh.creation.icosphere(subdivisions=5, radius=0.8)
    points = np.random.default_rng(0).uniform(-1, 1, (20_000, 3))
    exact = np.linalg.norm(points, axis=1) - 0.8
    # Facets lie inside of the sphere by at most (longest edge)² / (6 r): r − sqrt(r² − edge²/3) to first order.
    sag = 1.1 * sphere.edges_unique_length.max() ** 2 / (6 * 0.8)
    error = signed_distances(sphere.vertices, sphere.faces, points) - exact
    assert error.min() >= -1e-9 and error.max() <= sag


def test_overlapping_boxes_give_the_minimum_of_both():
    half = np.array([0.4, 0.3, 0.3])
    shift = np.array([0.5, 0.1, 0.0])
    first, second = trimesh.creation.box(extents=2 * half), trimesh.creation.box(extents=2 * half)
    second.apply_translation(shift)
    both = trimesh.util.concatenate([first, second])
    points = np.random.default_rng(0).uniform(-1, 1, (10_000, 3))
    found = signed_distances(both.vertices, both.faces, points, overlapping=True)
    exact = np.minimum(box_distance(points, half), box_distance(points - shift, half))
    assert np.abs(found - exact).max() < 1e-12


def test_cavity_is_outside():
    outer, inner = trimesh.creation.box(extents=[1.6] * 3), trimesh.creation.box(extents=[0.8] * 3)
    inner.invert()
    hollow = trimesh.util.concatenate([outer, inner])
    points = np.random.default_rng(0).uniform(-1, 1, (5000, 3))
    half = np.array([0.8] * 3)
    exact = np.maximum(box_distance(points, half), -box_distance(points, half / 2))
    assert np.abs(signed_distances(hollow.vertices, hollow.faces, points) - exact).max() < 1e-12


def test_distances_turn_with_the_solid():
    box = trimesh.creation.box(extents=[1.2, 0.7, 0.5])
    turn = trimesh.transformations.random_rotation_matrix(np.array([0.3, 0.6, 0.2]))[:3, :3]
    points = np.random.default_rng(0).uniform(-1, 1, (2000, 3))
    before = signed_distances(box.vertices, box.faces, points)
    after = signed_distances(box.vertices @ turn.T, box.faces, points @ turn.T)
    assert np.abs(before - after).max() < 1e-12


def test_fast_winding_number_agrees_with_the_sum_over_faces():
    import igl

    torus = trimesh.creation.torus(0.6, 0.25)
    rng = np.random.default_rng(0)
    points = torus.vertices[rng.integers(len(torus.vertices), size=4000)] + 0.005 * rng.standard_normal((4000, 3))
    exact = igl.winding_number(torus.vertices, torus.faces.astype(np.int64), points)
    assert np.array_equal(winding_numbers(torus.vertices, torus.faces, points) > 0.5, exact > 0.5)


def test_bodies_shells_and_balance():
    box = trimesh.creation.box(extents=[1.0] * 3)
    faces = np.asarray(box.faces)
    two = np.concatenate([faces, faces + 8])
    assert balanced(two) and [len(rows) for rows in bodies(two)] == [12, 12]
    assert not balanced(two[1:])
    assert not balanced(np.concatenate([faces[1:], faces[:1, ::-1]]))
    # Two boxes that share one edge: one body, two shells.
    other = faces + 8
    other[other == 8 + 1] = 0
    other[other == 8 + 0] = 1
    assert balanced(np.concatenate([faces, other]))
    assert len(bodies(np.concatenate([faces, other]))) == 1
    assert sum(map(len, shells(np.concatenate([faces, other])))) == 24


@pytest.mark.parametrize("count", [0, 1])
def test_few_points(count):
    box = trimesh.creation.box(extents=[1.0] * 3)
    assert signed_distances(box.vertices, box.faces, np.zeros((count, 3))).shape == (count,)
