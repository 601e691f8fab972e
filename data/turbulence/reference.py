"""Readers of published channel statistics, and of the unfiltered ones that a file of filtered frames carries.

Sources: Moser, Kim and Mansour, Phys. Fluids 11, 943 (1999); del Álamo and Jiménez, Phys. Fluids 15, L41 (2003) and
Hoyas and Jiménez, Phys. Fluids 20, 101511 (2008); the filtered statistics of the authors of the IUFNO and IFactFormer.
"""

from pathlib import Path

import h5py
import numpy as np
from jaxtyping import Float

from data.errors import SchemaError
from data.turbulence.blocks import Estimate
from data.turbulence.profiles import Profiles


def read_moser(means: Path, stresses: Path) -> Profiles:
    """The two tables of Moser, Kim and Mansour: columns y/h, y+, U+, … and y/h, y+, uu, vv, ww, uv, ….

    Raises:
        SchemaError: no such table.
    """
    mean, stress = _table(means, 7), _table(stresses, 8)
    if len(mean) != len(stress) or not np.allclose(mean[:, 0], stress[:, 0], atol=1e-5):
        raise SchemaError(f"{means} and {stresses}: expected the same heights in both tables.")
    return _profiles("Moser et al. 1999", mean[:, 0], mean[-1, 1], mean[:, 2], np.sqrt(stress[:, 2:5]), -stress[:, 5])


def read_hoyas_jimenez(path: Path) -> Profiles:
    """The table of Hoyas and Jiménez: columns y/h, y+, U+, u', v', w' (rms), vorticities, uv, ….

    Raises:
        SchemaError: no such table.
    """
    table = _table(path, 17)
    return _profiles("Hoyas and Jiménez 2008", table[:, 0], table[-1, 1], table[:, 2], table[:, 3:6], -table[:, 10])


def read_filtered(path: Path, name: str) -> Profiles:
    """A table of filtered statistics: columns y+, U+, u', v', w' (rms), from the wall to the centre.

    Raises:
        SchemaError: no such table.
    """
    table = _table(path, 5)
    return _profiles(name, table[:, 0] / table[-1, 0], table[-1, 0], table[:, 1], table[:, 2:5], None, filtered=True)


def read_dns_statistics(path: Path) -> Profiles:
    """The group `dns_statistics` of a channel file: unfiltered means over the stored frames.

    `y` and `profiles` (rows U, uu, vv, ww, uv) go from wall to wall or to the centre, in units in which the half-height
    is 1; `u_tau_mean` and the file's attribute `nu` give the wall units.

    Raises:
        SchemaError: the file has no such group.
    """
    try:
        with h5py.File(path, "r") as file:
            group = file["dns_statistics"]
            y, rows, u_tau = group["y"][()], group["profiles"][()], float(group["u_tau_mean"][()])
            nu = float(file.attrs["nu"])
    except (OSError, KeyError) as error:
        raise SchemaError(f"{path}: expected a channel file with the group 'dns_statistics' ({error}).") from error
    half = y <= 1 + 1e-6
    mean, stress = rows[0, half] / u_tau, rows[1:, half] / u_tau**2
    return _profiles("DNS of the file", y[half], u_tau / nu, mean, np.sqrt(stress[:3].T), -stress[3])


def _profiles(
    name: str,
    y: Float[np.ndarray, " half"],
    re_tau: float,
    velocity: Float[np.ndarray, " half"],
    rms: Float[np.ndarray, "half 3"],
    shear: Float[np.ndarray, " half"] | None,
    *,
    filtered: bool = False,
) -> Profiles:
    return Profiles(
        name=name,
        y=y,
        re_tau=float(re_tau),
        velocity=Estimate.exact(velocity),
        rms=Estimate.exact(rms),
        shear=None if shear is None else Estimate.exact(shear),
        filtered=filtered,
    )


def _table(path: Path, columns: int) -> Float[np.ndarray, "row column"]:
    """Numbers of a text table; lines that begin with # or % are comments."""
    try:
        table = np.loadtxt(path, comments=("#", "%"), ndmin=2)
    except (OSError, ValueError) as error:
        raise SchemaError(f"{path}: expected a table of numbers ({error}).") from error
    if table.shape[1] != columns or len(table) < 4 or not np.all(np.diff(table[:, 0]) > 0):
        raise SchemaError(
            f"{path}: expected {columns} columns and heights that increase, got a table of {table.shape[0]} rows and "
            f"{table.shape[1]} columns."
        )
    return table
