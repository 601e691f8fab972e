"""What one frame gives to the statistics: averages over the homogeneous directions, spectra, histograms.

Fields are handled with the axis of the profile first (between the walls, or one chosen; of length 1 where there is
none), then the other axes, then the component: the *canonical* order.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from data.errors import ConfigError
from data.grid import CLOSE, Grid

NOMINAL_RE_TAU = 180.0
"""Where the viscosity is unknown, heights in wall units are placed as if the friction Reynolds number were this."""
WIDTH = 8.0
"""Histograms reach to this many standard deviations on either side."""
BINS = 128


@dataclass(frozen=True, kw_only=True, eq=False)
class Layout:
    """How a grid is averaged over: the profile's axis and the levels at which spectra and histograms are taken."""

    grid: Grid
    profile: int | None
    """Position of the profile's axis."""
    levels: tuple[tuple[int, ...], ...]
    """Points of the profile's axis that each level averages over: a height and its mirror image in a channel, all
    points elsewhere."""
    vorticity_given: bool
    """The field is the vorticity of a plane flow, the velocity follows from it."""

    @property
    def walls(self) -> bool:
        return self.profile is not None and not self.grid.axes[self.profile].periodic

    @property
    def points(self) -> int:
        """Points of the profile."""
        return 1 if self.profile is None else len(self.grid.axes[self.profile])

    @property
    def weights(self) -> Float[np.ndarray, " profile"]:
        """Quadrature weights of the profile's points."""
        return np.ones(1) if self.profile is None else self.grid.axes[self.profile].weights

    @property
    def velocities(self) -> tuple[str, ...]:
        return tuple(f"velocity_{name}" for name in self.grid.names)

    @property
    def vorticities(self) -> tuple[str, ...]:
        if len(self.grid.axes) == 2:
            return ("vorticity",)
        return tuple(f"vorticity_{name}" for name in self.grid.names)

    @property
    def averaged(self) -> tuple[int, ...]:
        """Positions of the axes other than the profile's."""
        return tuple(k for k in range(len(self.grid.axes)) if k != self.profile)

    @property
    def mirrored(self) -> bool:
        """Whether the points between the walls are their own mirror image, so that both halves can be averaged."""
        if not self.walls or self.profile is None:
            return False
        axis = self.grid.axes[self.profile]
        from_wall = axis.points - axis.points[0]
        return bool(np.allclose(from_wall, axis.length - from_wall[::-1], atol=CLOSE * axis.length))

    @property
    def parity(self) -> Float[np.ndarray, " component"]:
        """Sign of each velocity component in the mirror between the walls."""
        return np.array([-1.0 if k == self.profile else 1.0 for k in range(len(self.grid.axes))])

    @property
    def vorticity_parity(self) -> Float[np.ndarray, " vorticity"]:
        """The same of the vorticity, a pseudovector: what is along the wall turns round."""
        return -self.parity if len(self.vorticities) == 3 else -np.ones(1)

    def canonical(self, field: Float[np.ndarray, "*grid component"]) -> Float[np.ndarray, "profile *rest component"]:
        return field[None] if self.profile is None else np.moveaxis(field, self.profile, 0)


