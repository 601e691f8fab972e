"""Plane channel flow by a spectral method: Fourier along x and z, Chebyshev between the walls.

Kim, Moin and Moser (1987): wall-normal velocity v and wall-normal vorticity ω_y are advanced, u and w follow from them
and from continuity, so that the divergence is zero to rounding. The convective term in rotational form and free of
aliasing along x and z takes the three-stage Runge-Kutta scheme, the viscous term Crank and Nicolson's (Spalart, Moser
and Rogers 1991); v' = 0 at the walls by an influence matrix.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import torch
from jaxtyping import Complex, Float
from torch import Tensor

from data.errors import CheckpointError, ConfigError
from data.grid import Grid, between_walls, fourier
from data.synthetic.turbulence import channel_start
from data.synthetic.turbulence.channel_modes import Modes
from data.synthetic.turbulence.channel_products import Products, along
from data.synthetic.turbulence.channel_steps import ADVANCED, HELD_OVER, Stage
from data.synthetic.turbulence.chebyshev import WallNormal, interpolation
from data.synthetic.turbulence.simulation import BlownUp, steps_between
from data.synthetic.turbulence.subgrid import SubgridConfig

COMPONENTS = ("velocity_x", "velocity_y", "velocity_z")
LOST = 20.0
"""Velocities beyond so many times the flow's scale mean that the simulation has blown up."""
OUTGROWN, TOO_SHORT = 1.15, 1.5
"""Another step is chosen where the flow asks for one shorter or longer by these factors."""


@dataclass(frozen=True, kw_only=True)
class ChannelConfig:
    """A channel between walls at y = 0 and y = 2, in units of its half height and the nominal friction velocity."""

    points: tuple[int, int, int] = (48, 65, 48)
    """Collocation points along x, y (walls included) and z; products are computed on 3/2 as many along x and z."""
    length_x: float = 4 * math.pi
    length_z: float = 4 * math.pi / 3
    nu: float = 1 / 180
    """Kinematic viscosity, the inverse of the nominal friction Reynolds number."""
    drive: Literal["mass_flux", "pressure_gradient"] = "mass_flux"
    """What stays constant: the mean velocity, or the mean pressure gradient."""
    bulk_velocity: float = 15.63
    """Mean velocity, with which the flow starts and which `mass_flux` holds."""
    pressure_gradient: float = 1.0
    """The mean -dP/dx over the density that `pressure_gradient` holds; 1 makes the friction velocity 1 in the mean."""
    start: Literal["turbulent", "laminar"] = "turbulent"
    """Mean profile at the start: Reichardt's, or Poiseuille's parabola."""
    perturbation: float = 3.5
    """Rms of each component of the random low modes at the start, before they are made divergence-free."""
    frame_velocity: float = 11.0
    """Speed along x of the frame of reference in which the equations are solved; fields are given at rest. About 0.7
    times the mean velocity halves the largest velocity against the grid, and with it the number of steps."""
    time_step: float | None = None
    """Length of a step; None chooses it by `cfl`."""
    cfl: float = 0.6
    """Largest sum over x, y, z of velocity times step over spacing; waves are unstable from about 0.55 to 1 on, as they
    lie on the grid."""
    dtype: Literal["float32", "float64"] = "float32"
    """Precision of the products in physical space and of the fields. The state, derivatives and solves are float64."""
    subgrid: SubgridConfig = field(default_factory=SubgridConfig)
    """Model for the scales that the grid does not hold; smagorinsky is damped at the walls after van Driest."""

    def __post_init__(self) -> None:
        least = (4, 9, 4)
        if len(self.points) != 3 or any(n < low for n, low in zip(self.points, least, strict=True)):
            raise ConfigError(f"channel.points: expected at least {least} points along x, y, z, got {self.points}.")
        if any(n % 2 for n in self.points[::2]):
            raise ConfigError(f"channel.points: expected even numbers along x and z, got {self.points}.")
        for name in ("length_x", "length_z", "nu", "cfl"):
            _positive(name, getattr(self, name))
        if self.time_step is not None:
            _positive("time_step", self.time_step)
        _positive("bulk_velocity", self.bulk_velocity, zero=self.drive == "pressure_gradient")
        _positive("perturbation", self.perturbation, zero=True)
        if self.drive == "pressure_gradient":
            _positive("pressure_gradient", self.pressure_gradient)
        for name, choices in (
            ("drive", ("mass_flux", "pressure_gradient")),
            ("start", ("turbulent", "laminar")),
            ("dtype", ("float32", "float64")),
        ):
            if getattr(self, name) not in choices:
                raise ConfigError(f"channel.{name}: expected one of {choices}, got {getattr(self, name)!r}.")

    def build(self, seed: int, device: str = "cpu") -> "Channel":
        """The channel at time 0, its random modes drawn from `seed`."""
        return Channel(self, seed, torch.device(device))


