"""How good a shape run is: reconstructions of held-out solids, and a look at the samples."""

import hashlib
import math
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.spatial import cKDTree

from configs.load import to_plain
from configs.shape import ShapeConfig
from data.batch import TriangleMesh
from data.export.glb import from_glb
from data.export.mesh import is_closed, write_mesh
from data.model_folder import WEIGHTS
from data.shape import ShapeSamples
from data.splits import split_items
from flows.items import parts_folder, plain_answers
from flows.run import Run, write_json
from flows.steps.shape_networks import SolidByIndex, decode_solid, encode_solid
from flows.tracking import tracked
from modules.shape.metrics import compare, compare_sets, floor

ALIKE = 1e-3
"""Samples closer than this on average (cube units) count as the same shape."""


@dataclass(frozen=True)
class Reconstruction(SolidByIndex):
    """Encodes and decodes one solid, and compares the outcome with it."""

    shown: tuple[int, ...]
    """The solids whose reconstructions are kept as meshes, with the originals beside them."""

    def __call__(self, index: int) -> dict[str, dict[str, float]]:
        wanted, seed = self.config.evaluate, self.config.seed
        truth = self.samples.mesh(index)
        mean, _ = encode_solid(self.vae, self.samples, index, seed)
        mesh = decode_solid(self.vae, torch.from_numpy(mean), wanted.extraction)
        found = mesh if len(mesh.faces) else None
        if index in self.shown and found is not None:
            item_id, folder = self.samples.ids[index], reconstructions(self.run)
            write_mesh(found, folder / f"{item_id}.glb")
            write_mesh(truth, folder / f"{item_id}.truth.glb")
        return {
            "measured": compare(found, truth, samples=wanted.points, seed=seed),
            "floor": floor(truth, samples=wanted.points, seed=seed),
        }


def reconstructions(run: Run) -> Path:
    """The folder of the reconstructions that are shown."""
    return run.path / "reconstructions"


def evaluate(run: Run) -> None:
    """Write evaluation.json, and the first reconstructions with their originals as meshes.

    Every solid's numbers are a file of their own until all are measured, so that a killed evaluation goes on.
    """
    config: ShapeConfig = run.config
    samples = ShapeSamples(run.data_file, config.vae.draw)
    split, items = held_out(samples, config)
    weights = hashlib.sha256((run.model("vae") / WEIGHTS).read_bytes()).hexdigest()
    words = [weights, samples.fingerprint, config.seed, to_plain(config.evaluate), to_plain(config.vae.draw)]
    parts = parts_folder(run, "evaluating", words)
    if not any(parts.iterdir()):
        shutil.rmtree(reconstructions(run), ignore_errors=True)
    reconstructions(run).mkdir(exist_ok=True)
    rows: list[dict[str, float]] = []

    def tell(answer: Mapping[str, Any]) -> dict[str, float]:
        rows.append(answer["measured"])
        return {"volume_iou": _mean(rows)["volume_iou"]}

    found = plain_answers(
        "reconstruct",
        "objects",
        items,
        Reconstruction(run, tuple(items[: config.evaluate.shown])),
        parts,
        preload="flows.steps.shape_evaluation",
        network=True,
        tell=tell,
    )
    measured = {samples.ids[index]: one["measured"] for index, one in zip(items, found, strict=True)}
    truths = [samples.mesh(index) for index in items]
    result = {
        "reconstruction": {
            "split": split,
            "objects": len(items),
            "empty": sum(1 for values in measured.values() if not values.get("volume_iou")),
            "mean": _mean(measured.values()),
            "floor": _mean(one["floor"] for one in found),
            "items": measured,
        },
        "samples": look_at_samples(sorted(run.samples.glob("*.glb")), config.sample.count, truths),
    }
    write_json(run.path / "evaluation.json", _finite(result))
    shutil.rmtree(parts)
    with tracked(run, "evaluate") as tracker:
        tracker.log({f"reconstruction/{name}": value for name, value in _mean(measured.values()).items()})
        tracker.log({f"samples/{name}": value for name, value in result["samples"].items() if value is not None})


def held_out(samples: ShapeSamples, config: ShapeConfig) -> tuple[str, list[int]]:
    """The split that is reconstructed (test, else validation, else training) and the positions of its solids."""
    splits = split_items(samples.ids, config.split)
    split = next(name for name in ("test", "validation", "train") if splits[name])
    return split, splits[split][: config.evaluate.items]


def look_at_samples(paths: Sequence[Path], asked: int, truths: Sequence[TriangleMesh]) -> dict[str, Any]:
    """How many samples have a surface, how many are closed, how far the two most alike are apart (chamfer, cube units),
    and how the set compares with that of the held-out solids."""
    meshes = [from_glb(path.read_bytes()) for path in paths]
    distances = pairwise_distances(meshes)
    several = len(meshes) > 1
    return {
        "asked": asked,
        "with_surface": len(meshes),
        "closed": sum(is_closed(mesh) for mesh in meshes),
        "alike_pairs": int((distances < ALIKE).sum()),
        "least_distance": float(distances.min()) if several else None,
        "mean_distance": float(distances[np.isfinite(distances)].mean()) if several else None,
        **(compare_sets(meshes, truths) if several and len(truths) > 1 else {}),
    }


def pairwise_distances(meshes: Sequence[TriangleMesh], points: int = 1000) -> np.ndarray:
    """Symmetric chamfer distances of all pairs i < j, in cube units; inf elsewhere."""
    clouds = [_cloud(mesh, points) for mesh in meshes]
    trees = [cKDTree(cloud) for cloud in clouds]
    found = np.full((len(meshes), len(meshes)), np.inf)
    for i in range(len(meshes)):
        for j in range(i + 1, len(meshes)):
            found[i, j] = (trees[i].query(clouds[j])[0].mean() + trees[j].query(clouds[i])[0].mean()) / 2
    return found


def _cloud(mesh: TriangleMesh, points: int) -> np.ndarray:
    """Points uniform by area, the same ones for the same mesh."""
    corners = mesh.vertices[mesh.faces].astype(np.float64)
    doubled = np.linalg.norm(np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]), axis=1)
    rng = np.random.default_rng(0)
    chosen = corners[rng.choice(len(corners), points, p=doubled / doubled.sum())]
    u, v = rng.random((2, points, 1))
    u, v = np.where(u + v > 1, 1 - u, u), np.where(u + v > 1, 1 - v, v)
    cloud: np.ndarray = chosen[:, 0] + u * (chosen[:, 1] - chosen[:, 0]) + v * (chosen[:, 2] - chosen[:, 0])
    return cloud


def _mean(rows: Any) -> dict[str, float]:
    """Mean of each number over the objects that have it; a volume IoU counts 0 where nothing was reconstructed."""
    rows = list(rows)
    names = dict.fromkeys(name for row in rows for name in row)
    found = {}
    for name in names:
        values = [row[name] for row in rows if name in row and row[name] is not None and math.isfinite(row[name])]
        if values:
            found[name] = float(np.mean(values))
    return found


def _finite(value: Any) -> Any:
    """The same with null in place of NaN and infinity, which JSON does not know."""
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value
