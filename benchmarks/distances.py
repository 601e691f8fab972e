"""Signed distances side by side: rate in points per CPU second and error against the exact distance.

    python -m benchmarks.distances [MESH...] [--points 20000]      # without meshes: three synthetic solids

`ours` is `data.shape.distance.signed_distances`: libigl's exact point-to-triangle distance with the sign of the fast
winding number. `igl fast winding` is libigl's own combination; point-cloud-utils (compared where installed) wraps the
same code. Both scale the distance by the approximated 1 - 2w, which the error columns show. CPU seconds of the process,
so run it with OMP_NUM_THREADS=1 IGL_NUM_THREADS=1.
"""

import argparse
import importlib.util
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import igl
import numpy as np

from data.shape.distance import signed_distances
from data.shape.mesh_reading import read_mesh
from data.shape.repair import merge
from data.shape.sampling import sample_surface
from data.synthetic.shape import SyntheticShapesConfig, synthetic_meshes


def methods() -> dict[str, Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]]:
    """What is compared: (points, vertices, faces) -> signed distances."""
    signs = igl.SignedDistanceType
    found = {
        "ours": lambda p, v, f: signed_distances(v, f, p),
        "igl fast winding": lambda p, v, f: igl.signed_distance(
            p, v, f, signs.SIGNED_DISTANCE_TYPE_FAST_WINDING_NUMBER
        )[0],
        "igl pseudonormal": lambda p, v, f: igl.signed_distance(p, v, f, signs.SIGNED_DISTANCE_TYPE_PSEUDONORMAL)[0],
    }
    if importlib.util.find_spec("point_cloud_utils"):
        import point_cloud_utils

        found["point-cloud-utils"] = lambda p, v, f: point_cloud_utils.signed_distance_to_mesh(p, v, f)[0]
    return found


def solids(paths: list[Path]) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    """(name, vertices, faces) of the meshes in the cube; of synthetic solids where no mesh is named."""
    for path in paths:
        source = read_mesh(path)
        low, high = source.vertices.min(axis=0), source.vertices.max(axis=0)
        vertices, faces = merge((source.vertices - (low + high) / 2) * (1.9 / (high - low).max()), source.faces)
        yield path.name, vertices, faces.astype(np.int64)
    if not paths:
        for item_id, mesh, _ in synthetic_meshes(SyntheticShapesConfig(count=9)):
            if item_id.startswith(("torus", "union", "supershape")):
                yield item_id, mesh.vertices.astype(np.float64), mesh.faces.astype(np.int64)


def main() -> None:
    """Print one table row per mesh, kind of points and method."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("meshes", nargs="*", type=Path)
    parser.add_argument("--points", type=int, default=20_000)
    arguments = parser.parse_args()
    print(f"{'mesh':22s} {'points':8s} {'method':18s} {'points/CPU s':>12s} {'max error':>10s} {'wrong signs':>11s}")
    for label, vertices, faces in solids(arguments.meshes):
        rng = np.random.default_rng(0)
        near = sample_surface(vertices, faces, arguments.points, rng)[:, :3]
        near = near + 0.01 * rng.standard_normal(near.shape)
        for kind, points in {"uniform": rng.uniform(-1, 1, (arguments.points, 3)), "near": near}.items():
            exact = np.sqrt(igl.point_mesh_squared_distance(points, vertices, faces)[0])
            inside = igl.winding_number(vertices, faces, points) > 0.5
            for name, method in methods().items():
                begun = time.process_time()
                found = method(points, vertices, faces)
                rate = len(points) / (time.process_time() - begun)
                error, wrong = np.abs(np.abs(found) - exact).max(), int(((found < 0) != inside).sum())
                print(f"{label:22s} {kind:8s} {name:18s} {rate:12,.0f} {error:10.1e} {wrong:11d}", flush=True)


if __name__ == "__main__":
    main()
