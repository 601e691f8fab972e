"""Two-dimensional Kolmogorov flow: the vorticity equation under a steady sine force, on a periodic square of side 2π.

∂ω/∂t + u·∇ω = ν ∇²ω - μ ω + curl(A sin(n y) e_x), pseudo-spectral with the 2/3 rule. The nonlinear term in the form of
Basdevant (1983), which needs four transforms: (∂yy - ∂xx)(uv) - ∂xy(v² - u²).
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

START_MODES = 6
START_POINTS = 16
"""A start has random modes up to this number, drawn on a grid of this size: it does not depend on the run's points."""
START_ENERGY = 0.5
CHECKED = 32
"""Steps after which a run looks whether its numbers are still finite."""


@dataclass(frozen=True, kw_only=True)
class KolmogorovConfig:
    """A flow and how finely it is computed."""

    points: int = 96
    """In each direction; wavenumbers below a third of it are computed."""
    nu: float = 0.003
    drag: float = 0.1
    """Linear drag μ, which stands for a bottom and keeps the large scales from growing."""
    forcing_wavenumber: int = 4
    amplitude: float = 1.0
    """Of the force sin(n y) e_x."""
    step: float = 1 / 80
    """Longest time step; stable while step · cutoff · (|u| + |v|) stays below 2.8."""
    dtype: Literal["float32", "float64"] = "float32"
    subgrid: SubgridConfig = field(default_factory=SubgridConfig)

    def __post_init__(self) -> None:
        if self.points < 8 or self.nu <= 0 or self.drag < 0 or self.step <= 0:
            raise ConfigError(
                "kolmogorov: expected points from 8, nu and step above 0 and drag from 0, got "
                f"points={self.points}, nu={self.nu:g}, step={self.step:g} and drag={self.drag:g}."
            )
        if not 1 <= self.forcing_wavenumber < self.points / 3:
            raise ConfigError(
                f"kolmogorov: expected a forcing_wavenumber from 1 to below points / 3, got {self.forcing_wavenumber} "
                f"with {self.points} points."
            )
        if self.subgrid.model == "wale":
            raise ConfigError(
                "kolmogorov: WALE has no viscosity in two dimensions, where the square of the velocity gradient is a "
                "multiple of the identity. Choose the subgrid model dynamic or smagorinsky."
            )

    def build(self, seed: int, device: str = "cpu") -> "Kolmogorov":
        """The simulation at time 0, with random large eddies made from `seed`."""
        return Kolmogorov(self, seed, device)


