"""Size and speed of the store's filters and chunks, on points and distances like those of prepared shapes.

    python -m benchmarks.store_compression [--items 24] [--rounds 7] [--file samples.h5]

Every choice holds the same items and they take turns, in an order that changes each round, so that a busy machine
slows all alike; times are medians and are printed as ratios to storing without a filter. `--file` takes the items of a
prepared file instead of the generated ones.
"""

import argparse
import hashlib
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from data import store
from data.schema import Array, FileKind
from data.store import Reader, Writer

Item = dict[str, np.ndarray]

KIND = FileKind(
    "benchmark.samples",
    1,
    "Points and distances of balls and tori.",
    {
        "surface": Array("point* 6", "float32", "cube", "position and normal"),
        "near": Array("near* 4", "float32", "cube", "position and distance"),
        "volume": Array("volume* 4", "float32", "cube", "position and distance"),
        "vertices": Array("vertex* 3", "float32", "cube", "of the mesh"),
        "faces": Array("face* 3", "int32", "1", "of the mesh"),
    },
)

FILTERS: dict[str, dict[str, Any] | None] = {
    "chosen (indices gzip 1 + shuffle, floats none)": None,
    "none": {},
    "lzf": {"compression": "lzf"},
    "lzf + shuffle": {"compression": "lzf", "shuffle": True},
    "gzip 1 + shuffle": {"compression": "gzip", "compression_opts": 1, "shuffle": True},
    "gzip 4": {"compression": "gzip", "compression_opts": 4},
    "gzip 4 + shuffle": {"compression": "gzip", "compression_opts": 4, "shuffle": True},
    "gzip 9 + shuffle": {"compression": "gzip", "compression_opts": 9, "shuffle": True},
}


def torus_grid(major: float, minor: float, around: int, across: int) -> tuple[np.ndarray, np.ndarray]:
    """Vertices and faces of a torus's regular triangle mesh."""
    u, v = np.meshgrid(np.arange(around) / around, np.arange(across) / across, indexing="ij")
    u, v = 2 * np.pi * u.ravel(), 2 * np.pi * v.ravel()
    vertices = np.stack(
        [(major + minor * np.cos(v)) * np.cos(u), (major + minor * np.cos(v)) * np.sin(u), minor * np.sin(v)], 1
    )
    i, j = (grid.ravel() for grid in np.meshgrid(np.arange(around), np.arange(across), indexing="ij"))
    a, b = i * across + j, (i + 1) % around * across + j
    c, d = (i + 1) % around * across + (j + 1) % across, i * across + (j + 1) % across
    return vertices.astype(np.float32), np.concatenate([np.stack([a, b, c], 1), np.stack([a, c, d], 1)]).astype(
        np.int32
    )


def generated_item(index: int) -> Item:
    """A turned torus: 20480 surface points, 20480 near and 10240 volume distances, a mesh of changing size."""
    rng = np.random.default_rng(index)
    major, minor = rng.uniform(0.4, 0.65), rng.uniform(0.1, 0.25)
    turn = np.linalg.qr(rng.normal(size=(3, 3)))[0]

    def distance(points: np.ndarray) -> np.ndarray:
        return np.hypot(np.hypot(points[:, 0], points[:, 1]) - major, points[:, 2]) - minor

    u, v = rng.uniform(0, 2 * np.pi, (2, 20480))
    normals = np.stack([np.cos(v) * np.cos(u), np.cos(v) * np.sin(u), np.sin(v)], 1)
    centres = np.stack([major * np.cos(u), major * np.sin(u), 0 * u], 1)
    surface = centres + minor * normals
    near = surface + rng.normal(size=surface.shape) * rng.choice([0.01, 0.05], (len(surface), 1))
    volume = rng.uniform(-1, 1, (10240, 3))
    vertices, faces = torus_grid(major, minor, int(rng.integers(32, 128)), int(rng.integers(16, 64)))
    arrays = {
        "surface": np.concatenate([surface @ turn, normals @ turn], 1),
        "near": np.concatenate([near @ turn, distance(near)[:, None]], 1),
        "volume": np.concatenate([volume @ turn, distance(volume)[:, None]], 1),
        "vertices": vertices @ turn,
    }
    return {**{name: value.astype(np.float32) for name, value in arrays.items()}, "faces": faces}


