"""Fields as they are handed in, whatever the files: trajectories of frames on one grid, and how they are split."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from jaxtyping import Float

from data.errors import ConfigError, SchemaError
from data.grid import Grid
from data.turbulence.well import WellFile
from data.turbulence.well_folder import SPLITS

FEWEST = 2
"""Frames of a part along time: fewer hold no change."""

Piece = tuple[int, int, int]
"""Trajectory, first frame, end."""


class Frames(Protocol):
    """Where the frames of a source are read from."""

    def __call__(self, trajectory: int, frame: int) -> Float[np.ndarray, "*grid component"]: ...


@dataclass(frozen=True)
class FieldSource:
    """Trajectories of frames, read one at a time."""

    name: str
    grid: Grid
    components: tuple[str, ...]
    times: Sequence[Float[np.ndarray, " time"]]
    """Of each trajectory."""
    read: Frames
    parameters: Mapping[str, float] = field(default_factory=dict)
    attributes: Mapping[str, Any] = field(default_factory=dict)
    open_axes: tuple[str, ...] = ()
    statistics: Mapping[str, np.ndarray] = field(default_factory=dict)
    """Arrays that came with the frames."""
    notes: tuple[str, ...] = ()
    """What the user should know of how it was read."""
    given: Mapping[str, tuple[int, int]] | None = None
    """Frames of each part, where the source says it."""

    def parts(self, validation: float, test: float) -> dict[str, list[Piece]]:
        """The pieces of each part: as the source says, else whole trajectories, else, where these are fewer than
        three, one after the other along time.

        `validation` and `test` are shares of the trajectories or frames. A trajectory too short to be cut into three
        is trained on as a whole.
        """
        lengths = [len(times) for times in self.times]
        if self.given is not None:
            return {split: [(k, *self.given[split]) for k in range(len(lengths))] for split in SPLITS}
        if len(lengths) >= len(SPLITS):
            borders = _borders(len(lengths), validation, test, 1)
            whole = [(k, 0, length) for k, length in enumerate(lengths)]
            return {split: whole[a:b] for split, (a, b) in zip(SPLITS, borders, strict=True)}
        found: dict[str, list[Piece]] = {split: [] for split in SPLITS}
        for k, length in enumerate(lengths):
            for split, (a, b) in zip(SPLITS, _borders(length, validation, test, FEWEST), strict=True):
                if b > a:
                    found[split].append((k, a, b))
        return found


def _borders(count: int, validation: float, test: float, least: int) -> list[tuple[int, int]]:
    """First and end of the training, validation and test part of `count` things in a row."""
    held = [max(least, round(share * count)) if share else 0 for share in (validation, test)]
    if count - sum(held) < least:
        held = [0, 0]
    train = count - sum(held)
    return [(0, train), (train, train + held[0]), (train + held[0], count)]


def well_source(files: Sequence[WellFile]) -> FieldSource:
    """Files in The Well's layout as one source; they have been compared with each other."""
    first = files[0]
    places = [(file, trajectory) for file in files for trajectory in range(file.trajectories)]

    def read(trajectory: int, frame: int) -> Float[np.ndarray, "*grid component"]:
        file, own = places[trajectory]
        return file.read(own, slice(frame, frame + 1))[0]

    times = [file.times[own, : file.lengths[own]] for file, own in places]
    attributes = {key: value for key, value in first.attributes.items() if key != "split_frames"}
    given = _given(first, min(map(len, times))) if len(files) == 1 else None
    return FieldSource(
        name=first.name,
        grid=first.grid,
        components=first.components,
        times=times,
        read=read,
        parameters=first.parameters,
        attributes=attributes,
        open_axes=first.open_axes,
        statistics=first.statistics if len(files) == 1 else {},
        given=given,
    )


def _given(file: WellFile, length: int) -> dict[str, tuple[int, int]] | None:
    """The attribute `split_frames`, JSON: first frame and end of each part."""
    text = file.attributes.get("split_frames")
    if text is None:
        return None
    try:
        found = {split: tuple(int(k) for k in json.loads(text)[split]) for split in SPLITS}
    except (KeyError, TypeError, ValueError):
        found = {}
    pairs = sorted(found.values())
    rising = [0, *(k for pair in pairs for k in pair), length]
    if not pairs or any(len(p) != 2 or p[1] - p[0] < FEWEST for p in pairs) or rising != sorted(rising):
        raise SchemaError(
            f"{file.path}: expected the attribute 'split_frames' to give first frame and end of {', '.join(SPLITS)}, "
            f'as {{"train": [0, 80], "valid": [80, 90], "test": [90, 100]}} and within {length} frames, got {text!r}.'
        )
    return {split: (pair[0], pair[1]) for split, pair in found.items()}


@dataclass(frozen=True, kw_only=True)
class ImportConfig:
    """How fields are read that do not say everything themselves."""

    validation: float = 0.15
    """Share of the trajectories (or, where there are fewer than three, of the frames) held out for validation, where
    the source does not say its parts."""
    test: float = 0.15
    """The same for testing."""
    lengths: tuple[float, ...] = (4 * np.pi, 2.0, 4 * np.pi / 3)
    """Domain of a `.npy` array along x, y and z; y is between walls."""
    wall_points: tuple[float, ...] = ()
    """Coordinates y of a `.npy` array, from 0 to its length. Empty: equally spaced, which the fields of a channel
    rarely are."""
    spacing: float | None = None
    """Time between two frames of a `.npy` array (1 where not given), or two time indices of a JHTDB cut-out (that of
    its data set where not given)."""
    nu: float | None = None
    """Kinematic viscosity, in the units of the fields, where the file does not say it."""
    periodic: tuple[str, ...] | None = None
    """Axes of a JHTDB cut-out that are periodic. None: those that reach over the whole domain of a known data set."""

    def __post_init__(self) -> None:
        if min(self.validation, self.test) < 0 or self.validation + self.test >= 1:
            raise ConfigError(
                f"importing: shares are at least 0 and leave some for training, got validation={self.validation} and "
                f"test={self.test}."
            )
        if len(self.lengths) != 3 or min(self.lengths) <= 0:
            raise ConfigError(f"importing: expected lengths of x, y and z above 0, got {self.lengths}.")
        for name in ("spacing", "nu"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise ConfigError(f"importing: {name} is above 0 where it is given, got {value}.")