def layout_of(
    grid: Grid,
    components: Sequence[str],
    *,
    profile: str | None,
    nu: float | None,
    u_tau: float,
    heights: Sequence[float],
) -> Layout:
    """The layout for fields of these components.

    Args:
        profile: axis of the profile, None for the axis between walls; a flow without walls then has none.
        nu, u_tau: viscosity and nominal friction velocity, which turn `heights` (wall units) into points.

    Raises:
        ConfigError: components that are no velocity and no plane vorticity, or an axis that is not there.
    """
    wanted = [f"velocity_{name}" for name in grid.names]
    vorticity_given = tuple(components) == ("vorticity",) and len(grid.axes) == 2 and grid.walls is None
    if not vorticity_given and not set(wanted) <= set(components):
        raise ConfigError(
            f"statistics need the components {wanted}, or 'vorticity' alone on a plane periodic grid; "
            f"got {list(components)} on the axes {list(grid.names)}."
        )
    if profile is not None and profile not in grid.names:
        raise ConfigError(f"profile: expected one of the axes {list(grid.names)}, got '{profile}'.")
    axis = grid.walls if profile is None else grid.names.index(profile)
    if grid.walls is not None and axis != grid.walls:
        raise ConfigError(f"profile: expected the axis between walls, '{grid.names[grid.walls]}', got '{profile}'.")
    blank = Layout(grid=grid, profile=axis, levels=((0,),), vorticity_given=vorticity_given)
    if not blank.walls or axis is None:
        return Layout(grid=grid, profile=axis, levels=(tuple(range(blank.points)),), vorticity_given=vorticity_given)
    from_wall = grid.axes[axis].points - grid.axes[axis].points[0]
    half = grid.axes[axis].length / 2
    length = nu / u_tau if nu else half / NOMINAL_RE_TAU
    targets = [height * length for height in heights if height * length < half] + [half]
    lower = sorted({int(np.argmin(np.abs(from_wall[: (len(from_wall) + 1) // 2] - y))) for y in targets} - {0})
    last = len(from_wall) - 1
    levels = tuple((j, last - j) if blank.mirrored and j != last - j else (j,) for j in lower)
    return Layout(grid=grid, profile=axis, levels=levels, vorticity_given=vorticity_given)


class FrameStatistics:
    """Turns frames into the quantities whose means over time are kept."""

    def __init__(self, layout: Layout, components: Sequence[str]) -> None:
        self.layout = layout
        self._order = [list(components).index(name) for name in layout.velocities] if not layout.vorticity_given else []
        self._shells = None if layout.walls else shells_of(layout.grid)

    def velocity(
        self, frame: Float[np.ndarray, "*grid component"]
    ) -> tuple[Float[np.ndarray, "*grid axis"], Float[np.ndarray, "*grid vorticity"], Float[np.ndarray, "*grid 2"]]:
        """Velocity, vorticity, and the divergence with ∂u/∂x, by the derivatives of the axes."""
        axes = self.layout.grid.axes
        u = (
            velocity_from_vorticity(frame[..., 0], self.layout.grid)
            if self.layout.vorticity_given
            else frame[..., self._order]
        )

        def slope(component: int, along: int) -> np.ndarray:
            return _along(axes[along].derivative, u[..., component], along)

        diagonal = [slope(k, k) for k in range(len(axes))]
        if self.layout.vorticity_given:
            omega = frame
        elif len(axes) == 2:
            omega = (slope(1, 0) - slope(0, 1))[..., None]
        else:
            omega = np.stack([slope(2, 1) - slope(1, 2), slope(0, 2) - slope(2, 0), slope(1, 0) - slope(0, 1)], axis=-1)
        return u, omega, np.stack([sum(diagonal), diagonal[0]], axis=-1)

    def sample(
        self,
        velocity: Float[np.ndarray, "*grid axis"],
        vorticity: Float[np.ndarray, "*grid vorticity"],
        slopes: Float[np.ndarray, "*grid 2"],
        scales: Float[np.ndarray, "level quantity"],
    ) -> dict[str, np.ndarray]:
        """All quantities but the products over time lags (names and shapes: `Statistics.blocks`)."""
        u, omega = self.layout.canonical(velocity), self.layout.canonical(vorticity)
        rest = tuple(range(1, u.ndim - 1))
        flat = u.reshape(len(u), -1, u.shape[-1])
        squares = (self.layout.canonical(slopes) ** 2).mean(axis=rest)
        found = {
            "velocity": flat.mean(axis=1),
            "product": np.einsum("pni,pnj->pij", flat, flat) / flat.shape[1],
            "vorticity": omega.mean(axis=rest),
            "vorticity_square": (omega**2).mean(axis=rest),
            "divergence_square": squares[:, 0],
            "gradient_square": squares[:, 1],
            "histogram": self._histograms(u, omega, scales),
        }
        for place, k in enumerate(self.layout.averaged):
            found[f"spectrum_{self.layout.grid.names[k]}"] = np.stack(
                [_line_spectrum(u[list(level)], 1 + place) for level in self.layout.levels]
            )
        if self._shells is not None:
            found["shell_spectrum"] = shell_spectrum(velocity, self._shells)
        return found

    def scales(
        self, velocity: Float[np.ndarray, "*grid axis"], vorticity: Float[np.ndarray, "*grid vorticity"]
    ) -> Float[np.ndarray, "level quantity"]:
        """Standard deviations at each level about the mean of each height, 1 where nothing varies."""
        u, omega = self.layout.canonical(velocity), self.layout.canonical(vorticity)
        found = [
            [_fluctuations(field[list(level)], k).std() for field in (u, omega) for k in range(field.shape[-1])]
            for level in self.layout.levels
        ]
        size = np.abs(u).max() + np.abs(omega).max()
        return np.where(np.array(found) > 1e-9 * size, found, 1.0)

    def _histograms(
        self, u: np.ndarray, omega: np.ndarray, scales: Float[np.ndarray, "level quantity"]
    ) -> Float[np.ndarray, "level quantity bin"]:
        """Shares of the points in BINS equal bins over ±WIDTH scales, the last on each side with all beyond it."""
        signs = [*self.layout.parity, *self.layout.vorticity_parity]
        found = np.zeros((*scales.shape, BINS))
        for i, level in enumerate(self.layout.levels):
            mirror = np.array([-1.0 if self.layout.walls and j != level[0] else 1.0 for j in level])[:, None]
            pick = [(field[list(level)], k) for field in (u, omega) for k in range(field.shape[-1])]
            for q, (values, k) in enumerate(pick):
                # The image in the upper half is turned over, where its component turns round in the mirror.
                turned = _fluctuations(values, k) * np.where(mirror < 0, signs[q], 1.0)
                bins = np.floor((turned / scales[i, q] / WIDTH + 1) / 2 * BINS)
                counts = np.bincount(np.clip(bins, 0, BINS - 1).astype(np.int64).ravel(), minlength=BINS)
                found[i, q] = counts / turned.size
        return found


def velocity_from_vorticity(vorticity: Float[np.ndarray, "x y"], grid: Grid) -> Float[np.ndarray, "x y 2"]:
    """Velocity of a plane periodic flow without mean: u = ∂ψ/∂y, v = -∂ψ/∂x, ∇²ψ = -ω (Nyquist modes left out)."""
    kx, ky = wavenumbers(grid)
    for k, axis in ((kx, grid.axes[0]), (ky, grid.axes[1])):
        if len(axis) % 2 == 0:
            k[np.abs(k) == np.abs(k).max()] = 0
    square = kx[:, None] ** 2 + ky**2
    square[0, 0] = 1
    psi = np.fft.rfft2(vorticity) / np.where(square > 0, square, np.inf)
    psi[0, 0] = 0
    both = np.stack([1j * ky * psi, -1j * kx[:, None] * psi], axis=-1)
    return np.fft.irfft2(both, vorticity.shape, axes=(0, 1))


def wavenumbers(grid: Grid) -> list[Float[np.ndarray, " mode"]]:
    """Angular wavenumbers of every axis in the order of a real transform: the last axis has no negative ones."""
    last = len(grid.axes) - 1
    return [
        2 * np.pi / axis.length * (np.fft.rfftfreq if k == last else np.fft.fftfreq)(len(axis), 1 / len(axis))
        for k, axis in enumerate(grid.axes)
    ]


@dataclass(frozen=True, eq=False)
class Shells:
    """The modes of a periodic grid by the length of their wavenumber, rounded to whole multiples of `width`."""

    index: Int[np.ndarray, "*mode"]
    share: Float[np.ndarray, "*mode"]
    """2 for modes whose conjugates a real transform leaves out, else 1; over the number of points squared."""
    count: int


def shell_width(grid: Grid) -> float:
    """The lowest wavenumber of the grid."""
    return 2 * np.pi / max(axis.length for axis in grid.axes)


def shells_of(grid: Grid) -> Shells:
    """Shells of a grid whose axes are all periodic."""
    squares = np.zeros(())
    for k in wavenumbers(grid):
        squares = squares[..., None] + k**2
    index = np.rint(np.sqrt(squares) / shell_width(grid)).astype(np.int64)
    share = np.full(index.shape, 2.0)
    share[..., 0] = 1
    if grid.shape[-1] % 2 == 0:
        share[..., -1] = 1
    return Shells(index, share / float(np.prod(grid.shape)) ** 2, int(index.max()) + 1)


def shell_spectrum(velocity: Float[np.ndarray, "*grid axis"], shells: Shells) -> Float[np.ndarray, " shell"]:
    """Kinetic energy per unit mass in each shell; their sum is that of the field, ½ <u·u>."""
    modes = np.fft.rfftn(velocity, axes=tuple(range(velocity.ndim - 1)))
    energy = 0.5 * (modes.real**2 + modes.imag**2).sum(axis=-1) * shells.share
    return np.bincount(shells.index.ravel(), energy.ravel(), minlength=shells.count)


def _line_spectrum(u: Float[np.ndarray, "height *rest axis"], along: int) -> Float[np.ndarray, "axis mode"]:
    """One-sided spectrum along an axis, averaged over the others: the sum over the modes is the mean square."""
    n = u.shape[along]
    modes = np.fft.rfft(u, axis=along)
    power = (modes.real**2 + modes.imag**2) / n**2
    power = np.moveaxis(power, along, -1).reshape(-1, u.shape[-1], power.shape[along]).mean(axis=0)
    power[:, 1 : (n + 1) // 2] *= 2
    return power


def _fluctuations(field: Float[np.ndarray, "height *rest component"], component: int) -> Float[np.ndarray, "height n"]:
    values = field[..., component].reshape(len(field), -1)
    return values - values.mean(axis=1, keepdims=True)


def _along(
    matrix: Float[np.ndarray, "n n"], field: Float[np.ndarray, "*grid"], axis: int
) -> Float[np.ndarray, "*grid"]:
    return np.moveaxis(np.tensordot(matrix, field, axes=(1, axis)), 0, axis)


def volume_mean(profile: Float[np.ndarray, "profile ..."], layout: Layout) -> Float[np.ndarray, "..."]:
    """Mean over the volume of a quantity averaged over the other axes, by the quadrature of the profile's axis."""
    return np.average(profile, axis=0, weights=layout.weights)


def level_mean(profile: Float[np.ndarray, "profile ..."], layout: Layout) -> Float[np.ndarray, "level ..."]:
    """Mean of a profile over the points of each level."""
    return np.stack([profile[list(level)].mean(axis=0) for level in layout.levels])
