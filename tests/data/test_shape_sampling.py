"""Sampled points are uniform, lie where they should, and sharp edges are found where they are."""

import numpy as np
import trimesh
from scipy import stats

from data.shape.sampling import sample_sharp_edges, sample_surface


def test_uniform_by_area_on_a_box_of_unequal_triangles():
    box = trimesh.creation.box(extents=[1.8, 0.6, 0.2]).subdivide()
    box = trimesh.util.concatenate([box]).subdivide(face_index=[0, 5, 7])
    points = sample_surface(box.vertices, box.faces, 50_000, np.random.default_rng(0))
    assert np.abs(np.abs(points[:, :3]) / [0.9, 0.3, 0.1]).max() <= 1 + 1e-12
    sides = np.argmax(np.abs(points[:, 3:]), axis=1)
    areas = np.array([0.6 * 0.2, 1.8 * 0.2, 1.8 * 0.6])
    assert stats.chisquare(np.bincount(sides), areas / areas.sum() * len(points)).pvalue > 1e-3
    # Within one side, each coordinate is uniform.
    top = points[(sides == 2) & (points[:, 5] > 0)]
    assert stats.kstest(top[:, 0], "uniform", args=(-0.9, 1.8)).pvalue > 1e-3
    assert stats.kstest(top[:, 1], "uniform", args=(-0.3, 0.6)).pvalue > 1e-3


def test_uniform_on_a_sphere_with_radial_normals():
    sphere = trimesh.creation.icosphere(subdivisions=5)
    points = sample_surface(sphere.vertices, sphere.faces, 20_000, np.random.default_rng(0))
    # Archimedes: heights on a sphere are uniform.
    assert stats.kstest(points[:, 2], "uniform", args=(-1, 2)).pvalue > 1e-3
    assert np.abs((points[:, :3] * points[:, 3:]).sum(axis=1) - 1).max() < 2e-3
    assert np.allclose(np.linalg.norm(points[:, 3:], axis=1), 1)


def test_sharp_points_lie_on_the_edges_of_a_box_by_length():
    box = trimesh.creation.box(extents=[1.6, 0.8, 0.4]).subdivide()
    points = sample_sharp_edges(box.vertices, box.faces, 6000, 30.0, np.random.default_rng(0))
    assert len(points) == 6000
    at_side = np.abs(np.abs(points[:, :3]) - [0.8, 0.4, 0.2]) < 1e-9
    assert (at_side.sum(axis=1) >= 2).all()
    along = np.bincount(np.argmin(at_side, axis=1), minlength=3)
    assert stats.chisquare(along, np.array([1.6, 0.8, 0.4]) / 2.8 * 6000).pvalue > 1e-3
    # Half-way between two faces at right angles.
    assert np.allclose(np.sort(np.abs(points[:, 3:]), axis=1), [0, np.sqrt(0.5), np.sqrt(0.5)])


def test_a_smooth_surface_has_no_sharp_edges():
    sphere = trimesh.creation.icosphere(subdivisions=3)
    assert sample_sharp_edges(sphere.vertices, sphere.faces, 100, 30.0, np.random.default_rng(0)).shape == (0, 6)
