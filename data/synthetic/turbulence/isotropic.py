"""Three-dimensional turbulence in a periodic box of side 2π: forced, or decaying from Taylor and Green's vortex.

∂u/∂t = P(u × ω + f) - ν k² u, with P the projection on divergence-free fields: the rotational form, pseudo-spectral
with the 2/3 rule, which conserves energy but for the error in time. Both ways of forcing are deterministic: a run is a
function of its configuration and its seed.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import torch
from jaxtyping import Complex, Float
from torch import Tensor

from data.errors import ConfigError
from data.grid import Grid
from data.synthetic.turbulence.fourier import Box, IntegratingFactor, below, box, check_same_box, resized
from data.synthetic.turbulence.simulation import BlownUp, steps_between
from data.synthetic.turbulence.subgrid import SubgridConfig, dynamic_coefficient, eddy_viscosity, subgrid_stress

START_POINTS = 16
START_PEAK = 2.5
"""A start has energy ∝ k⁴ exp(-2 (k / peak)²), drawn on a grid of 16³: it does not depend on the run's points."""
CHECKED = 32
"""Steps after which a run looks whether its numbers are still finite."""


@dataclass(frozen=True, kw_only=True)
class IsotropicConfig:
    """A flow and how finely it is computed."""

    points: int = 64
    """In each direction; wavenumbers below a third of it are computed."""
    nu: float = 0.015
    start: Literal["random", "taylor_green"] = "random"
    """Random large eddies of the energy `energy`, or u = (sin x cos y cos z, -cos x sin y cos z, 0), of 1/8."""
    energy: float = 0.5
    forcing: Literal["none", "power", "energy"] = "power"
    """power: the force is parallel to the velocity of the forced wavenumbers and puts in `power`. energy: those
    wavenumbers are scaled back to the energy that they had at the start after every step."""
    power: float = 0.1
    """Power per unit mass; the mean dissipation of a stationary flow."""
    forced_below: float = 2.5
    """Wavenumbers 0 < |k| < `forced_below` are forced."""
    step: float = 0.01
    """Longest time step; stable while step · cutoff · (|u| + |v| + |w|) stays below 2.8."""
    dtype: Literal["float32", "float64"] = "float32"
    subgrid: SubgridConfig = field(default_factory=SubgridConfig)

    def __post_init__(self) -> None:
        if self.points < 8 or self.nu <= 0 or self.step <= 0 or self.energy <= 0 or self.power < 0:
            raise ConfigError(
                "isotropic: expected points from 8, nu, step and energy above 0 and power from 0, got "
                f"points={self.points}, nu={self.nu:g}, step={self.step:g}, energy={self.energy:g} and "
                f"power={self.power:g}."
            )
        if self.forcing != "none" and not 1 < self.forced_below <= self.points / 3:
            raise ConfigError(
                f"isotropic: expected forced_below above 1 and up to points / 3, got {self.forced_below:g} with "
                f"{self.points} points."
            )

    def build(self, seed: int, device: str = "cpu") -> "Isotropic":
        """The simulation at time 0; a random start is made from `seed`."""
        return Isotropic(self, seed, device)


