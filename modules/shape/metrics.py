"""How near a mesh comes to another, and how near a set of meshes to another set.

Lengths are in cube units (the cube is [-1, 1]^3). Whatever is measured between point samples has a floor, the value of
a mesh against itself with other samples: `floor` gives it, and no such number should be shown without it.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import igl
import numpy as np
from jaxtyping import Bool, Float
from scipy.spatial import cKDTree
from scipy.stats import qmc

from data.batch import TriangleMesh

F_SCORE_RADII = (0.02, 0.01, 0.005)
_WORST = 2 * np.sqrt(3)
"""Diagonal of the cube: the distances reported for a missing prediction."""
_STEP = 1e-4


@dataclass(frozen=True)
class Metric:
    """What a number of `compare` means."""

    unit: str
    better: str
    """"lower" or "higher"."""
    definition: str


METRICS: dict[str, Metric] = {
    "surface_distance_mean": Metric(
        "cube", "lower", "mean over both directions of the exact distance from surface points to the other surface"
    ),
    "surface_distance_rms": Metric("cube", "lower", "root mean square of the same distances, both directions together"),
    "surface_distance_p95": Metric("cube", "lower", "95th percentile of the same distances"),
    "surface_distance_max": Metric("cube", "lower", "largest of the same distances (Hausdorff, by sampling)"),
    "accuracy_mean": Metric("cube", "lower", "mean exact distance from predicted surface points to the true surface"),
    "completeness_mean": Metric("cube", "lower", "mean exact distance from true surface points to the predicted one"),
    "chamfer": Metric(
        "cube", "lower", "nearest-neighbour distance between point samples, not squared, mean of both directions"
    ),
    **{
        f"f_score_{radius}": Metric(
            "1", "higher", f"harmonic mean of the shares of points with a neighbour within {radius}, both directions"
        )
        for radius in F_SCORE_RADII
    },
    "normal_consistency": Metric(
        "1", "higher", "mean absolute cosine between normals of nearest neighbours, mean of both directions"
    ),
    "volume_iou": Metric("1", "higher", "volume of the intersection over that of the union, by quasi-random points"),
}


def compare(
    predicted: TriangleMesh | None, truth: TriangleMesh, *, samples: int = 16_384, seed: int = 0
) -> dict[str, float]:
    """Every number of `METRICS`, with `samples` points on each surface and as many in the box around both.

    Inside is where the winding number exceeds 1/2; walls inside of the solid are not part of its surface. A prediction
    that is missing or has no faces gets the cube's diagonal for every distance and 0 for the rest.
    """
    if predicted is None or not len(predicted.faces):
        return {name: float(_WORST) if metric.unit == "cube" else 0.0 for name, metric in METRICS.items()}
    first = _surface_points(predicted, samples, np.random.default_rng([seed, 0]))
    second = _surface_points(truth, samples, np.random.default_rng([seed, 1]))
    to_truth, to_predicted = _distances(truth, first[:, :3]), _distances(predicted, second[:, :3])
    both = np.concatenate([to_truth, to_predicted])
    return {
        "surface_distance_mean": float(to_truth.mean() + to_predicted.mean()) / 2,
        "surface_distance_rms": float(np.sqrt(np.square(both).mean())),
        "surface_distance_p95": float(np.percentile(both, 95)),
        "surface_distance_max": float(both.max()),
        "accuracy_mean": float(to_truth.mean()),
        "completeness_mean": float(to_predicted.mean()),
        **_between_points(first, second),
        "volume_iou": volume_iou(predicted, truth, samples=samples, seed=seed),
    }


def floor(truth: TriangleMesh, *, samples: int = 16_384, seed: int = 0) -> dict[str, float]:
    """What `compare` gives for a perfect prediction: the truth against itself, with other points on either side."""
    return compare(truth, truth, samples=samples, seed=seed)


def volume_iou(first: TriangleMesh, second: TriangleMesh, *, samples: int = 16_384, seed: int = 0) -> float:
    """Intersection over union of the enclosed volumes, from scrambled Sobol points in the box around both.

    The standard error is at most about 0.5 / sqrt(points in the union), and less for these points.
    """
    low = np.minimum(first.vertices.min(axis=0), second.vertices.min(axis=0)).astype(np.float64)
    high = np.maximum(first.vertices.max(axis=0), second.vertices.max(axis=0)).astype(np.float64)
    unit = qmc.Sobol(3, rng=np.random.default_rng(seed)).random_base2(max(samples - 1, 1).bit_length())
    points = low + unit * (high - low)
    a, b = _inside(first, points), _inside(second, points)
    union = int((a | b).sum())
    return float((a & b).sum() / union) if union else 0.0


def compare_sets(
    generated: Sequence[TriangleMesh], reference: Sequence[TriangleMesh], *, samples: int = 2048, seed: int = 0
) -> dict[str, float]:
    """MMD, COV and 1-NNA between two sets of meshes with the Chamfer distance of `compare` (Achlioptas et al. 2018;
    Yang et al. 2019).

    `mmd` (cube units, lower is better): mean over the references of the distance to the nearest generated mesh.
    `coverage` (higher): share of references that are nearest to some generated mesh. `one_nn_accuracy` (best 0.5):
    share of all meshes whose nearest other mesh comes from the same set; 1 means that the sets can be told apart.
    """
    if not generated or not reference:
        raise ValueError(f"expected two sets with members, got {len(generated)} generated, {len(reference)} reference.")
    meshes = [*generated, *reference]
    clouds = [_surface_points(m, samples, np.random.default_rng([seed, k]))[:, :3] for k, m in enumerate(meshes)]
    trees = [cKDTree(cloud) for cloud in clouds]
    one_way = np.array([[tree.query(cloud)[0].mean() for tree in trees] for cloud in clouds])
    distance = (one_way + one_way.T) / 2
    split = len(generated)
    across = distance[:split, split:]
    others = distance + np.diag(np.full(len(meshes), np.inf))
    nearest = others.argmin(axis=1)
    same = (nearest < split) == (np.arange(len(meshes)) < split)
    return {
        "mmd": float(across.min(axis=0).mean()),
        "coverage": len(set(across.argmin(axis=1).tolist())) / len(reference),
        "one_nn_accuracy": float(same.mean()),
    }


def _between_points(first: np.ndarray, second: np.ndarray) -> dict[str, float]:
    """Chamfer, F-scores and normal consistency of two samples of points with normals."""
    distances, matches = zip(
        cKDTree(second[:, :3]).query(first[:, :3]), cKDTree(first[:, :3]).query(second[:, :3]), strict=True
    )
    forward = np.abs(np.einsum("ij,ij->i", first[:, 3:], second[matches[0], 3:])).mean()
    backward = np.abs(np.einsum("ij,ij->i", second[:, 3:], first[matches[1], 3:])).mean()
    scores = {}
    for radius in F_SCORE_RADII:
        precision, recall = (float((d < radius).mean()) for d in distances)
        scores[f"f_score_{radius}"] = 2 * precision * recall / (precision + recall) if precision + recall else 0.0
    return {
        "chamfer": float(distances[0].mean() + distances[1].mean()) / 2,
        **scores,
        "normal_consistency": float(forward + backward) / 2,
    }


def _surface_points(mesh: TriangleMesh, count: int, rng: np.random.Generator) -> Float[np.ndarray, "count 6"]:
    """Points uniform on the outer surface with unit normals."""
    corners = mesh.vertices.astype(np.float64)[mesh.faces]
    cross = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    double_area = np.linalg.norm(cross, axis=1)
    ends = np.cumsum(double_area)
    found = np.zeros((0, 6))
    for _ in range(20):
        face = np.searchsorted(ends, rng.random(count) * ends[-1], side="right").clip(max=len(ends) - 1)
        u, v = rng.random((2, count, 1))
        u, v = np.where(u + v > 1, 1 - u, u), np.where(u + v > 1, 1 - v, v)  # folds the square onto the triangle
        a, b, c = (corners[face, k] for k in range(3))
        normals = cross[face] / np.maximum(double_area[face], np.finfo(np.float64).tiny)[:, None]
        drawn = np.concatenate([a + u * (b - a) + v * (c - a), normals], axis=1)
        found = np.concatenate([found, drawn[~_inside(mesh, drawn[:, :3] + _STEP * normals)]])
        if len(found) >= count:
            return found[:count]
    # Inside out, or hardly any outer surface: then every triangle counts.
    return drawn


def _distances(mesh: TriangleMesh, points: Float[np.ndarray, "query 3"]) -> Float[np.ndarray, " query"]:
    squared = igl.point_mesh_squared_distance(
        np.ascontiguousarray(points), mesh.vertices.astype(np.float64), mesh.faces.astype(np.int64)
    )[0]
    return np.sqrt(squared)


def _inside(mesh: TriangleMesh, points: Float[np.ndarray, "query 3"]) -> Bool[np.ndarray, " query"]:
    numbers = igl.fast_winding_number(
        mesh.vertices.astype(np.float64), mesh.faces.astype(np.int64), np.ascontiguousarray(points)
    )
    return np.asarray(numbers) > 0.5
