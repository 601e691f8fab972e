"""Grids, random fields and small networks for the tests of steppers."""

from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from data.batch import FieldBatch
from data.grid import Grid, between_walls, fourier, stretched
from modules.turbulence.stepper import Stepper, StepperConfig

GRIDS = {
    "square": Grid((fourier("x", 12, 2 * np.pi), fourier("y", 9, 3.0))),
    "box": Grid((fourier("x", 8, 1.0), fourier("y", 7, 2.0, origin=0.3), fourier("z", 6, 3.0))),
    "channel": Grid((fourier("x", 8, 4 * np.pi), between_walls("y", 11), fourier("z", 6, 4 * np.pi / 3))),
    "stretched": Grid((fourier("x", 10, 4.0), stretched("y", 2 * np.linspace(0, 1, 12) ** 1.4))),
    "turned": Grid((between_walls("y", 9), fourier("x", 8, 5.0))),
}
WALLED = ("channel", "stretched", "turned")


def field(grid: Grid, batch: int = 3, components: int | None = None, seed: int = 0) -> Tensor:
    """White noise about a mean that is not zero, float64."""
    draw = torch.Generator().manual_seed(seed)
    components = components or len(grid.axes)
    return 0.7 + torch.randn(batch, *grid.shape, components, generator=draw, dtype=torch.float64)


def windows(grid: Grid, size: int, history: int, frames: int, components: int = 1, seed: int = 0) -> FieldBatch:
    """A batch of white noise, float32."""
    draw = torch.Generator().manual_seed(seed)
    shape = (*grid.shape, components)
    return FieldBatch(
        ids=tuple(f"{seed}-{k}" for k in range(size)),
        seeds=torch.arange(size) + 1000 * seed,
        past=torch.randn(size, history, *shape, generator=draw),
        future=torch.randn(size, frames, *shape, generator=draw),
        grid=grid,
    )


def first(batch: FieldBatch, count: int) -> FieldBatch:
    """The first samples of a batch."""
    return replace(
        batch,
        ids=batch.ids[:count],
        seeds=batch.seeds[:count],
        past=batch.past[:count],
        future=batch.future[:count],
    )


class Pointwise(nn.Module):
    """A small network behind the interface: the same two layers at every point, and what it was shown."""

    def __init__(self, components: int, history: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(components * history, 5), nn.Tanh(), nn.Linear(5, components))
        self.shown: list[Tensor] = []

    def forward(
        self, past: Float[Tensor, "batch history *grid component"], grid: Grid
    ) -> Float[Tensor, "batch *grid component"]:
        self.shown.append(past)
        return self.layers(past.movedim(1, -1).flatten(-2))


@dataclass(frozen=True, kw_only=True)
class PointwiseConfig(StepperConfig):
    """A stepper around it."""

    def build(self) -> Stepper:
        return Stepper(self, Pointwise(self.components, self.history))
