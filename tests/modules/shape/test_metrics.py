"""Metrics against answers known by formula."""

import numpy as np
import pytest
import trimesh

from data.batch import TriangleMesh
from modules.shape.metrics import METRICS, compare, compare_sets, floor, volume_iou


def sphere(radius: float, centre=(0.0, 0.0, 0.0)) -> TriangleMesh:
    mesh = trimesh.creation.icosphere(subdivisions=4, radius=radius)
    return TriangleMesh(np.asarray(mesh.vertices) + np.asarray(centre), np.asarray(mesh.faces))


def box(*extents: float, centre=(0.0, 0.0, 0.0)) -> TriangleMesh:
    mesh = trimesh.creation.box(extents=extents)
    return TriangleMesh(np.asarray(mesh.vertices) + np.asarray(centre), np.asarray(mesh.faces))


def test_concentric_spheres():
    found = compare(sphere(0.8), sphere(0.7))
    for name in ("mean", "rms", "p95", "max"):
        assert found[f"surface_distance_{name}"] == pytest.approx(0.1, abs=2e-3)
    assert found["accuracy_mean"] == pytest.approx(found["completeness_mean"], abs=2e-3)
    assert found["volume_iou"] == pytest.approx((0.7 / 0.8) ** 3, abs=0.01)
    assert found["normal_consistency"] == pytest.approx(1.0, abs=0.01)
    assert found["f_score_0.02"] == 0
    assert found["chamfer"] == pytest.approx(0.1, abs=2e-3)


@pytest.mark.parametrize("shift", [0.1, 0.25, 0.5])
def test_shifted_boxes(shift):
    assert volume_iou(box(1, 1, 1), box(1, 1, 1, centre=(shift, 0, 0))) == pytest.approx(
        (1 - shift) / (1 + shift), abs=0.01
    )


def test_apart_and_nested():
    assert volume_iou(box(0.5, 0.5, 0.5), box(0.5, 0.5, 0.5, centre=(1, 0, 0))) == 0
    assert volume_iou(box(1, 1, 1), box(0.5, 1, 1)) == pytest.approx(0.5, abs=0.01)


def test_the_floor_is_exact_where_it_can_be_and_falls_with_the_samples():
    few, many = floor(sphere(0.8), samples=2000), floor(sphere(0.8), samples=32_000)
    assert few["surface_distance_max"] < 1e-12 and few["volume_iou"] == 1
    # Mean nearest-neighbour distance of a Poisson process in the plane: 1 / (2 sqrt(points per area)).
    for found, samples in ((few, 2000), (many, 32_000)):
        assert found["chamfer"] == pytest.approx(0.5 / np.sqrt(samples / (4 * np.pi * 0.64)), rel=0.05)


def test_invariant_to_renumbering_and_to_the_cut_of_faces():
    coarse, rng = box(1, 0.8, 0.6), np.random.default_rng(0)
    order = rng.permutation(8)
    renumbered = TriangleMesh(coarse.vertices[np.argsort(order)], order[coarse.faces])
    fine = trimesh.Trimesh(coarse.vertices, coarse.faces).subdivide()
    cut = TriangleMesh(np.asarray(fine.vertices), np.asarray(fine.faces))
    for other in (renumbered, cut):
        found = compare(other, coarse)
        assert found["surface_distance_max"] < 1e-12
        assert found["volume_iou"] > 0.9999


def test_symmetric_but_for_the_names_of_the_directions():
    a, b = compare(sphere(0.8), box(1, 1, 1)), compare(box(1, 1, 1), sphere(0.8))
    for name in ("surface_distance_mean", "surface_distance_rms", "chamfer", "normal_consistency", "volume_iou"):
        assert a[name] == pytest.approx(b[name], rel=0.03)
    assert a["accuracy_mean"] == pytest.approx(b["completeness_mean"], rel=0.03)


def test_worse_is_worse():
    truth = sphere(0.7)
    errors = [compare(sphere(0.7 + delta), truth) for delta in (0.005, 0.02, 0.08)]
    for name, metric in METRICS.items():
        if name == "normal_consistency":
            continue
        values = [e[name] for e in errors]
        assert values == sorted(values, reverse=metric.better == "higher"), name


def test_buried_walls_are_not_surface():
    """Two crossing boxes as one mesh are the same solid as their union, made by another library."""
    import manifold3d

    first, second = box(1, 0.4, 0.4), box(0.4, 1, 0.4)
    crossing = TriangleMesh(
        np.concatenate([first.vertices, second.vertices]), np.concatenate([first.faces, second.faces + 8])
    )
    solids = [manifold3d.Manifold(manifold3d.Mesh64(m.vertices, m.faces.astype(np.uint64))) for m in (first, second)]
    union = (solids[0] + solids[1]).to_mesh64()
    truth = TriangleMesh(np.array(union.vert_properties)[:, :3], np.array(union.tri_verts).astype(np.int64))
    found = compare(crossing, truth)
    assert found["surface_distance_max"] < 1e-9
    assert found["volume_iou"] > 0.9999


def test_nothing_predicted_is_the_worst():
    empty = compare(None, sphere(0.5))
    assert empty == compare(TriangleMesh(np.zeros((0, 3)), np.zeros((0, 3), dtype=np.int64)), sphere(0.5))
    assert empty["volume_iou"] == 0 and empty["chamfer"] == pytest.approx(2 * np.sqrt(3))
    assert set(empty) == set(METRICS) == set(floor(sphere(0.5)))


def test_same_seed_same_numbers():
    assert compare(sphere(0.8), box(1, 1, 1), seed=1) == compare(sphere(0.8), box(1, 1, 1), seed=1)
    assert compare(sphere(0.8), box(1, 1, 1), seed=1) != compare(sphere(0.8), box(1, 1, 1), seed=2)


def test_sets_alike_and_sets_apart():
    spheres = [sphere(r) for r in (0.3, 0.5, 0.7)]
    boxes = [box(r, r, 0.2) for r in (0.9, 1.2, 1.5)]
    same = compare_sets(spheres, spheres, samples=500)
    assert same["coverage"] == 1 and same["mmd"] < 0.05 and same["one_nn_accuracy"] == 0
    apart = compare_sets(spheres, boxes, samples=500)
    assert apart["one_nn_accuracy"] > 0.6 and apart["mmd"] > same["mmd"]
    collapsed = compare_sets([spheres[0]] * 3, spheres, samples=500)
    assert collapsed["coverage"] == pytest.approx(1 / 3)
    with pytest.raises(ValueError, match="two sets"):
        compare_sets([], spheres)
