"""One step of a flow in physical units: normalisation, the network, and the laws its prediction is made to obey."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import torch
from jaxtyping import Float
from torch import Tensor, nn

from data.errors import ConfigError, PenstockError
from data.grid import Grid
from modules.turbulence.fields import velocity_of
from modules.turbulence.fno import FNOConfig
from modules.turbulence.ifactformer import IFactFormerConfig
from modules.turbulence.projections import ProjectionConfig
from modules.turbulence.scales import FieldScales

TYPICAL_WAVES = 4
"""In a period, of which most of a vorticity is made: its velocity, times this wavenumber, is of the same size."""


@dataclass(frozen=True, kw_only=True)
class StepperConfig:
    """What is stepped, by which network, and how."""

    components: int = 3
    """Of a frame; with `axes` and `history` it takes the place of what the network's own config says."""
    axes: int = 3
    history: int = 1
    """Frames that the next one follows from."""
    increment: bool = False
    """The network says by how much the last frame changes, in units of such changes, in place of the next frame as
    published."""
    velocity: bool = False
    """Show the network the velocity beside the vorticity that it belongs to, in the periodic plane: what moves the
    vorticity depends on all of it, which few iterations along single axes cannot gather."""
    projection: ProjectionConfig = field(default_factory=ProjectionConfig)
    network: IFactFormerConfig | FNOConfig = field(default_factory=IFactFormerConfig)

    def __post_init__(self) -> None:
        if self.components < 1 or self.axes not in (2, 3) or self.history < 1:
            raise ConfigError(
                "expected at least 1 component, 2 or 3 axes and a history of at least 1 frame, "
                f"got {self.components}, {self.axes} and {self.history}."
            )
        if self.projection.divergence and self.components != self.axes:
            raise ConfigError(
                f"projection.divergence needs one velocity per axis, got {self.components} component(s) on "
                f"{self.axes} axes. Switch it off (a vorticity needs none)."
            )

    def build(self) -> "Stepper":
        """The stepper, its network untrained and its statistics those of normalised fields.

        Raises:
            ConfigError: a velocity is to be shown of what is no vorticity, or the sizes of the network do not fit.
        """
        if self.velocity and (self.components, self.axes) != (1, 2):
            raise ConfigError(
                f"velocity belongs to the vorticity of a plane flow (1 component, 2 axes), got {self.components} "
                f"component(s) on {self.axes} axes. Switch it off."
            )
        components = self.components + 2 * self.velocity
        network = replace(self.network, components=components, axes=self.axes, history=self.history)
        return Stepper(self, network.build())


class Stepper(nn.Module):
    """Steps fields in physical units by one frame, with statistics that are part of its weights."""

    mean: Float[Tensor, " component"]
    std: Float[Tensor, " component"]
    mean_delta: Float[Tensor, " component"]
    std_delta: Float[Tensor, " component"]
    energy_band: Float[Tensor, " 2"]
    """Least and greatest energy of the fluctuation in the training frames (`fields.fluctuation_energy`)."""

    def __init__(self, config: StepperConfig, network: nn.Module) -> None:
        super().__init__()
        self.config = config
        self.network = network
        for name, value in (("mean", 0.0), ("std", 1.0), ("mean_delta", 0.0), ("std_delta", 1.0)):
            self.register_buffer(name, torch.full((config.components,), value))
        self.register_buffer("energy_band", torch.tensor([0.0, math.inf]))

    def set_statistics(
        self, mean: Sequence[float], std: Sequence[float], mean_delta: Sequence[float], std_delta: Sequence[float]
    ) -> None:
        """Take the mean and standard deviation of each component, and of its change from frame to frame.

        Raises:
            ConfigError: not one number per component, or a standard deviation that is not positive.
        """
        given = {"mean": mean, "std": std, "mean_delta": mean_delta, "std_delta": std_delta}
        for name, values in given.items():
            if len(values) != self.config.components or not all(math.isfinite(v) for v in values):
                raise ConfigError(
                    f"statistics: expected {self.config.components} finite numbers as {name}, got {list(values)}."
                )
            if name.startswith("std") and min(values) <= 0:
                raise ConfigError(
                    f"statistics: {name} must be positive, got {list(values)}; a component that never changes "
                    "cannot be learned. Leave it out of the data."
                )
            getattr(self, name).copy_(torch.tensor(list(values)))

    def set_energy_band(self, least: float, greatest: float) -> None:
        """Take the least and the greatest energy of the fluctuation in the training frames.

        Raises:
            ConfigError: not 0 ≤ least ≤ greatest.
        """
        if not 0 <= least <= greatest:
            raise ConfigError(f"energy band: expected 0 <= least <= greatest, got {least} and {greatest}.")
        self.energy_band.copy_(torch.tensor([least, greatest]))

    def set_scales(self, scales: FieldScales) -> None:
        """Take the statistics and the energy band of measured frames."""
        self.set_statistics(scales.mean, scales.std, scales.mean_delta, scales.std_delta)
        self.set_energy_band(*scales.energy_band)

    def forward(
        self, past: Float[Tensor, "batch history *grid component"], grid: Grid
    ) -> Float[Tensor, "batch *grid component"]:
        """The frame after `past`, in the same physical units; the newest frame of `past` is its last.

        Raises:
            PenstockError: frames of another shape than the config and the grid say.
        """
        expected = (self.config.history, *grid.shape, self.config.components)
        if past.shape[1:] != expected:
            raise PenstockError(
                f"expected frames of shape [batch, history, *grid, component] = [·, {', '.join(map(str, expected))}], "
                f"got {list(past.shape)}."
            )
        seen = (past - self.mean) / self.std
        if self.config.velocity:
            unit = TYPICAL_WAVES * 2 * math.pi / grid.axes[0].length
            seen = torch.cat([seen, unit * velocity_of(seen, grid)], dim=-1)
        found = self.network(seen, grid)[..., : self.config.components]
        if self.config.increment:
            found = past[:, -1] + (found * self.std_delta + self.mean_delta)
        else:
            found = found * self.std + self.mean
        return self.config.projection.apply(found, past[:, -1], grid, self.energy_band)
