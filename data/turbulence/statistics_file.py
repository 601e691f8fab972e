"""Statistics on disk: one HDF5 file, and tables as CSV.

Layout of the file, all floats float64:

    attributes    format "penstock turbulence statistics", version 1, nu (absent where unknown), block (frames of a full
                  block), profile (name of the profile's axis, "" without), vorticity_given, axes (names in order)
    axes/NAME     [point] coordinates; attributes length, periodic
    levels/K      [n] points of the profile's axis that level K averages over
    scales        [level, quantity]
    blocks/count, blocks/trajectory  [block]; blocks/means/QUANTITY  [block, ...] (names: `Statistics`)
    series/NAME   [frame, ...] (names: `Series`)
"""

import csv
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from data.atomic import written_file
from data.errors import SchemaError
from data.grid import Axis, Grid
from data.turbulence.blocks import Blocks
from data.turbulence.frame_statistics import Layout
from data.turbulence.statistics import Series, Statistics

FORMAT = "penstock turbulence statistics"
VERSION = 1


def save(statistics: Statistics, path: Path) -> None:
    """Write `path`, whole or not at all.

    Raises:
        DiskFullError: no space left; an earlier file is untouched.
    """
    layout = statistics.layout
    with written_file(path) as temporary, h5py.File(temporary, "w") as file:
        file.attrs.update(
            {
                "format": FORMAT,
                "version": VERSION,
                "block": statistics.blocks.length,
                "profile": "" if layout.profile is None else layout.grid.names[layout.profile],
                "vorticity_given": layout.vorticity_given,
                "axes": list(layout.grid.names),
            }
        )
        if statistics.nu is not None:
            file.attrs["nu"] = statistics.nu
        for axis in layout.grid.axes:
            stored = file.create_dataset(f"axes/{axis.name}", data=axis.points)
            stored.attrs.update({"length": axis.length, "periodic": axis.periodic})
        for k, level in enumerate(layout.levels):
            file[f"levels/{k}"] = np.array(level)
        file["scales"] = statistics.scales
        file["blocks/count"] = statistics.blocks.counts
        file["blocks/trajectory"] = statistics.blocks.trajectories
        for name, mean in statistics.blocks.means.items():
            file.create_dataset(f"blocks/means/{name}", data=mean, compression="gzip", compression_opts=1, shuffle=True)
        for name in Series.__dataclass_fields__:
            file[f"series/{name}"] = getattr(statistics.series, name)


def load(path: Path) -> Statistics:
    """Read `path`.

    Raises:
        SchemaError: no file of this format.
    """
    try:
        with h5py.File(path, "r") as file:
            if file.attrs.get("format") != FORMAT or file.attrs.get("version") != VERSION:
                raise SchemaError(
                    f"{path}: expected '{FORMAT}' of version {VERSION}, got '{file.attrs.get('format')}'."
                )
            return _read(file)
    except (OSError, KeyError) as error:
        raise SchemaError(f"{path}: expected statistics that penstock wrote ({error}). Evaluate again.") from error


def _read(file: h5py.File) -> Statistics:
    names = [str(name) for name in file.attrs["axes"]]
    grid = Grid(
        tuple(
            Axis(n, stored[()], float(stored.attrs["length"]), periodic=bool(stored.attrs["periodic"]))
            for n in names
            for stored in [file["axes"][n]]
        )
    )
    profile = file.attrs["profile"]
    layout = Layout(
        grid=grid,
        profile=names.index(profile) if profile else None,
        levels=tuple(tuple(map(int, file["levels"][str(k)][()])) for k in range(len(file["levels"]))),
        vorticity_given=bool(file.attrs["vorticity_given"]),
    )
    blocks = Blocks(
        {name: stored[()] for name, stored in file["blocks/means"].items()},
        file["blocks/count"][()],
        file["blocks/trajectory"][()],
        int(file.attrs["block"]),
    )
    nu = float(file.attrs["nu"]) if "nu" in file.attrs else None
    series = Series(**{name: file["series"][name][()] for name in Series.__dataclass_fields__})
    return Statistics(layout=layout, nu=nu, blocks=blocks, series=series, scales=file["scales"][()])


