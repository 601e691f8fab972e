"""Octree extraction beside the dense grid: questions, process CPU time and peak memory, as ratios.

    python -m benchmarks.extraction                  # 128 and 256 with a network for a field, memory at 512
    python -m benchmarks.extraction --topology       # marching cubes of three libraries on random fields

Dense is what the extraction replaces: the same grid points, all asked in the same chunks, then scikit-image's marching
cubes (Lewiner). The field is the exact distance of a solid, which a residual network of random weights disturbs by a
thousandth: it has the shape of a decoder's query block in small, so that a question costs what arithmetic costs. Each
measurement runs in a process of its own, alternating between the two; times are seconds of process CPU, the smallest of
the repetitions, and only their ratios mean anything on a shared machine.
"""

import argparse
import multiprocessing
import resource
import time
from collections.abc import Callable
from multiprocessing.connection import Connection

import igl
import numpy as np
import torch
from skimage.measure import marching_cubes
from torch import Tensor, nn

from data.batch import TriangleMesh
from modules.geometry.marching import CORNERS, march
from modules.geometry.surface import ExtractionConfig, extract_surface


def torus(points: Tensor) -> Tensor:
    return torch.hypot(torch.hypot(points[:, 0], points[:, 1]) - 0.6, points[:, 2]) - 0.25


def sphere(points: Tensor) -> Tensor:
    return points.norm(dim=1) - 0.8


SOLIDS = {"sphere": sphere, "torus": torus}


class CostlyField:
    """A distance plus a small network: a few hundred thousand multiplications per point."""

    def __init__(self, distance: Callable[[Tensor], Tensor], width: int, layers: int) -> None:
        torch.manual_seed(0)
        hidden = [layer for _ in range(layers) for layer in (nn.Linear(width, width), nn.GELU())]
        self.network = nn.Sequential(nn.Linear(3, width), nn.GELU(), *hidden, nn.Linear(width, 1)).eval()
        self.distance = distance

    def __call__(self, points: Tensor) -> Tensor:
        return self.distance(points) + 1e-3 * self.network(points)[:, 0]


