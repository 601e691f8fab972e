"""The Fourier neural operator (Li et al. 2021) of the package neuraloperator, as a peer of the project's own networks.

Only its layers are taken, not its model class, which puts a dictionary of arguments among the weights. They multiply
modes in single precision, whatever the type of the weights.
"""

import importlib
import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Complex, Float
from torch import Tensor, nn

from data.errors import ConfigError, PenstockError
from data.grid import Grid


@dataclass(frozen=True, kw_only=True)
class FNOConfig:
    """Sizes of the Fourier neural operator."""

    components: int = 3
    axes: int = 3
    history: int = 1
    modes: int = 8
    """Fourier modes along every axis, positive and negative together."""
    width: int = 32
    layers: int = 4
    positions: bool = True
    """Tell it where each point is: sine and cosine along a periodic axis, the height between walls. A flow that is
    forced in one place, or has walls, is not the same everywhere."""
    padding: float = 0.25
    """Points that are added behind the upper wall, as a share of those between the walls: the transform takes every
    axis for periodic."""

    def __post_init__(self) -> None:
        for name in ("components", "axes", "history", "modes", "width", "layers"):
            if getattr(self, name) < 1:
                raise ConfigError(f"FNO: {name} must be at least 1, got {getattr(self, name)}.")
        if self.padding < 0:
            raise ConfigError(f"FNO: padding is a share of the points between walls, got {self.padding}.")

    def build(self) -> "FNO":
        """The network, untrained.

        Raises:
            PenstockError: the package neuraloperator is not installed.
        """
        return FNO(self)


class FNO(nn.Module):
    """Lifting, Fourier layers and projection of `neuralop.models.FNO`, on any grid."""

    def __init__(self, config: FNOConfig) -> None:
        super().__init__()
        self.config = config
        inputs = config.components * config.history + (2 * config.axes if config.positions else 0)
        built = _fno_class()(
            n_modes=(config.modes,) * config.axes,
            in_channels=inputs,
            out_channels=config.components,
            hidden_channels=config.width,
            n_layers=config.layers,
            positional_embedding=None,
        )
        self.lifting, self.blocks, self.projection = built.lifting, built.fno_blocks, built.projection
        for convolution in self.blocks.convs:
            convolution.weight = _Weight(convolution.weight.to_tensor().detach())

    def forward(
        self, past: Float[Tensor, "batch history *grid component"], grid: Grid
    ) -> Float[Tensor, "batch *grid component"]:
        """The next frame, in units of the normalised ones given.

        Raises:
            ConfigError: a grid on which neuraloperator's transform goes wrong.
        """
        x = past.movedim(1, -1).flatten(-2)
        if self.config.positions:
            places = positions(grid, past)
            x = torch.cat([x, places.expand(len(x), *places.shape)], dim=-1)
        pad = self.padding(grid)
        with torch.autocast(past.device.type, enabled=False):  # there are no transforms in half precision
            x = F.pad(self.lifting(x.movedim(-1, 1)), pad)
            for layer in range(self.config.layers):
                x = self.blocks(x, layer)
            # Before the projection, which widens.
            inside = x[(slice(None), slice(None), *(slice(points) for points in grid.shape))]
            return self.projection(inside).movedim(1, -1)

    def padding(self, grid: Grid) -> list[int]:
        """What `torch.nn.functional.pad` is to add behind each axis; the last axis first.

        On an odd number of points neuraloperator puts the modes of all axes but the last one place beside where they
        belong (it undoes a `fftshift` by another), so padded axes become even ones.
        """
        pad: list[int] = []
        for k, axis in enumerate(grid.axes):
            behind = 0 if axis.periodic else round(self.config.padding * len(axis))
            odd = (len(axis) + behind) % 2 == 1 and k < len(grid.axes) - 1
            if odd and axis.periodic:
                raise ConfigError(
                    f"FNO: axis {axis.name} is periodic with {len(axis)} points; neuraloperator needs an even number "
                    "on every axis but the last. Store the fields on an even number of points."
                )
            pad = [0, behind + odd, *pad]
        return pad


class _Weight(nn.Module):
    """A complex weight as real and imaginary part, which optimizers, casts and files treat like all others."""

    def __init__(self, weight: Complex[Tensor, "*weight"]) -> None:
        super().__init__()
        self.real, self.imaginary = nn.Parameter(weight.real.clone()), nn.Parameter(weight.imag.clone())

    def __getitem__(self, modes: tuple[slice, ...]) -> Complex[Tensor, "*weight"]:
        return torch.complex(self.real[modes], self.imaginary[modes])


def positions(grid: Grid, like: Tensor) -> Float[Tensor, "*grid feature"]:
    """Where each point is, two numbers per axis: cosine and sine of the phase, or the height in [-1, 1] and its square.

    In the type and on the device of `like`.
    """
    features = []
    for k, axis in enumerate(grid.axes):
        if axis.periodic:
            phase = 2 * np.pi * axis.points / axis.length
            pair = np.stack([np.cos(phase), np.sin(phase)], axis=-1)
        else:
            height = 2 * (axis.points - axis.points[0]) / axis.length - 1
            pair = np.stack([height, height**2], axis=-1)
        shape = [1] * len(grid.axes)
        shape[k] = len(axis)
        features.append(np.broadcast_to(pair.reshape(*shape, 2), (*grid.shape, 2)))
    return torch.as_tensor(np.concatenate(features, axis=-1), dtype=like.dtype, device=like.device)


def _fno_class() -> Any:
    try:
        with warnings.catch_warnings():  # the package changes the filters of the whole program
            return importlib.import_module("neuralop.models").FNO
    except ModuleNotFoundError as error:
        if error.name is None or error.name.split(".")[0] != "neuralop":
            raise  # the package is there, but something that it needs is not: its own message says more
        raise PenstockError(
            "expected the package 'neuralop', which is not installed. "
            "Install what this domain needs: pip install 'penstock[turbulence]'"
        ) from error