class Isotropic:
    """A `Simulation`; its frames hold the velocity."""

    components = ("velocity_x", "velocity_y", "velocity_z")

    def __init__(self, config: IsotropicConfig, seed: int, device: str) -> None:
        self.config = config
        self.grid = box(config.points, "xyz")
        self.time = 0.0
        self._box = Box(self.grid, getattr(torch, config.dtype), device)
        self._dtype = torch.complex64 if config.dtype == "float32" else torch.complex128
        self._inverse = (self._box.kept / self._box.squared.clamp(min=1)).to(self._dtype)
        self._forced = (self._box.squared > 0) & (self._box.squared < config.forced_below**2)
        rate = -config.nu * Box(self.grid, torch.float64, device).squared
        self._coefficient: Float[Tensor, "1 1 1"] | None = None
        """C_s² of the dynamic model, found at the first stage of a step and kept for the others."""
        self._step = IntegratingFactor(rate, self._tendency, self._dtype)
        self._modes: Complex[Tensor, "3 x y z"]
        self._held: Float[Tensor, ""]
        random = config.start == "random"
        start = _random_start(seed, config.energy) if random else _taylor_green()
        self._begin(start, (START_POINTS,) * 3)

    @property
    def parameters(self) -> Mapping[str, float]:
        config = self.config
        found = {"nu": config.nu}
        if config.forcing != "none":
            found["forced_below"] = config.forced_below
        if config.forcing == "power":
            found["power"] = config.power
        return found

    def advance(self, until: float) -> None:
        """Go on to exactly `until`. Raises: BlownUp."""
        number, length = steps_between(self.time, until, self.config.step)
        good = modes = self._modes
        for k in range(1, number + 1):
            modes = self._box.real(self._step.step(modes, length))
            if self.config.forcing == "energy":
                scale = (self._held / self._forced_energy(modes)).sqrt()
                modes = torch.where(self._forced, modes * scale, modes)
            if (k % CHECKED == 0 or k == number) and not bool(torch.view_as_real(modes).isfinite().all()):
                raise BlownUp("isotropic turbulence", self.time + k * length, length, self._advice(good))
        self._modes, self.time = modes, max(self.time, until)

    def fields(self, grid: Grid | None = None) -> Float[Tensor, "x y z 3"]:
        """The velocity. Raises: ConfigError: `grid` is of another box."""
        if grid is None:
            return self._box.points(self._modes).movedim(0, -1).contiguous()
        check_same_box(self.grid, grid)
        modes = resized(self._modes, self.grid.shape, grid.shape)
        return torch.fft.irfftn(modes, s=grid.shape, dim=(1, 2, 3), norm="forward").movedim(0, -1).contiguous()

    def start_from(self, frame: Float[Tensor, "x y z 3"], grid: Grid) -> None:
        """Start from a velocity at time 0, of which the divergence-free part is taken, without the mean.

        Raises:
            ConfigError: `grid` is of another box.
        """
        check_same_box(self.grid, grid)
        self._begin(torch.fft.rfftn(frame.movedim(-1, 0).double(), dim=(1, 2, 3), norm="forward"), grid.shape)

    def state(self) -> dict[str, Tensor]:
        return {
            "modes": torch.view_as_real(self._modes).clone(),
            "held": self._held.clone(),
            "time": torch.tensor(self.time, dtype=torch.float64),
        }

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Raises: RuntimeError: the state is of another size."""
        self._modes = torch.view_as_complex(torch.empty_like(torch.view_as_real(self._modes)).copy_(state["modes"]))
        self._held = torch.empty_like(self._held).copy_(state["held"])
        self.time = float(state["time"])

    def energy(self) -> float:
        return 0.5 * self._box.mean_square(self._modes)

    def enstrophy(self) -> float:
        """Mean of |ω|²/2: 2ν times it is the dissipation."""
        return 0.5 * self._box.mean_square(self._modes * self._box.squared.sqrt())

    def _begin(self, modes: Complex[Tensor, "3 x y z"], points: tuple[int, ...]) -> None:
        modes = resized(modes, points, self.grid.shape).to(self._box.device)
        exact = Box(self.grid, torch.float64, self._box.device)
        modes = modes * exact.kept * (exact.squared > 0)
        level = sum((k * m for k, m in zip(exact.wavenumbers, modes, strict=True)), torch.zeros_like(modes[0]))
        level = level / exact.squared.clamp(min=1)
        self._modes = torch.stack([m - k * level for k, m in zip(exact.wavenumbers, modes, strict=True)]).to(
            self._dtype
        )
        self._held = self._forced_energy(self._modes)
        self.time = 0.0

    def _forced_energy(self, modes: Complex[Tensor, "3 x y z"]) -> Float[Tensor, ""]:
        """Kinetic energy of the forced wavenumbers."""
        square = torch.view_as_real(modes).square().sum((0, -1))
        return 0.5 * (square * self._forced * self._box.weights).sum()

    def _tendency(self, modes: Complex[Tensor, "3 x y z"], first: bool) -> Complex[Tensor, "3 x y z"]:
        """P(u × ω + f), and what a subgrid model adds."""
        stress: Tensor | None = None
        if self.config.subgrid.model == "none":
            found = self._box.points(torch.cat([modes, torch.stack(self._curl(modes))]))
            velocity, vorticity = found[:3], found[3:]
        else:
            slopes = torch.stack([1j * k * modes for k in self._box.wavenumbers], 1).flatten(0, 1)
            found = self._box.points(torch.cat([modes, slopes]))
            velocity, gradient = found[:3], found[3:].unflatten(0, (3, 3))
            vorticity = torch.stack(
                [gradient[(k + 2) % 3, (k + 1) % 3] - gradient[(k + 1) % 3, (k + 2) % 3] for k in range(3)]
            )
            if first and self.config.subgrid.model == "dynamic":
                self._coefficient = dynamic_coefficient(velocity, gradient, self._box.scales)
            stress = subgrid_stress(
                gradient,
                eddy_viscosity(self.config.subgrid, velocity, gradient, self._box.scales, self._coefficient),
            )
        change = self._box.modes(torch.linalg.cross(velocity, vorticity, dim=0))
        if stress is not None:
            change += self._divergence(stress)
        kx, ky, kz = self._box.wavenumbers
        change *= self._box.kept
        level = (kx * change[0] + ky * change[1] + kz * change[2]) * self._inverse
        for component, k in zip(change, (kx, ky, kz), strict=True):
            component -= k * level
        change[:, 0, 0, 0] = 0  # the mean flow stays 0
        if self.config.forcing == "power":
            strength = self.config.power / (2 * self._forced_energy(modes))
            change += torch.where(self._forced, strength * modes, 0)
        return change

    def _curl(self, modes: Complex[Tensor, "3 x y z"]) -> list[Complex[Tensor, "x y z"]]:
        k = self._box.wavenumbers
        return [1j * (k[(c + 1) % 3] * modes[(c + 2) % 3] - k[(c + 2) % 3] * modes[(c + 1) % 3]) for c in range(3)]

    def _divergence(self, stress: Float[Tensor, "3 3 x y z"]) -> Complex[Tensor, "3 x y z"]:
        """Modes of ∂τ_ij/∂x_j of a symmetric tensor."""
        pairs = [(0, 0), (0, 1), (0, 2), (1, 1), (1, 2), (2, 2)]
        modes = self._box.modes(torch.stack([stress[pair] for pair in pairs]))
        found = torch.zeros_like(modes[:3])
        for (i, j), value in zip(pairs, modes, strict=True):
            found[i] += 1j * self._box.wavenumbers[j] * value
            if i != j:
                found[j] += 1j * self._box.wavenumbers[i] * value
        return found

    def _advice(self, good: Complex[Tensor, "3 x y z"]) -> str:
        speed = float(self._box.points(good).abs().sum(0).max())
        limit = 2.8 / (self._box.cutoff * max(speed, 1e-30))
        return f"The flow before it allows a step of about {limit:.2g}: choose isotropic.step well below."


def _random_start(seed: int, energy: float) -> Complex[Tensor, "3 x y z"]:
    """Modes of random eddies with the energy given, divergence-free."""
    generator = torch.Generator().manual_seed(seed)
    small = Box(box(START_POINTS, "xyz"), torch.float64, "cpu")
    noise = small.modes(torch.randn(3, *(START_POINTS,) * 3, generator=generator, dtype=torch.float64))
    k = small.wavenumbers
    length = small.squared.clamp(min=1).sqrt()
    inside = below(small.grid, [START_POINTS / 2] * 3) * (small.squared > 0) * (small.squared < (START_POINTS / 2) ** 2)
    # A shell has about k² modes: the amplitude of each is the root of the spectrum over k².
    noise = noise * inside * length * torch.exp(-((length / START_PEAK) ** 2))
    level = (k[0] * noise[0] + k[1] * noise[1] + k[2] * noise[2]) / length**2
    noise = torch.stack([n - a * level for n, a in zip(noise, k, strict=True)])
    return noise * (energy / (0.5 * small.mean_square(noise))) ** 0.5


def _taylor_green() -> Complex[Tensor, "3 x y z"]:
    small = box(START_POINTS, "xyz")
    x, y, z = torch.meshgrid(*(torch.from_numpy(axis.points) for axis in small.axes), indexing="ij")
    velocity = torch.stack([x.sin() * y.cos() * z.cos(), -x.cos() * y.sin() * z.cos(), torch.zeros_like(x)])
    return torch.fft.rfftn(velocity, dim=(1, 2, 3), norm="forward")