def file_items(path: Path, count: int) -> tuple[FileKind, list[Item], dict[str, Any]]:
    """The first items of a prepared file of shapes."""
    from data.shape.kinds import SHAPE_SAMPLES

    reader = Reader(path, SHAPE_SAMPLES)
    return SHAPE_SAMPLES, [reader.read(i) for i in range(min(count, len(reader)))], reader.attributes


def measure(names: list[str], rounds: int, action: Callable[[str], None]) -> dict[str, float]:
    """Median seconds of `action(name)`, the names taking turns in a new order each round."""
    times: dict[str, list[float]] = {name: [] for name in names}
    rng = np.random.default_rng(0)
    for _ in range(rounds):
        for name in rng.permutation(names):
            begin = time.process_time()
            action(str(name))
            times[str(name)].append(time.process_time() - begin)
    return {name: statistics.median(values) for name, values in times.items()}


def write(
    path: Path, kind: FileKind, items: list[Item], attributes: dict[str, Any], filters: dict[str, Any] | None
) -> None:
    with Writer(path, kind, attributes, compression=filters) as writer:
        for number, item in enumerate(items):
            writer.add(str(number), item)


def read_all(path: Path, kind: FileKind) -> None:
    """Every item once, in random order, from the page cache."""
    reader = Reader(path, kind)
    for index in np.random.default_rng(0).permutation(len(reader)):
        reader.read(int(index))
    reader.close()


def hashing_share(items: list[Item], seconds: float) -> float:
    """Part of the writing time that the fingerprint takes."""
    begin = time.process_time()
    digest = hashlib.sha256()
    for item in items:
        for value in item.values():
            digest.update(memoryview(np.ascontiguousarray(value).reshape(-1).view(np.uint8)))
    return (time.process_time() - begin) / seconds


def compare_filters(kind: FileKind, items: list[Item], attributes: dict[str, Any], rounds: int, folder: Path) -> None:
    paths = {name: folder / f"{position}.h5" for position, name in enumerate(FILTERS)}
    names = list(FILTERS)
    writing = measure(names, rounds, lambda name: write(paths[name], kind, items, attributes, FILTERS[name]))
    reading = measure(names, rounds, lambda name: read_all(paths[name], kind))
    raw = sum(np.asarray(value).nbytes for item in items for value in item.values() if value.dtype.kind != "U")
    print(f"{len(items)} items, {raw / 1e6:.1f} MB of values, Fletcher-32 in all\n")
    print("| filter | size / values | write time / none | read time / none | read, ms CPU per item |")
    print("| --- | --- | --- | --- | --- |")
    for name in names:
        size = paths[name].stat().st_size / raw
        write_ratio, read_ratio = writing[name] / writing["none"], reading[name] / reading["none"]
        print(
            f"| {name} | {size:.3f} | {write_ratio:.2f} | {read_ratio:.2f} | {1e3 * reading[name] / len(items):.2f} |"
        )
    share = hashing_share(items, writing["none"])
    print(f"\nSHA-256 of the fingerprint: {share:.0%} of the writing time without a filter")


def compare_chunks(kind: FileKind, items: list[Item], attributes: dict[str, Any], rounds: int, folder: Path) -> None:
    """Chunks of a ragged axis: parts of a typical item, each item starting on a chunk of its own."""
    parts = {"whole item": 1, "half": 2, "quarter": 4, "eighth": 8, "sixteenth": 16}
    paths = {name: folder / f"chunk-{part}.h5" for name, part in parts.items()}
    kept = store.CHUNKS_PER_ITEM
    for name, part in parts.items():
        store.CHUNKS_PER_ITEM = part
        write(paths[name], kind, items, attributes, None)
    store.CHUNKS_PER_ITEM = kept
    reading = measure(list(parts), rounds, lambda name: read_all(paths[name], kind))
    print("\n| chunk of a ragged axis | size / whole item | read time / whole item |\n| --- | --- | --- |")
    base = paths["whole item"].stat().st_size
    for name in parts:
        print(f"| {name} | {paths[name].stat().st_size / base:.3f} | {reading[name] / reading['whole item']:.2f} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--items", type=int, default=24)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--file", type=Path, help="a prepared samples.h5 of shapes")
    options = parser.parse_args()
    if options.file:
        kind, items, attributes = file_items(options.file, options.items)
    else:
        kind, items, attributes = KIND, [generated_item(index) for index in range(options.items)], {}
    with tempfile.TemporaryDirectory() as folder:
        compare_filters(kind, items, attributes, options.rounds, Path(folder))
        compare_chunks(kind, items, attributes, options.rounds, Path(folder))


if __name__ == "__main__":
    main()
