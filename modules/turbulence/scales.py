"""What frames of a flow are like, measured in one pass over them: units for a network, its losses and its guard."""

import math
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from data.errors import PenstockError
from data.grid import Grid
from modules.turbulence.fields import fluctuation_energy


@dataclass(frozen=True)
class FieldScales:
    """Statistics of training frames, one number per component where nothing else is said."""

    mean: tuple[float, ...]
    std: tuple[float, ...]
    mean_delta: tuple[float, ...]
    """Of the change from one frame to the next."""
    std_delta: tuple[float, ...]
    fluctuation: Float[Tensor, "height component"]
    """Standard deviation about the mean of its height, float64; of one height where no axis has walls."""
    energy_band: tuple[float, float]
    """Least and greatest energy of the fluctuation of a frame (`fields.fluctuation_energy`)."""


def measured(trajectories: Iterable[Iterable[Float[Tensor, "*grid component"]]], grid: Grid) -> FieldScales:
    """The scales of all frames of all trajectories; one frame is held at a time, and the one before it.

    Means over points are plain ones, as the published normalisation has them.

    Raises:
        PenstockError: no two frames that follow one another.
    """
    values, changes, heights = _Moments(), _Moments(), _Moments()
    least, greatest = math.inf, 0.0
    for trajectory in trajectories:
        before: Tensor | None = None
        for frame in trajectory:
            field = frame.double()
            energy = float(fluctuation_energy(field[None], grid))
            least, greatest = min(least, energy), max(greatest, energy)
            values.add(field.flatten(0, -2))
            if before is not None:
                changes.add((field - before).flatten(0, -2))
            rows = field if grid.walls is None else field.movedim(grid.walls, -2)
            heights.add(rows.reshape(-1, *((1,) if grid.walls is None else rows.shape[-2:-1]), rows.shape[-1]))
            before = field
    if not changes.count:
        raise PenstockError("statistics: expected at least two frames that follow one another, got fewer.")
    return FieldScales(
        mean=tuple(values.mean.tolist()),
        std=tuple(values.std.tolist()),
        mean_delta=tuple(changes.mean.tolist()),
        std_delta=tuple(changes.std.tolist()),
        fluctuation=heights.std,
        energy_band=(least, greatest),
    )


class _Moments:
    """Mean and standard deviation over rows that come in parts (Chan, Golub and LeVeque 1979)."""

    def __init__(self) -> None:
        self.count = 0
        self.mean = torch.zeros(())
        self._squares = torch.zeros(())

    def add(self, rows: Float[Tensor, " row *more"]) -> None:
        count, mean = len(rows), rows.mean(dim=0)
        squares = (rows - mean).square().sum(dim=0)
        total = self.count + count
        shift = mean - self.mean
        self._squares = self._squares + squares + shift.square() * (self.count * count / total)
        self.mean = self.mean + shift * (count / total)
        self.count = total

    @property
    def std(self) -> Tensor:
        return (self._squares / self.count).sqrt()
