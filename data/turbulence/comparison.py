"""How far statistics are from a reference, each figure with what chance makes of it; the verdict on a long rollout."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float

from data.errors import ConfigError
from data.turbulence.blocks import Estimate, Means
from data.turbulence.frame_statistics import level_mean
from data.turbulence.profiles import Profiles, wall_profiles
from data.turbulence.statistics import Series, Statistics
from data.turbulence.time_series import leaves

ENERGY_CONTAINING = 0.90
"""The energy-containing range is the fewest modes or shells that together hold this share of the reference's energy."""
MOST = 0.99
"""The next range goes on to this share; the rest is the tail."""
UNCORRELATED = 0.1
"""Correlations in time are compared until they have fallen to this."""


@dataclass(frozen=True)
class Row:
    """One figure of a comparison."""

    quantity: str
    error: float
    """Relative L2 norm of the difference (for one number its relative difference); for densities the Wasserstein-1
    distance in standard deviations of the reference."""
    plus_minus: float
    """The norm, measured alike, of the 95 % half-widths of both sides: by the triangle inequality the error without
    sampling noise is within so much of `error`. NaN where there are too few blocks."""

    def within(self, limit: float) -> bool | None:
        """Whether the error is below the limit; None where the sampling leaves it open.

        Where the noise is unknown the figure is taken as it is.
        """
        noise = 0.0 if np.isnan(self.plus_minus) else self.plus_minus
        if abs(self.error - limit) < noise:
            return None
        return self.error <= limit

    def record(self) -> dict[str, str | float | None]:
        """For JSON, which has no NaN."""
        noise = None if np.isnan(self.plus_minus) else self.plus_minus
        return {"quantity": self.quantity, "error": self.error, "plus_minus": noise}


def compare(found: Statistics, reference: Statistics | Profiles) -> list[Row]:
    """All figures that both sides have and of which the reference is not zero, the profiles first.

    Against statistics: on the same grid, in the units of the fields. Against published profiles: both in their own wall
    units, the one with more points interpolated to the points of the other.

    Raises:
        ConfigError: other grids, or profiles for a flow without walls.
    """
    if isinstance(reference, Profiles):
        return compare_profiles(wall_profiles(found, "found"), reference)
    if not found.grid.same(reference.grid) or found.layout.levels != reference.layout.levels:
        raise ConfigError(
            f"expected statistics on the grid of the reference, {reference.grid.shape}, got {found.grid.shape}. "
            "Compare with wall profiles where grids differ."
        )
    rows = _channel_rows(found, reference) if found.layout.mirrored else _whole_rows(found, reference)
    rows += _spectrum_rows(found, reference)
    rows += [_density_row(found, reference, quantity) for quantity in found.quantities]
    rows.append(_correlation_row(found, reference))
    return [row for row in rows if not np.isnan(row.error)]


def compare_profiles(found: Profiles, reference: Profiles, *, by_points: bool = False) -> list[Row]:
    """Relative L2 over the half channel of mean velocity, rms and shear stress, and the centre velocity, in wall units.

    Args:
        by_points: every point counts alike, as in published figures, rather than by the trapezoid rule; the points near
            the wall then have most of the weight.
    """
    if len(found.y) > len(reference.y):
        found = found.at(reference.y)
    else:
        reference = reference.at(found.y)
    w = np.ones(found.y.shape) if by_points else found.weights
    rows = [_row("mean velocity", found.velocity, reference.velocity, w)]
    for k, name in enumerate(("streamwise", "wall-normal", "spanwise")[: found.rms.value.shape[1]]):
        rows.append(_row(f"rms {name}", found.rms[:, k], reference.rms[:, k], w))
    if found.shear is not None and reference.shear is not None:
        rows.append(_row("shear stress", found.shear, reference.shear, w))
    return [*rows, _row("centre velocity", found.velocity[-1], reference.velocity[-1])]


def energy_containing(
    energy: Float[np.ndarray, " mode"], share: float = ENERGY_CONTAINING
) -> Bool[np.ndarray, " mode"]:
    """The fewest modes that together hold `share` of the energy."""
    order = np.argsort(-energy, kind="stable")
    count = int(np.searchsorted(np.cumsum(energy[order]), share * energy.sum())) + 1
    chosen = np.zeros(energy.shape, bool)
    chosen[order[:count]] = True
    return chosen


@dataclass(frozen=True)
class Stability:
    """The verdict on a long rollout."""

    stable: bool
    """Ran to the end, its energy in the band, its spectrum within the limit."""
    reason: str
    """Of the verdict, in a sentence."""
    duration: float
    """Time covered by the shortest trajectory."""
    blow_up: float | None
    """Time at which the first trajectory ended early; None where all ran to the end."""
    band: tuple[float, float]
    """Of the energy: between walls that of the fluctuations about the mean over the planes of each frame."""
    inside: float
    """Share of the frames whose energy is in the band."""
    left: float | None
    """Time at which a trajectory left the band, to stay out for several frames; None where none did."""
    spectrum: Row
    """Largest relative deviation of a mode of the energy-containing range."""
    spectrum_l2: Row
    """Relative L2 error over that range."""


