"""Streaming statistics of a turbulent flow: frames go in one by one, memory does not grow with their number.

Only the time series (about 100 bytes a frame) grow. Everything else is a mean over blocks of frames (`blocks`), from
which profiles, stresses, spectra and correlations follow with confidence intervals.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int
from torch import Tensor

from data.errors import ConfigError, PenstockError
from data.grid import Grid
from data.turbulence.blocks import Blocks, BlockSums, Estimate, Means
from data.turbulence.frame_statistics import (
    BINS,
    WIDTH,
    FrameStatistics,
    Layout,
    layout_of,
    level_mean,
    shell_width,
    volume_mean,
)
from data.turbulence.lags import LagProducts

HEIGHTS = (5.0, 15.0, 30.0, 100.0)
"""Wall units at which spectra and histograms are taken, besides the centre."""


@dataclass(frozen=True, eq=False)
class Series:
    """What is kept of every frame."""

    time: Float[np.ndarray, " frame"]
    trajectory: Int[np.ndarray, " frame"]
    energy: Float[np.ndarray, " frame"]
    """½ <u·u> over the volume."""
    fluctuation: Float[np.ndarray, " frame"]
    """The same of the velocity less its mean over the averaged axes in this frame."""
    enstrophy: Float[np.ndarray, " frame"]
    """½ <ω·ω> over the volume."""
    bulk: Float[np.ndarray, "frame axis"]
    """Velocity averaged over the volume."""
    friction: Float[np.ndarray, "frame wall"]
    """Stress on the lower and the upper wall, nu |∂U/∂y|; no columns without walls or viscosity."""
    divergence: Float[np.ndarray, " frame"]
    """Rms of the divergence over the volume."""

    def of(self, trajectory: int) -> "Series":
        """The frames of one trajectory."""
        kept = self.trajectory == trajectory
        return Series(*(getattr(self, name)[kept] for name in self.__dataclass_fields__))


@dataclass(frozen=True, kw_only=True, eq=False)
class Statistics:
    """Statistics of a flow, in the units of its fields.

    `blocks` holds, with `profile` the points of the profile's axis (1 where there is none), `axis` the velocity
    components, `level` those of the layout:
    velocity, vorticity [profile, axis], product <u_i u_j> [profile, axis, axis], vorticity_square [profile, axis],
    divergence_square, gradient_square (of ∂u/∂x) [profile], spectrum_NAME along each averaged axis
    [level, axis, mode], shell_spectrum [shell] where all axes are periodic, histogram [level, quantity, bin],
    lag_product [level, axis, lag], lag_pairs [lag].
    """

    layout: Layout
    nu: float | None
    blocks: Blocks
    series: Series
    scales: Float[np.ndarray, "level quantity"]
    """Standard deviations in which the histograms count; the quantities are velocities, then vorticities."""

    @property
    def grid(self) -> Grid:
        return self.layout.grid

    @property
    def frames(self) -> int:
        return len(self.series.time)

    @property
    def spacing(self) -> float:
        """Time between frames; NaN for a single frame."""
        steps = np.concatenate([np.diff(self.series.of(run).time) for run in np.unique(self.series.trajectory)])
        return float(np.median(steps)) if len(steps) else float("nan")

    @property
    def quantities(self) -> tuple[str, ...]:
        """Names of what the histograms are of."""
        return (*self.layout.velocities, *self.layout.vorticities)

    @property
    def points(self) -> Float[np.ndarray, " profile"]:
        """Coordinates of the profiles (0 where there is no axis of the profile)."""
        return np.zeros(1) if self.layout.profile is None else self.grid.axes[self.layout.profile].points

    @property
    def heights(self) -> Float[np.ndarray, " level"]:
        """Distance of each level from the lower wall; 0 for a level of all points."""
        if not self.layout.walls:
            return np.zeros(len(self.layout.levels))
        return np.array([self.points[level[0]] - self.points[0] for level in self.layout.levels])

    # Profiles: of the whole axis, or symmetrised: the mean of both halves, on the lower one.

    @property
    def velocity(self) -> Estimate:
        """Mean velocity [profile, axis]."""
        return self.blocks.estimate(lambda m: m["velocity"])

    @property
    def covariance(self) -> Estimate:
        """<u_i' u_j'> [profile, axis, axis] about the mean over time and the averaged axes."""
        return self.blocks.estimate(covariance)

    @property
    def rms(self) -> Estimate:
        """Root mean square of the fluctuations [profile, axis]."""
        return self.blocks.estimate(_rms)

    @property
    def half_velocity(self) -> Estimate:
        """Mean velocity over both halves [half, axis]; the wall-normal one with its sign turned in the upper half."""
        return self.blocks.estimate(lambda m: self.folded(m["velocity"], self.layout.parity))

    @property
    def half_covariance(self) -> Estimate:
        """<u_i' u_j'> over both halves [half, axis, axis]."""
        signs = np.multiply.outer(self.layout.parity, self.layout.parity)
        return self.blocks.estimate(lambda m: self.folded(covariance(m), signs))

    @property
    def half_rms(self) -> Estimate:
        """Root mean square over both halves [half, axis]."""
        return self.blocks.estimate(lambda m: np.sqrt(self.folded(_rms(m) ** 2, np.ones(self.layout.parity.shape))))

    @property
    def half_shear(self) -> Estimate:
        """-<u'v'> over both halves [half], of the first component and the wall-normal one."""
        found = self.half_covariance[:, 0, self.normal]
        return Estimate(-found.value, found.plus_minus)

    @property
    def half_points(self) -> Float[np.ndarray, " half"]:
        """Distance from the wall, up to the centre."""
        return self.points[: (len(self.points) + 1) // 2] - self.points[0]

    @property
    def half_weights(self) -> Float[np.ndarray, " half"]:
        """Quadrature weights of the half profile; they sum to 1."""
        weights = self.layout.weights
        half = (weights + weights[::-1])[: (len(weights) + 1) // 2]
        if len(weights) % 2:
            half[-1] /= 2
        return half / half.sum()

    def folded(self, profile: Float[np.ndarray, "profile ..."], signs: np.ndarray) -> Float[np.ndarray, "half ..."]:
        """Mean of the lower half and of the upper one, turned over with these signs.

        Raises:
            ConfigError: the flow has no walls, or their grid is not symmetric.
        """
        if not self.layout.mirrored:
            raise ConfigError("both halves are averaged only between walls, on points that are their own mirror image.")
        return ((profile + signs * profile[::-1]) / 2)[: (len(profile) + 1) // 2]

    # Wall units.

    @property
    def u_tau(self) -> Estimate:
        """Friction velocity, from the gradient of the mean velocity at both walls []."""
        return self.blocks.estimate(lambda m: np.sqrt(self.wall_stress(m)))

    @property
    def u_tau_balance(self) -> Estimate:
        """Friction velocity from the balance -<u'v'> + nu dU/dy = u_tau² (1 - y/h), by least squares over y [].

        In filtered fields the resolved stress is too small, and so is this.
        """
        return self.blocks.estimate(self._balance)

    @property
    def re_tau(self) -> float:
        """Friction Reynolds number, of half the distance of the walls."""
        return float(self.u_tau.value) * self.half_height / self._viscosity

    @property
    def centre_velocity(self) -> Estimate:
        """Mean streamwise velocity in the middle between the walls []."""
        return self.half_velocity[-1, 0]

    # Volume.

    @property
    def bulk(self) -> Estimate:
        """Velocity averaged over the volume [axis]."""
        return self.blocks.estimate(lambda m: volume_mean(m["velocity"], self.layout))

    @property
    def energy(self) -> Estimate:
        """½ <u·u>, with the mean flow []."""
        return self.blocks.estimate(lambda m: volume_mean(0.5 * np.trace(m["product"], axis1=1, axis2=2), self.layout))

    @property
    def fluctuation_energy(self) -> Estimate:
        """½ <u'·u'> []."""
        return self.blocks.estimate(lambda m: volume_mean(0.5 * (_rms(m) ** 2).sum(axis=-1), self.layout))

    @property
    def enstrophy(self) -> Estimate:
        """½ <ω·ω> []."""
        return self.blocks.estimate(lambda m: volume_mean(0.5 * m["vorticity_square"].sum(axis=-1), self.layout))

    @property
    def divergence(self) -> Estimate:
        """Rms divergence and rms ∂u/∂x [2], over the volume; between walls without the walls themselves."""
        inside = slice(1, -1) if self.layout.walls else slice(None)
        weights = self.layout.weights
        return self.blocks.estimate(
            lambda m: np.sqrt(
                [
                    np.average(m[f"{name}_square"][inside], weights=weights[inside])
                    for name in ("divergence", "gradient")
                ]
            )
        )

    # Spectra, histograms, correlation.

    def wavenumbers(self, axis: str) -> Float[np.ndarray, " mode"]:
        """Angular wavenumbers of `spectrum(axis)`."""
        found = self.grid.axes[self.grid.names.index(axis)]
        return 2 * np.pi / found.length * np.arange(len(found) // 2 + 1)

    def spectrum(self, axis: str) -> Estimate:
        """Energy of the fluctuations by wavenumber [level, axis, mode]; the sum over the modes is their mean square."""

        def found(means: Means) -> np.ndarray:
            spectra = means[f"spectrum_{axis}"].copy()
            spectra[..., 0] -= level_mean(means["velocity"] ** 2, self.layout)
            return spectra

        return self.blocks.estimate(found)

    @property
    def shells(self) -> Float[np.ndarray, " shell"]:
        """Wavenumbers of the shells."""
        return shell_width(self.grid) * np.arange(self.blocks.means["shell_spectrum"].shape[-1])

    @property
    def shell_spectrum(self) -> Estimate:
        """Kinetic energy in each shell [shell], the mean flow with it; the sum is `energy`.

        Raises:
            ConfigError: the flow has walls.
        """
        if self.layout.walls:
            raise ConfigError("a shell spectrum needs a flow that is periodic along all axes; this one has walls.")
        return self.blocks.estimate(lambda m: m["shell_spectrum"])

    def edges(self, level: int, quantity: str) -> Float[np.ndarray, " edge"]:
        """Edges of the histogram's bins, in the units of the quantity."""
        scale = self.scales[level, self.quantities.index(quantity)]
        return scale * np.linspace(-WIDTH, WIDTH, BINS + 1)

    def density(self, level: int, quantity: str) -> Estimate:
        """Probability density of the fluctuations about the mean over the averaged axes in each frame [bin]."""
        q = self.quantities.index(quantity)
        width = self.scales[level, q] * 2 * WIDTH / BINS
        return self.blocks.estimate(lambda m: m["histogram"][level, q] / width)

    @property
    def correlation(self) -> Estimate:
        """Correlation in time at fixed points [level, axis, lag], of the fluctuations about the mean over the averaged
        axes in each frame."""
        return self.blocks.estimate(_correlation)

    @property
    def lag_times(self) -> Float[np.ndarray, " lag"]:
        return self.spacing * np.arange(self.blocks.means["lag_pairs"].shape[-1])

    @property
    def correlation_time(self) -> Estimate:
        """Integral of the correlation up to its first zero [level, axis]; a lower bound if none is within the lags."""
        times = self.lag_times

        def integral(means: Means) -> np.ndarray:
            found = _correlation(means)
            before = np.cumprod(found > 0, axis=-1)
            return np.trapezoid(np.where(before, found, 0.0), times, axis=-1)

        return self.blocks.estimate(integral)

    @property
    def doubling(self) -> float:
        """Whether blocks are long enough for the intervals: `Blocks.doubling` of the energy at the heights."""
        return self.blocks.doubling(lambda m: np.trace(m["product"], axis1=1, axis2=2))

    def save(self, path: Path) -> None:
        """Write one HDF5 file (`statistics_file`), whole or not at all."""
        from data.turbulence.statistics_file import save

        save(self, path)

    @staticmethod
    def load(path: Path) -> "Statistics":
        """Read what `save` wrote.

        Raises:
            SchemaError: another file.
        """
        from data.turbulence.statistics_file import load

        return load(path)

    @property
    def normal(self) -> int:
        """Position of the wall-normal component.

        Raises:
            ConfigError: there are no walls.
        """
        if not self.layout.walls or self.layout.profile is None:
            raise ConfigError("expected a flow between walls; this one is periodic along all axes.")
        return self.layout.profile

    @property
    def half_height(self) -> float:
        """Half the distance of the walls."""
        return self.grid.axes[self.normal].length / 2

    @property
    def _viscosity(self) -> float:
        if self.nu is None:
            raise ConfigError("wall units need the viscosity: hand over nu, the file does not say it.")
        return self.nu

    def _slope(self, means: Means) -> np.ndarray:
        return self.grid.axes[self.normal].derivative @ means["velocity"][:, 0]

    def wall_stress(self, means: Means) -> np.ndarray:
        """Mean of the stresses on both walls [], which is u_tau²; 0 where the flow runs backwards."""
        slope = self._slope(means)
        return np.maximum(self._viscosity * (slope[0] - slope[-1]) / 2, 0.0)

    def _balance(self, means: Means) -> np.ndarray:
        axis = self.grid.axes[self.normal]
        stress = self._viscosity * self._slope(means) - covariance(means)[:, 0, self.normal]
        line = 1 - (axis.points - axis.points[0]) / self.half_height
        return np.sqrt(np.maximum(axis.weights @ (stress * line) / (axis.weights @ line**2), 0.0))


