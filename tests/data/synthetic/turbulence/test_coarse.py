"""Which solver belongs to fields, told from the fields."""

import math

import pytest

from data.errors import ConfigError, PenstockError
from data.grid import Grid, between_walls, fourier, stretched
from data.synthetic.turbulence.channel import ChannelConfig
from data.synthetic.turbulence.coarse import coarse_solver
from data.synthetic.turbulence.isotropic import IsotropicConfig
from data.synthetic.turbulence.kolmogorov import KolmogorovConfig

TAU = 2 * math.pi
VELOCITIES = ("velocity_x", "velocity_y", "velocity_z")


def test_kolmogorov_flow() -> None:
    grid = Grid((fourier("x", 32, TAU), fourier("y", 32, TAU)))
    told = {"nu": 0.01, "drag": 0.2, "forcing_wavenumber": 3.0}
    found = coarse_solver(grid, ("vorticity",), told, "dynamic")
    assert isinstance(found, KolmogorovConfig)
    assert (found.points, found.nu, found.drag, found.forcing_wavenumber) == (48, 0.01, 0.2, 3)
    assert found.subgrid.model == "dynamic"
    with pytest.raises(PenstockError, match="does not tell drag"):
        coarse_solver(grid, ("vorticity",), {"nu": 0.01, "forcing_wavenumber": 3.0}, "none")
    with pytest.raises(ConfigError, match="WALE"):
        coarse_solver(grid, ("vorticity",), told, "wale")


def test_channel_flow() -> None:
    axes = (fourier("x", 16, 4.0), between_walls("y", 17), fourier("z", 8, 2.0))
    found = coarse_solver(Grid(axes), VELOCITIES, {"nu": 0.005, "U_bulk": 15.0}, "wale")
    assert isinstance(found, ChannelConfig)
    assert found.points == (16, 17, 8) and (found.length_x, found.length_z) == (4.0, 2.0)
    assert (found.nu, found.bulk_velocity, found.subgrid.constant) == (0.005, 15.0, 0.325)
    uneven = Grid((axes[0], stretched("y", [0, 0.1, 0.5, 2]), axes[2]))
    with pytest.raises(PenstockError, match="Chebyshev"):
        coarse_solver(uneven, VELOCITIES, {"nu": 0.005, "U_bulk": 15.0}, "none")


def test_isotropic_flow() -> None:
    grid = Grid(tuple(fourier(name, 16, TAU) for name in "xyz"))
    found = coarse_solver(grid, VELOCITIES, {"nu": 0.02, "power": 0.3, "forced_below": 2.0}, "smagorinsky")
    assert isinstance(found, IsotropicConfig)
    assert (found.points, found.nu, found.power, found.forced_below) == (24, 0.02, 0.3, 2.0)
    with pytest.raises(PenstockError, match="side 2π"):
        longer = Grid(tuple(fourier(name, 16, 3.0) for name in "xyz"))
        coarse_solver(longer, VELOCITIES, {"nu": 0.02, "power": 0.3, "forced_below": 2.0}, "none")


def test_other_fields_have_no_solver() -> None:
    grid = Grid((fourier("x", 8, TAU), fourier("y", 8, TAU)))
    with pytest.raises(PenstockError, match="got density on axes x, y"):
        coarse_solver(grid, ("density",), {}, "none")