def dense_surface(field: Callable[[Tensor], Tensor], config: ExtractionConfig) -> tuple[TriangleMesh, int]:
    """The mesh from all grid points, and their number."""
    n = config.resolution
    axis = torch.from_numpy((config.bound * (2 * np.arange(n + 1) / n - 1)).astype(np.float32))
    values = torch.empty((n + 1) ** 3)
    with torch.no_grad():
        for start in range(0, len(values), config.chunk):
            flat = torch.arange(start, min(start + config.chunk, len(values)))
            index = torch.stack([flat // (n + 1) ** 2, flat // (n + 1) % (n + 1), flat % (n + 1)], dim=1)
            values[start : start + config.chunk] = field(axis[index])
    vertices, faces, _, _ = marching_cubes(values.reshape(n + 1, n + 1, n + 1).numpy(), 0.0)
    return TriangleMesh((config.bound * (2 * vertices / n - 1)).astype(np.float32), faces), len(values)


def _measure(way: str, solid: str, resolution: int, width: int, layers: int, answer: Connection) -> None:
    torch.set_num_threads(1)
    field = CostlyField(SOLIDS[solid], width, layers) if width else SOLIDS[solid]
    config = ExtractionConfig(resolution=resolution)
    extract_surface(sphere, ExtractionConfig(resolution=16))  # first-call costs of both sides
    marching_cubes(np.linalg.norm(np.mgrid[-1:1:9j, -1:1:9j, -1:1:9j], axis=0), 0.5)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = time.process_time()
    if way == "octree":
        mesh, stats = extract_surface(field, config)
        queries = stats.queries
    else:
        mesh, queries = dense_surface(field, config)
    seconds = time.process_time() - start
    peak = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    error = SOLIDS[solid](torch.from_numpy(np.ascontiguousarray(mesh.vertices))).abs().max().item()
    answer.send((queries, seconds, peak, error / (2 * config.bound / resolution), len(mesh.faces)))


def measure(way: str, solid: str, resolution: int, width: int, layers: int) -> tuple[int, float, float, float, int]:
    """Questions, CPU seconds, peak memory above the start in MiB, largest error in cells, faces; in a new process."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_measure, args=(way, solid, resolution, width, layers, theirs))
    process.start()
    theirs.close()
    result = ours.recv()
    process.join()
    return result


def compare(solid: str, resolution: int, repeats: int, width: int, layers: int) -> None:
    """Print one row: the dense grid against the octree, runs alternating."""
    runs = [[measure(way, solid, resolution, width, layers) for way in ("dense", "octree")] for _ in range(repeats)]
    (dense_queries, _, _, dense_error, _), (queries, _, _, error, faces) = runs[0]
    seconds = [min(run[side][1] for run in runs) for side in (0, 1)]
    peak = [min(run[side][2] for run in runs) for side in (0, 1)]
    field = f"network {width}x{layers}" if width else "formula"
    print(
        f"{solid:8} {resolution:5} {field:14} {dense_queries:>12,} {queries:>10,} {dense_queries / queries:9.1f}x "
        f"{seconds[0] / seconds[1]:9.1f}x {peak[0] / max(peak[1], 1):8.1f}x {peak[0]:7.0f} {peak[1]:7.0f} "
        f"{dense_error:9.3f} {error:9.3f} {faces:>10,}",
        flush=True,
    )


def topology(fields: int, size: int = 32) -> None:
    """Print what is wrong with the meshes of random fields: white noise, and white noise rounded to halves."""
    index = np.argwhere(np.ones((size - 1,) * 3))
    rows: dict[tuple[str, str], np.ndarray] = {}
    for seed in range(fields):
        noise = np.random.default_rng(seed).standard_normal((size - 2,) * 3)
        for kind, inner in (("noise", noise), ("noise with zeros", np.round(2 * noise) / 2)):
            grid = np.pad(inner.astype(np.float32), 1, constant_values=1)
            lewiner = marching_cubes(grid, 0.0)[:2]
            corners = np.stack(np.meshgrid(*[np.arange(size)] * 3, indexing="ij"), axis=-1).astype(np.float64)
            # libigl numbers its corners with x fastest
            flat, points = grid.T.ravel().astype(np.float64), corners.transpose(2, 1, 0, 3).reshape(-1, 3)
            libigl = igl.marching_cubes(flat, points, size, size, size, 0.0)[:2]
            edges, faces = march(index, np.stack([grid[tuple((index + c).T)] for c in CORNERS], axis=1), size)
            vertices = edges.corners.astype(np.float64)
            vertices[np.arange(len(vertices)), edges.axes] += edges.fractions()
            for name, mesh in (("scikit-image", lewiner), ("libigl", libigl), ("penstock", (vertices, faces))):
                rows[kind, name] = rows.get((kind, name), 0) + _defects(*mesh)
    print(f"{'field':18}{'marching cubes':16}{'open edges':>12}{'edges of >2':>12}{'flat faces':>12}{'faces':>12}")
    for (kind, name), counts in rows.items():
        print(f"{kind:18}{name:16}" + "".join(f"{count:>12,}" for count in counts))


def _defects(vertices: np.ndarray, faces: np.ndarray) -> np.ndarray:
    pairs = np.sort(np.concatenate([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]]).astype(np.int64), axis=1)
    shared = np.unique(pairs @ (1, len(vertices)), return_counts=True)[1]
    v = vertices.astype(np.float64)[faces]
    area = np.linalg.norm(np.cross(v[:, 1] - v[:, 0], v[:, 2] - v[:, 0]), axis=1) / 2
    return np.array([(shared == 1).sum(), (shared > 2).sum(), (area < 1e-12).sum(), len(faces)])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--topology", action="store_true", help="compare marching cubes on random fields instead")
    parser.add_argument("--resolutions", type=int, nargs="*", default=[128, 256], help="with the network")
    parser.add_argument("--memory-resolution", type=int, default=512, help="with a formula for the field; 0: none")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--width", type=int, default=128)
    parser.add_argument("--layers", type=int, default=4)
    options = parser.parse_args()
    if options.topology:
        topology(fields=8)
        return
    print(
        f"{'solid':8} {'cells':>5} {'field':14} {'dense asks':>12} {'octree':>10} {'fewer':>10} {'CPU':>10} "
        f"{'memory':>9} {'MiB d.':>7} {'MiB o.':>7} {'err d.':>9} {'err o.':>9} {'faces':>10}   err: cells"
    )
    for resolution in options.resolutions:
        for solid in SOLIDS:
            compare(solid, resolution, options.repeats, options.width, options.layers)
    if options.memory_resolution:
        compare("sphere", options.memory_resolution, 1, 0, 0)


if __name__ == "__main__":
    main()