def stability(
    found: Statistics, reference: Statistics, *, until: float | None = None, limit: float = 0.2, margin: float = 0.5
) -> Stability:
    """Whether a rollout stayed on the attractor of the reference.

    Args:
        until: time up to which every trajectory was to run; None if they ended as they should.
        limit: largest relative L2 error over the energy-containing range of the shell spectrum, or of either spectrum
            along a wall-parallel axis, averaged over the levels. The figure is taken as measured: whether chance alone
            would explain it is what `spectrum_l2.within(limit)` says.
        margin: the band of the energy is from the lowest to the highest value of the reference, widened on either side
            by this share of their distance.
    """
    low, high = float(_energy(reference.series, reference).min()), float(_energy(reference.series, reference).max())
    band = (low - margin * (high - low), high + margin * (high - low))
    runs = [found.series.of(int(t)) for t in np.unique(found.series.trajectory)]
    exits = [time for run in runs if (time := leaves(run.time, _energy(run, found), *band)) is not None]
    ends = [float(run.time[-1]) for run in runs]
    slack = 0.0 if np.isnan(found.spacing) else found.spacing / 2
    early = [end for end in ends if until is not None and end < until - slack]
    energy = _energy(found.series, found)
    largest, norm = _spectrum_deviation(found, reference)
    left, blow_up = min(exits, default=None), min(early, default=None)
    if blow_up is not None:
        reason = f"ended at time {blow_up:.4g} of {until:.4g}"
    elif left is not None:
        reason = f"the energy left the band {band[0]:.4g} to {band[1]:.4g} at time {left:.4g}"
    else:
        held = "within" if norm.error <= limit else "not within"
        figures = f"{norm.error:.1%} in all, {largest.error:.1%} in the worst mode"
        reason = f"energy in the band; spectrum {held} {limit:.0%}, off by {figures}"
    return Stability(
        stable=blow_up is None and left is None and norm.error <= limit,
        reason=reason,
        duration=min(float(run.time[-1] - run.time[0]) for run in runs),
        blow_up=blow_up,
        band=band,
        inside=float(np.mean((energy >= band[0]) & (energy <= band[1]))),
        left=left,
        spectrum=largest,
        spectrum_l2=norm,
    )


def _energy(series: Series, statistics: Statistics) -> Float[np.ndarray, " frame"]:
    # Between walls the mean flow has nearly all the energy and would hide the turbulence.
    return series.fluctuation if statistics.layout.walls else series.energy


def _spectrum_deviation(found: Statistics, reference: Statistics) -> tuple[Row, Row]:
    sides = [_energy_spectra(found), _energy_spectra(reference)]
    largest, norm = Row("largest deviation of the spectrum", 0.0, 0.0), Row("spectrum, energy-containing", 0.0, 0.0)
    for ours, theirs in zip(*sides, strict=True):
        modes = energy_containing(theirs.value)
        deviation = np.abs(ours.value - theirs.value)[modes] / theirs.value[modes]
        width = np.hypot(ours.plus_minus, theirs.plus_minus)[modes] / theirs.value[modes]
        worst = int(np.argmax(deviation))
        if deviation[worst] >= largest.error:
            largest = Row(largest.quantity, float(deviation[worst]), float(width[worst]))
        row = _row(norm.quantity, ours[modes], theirs[modes])
        norm = max(norm, row, key=lambda r: r.error)
    return largest, norm


def _energy_spectra(statistics: Statistics) -> list[Estimate]:
    """The shell spectrum, or the kinetic energy spectra along each averaged axis, averaged over the levels."""
    if "shell_spectrum" in statistics.blocks.means:
        return [statistics.shell_spectrum]

    def along(name: str) -> Estimate:
        def found(means: Means) -> np.ndarray:
            spectra = means[f"spectrum_{name}"].copy()
            spectra[..., 0] -= level_mean(means["velocity"] ** 2, statistics.layout)
            return 0.5 * spectra.sum(axis=1).mean(axis=0)

        return statistics.blocks.estimate(found)

    return [along(statistics.grid.names[k]) for k in statistics.layout.averaged]


def _channel_rows(found: Statistics, reference: Statistics) -> list[Row]:
    w = reference.half_weights
    rows = [_row("mean velocity", found.half_velocity[:, 0], reference.half_velocity[:, 0], w)]
    for k, name in enumerate(found.layout.velocities):
        rows.append(_row(f"rms {name}", found.half_rms[:, k], reference.half_rms[:, k], w))
    rows.append(_row("shear stress", found.half_shear, reference.half_shear, w))
    rows.append(_row("bulk velocity", found.bulk[0], reference.bulk[0]))
    rows.append(_row("centre velocity", found.centre_velocity, reference.centre_velocity))
    if found.nu is not None and reference.nu is not None:
        rows.append(_row("friction velocity", found.u_tau, reference.u_tau))
    return [*rows, _row("fluctuation energy", found.fluctuation_energy, reference.fluctuation_energy)]


