"""The solver for given fields on their own, coarse grid: the classical run that a network has to beat."""

import math
from collections.abc import Mapping, Sequence

from data.errors import PenstockError
from data.grid import Grid
from data.synthetic.turbulence.channel import ChannelConfig
from data.synthetic.turbulence.isotropic import IsotropicConfig
from data.synthetic.turbulence.kolmogorov import KolmogorovConfig
from data.synthetic.turbulence.subgrid import Model, SubgridConfig

CHANNEL_CONSTANTS = {"smagorinsky": 0.1, "wale": 0.325}
"""Near walls less than in isotropic turbulence (Deardorff 1970; Nicoud and Ducros 1999)."""
DEALIASING = 3 / 2
"""Collocation points of the periodic solvers for each point of the fields: they compute two thirds of their modes."""
KOLMOGOROV_STEP = 1.2
"""Time step times points: at unit forcing velocities reach 4 to 5, and step · points / 3 · velocity stays below 2.8."""


Solver = KolmogorovConfig | ChannelConfig | IsotropicConfig


def coarse_solver(grid: Grid, components: Sequence[str], parameters: Mapping[str, float], model: Model) -> Solver:
    """What solves the equations behind the fields, with the modes that their grid holds and that subgrid model.

    Told from what the fields are and from the parameters that their file has: a plane vorticity with `nu`, `drag` and
    `forcing_wavenumber` (`forcing_amplitude` is 1 if it is missing), velocities between walls with `nu` and `U_bulk`,
    or in a periodic box with `nu`, `power` and `forced_below`, as the project's own simulations have them.

    Raises:
        PenstockError: other fields, another grid, or a parameter is missing; the message says which.
        ConfigError: the model is none for this flow.
    """
    if tuple(components) == ("vorticity",) and grid.walls is None and len(grid.axes) == 2:
        return _kolmogorov(grid, parameters, model)
    if len(components) == 3 and grid.walls == 1:
        return _channel(grid, parameters, model)
    if len(components) == 3 and grid.walls is None:
        return _isotropic(grid, parameters, model)
    raise PenstockError(
        f"expected the vorticity of a plane periodic flow, or three velocities, got "
        f"{', '.join(components)} on axes {', '.join(grid.names)}"
    )


def _kolmogorov(grid: Grid, parameters: Mapping[str, float], model: Model) -> KolmogorovConfig:
    nu, drag, wavenumber = _needed(parameters, "nu", "drag", "forcing_wavenumber")
    points = _box_points(grid)
    return KolmogorovConfig(
        points=points,
        nu=nu,
        drag=drag,
        forcing_wavenumber=round(wavenumber),
        amplitude=parameters.get("forcing_amplitude", 1.0),
        step=KOLMOGOROV_STEP / points,
        subgrid=SubgridConfig(model=model),
    )


def _channel(grid: Grid, parameters: Mapping[str, float], model: Model) -> ChannelConfig:
    nu, bulk = _needed(parameters, "nu", "U_bulk")
    x, y, z = grid.axes
    if not y.chebyshev or not math.isclose(y.length, 2.0, rel_tol=1e-4):
        raise PenstockError("expected Chebyshev-Gauss-Lobatto points from wall to wall at a distance of 2")
    return ChannelConfig(
        points=(len(x), len(y), len(z)),
        length_x=x.length,
        length_z=z.length,
        nu=nu,
        bulk_velocity=bulk,
        subgrid=SubgridConfig(model=model, constant=CHANNEL_CONSTANTS.get(model)),
    )


def _isotropic(grid: Grid, parameters: Mapping[str, float], model: Model) -> IsotropicConfig:
    nu, power, forced_below = _needed(parameters, "nu", "power", "forced_below")
    points, finest = _box_points(grid), IsotropicConfig()
    return IsotropicConfig(
        points=points,
        nu=nu,
        power=power,
        forced_below=forced_below,
        step=finest.step * finest.points / points,
        subgrid=SubgridConfig(model=model),
    )


def _box_points(grid: Grid) -> int:
    """Collocation points of each axis that compute the modes which fields on the grid hold; a box of side 2π."""
    if len(set(grid.shape)) > 1 or any(not math.isclose(axis.length, 2 * math.pi, rel_tol=1e-4) for axis in grid.axes):
        raise PenstockError(f"expected a box of side 2π with equal axes, got {grid.shape}")
    return 2 * math.ceil(DEALIASING * grid.shape[0] / 2)


def _needed(parameters: Mapping[str, float], *names: str) -> list[float]:
    missing = [name for name in names if name not in parameters]
    if missing:
        raise PenstockError(f"the file does not tell {', '.join(missing)}")
    return [parameters[name] for name in names]