def write_tables(statistics: Statistics, folder: Path) -> list[Path]:
    """CSV tables: series.csv, and what the flow has of profiles.csv, spectrum_AXIS.csv, shells.csv, densities.csv,
    correlation.csv. Every estimate has a column with its 95 % half-width, `NAME_pm`. Returns their paths.

    Raises:
        DiskFullError: no space left.
    """
    tables = {
        "series": _series(statistics),
        "densities": _densities(statistics),
        "correlation": _correlation(statistics),
    }
    if statistics.layout.profile is not None:
        tables["profiles"] = _profiles(statistics)
    if "shell_spectrum" in statistics.blocks.means:
        spectrum = statistics.shell_spectrum
        tables["shells"] = {"k": statistics.shells, "energy": spectrum.value, "energy_pm": spectrum.plus_minus}
    for k in statistics.layout.averaged:
        name = statistics.grid.names[k]
        tables[f"spectrum_{name}"] = _spectra(statistics, name)
    return [_write(folder / f"{name}.csv", table) for name, table in tables.items()]


Table = Mapping[str, Any]
"""Columns of one length."""


def _write(path: Path, table: Table) -> Path:
    with written_file(path) as temporary, temporary.open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(table)
        writer.writerows(
            [f"{v:.9g}" if isinstance(v, float) else v for v in row] for row in zip(*table.values(), strict=True)
        )
    return path


def _series(statistics: Statistics) -> Table:
    s = statistics.series
    found: dict[str, Any] = {"trajectory": s.trajectory, "time": s.time, "energy": s.energy}
    found |= {"fluctuation_energy": s.fluctuation, "enstrophy": s.enstrophy, "divergence_rms": s.divergence}
    found |= {f"bulk_{n}": s.bulk[:, k] for k, n in enumerate(statistics.grid.names)}
    return found | {
        f"friction_{wall}": s.friction[:, k]
        for k, wall in zip(range(s.friction.shape[1]), ("lower", "upper"), strict=False)
    }


def _profiles(statistics: Statistics) -> Table:
    names = statistics.grid.names
    assert statistics.layout.profile is not None
    found: dict[str, Any] = {names[statistics.layout.profile]: statistics.points}
    velocity, covariance = statistics.velocity, statistics.covariance
    for i, a in enumerate(names):
        found |= {f"mean_{a}": velocity.value[:, i], f"mean_{a}_pm": velocity.plus_minus[:, i]}
    for i, a in enumerate(names):
        for j, b in enumerate(names[i:], start=i):
            found |= {f"stress_{a}{b}": covariance.value[:, i, j], f"stress_{a}{b}_pm": covariance.plus_minus[:, i, j]}
    return found


def _spectra(statistics: Statistics, axis: str) -> Table:
    spectrum, k = statistics.spectrum(axis), statistics.wavenumbers(axis)
    levels = len(statistics.heights)
    found: dict[str, Any] = {"height": np.repeat(statistics.heights, len(k)), "k": np.tile(k, levels)}
    for i, name in enumerate(statistics.grid.names):
        found |= {f"E_{name}": spectrum.value[:, i].ravel(), f"E_{name}_pm": spectrum.plus_minus[:, i].ravel()}
    return found


def _densities(statistics: Statistics) -> Table:
    rows: dict[str, list[Any]] = {"height": [], "quantity": [], "value": [], "density": [], "density_pm": []}
    for level, height in enumerate(statistics.heights):
        for quantity in statistics.quantities:
            edges, density = statistics.edges(level, quantity), statistics.density(level, quantity)
            rows["height"] += [float(height)] * len(density.value)
            rows["quantity"] += [quantity] * len(density.value)
            rows["value"] += ((edges[:-1] + edges[1:]) / 2).tolist()
            rows["density"] += density.value.tolist()
            rows["density_pm"] += density.plus_minus.tolist()
    return rows


def _correlation(statistics: Statistics) -> Table:
    found, times = statistics.correlation, statistics.lag_times
    table: dict[str, Any] = {
        "height": np.repeat(statistics.heights, len(times)),
        "lag": np.tile(times, len(statistics.heights)),
    }
    for i, name in enumerate(statistics.grid.names):
        table |= {f"r_{name}": found.value[:, i].ravel(), f"r_{name}_pm": found.plus_minus[:, i].ravel()}
    return table