class Kolmogorov:
    """A `Simulation`; its frames hold the vorticity."""

    components = ("vorticity",)

    def __init__(self, config: KolmogorovConfig, seed: int, device: str) -> None:
        self.config = config
        self.grid = box(config.points, "xy")
        self.time = 0.0
        self._box = Box(self.grid, getattr(torch, config.dtype), device)
        self._coefficient: Float[Tensor, "1 1"] | None = None
        """C_s² of the dynamic model, found at the first stage of a step and kept for the others."""
        self._step = self._equation()
        self._modes = self._admitted(_random_start(seed), (START_POINTS, START_POINTS))

    @property
    def parameters(self) -> Mapping[str, float]:
        config = self.config
        return {
            "nu": config.nu,
            "drag": config.drag,
            "forcing_wavenumber": float(config.forcing_wavenumber),
            "forcing_amplitude": config.amplitude,
        }

    def advance(self, until: float) -> None:
        """Go on to exactly `until`. Raises: BlownUp."""
        number, length = steps_between(self.time, until, self.config.step)
        good = modes = self._modes
        for k in range(1, number + 1):
            modes = self._step.step(modes, length)
            if (k % CHECKED == 0 or k == number) and not bool(torch.view_as_real(modes).isfinite().all()):
                raise BlownUp("Kolmogorov flow", self.time + k * length, length, self._advice(good))
        self._modes, self.time = modes, max(self.time, until)

    def fields(self, grid: Grid | None = None) -> Float[Tensor, "x y 1"]:
        """The vorticity. Raises: ConfigError: `grid` is of another box."""
        if grid is None:
            return self._box.points(self._modes)[..., None]
        check_same_box(self.grid, grid)
        modes = resized(self._modes, self.grid.shape, grid.shape)
        return torch.fft.irfftn(modes, s=grid.shape, norm="forward")[..., None]

    def start_from(self, frame: Float[Tensor, "x y 1"], grid: Grid) -> None:
        """Start from a vorticity at time 0. Raises: ConfigError: `grid` is of another box."""
        check_same_box(self.grid, grid)
        self._modes = self._admitted(torch.fft.rfftn(frame[..., 0].double(), norm="forward"), grid.shape)
        self.time = 0.0

    def state(self) -> dict[str, Tensor]:
        return {"modes": torch.view_as_real(self._modes).clone(), "time": torch.tensor(self.time, dtype=torch.float64)}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Raises: RuntimeError: the state is of another size."""
        self._modes = torch.view_as_complex(torch.empty_like(torch.view_as_real(self._modes)).copy_(state["modes"]))
        self.time = float(state["time"])

    def energy(self) -> float:
        return 0.5 * self._box.mean_square(self._velocity * self._modes)

    def enstrophy(self) -> float:
        """Mean of ω²/2."""
        return 0.5 * self._box.mean_square(self._modes)

    def _admitted(self, modes: Complex[Tensor, "x y"], points: tuple[int, ...]) -> Complex[Tensor, "x y"]:
        """The part of a vorticity that the run computes, on its device."""
        modes = resized(modes, points, self.grid.shape).to(self._box.device) * self._box.kept
        modes[0, 0] = 0  # the circulation around a periodic box
        return modes.to(self._velocity.dtype)

    def _equation(self) -> IntegratingFactor:
        """The multipliers of the equation, exact before they are rounded."""
        exact = Box(self.grid, torch.float64, self._box.device)
        kx, ky = exact.wavenumbers
        inverse = exact.kept / exact.squared.clamp(min=1)
        dtype = torch.complex64 if self._box.dtype == torch.float32 else torch.complex128
        self._velocity = torch.stack([1j * ky * inverse, -1j * kx * inverse]).to(dtype)
        # Of uv and v² - u² in the tendency of the vorticity.
        self._products = (exact.kept * torch.stack([kx**2 - ky**2, kx * ky])).to(dtype)
        rate = -self.config.nu * exact.squared - self.config.drag
        n = self.config.forcing_wavenumber
        force = torch.zeros_like(rate, dtype=torch.complex128)
        force[0, n] = -self.config.amplitude * n / 2  # -A n cos(n y); the conjugate mode is not stored
        rest = -force / torch.where(rate == 0, 1, rate)  # without drag, the mean has no rate, and no force
        return IntegratingFactor(rate, self._tendency, dtype, rest)

    def _tendency(self, modes: Complex[Tensor, "x y"], first: bool) -> Complex[Tensor, "x y"]:
        """What the flow itself, and a subgrid model, does to the vorticity."""
        velocity = self._box.points(self._velocity * modes)
        u, v = velocity
        products = torch.stack([u * v, (v - u) * (v + u)])
        if self.config.subgrid.model != "none":
            kx, ky = self._box.wavenumbers
            slopes = self._box.points(torch.stack([1j * k * self._velocity * modes for k in (kx, ky)], 1))
            if first and self.config.subgrid.model == "dynamic":
                self._coefficient = dynamic_coefficient(velocity, slopes, self._box.scales)
            viscosity = eddy_viscosity(self.config.subgrid, velocity, slopes, self._box.scales, self._coefficient)
            stress = subgrid_stress(slopes, viscosity)
            products -= torch.stack([stress[0, 1], stress[1, 1] - stress[0, 0]])
        one, other = self._products * self._box.modes(products)
        return one.add_(other)

    def _advice(self, good: Complex[Tensor, "x y"]) -> str:
        speed = float(self._box.points(self._velocity * good).abs().sum(0).max())
        limit = 2.8 / (self._box.cutoff * max(speed, 1e-30))
        return f"The flow before it allows a step of about {limit:.2g}: choose kolmogorov.step well below."


def _random_start(seed: int) -> Complex[Tensor, "x y"]:
    """Vorticity modes of random large eddies, with the energy `START_ENERGY`."""
    generator = torch.Generator().manual_seed(seed)
    small = Box(box(START_POINTS, "xy"), torch.float64, "cpu")
    noise = small.modes(torch.randn(START_POINTS, START_POINTS, generator=generator, dtype=torch.float64))
    inside = below(small.grid, [START_MODES + 1] * 2) * (small.squared > 0) * (small.squared <= START_MODES**2)
    noise = noise * inside
    energy = 0.5 * small.mean_square(noise / small.squared.clamp(min=1).sqrt())
    return noise * (START_ENERGY / energy) ** 0.5
