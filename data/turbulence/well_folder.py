"""A folder in The Well's layout: training, validation and test files, and the moments of the training part."""

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import numpy as np
import yaml
from jaxtyping import Float

from data.atomic import written_file
from data.errors import SchemaError
from data.grid import Grid
from data.turbulence.well import EQUAL, WellFile
from data.turbulence.well_rules import fields_of

SPLITS = ("train", "valid", "test")
"""The Well's names of the parts."""
ENDINGS = (".h5", ".hdf5")
STATS = "stats.yaml"
INDEX = "fields.json"
"""What a prepared folder holds besides: the fingerprint and how it was made."""


@dataclass(frozen=True)
class FieldMoments:
    """Moments of the training part over trajectories, times and points (every point counts alike), per component.

    `_delta` is of the change from one frame to the next. Units of the file.
    """

    mean: Float[np.ndarray, " component"]
    std: Float[np.ndarray, " component"]
    rms: Float[np.ndarray, " component"]
    mean_delta: Float[np.ndarray, " component"]
    std_delta: Float[np.ndarray, " component"]
    rms_delta: Float[np.ndarray, " component"]

    def to_yaml(self, components: Sequence[str], axes: Sequence[str]) -> str:
        """In The Well's layout: a number for a scalar field, a list for a vector, nested lists for a tensor."""
        found: dict[str, dict[str, Any]] = {}
        for kind in fields(self):
            values, first, part = getattr(self, kind.name), 0, {}
            for name, order in fields_of(components, axes):
                width = len(axes) ** order
                part[name] = values[first : first + width].reshape((len(axes),) * order).tolist()
                first += width
            found[kind.name] = part
        return str(yaml.safe_dump(found))

    @classmethod
    def from_yaml(cls, path: Path, components: Sequence[str], axes: Sequence[str]) -> Self:
        """Read `stats.yaml`.

        Raises:
            SchemaError: it lacks a moment or a field, or holds numbers that cannot be used.
        """
        try:
            found = yaml.safe_load(path.read_text())
        except (OSError, ValueError, yaml.YAMLError) as error:
            raise SchemaError(f"{path}: expected the moments of the training part as YAML ({error}).") from None
        moments = {}
        for kind in fields(cls):
            try:
                parts = [np.ravel(np.asarray(found[kind.name][name], float)) for name, _ in fields_of(components, axes)]
                values = np.concatenate(parts)
            except (KeyError, TypeError, ValueError):
                values = np.full(0, np.nan)
            usable = values.shape == (len(components),) and np.isfinite(values).all()
            if not usable or (not kind.name.startswith("mean") and (values < 0).any()):
                raise SchemaError(
                    f"{path}: expected under '{kind.name}' the finite numbers of {', '.join(components)}. Remove the "
                    "file to have it computed."
                )
            moments[kind.name] = values
        return cls(**moments)


