"""Profiles over half a channel in wall units: of streamed statistics and of published tables alike."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from scipy.interpolate import CubicSpline

from data.turbulence.blocks import Estimate, Means
from data.turbulence.statistics import Statistics, covariance


@dataclass(frozen=True, kw_only=True, eq=False)
class Profiles:
    """Means over time, both wall-parallel directions and both halves, in units of u_tau and nu / u_tau."""

    name: str
    y: Float[np.ndarray, " half"]
    """Distance from the wall in half-heights, from 0 to 1."""
    re_tau: float
    velocity: Estimate
    """Streamwise [half]."""
    rms: Estimate
    """Fluctuations [half, 3]: streamwise, wall-normal, spanwise."""
    shear: Estimate | None
    """-<u'v'> [half]; None where the table has none."""
    filtered: bool
    """Of a filtered field, whose fluctuations lack what the filter took."""

    @property
    def y_plus(self) -> Float[np.ndarray, " half"]:
        return self.y * self.re_tau

    @property
    def weights(self) -> Float[np.ndarray, " half"]:
        """Of the trapezoid rule; they sum to 1 where the profile begins at the wall and ends in the centre."""
        steps = np.diff(self.y)
        return np.concatenate([steps[:1], steps[:-1] + steps[1:], steps[-1:]]) / 2

    @property
    def bulk_velocity(self) -> float:
        return float(self.weights @ self.velocity.value)

    @property
    def centre_velocity(self) -> float:
        return float(self.velocity.value[-1])

    @property
    def kinetic_energy(self) -> float:
        """Mean over the volume of ½ (u'² + v'² + w'²)."""
        return float(self.weights @ (0.5 * (self.rms.value**2).sum(axis=-1)))

    def at(self, y: Float[np.ndarray, " point"]) -> "Profiles":
        """The same at other distances, by cubic splines through the points (half-widths linearly)."""

        def moved(estimate: Estimate) -> Estimate:
            flat = estimate.plus_minus.reshape(len(self.y), -1)
            widths = np.stack([np.interp(y, self.y, column) for column in flat.T], axis=-1)
            return Estimate(
                CubicSpline(self.y, estimate.value, axis=0)(y), widths.reshape(len(y), *estimate.value.shape[1:])
            )

        return Profiles(
            name=self.name,
            y=y,
            re_tau=self.re_tau,
            velocity=moved(self.velocity),
            rms=moved(self.rms),
            shear=None if self.shear is None else moved(self.shear),
            filtered=self.filtered,
        )


def wall_profiles(statistics: Statistics, name: str, *, filtered: bool = True) -> Profiles:
    """Profiles of a channel in its own wall units: its u_tau is that of the mean gradient at both walls.

    Raises:
        ConfigError: no walls, points without mirror symmetry, or an unknown viscosity.
    """
    layout, normal = statistics.layout, statistics.normal
    order = [0, normal, *(k for k in range(1, len(layout.grid.axes)) if k != normal)]
    signs = np.multiply.outer(layout.parity, layout.parity)

    def stresses(means: Means) -> np.ndarray:
        return statistics.folded(covariance(means), signs) / statistics.wall_stress(means)

    def velocity(means: Means) -> np.ndarray:
        return statistics.folded(means["velocity"], layout.parity)[:, 0] / np.sqrt(statistics.wall_stress(means))

    def rms(means: Means) -> np.ndarray:
        return np.sqrt(np.maximum(np.diagonal(stresses(means), axis1=1, axis2=2)[:, order], 0.0))

    return Profiles(
        name=name,
        y=statistics.half_points / statistics.half_height,
        re_tau=statistics.re_tau,
        velocity=statistics.blocks.estimate(velocity),
        rms=statistics.blocks.estimate(rms),
        shear=statistics.blocks.estimate(lambda m: -stresses(m)[:, 0, normal]),
        filtered=filtered,
    )