def _whole_rows(found: Statistics, reference: Statistics) -> list[Row]:
    rows, w = [], reference.layout.weights
    if found.layout.profile is not None:
        rows.append(_row("mean velocity", found.velocity[:, 0], reference.velocity[:, 0], w))
    for k, name in enumerate(found.layout.velocities):
        rows.append(_row(f"rms {name}", found.rms[:, k], reference.rms[:, k], w))
    rows.append(_row("energy", found.energy, reference.energy))
    return [*rows, _row("enstrophy", found.enstrophy, reference.enstrophy)]


def _spectrum_rows(found: Statistics, reference: Statistics) -> list[Row]:
    if "shell_spectrum" in reference.blocks.means:
        ours, theirs = found.shell_spectrum, reference.shell_spectrum
        bands = _bands(theirs.value)
        return [_row(f"spectrum, {band}", ours[modes], theirs[modes]) for band, modes in bands.items()]
    rows = []
    for axis in (found.grid.names[k] for k in found.layout.averaged):
        ours, theirs = found.spectrum(axis), reference.spectrum(axis)
        # In shares of the energy at each level: otherwise the level of the highest energy alone would count.
        total = theirs.value.sum(axis=-1, keepdims=True)
        total[total <= 0] = 1
        ours, theirs = ours / total, theirs / total
        for i, name in enumerate(found.layout.velocities):
            modes = np.stack([energy_containing(level) for level in theirs.value[:, i]])
            for band, chosen in (("energy-containing", modes), ("rest", ~modes)):
                row = _row(f"spectrum of {name} along {axis}, {band}", ours[:, i][chosen], theirs[:, i][chosen])
                rows.append(row)
    return rows


def _bands(energy: Float[np.ndarray, " shell"]) -> dict[str, Bool[np.ndarray, " shell"]]:
    first, both = energy_containing(energy), energy_containing(energy, MOST)
    return {"energy-containing": first, "intermediate": both & ~first, "tail": ~both}


def _density_row(found: Statistics, reference: Statistics, quantity: str) -> Row:
    """Wasserstein-1 distance of the fluctuations, in standard deviations of the reference, mean over the levels."""
    distances, widths = [], []
    for level in range(len(reference.layout.levels)):
        edges = np.union1d(found.edges(level, quantity), reference.edges(level, quantity))
        ours, theirs = (_cumulative(side, level, quantity, edges) for side in (found, reference))
        own = reference.edges(level, quantity)
        density = reference.density(level, quantity).value * np.diff(own)
        deviation = np.sqrt(density @ ((own[:-1] + own[1:]) / 2) ** 2)
        distances.append(np.trapezoid(np.abs(ours.value - theirs.value), edges) / deviation)
        widths.append(np.trapezoid(np.hypot(ours.plus_minus, theirs.plus_minus), edges) / deviation)
    return Row(f"density of {quantity}", float(np.mean(distances)), float(np.mean(widths)))


def _correlation_row(found: Statistics, reference: Statistics) -> Row:
    """Of the correlation in time itself, from the first lag to where the reference's has fallen to UNCORRELATED: the
    integral time depends on the noise at its end."""
    ours, theirs = found.correlation, reference.correlation
    lags = min(ours.value.shape[-1], theirs.value.shape[-1])
    high = np.cumprod(theirs.value[..., :lags] > UNCORRELATED, axis=-1).astype(bool)
    compared = np.concatenate([np.zeros_like(high[..., :1]), high[..., :-1]], axis=-1)
    compared &= np.isfinite(ours.value[..., :lags] * theirs.value[..., :lags])
    return _row("correlation in time", ours[..., :lags][compared], theirs[..., :lags][compared])


def _cumulative(statistics: Statistics, level: int, quantity: str, edges: Float[np.ndarray, " edge"]) -> Estimate:
    """Distribution function at these edges, linear within a bin."""
    own, q = statistics.edges(level, quantity), statistics.quantities.index(quantity)

    def function(means: Means) -> np.ndarray:
        return np.interp(edges, own, np.concatenate([[0.0], np.cumsum(means["histogram"][level, q])]))

    return statistics.blocks.estimate(function)


def _row(quantity: str, found: Estimate, reference: Estimate, weights: np.ndarray | None = None) -> Row:
    ours, theirs = np.atleast_1d(found.value), np.atleast_1d(reference.value)
    widths = np.hypot(np.atleast_1d(found.plus_minus), np.atleast_1d(reference.plus_minus))
    w = np.ones(theirs.shape) if weights is None else weights
    size = np.sqrt((w * theirs**2).sum())
    if size == 0:
        return Row(quantity, float("nan"), float("nan"))
    return Row(
        quantity,
        float(np.sqrt((w * (ours - theirs) ** 2).sum()) / size),
        float(np.sqrt((w * widths**2).sum()) / size),
    )