class WellFolder:
    """Files of one data set on one grid, in `PATH/data/{train,valid,test}`, with `PATH/stats.yaml`.

    Raises:
        SchemaError: no training files, or files that break the layout's rules or differ in name, grid, components or
            spacing of the frames.
    """

    def __init__(self, path: Path) -> None:
        self.path = Path(path)
        self._files = {split: [WellFile(file) for file in files_of(self.path, split)] for split in SPLITS}
        if not self._files["train"]:
            raise SchemaError(f"{path}: expected HDF5 files in {path}/data/train, there are none.")
        first = self._files["train"][0]
        self.name, self.grid, self.components = first.name, first.grid, first.components
        self.parameters: dict[str, float] = first.parameters
        self.attributes: dict[str, Any] = first.attributes
        self.spacing = first.spacing
        for file in self._all():
            check_like(file, first)

    def files(self, split: str) -> list[WellFile]:
        """The files of `train`, `valid` or `test`, by name."""
        return self._files[split]

    def _all(self) -> Iterator[WellFile]:
        for split in SPLITS:
            yield from self._files[split]

    @cached_property
    def statistics(self) -> FieldMoments:
        """Moments of the training part, from `stats.yaml`, or computed where there is none."""
        stats = self.path / STATS
        if stats.exists():
            return FieldMoments.from_yaml(stats, self.components, self.grid.names)
        return moments_of(self._files["train"])

    def check_stats(self) -> None:
        """Refuse (SchemaError) a `stats.yaml` whose numbers cannot be used."""
        FieldMoments.from_yaml(self.path / STATS, self.components, self.grid.names)

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 (hex) over the content of all files and their part."""
        try:
            return str(json.loads((self.path / INDEX).read_text())["fingerprint"])
        except (OSError, ValueError, KeyError):
            return folder_fingerprint({split: [f.fingerprint for f in files] for split, files in self._files.items()})


def files_of(folder: Path, split: str) -> list[Path]:
    """The HDF5 files of a part, by name."""
    return sorted(p for p in (folder / "data" / split).glob("*") if p.suffix in ENDINGS and not p.name.startswith("."))


def folder_fingerprint(files: Mapping[str, Sequence[str]]) -> str:
    """The fingerprint of a folder from those of its files in each part."""
    return hashlib.sha256(json.dumps({split: list(files[split]) for split in SPLITS}).encode()).hexdigest()


def write_stats(folder: Path, show: Callable[[int, int], None] | None = None) -> FieldMoments:
    """Compute the moments of the training part of a folder and write them to its `stats.yaml`."""
    files = [WellFile(path) for path in files_of(folder, "train")]
    moments = moments_of(files, show)
    with written_file(folder / STATS) as temporary:
        temporary.write_text(moments.to_yaml(files[0].components, files[0].grid.names))
    return moments


def moments_of(files: Sequence[WellFile], show: Callable[[int, int], None] | None = None) -> FieldMoments:
    """Moments over all frames of files, a frame at a time, in float64. `show` gets (frames done, all frames)."""
    moments = RunningMoments()
    total, done = sum(sum(file.lengths) for file in files), 0
    for file in files:
        for trajectory, length in enumerate(file.lengths):
            for k in range(length):
                moments.add(file.read(trajectory, slice(k, k + 1))[0], first=k == 0)
                done += 1
                if show is not None:
                    show(done, total)
    return moments.finished()


class RunningMoments:
    """Moments of frames and of their changes, gathered a frame at a time in float64."""

    def __init__(self) -> None:
        self._values, self._changes = _Moments(), _Moments()
        self._before: Float[np.ndarray, "*grid component"] | None = None

    def add(self, frame: Float[np.ndarray, "*grid component"], *, first: bool) -> None:
        """Take the next frame of a trajectory, or the `first` one of another."""
        values = frame.astype(np.float64)
        self._values.add(values)
        if self._before is not None and not first:
            self._changes.add(values - self._before)
        self._before = values

    def finished(self) -> FieldMoments:
        return FieldMoments(*self._values.finished(), *self._changes.finished())


class _Moments:
    """Mean and variance over blocks, combined without cancellation (Chan, Golub and LeVeque 1979)."""

    def __init__(self) -> None:
        self.count = 0
        self.mean: Any = 0.0
        self.squares: Any = 0.0

    def add(self, block: Float[np.ndarray, "*points component"]) -> None:
        flat = block.reshape(-1, block.shape[-1])
        mean, count = flat.mean(axis=0), len(flat)
        shift = mean - self.mean
        between = shift**2 * (self.count * count / (self.count + count))
        self.squares = self.squares + ((flat - mean) ** 2).sum(axis=0) + between
        self.count += count
        self.mean = self.mean + shift * (count / self.count)

    def finished(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Mean, standard deviation, root of the mean square."""
        variance = self.squares / self.count
        return self.mean, np.sqrt(variance), np.sqrt(variance + self.mean**2)


def check_like(file: WellFile, first: WellFile) -> None:
    """Refuse a file (SchemaError) that is not of the same data set as another one."""
    if not file.grid.same(first.grid):
        raise SchemaError(
            f"{file.path}: expected the grid of {first.path.name} ({_words(first.grid)}), got {_words(file.grid)}. All "
            "files of a data set must share one grid."
        )
    if (file.name, file.components) != (first.name, first.components):
        raise SchemaError(
            f"{file.path}: expected the data set '{first.name}' with {', '.join(first.components)} as in "
            f"{first.path.name}, got '{file.name}' with {', '.join(file.components)}."
        )
    if abs(file.spacing - first.spacing) > EQUAL * first.spacing:
        raise SchemaError(
            f"{file.path}: expected frames {first.spacing:g} apart as in {first.path.name}, got {file.spacing:g}."
        )


def _words(grid: Grid) -> str:
    return ", ".join(f"{a.name}: {len(a)} points, {a.length:.5g}" for a in grid.axes)