class Channel:
    """A channel flow that can be advanced: a `Simulation`.

    Fields are [x, y, z, component] on `grid`, in the frame at rest. The state are the coefficients (`WallNormal`) of v
    and ω_y for every wavenumber, in the moving frame; at wavenumber 0, where ω_y vanishes, those of the mean flow
    U + i W take its place, for which the same equation holds.
    """

    components = COMPONENTS

    def __init__(self, config: ChannelConfig, seed: int, device: torch.device) -> None:
        self.config = config
        nx, ny, nz = config.points
        self.grid = Grid((fourier("x", nx, config.length_x), between_walls("y", ny), fourier("z", nz, config.length_z)))
        self.time = 0.0
        self.time_step = 0.0
        """Length of the last step."""
        self.dtype = torch.float32 if config.dtype == "float32" else torch.float64
        self._modes = modes = Modes((nx, nz), (config.length_x, config.length_z), device)
        self._wall = wall = WallNormal(self.grid.axes[1], device)
        self._products = Products(modes, wall, config.subgrid, config.nu, config.frame_velocity, self.dtype)
        clamped = wall.clamped_slopes
        self._from_normal = torch.cat([wall.values, clamped, wall.derivative @ clamped])
        self._from_vorticity = torch.cat([wall.values, wall.slopes])
        self._to_slope = wall.coefficients @ wall.derivative
        self._poisson = 1 / (wall.eigenvalues[:, None, None] - modes.squared)
        """The inverse Laplacian of coefficients."""
        self._bulk = wall.mean @ wall.values
        self._uniform = wall.coefficients.sum(1)
        """The coefficients of 1."""
        self._force = torch.zeros((), dtype=torch.float64, device=device)
        self._kept: tuple[float, list[Stage]] = (0.0, [])
        self._start(self._initial(seed))

    @property
    def parameters(self) -> Mapping[str, float]:
        config = self.config
        held = {"U_bulk": config.bulk_velocity}
        if config.drive == "pressure_gradient":
            held = {"pressure_gradient": config.pressure_gradient}
        return {"nu": config.nu, "Re_tau_nominal": 1 / config.nu, **held}

    @property
    def pressure_gradient(self) -> float:
        """-dP/dx over the density, mean over the last step."""
        return float(self._force)

    @property
    def friction_velocity(self) -> float:
        """From the slope of the mean velocity at both walls."""
        lower, upper = (self._wall.wall_slopes @ self._vorticity[:, 0, 0].real).tolist()
        return math.sqrt(max(0.0, self.config.nu * (lower - upper) / 2))

    def advance(self, until: float) -> None:
        """Go on to exactly `until` with equal steps, chosen anew where the flow asks for others.

        Raises:
            BlownUp: the velocity is no longer finite, or beyond all bounds. The state is of no use then.
        """
        if self.time >= until:
            return
        source, longest = self._first_source()
        while self.time < until:
            number, step = steps_between(self.time, until, longest)
            begin = self.time
            for k in range(1, number + 1):
                self._step(step, source)
                self.time = until if k == number else begin + k * step
                if k == number:
                    break
                source, longest = self._first_source()
                if step > OUTGROWN * longest or (k + 1 < number and longest > TOO_SHORT * step):
                    break
        if not bool(torch.view_as_real(self._vorticity).isfinite().all()):
            raise self._blown_up()

    def fields(self, grid: Grid | None = None) -> Float[Tensor, "x y z 3"]:
        """The velocity on `grid` (None: the collocation grid), in the precision of the configuration.

        Along x and z it is cut off sharply; along y its polynomial is evaluated, without a filter.

        Raises:
            ConfigError: a grid of another domain.
        """
        grid = grid or self.grid
        self._check_domain(grid)
        velocity, _ = self._velocity()
        rows = torch.from_numpy(interpolation(self.grid.axes[1], grid.axes[1].points)).to(velocity.device)
        points = (len(grid.axes[0]), len(grid.axes[2]))
        seen = self._modes.resized(along(rows, velocity), points)
        modes = Modes(points, self._modes.lengths, seen.device)
        # What the moving frame holds at x - ct is at x.
        seen = seen * torch.exp(-1j * modes.kx * (self.config.frame_velocity * self.time))
        return modes.physical(seen, points).permute(3, 1, 2, 0).to(self.dtype).contiguous()

    def start_from(self, frame: Float[Tensor, "x y z 3"], grid: Grid) -> None:
        """The nearest divergence-free flow with no slip to a velocity on another grid of the same domain; time 0.

        What that grid does not hold is 0. Where the mass flux is held, the mean profile is scaled to it.

        Raises:
            ConfigError: a grid of another domain, a frame of another shape or with numbers that are not finite.
        """
        self._check_domain(grid)
        if tuple(frame.shape) != (*grid.shape, 3):
            raise ConfigError(
                f"channel: expected a frame of shape {(*grid.shape, 3)} to start from, got {tuple(frame.shape)}."
            )
        if not bool(frame.isfinite().all()):
            raise ConfigError("channel: expected a finite frame to start from, got NaN or infinity in it.")
        values = frame.to(self._modes.kx).permute(3, 1, 2, 0)
        points = (len(grid.axes[0]), len(grid.axes[2]))
        modes = Modes(points, self._modes.lengths, values.device)
        spectra = modes.resized(modes.spectral(values), self._modes.points)
        rows = torch.from_numpy(interpolation(grid.axes[1], self.grid.axes[1].points)).to(values)
        self._start(along(rows, spectra))

    def state(self) -> dict[str, Tensor]:
        """Real and imaginary parts of the coefficients, the last force, the time: float64 copies."""
        return {
            "v": torch.view_as_real(self._v).clone(),
            "vorticity": torch.view_as_real(self._vorticity).clone(),
            "force": self._force.clone(),
            "time": torch.tensor(self.time, dtype=torch.float64),
        }

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Go back to what `state` gave.

        Raises:
            CheckpointError: the state of something else.
        """
        own = self.state()
        for name, value in own.items():
            if name not in state or state[name].shape != value.shape:
                got = tuple(state[name].shape) if name in state else "none"
                raise CheckpointError(
                    f"channel: expected a state of {self.config.points} points, in it {name} of shape "
                    f"{tuple(value.shape)}, got {got}. Take the configuration with which it was written, or start anew."
                )
        placed = {name: state[name].to(value, copy=True) for name, value in own.items()}
        self._v, self._vorticity = (torch.view_as_complex(placed[name]) for name in ("v", "vorticity"))
        self._force, self.time = placed["force"], float(state["time"])

    def energy(self) -> float:
        """Mean kinetic energy per unit mass, that of the mean flow included."""
        velocity, _ = self._velocity()
        return float(channel_start.mean_square(velocity, self._wall.mean).sum() / 2)

    def _initial(self, seed: int) -> Complex[Tensor, "3 y z x"]:
        config, y = self.config, self.grid.axes[1].points
        spectra = config.perturbation * channel_start.random_modes(self._modes, y, seed)
        profile = torch.from_numpy(
            channel_start.laminar(y) if config.start == "laminar" else channel_start.reichardt(y, 1 / config.nu)
        ).to(self._wall.mean)
        spectra[0, :, 0, 0] = config.bulk_velocity * profile / (self._wall.mean @ profile)
        return spectra

    def _start(self, velocity: Complex[Tensor, "3 y z x"]) -> None:
        self._v, self._vorticity = channel_start.nearest(velocity, self._modes, self._wall)
        if self.config.drive == "mass_flux":
            mean = self._vorticity[:, 0, 0]
            found = float(self._bulk @ mean.real)
            if found <= 0:
                raise ConfigError(f"channel: expected a flow along x to start from, got the mean velocity {found:g}.")
            self._vorticity[:, 0, 0] = self.config.bulk_velocity / found * mean.real + 1j * mean.imag
        self.time = 0.0

    def _velocity(self) -> tuple[Complex[Tensor, "3 y z x"], Complex[Tensor, "3 y z x"]]:
        """The velocity in the moving frame at all heights, and its derivative along y."""
        modes = self._modes
        v, v_y, v_yy = along(self._from_normal, self._v).unflatten(0, (3, -1))
        vorticity, vorticity_y = along(self._from_vorticity, self._vorticity).unflatten(0, (2, -1))
        x, z = 1j * modes.kx * modes.inverse_squared, 1j * modes.kz * modes.inverse_squared
        velocity = torch.stack([x * v_y - z * vorticity, v, z * v_y + x * vorticity])
        slope = torch.stack([x * v_yy - z * vorticity_y, v_y, z * v_yy + x * vorticity_y])
        for found, mean in ((velocity, vorticity), (slope, vorticity_y)):
            found[0, :, 0, 0], found[2, :, 0, 0] = mean[:, 0, 0].real, mean[:, 0, 0].imag
        return velocity, slope

    def _source(
        self, *, first: bool
    ) -> tuple[Complex[Tensor, "coefficient z x"], Complex[Tensor, "coefficient z x"], Float[Tensor, "2"]]:
        """Sources of v (that of ∇²v under the inverse Laplacian) and of ω_y; what `Products` measures."""
        modes = self._modes
        (x, y, z), measured = self._products(*self._velocity(), first=first)
        level = 1j * (modes.kx * x + modes.kz * z)
        normal = -along(self._to_slope, level) - modes.squared * along(self._wall.coefficients, y)
        vorticity = 1j * (modes.kz * x - modes.kx * z)
        vorticity[:, 0, 0] = x[:, 0, 0].real + 1j * z[:, 0, 0].real
        return normal * self._poisson, along(self._wall.coefficients, vorticity), measured

    def _first_source(
        self,
    ) -> tuple[tuple[Complex[Tensor, "coefficient z x"], Complex[Tensor, "coefficient z x"]], float]:
        """The sources of v and ω_y at the beginning of a step, and the longest step allowed."""
        config = self.config
        normal, vorticity, measured = self._source(first=True)
        rate, speed = measured.tolist()
        scale = config.bulk_velocity
        if config.drive == "pressure_gradient":
            scale = max(scale, config.pressure_gradient / (2 * config.nu))  # laminar, in the middle
        if not speed < LOST * scale or not math.isfinite(rate):
            raise self._blown_up()
        # A flow that is hardly there must not be allowed the whole way in one step.
        least = scale * config.points[0] / config.length_x
        return (normal, vorticity), config.time_step or config.cfl / max(rate, least)

    def _step(
        self, step: float, source: tuple[Complex[Tensor, "coefficient z x"], Complex[Tensor, "coefficient z x"]]
    ) -> None:
        stages = self._stages(step)
        force = torch.zeros_like(self._force)
        held = source
        for k, stage in enumerate(stages):
            if k > 0:
                normal, vorticity, _ = self._source(first=False)
                held, source = source, (normal, vorticity)
            now, before = step * ADVANCED[k], step * HELD_OVER[k]
            normal, vorticity = (now * new + before * old for new, old in zip(source, held, strict=True))
            self._v = stage.normal(self._v, normal)
            self._vorticity = stage.vorticity(self._vorticity, vorticity)
            response = stage.damping[:, 0, 0] * self._uniform
            if self.config.drive == "mass_flux":
                missing = self.config.bulk_velocity - self._bulk @ self._vorticity[:, 0, 0].real
                impulse = missing / (self._bulk @ response)
            else:
                impulse = torch.full_like(force, (now + before) * self.config.pressure_gradient)
            self._vorticity[:, 0, 0] += impulse * response
            force += impulse
        self._force, self.time_step = force / step, step

    def _stages(self, step: float) -> list[Stage]:
        """The stages of a step of this length; those of the last one are kept."""
        if step != self._kept[0]:
            betas = [self.config.nu * step * (a + b) / 2 for a, b in zip(ADVANCED, HELD_OVER, strict=True)]
            stages = [Stage(self._wall, self._modes.squared, self._poisson, beta) for beta in betas]
            self._kept = (step, stages)
        return self._kept[1]

    def _check_domain(self, grid: Grid) -> None:
        wanted = self.grid.axes
        fits = len(grid.axes) == 3 and all(
            axis.periodic == own.periodic
            and math.isclose(axis.length, own.length, rel_tol=1e-5)
            and abs(axis.points[0]) < 1e-5 * own.length
            for axis, own in zip(grid.axes, wanted, strict=True)
        )
        if not fits:
            raise ConfigError(
                f"channel: expected a grid over {_domain(self.grid)}, got {_domain(grid)}. Set length_x and length_z "
                "of the channel to those of the grid."
            )

    def _blown_up(self) -> BlownUp:
        return BlownUp(
            "channel",
            self.time,
            self.time_step,
            "Choose a smaller cfl or time_step, more points, or a subgrid model.",
        )


def _domain(grid: Grid) -> str:
    return ", ".join(
        f"{axis.name} {axis.points[0]:g} to {axis.points[0] + axis.length:g}{' (periodic)' if axis.periodic else ''}"
        for axis in grid.axes
    )


def _positive(name: str, value: float, *, zero: bool = False) -> None:
    if not math.isfinite(value) or value < 0 or (value == 0 and not zero):
        raise ConfigError(f"channel.{name}: expected a {'number from 0' if zero else 'positive number'}, got {value}.")