def covariance(means: Means) -> Float[np.ndarray, "profile axis axis"]:
    """Second moments about the mean."""
    mean = means["velocity"]
    return means["product"] - mean[:, :, None] * mean[:, None, :]


def _rms(means: Means) -> np.ndarray:
    return np.sqrt(np.maximum(np.diagonal(covariance(means), axis1=1, axis2=2), 0.0))


def _correlation(means: Means) -> np.ndarray:
    with np.errstate(invalid="ignore", divide="ignore"):
        products = means["lag_product"] / means["lag_pairs"]
        return products / products[..., :1]


class FlowStatistics:
    """Takes frames one by one.

    Args:
        grid, components: of the frames. Velocities along all axes, or the vorticity of a plane periodic flow; further
            components are left alone.
        nu: kinematic viscosity; None where nobody knows it: then there are no wall units.
        block: frames of a block at first (it doubles by itself as the run gets long).
        profile: axis along which profiles are kept; None for the one between walls (a periodic flow then has none).
        u_tau, heights: nominal friction velocity, and heights in wall units of spectra and histograms.
        lags: number of time lags of the correlation.
        like: statistics whose histogram bins are taken; otherwise they follow from the first frame.
    """

    def __init__(
        self,
        grid: Grid,
        components: Sequence[str],
        *,
        nu: float | None,
        block: int = 8,
        profile: str | None = None,
        u_tau: float = 1.0,
        heights: Sequence[float] = HEIGHTS,
        lags: int = 64,
        like: Statistics | None = None,
    ) -> None:
        self.layout = layout_of(grid, components, profile=profile, nu=nu, u_tau=u_tau, heights=heights)
        self.nu = nu
        self._components = len(components)
        self._frames = FrameStatistics(self.layout, components)
        self._lags = LagProducts(self.layout, lags)
        self._sums = BlockSums(block)
        self._scales = None if like is None else like.scales
        self._series: list[tuple[float, ...]] = []
        self._last: dict[int, float] = {}
        if like is not None and like.layout.levels != self.layout.levels:
            raise ConfigError("like: expected statistics on the same grid; their levels differ.")

    def add(self, frame: Float[np.ndarray, "*grid component"] | Tensor, time: float, trajectory: int = 0) -> None:
        """One frame. The times of a trajectory increase by one spacing; trajectories may take turns.

        Raises:
            PenstockError: another shape, a value that is not finite, or a time that does not increase.
        """
        field = np.asarray(frame.detach().cpu() if isinstance(frame, Tensor) else frame, np.float64)
        expected = (*self.layout.grid.shape, self._components)
        if field.shape != expected:
            raise PenstockError(f"a frame of the statistics: expected the shape {expected}, got {field.shape}.")
        if not np.isfinite(field).all():
            raise PenstockError(f"the frame at time {time:g} holds NaN or infinity: stop the rollout before it.")
        if time <= self._last.get(trajectory, -np.inf):
            raise PenstockError(f"trajectory {trajectory}: time {time:g} comes after {self._last[trajectory]:g}.")
        self._last[trajectory] = time
        velocity, vorticity, slopes = self._frames.velocity(field)
        if self._scales is None:
            self._scales = self._frames.scales(velocity, vorticity)
        sample = self._frames.sample(velocity, vorticity, slopes, self._scales)
        self._note(sample, time, trajectory)
        self._sums.add(trajectory, sample | self._lags.add(trajectory, velocity))

    def finished(self) -> Statistics:
        """The statistics so far; more frames may follow.

        Raises:
            ConfigError: there was no frame.
        """
        blocks = self._sums.finished()
        assert self._scales is not None
        table = np.array(self._series)
        axes = len(self.layout.grid.axes)
        series = Series(
            time=table[:, 0],
            trajectory=table[:, 1].astype(np.int64),
            energy=table[:, 2],
            fluctuation=table[:, 3],
            enstrophy=table[:, 4],
            divergence=table[:, 5],
            bulk=table[:, 6 : 6 + axes],
            friction=table[:, 6 + axes :],
        )
        return Statistics(layout=self.layout, nu=self.nu, blocks=blocks, series=series, scales=self._scales)

    def _note(self, sample: Means, time: float, trajectory: int) -> None:
        mean: Callable[[np.ndarray], np.ndarray] = lambda profile: volume_mean(profile, self.layout)
        energy = 0.5 * np.trace(sample["product"], axis1=1, axis2=2)
        row = [
            time,
            trajectory,
            float(mean(energy)),
            float(mean(energy - 0.5 * (sample["velocity"] ** 2).sum(axis=-1))),
            0.5 * float(mean(sample["vorticity_square"].sum(axis=-1))),
            float(np.sqrt(mean(sample["divergence_square"]))),
            *mean(sample["velocity"]),
        ]
        if self.nu is not None and self.layout.walls and self.layout.profile is not None:
            slope = self.layout.grid.axes[self.layout.profile].derivative @ sample["velocity"][:, 0]
            row += [self.nu * slope[0], -self.nu * slope[-1]]
        self._series.append(tuple(map(float, row)))
