"""Statistics on disk: what is read is what was written; tables hold the same numbers."""

import csv
from pathlib import Path

import h5py
import numpy as np
import pytest

from data.errors import SchemaError
from data.turbulence.statistics import Series, Statistics
from data.turbulence.statistics_file import write_tables
from tests.data.turbulence.fields import box, channel, noise, of


def flows() -> list[Statistics]:
    plane = box(8, 6)
    between, vorticity = noise(channel(), 9, 3, seed=1), noise(plane, 9, 1, seed=2)
    return [of(between, channel(), block=2), of(vorticity, plane, ("vorticity",), profile="y", lags=3)]


def columns(path: Path) -> dict[str, list[str]]:
    with path.open() as stream:
        head, *rows = csv.reader(stream)
    return dict(zip(head, map(list, zip(*rows, strict=True)), strict=True))


@pytest.mark.parametrize("which", [0, 1])
def test_read_as_written(which: int, tmp_path: Path) -> None:
    written = flows()[which]
    written.save(tmp_path / "folder" / "statistics.h5")
    read = Statistics.load(tmp_path / "folder" / "statistics.h5")
    assert read.grid.same(written.grid)
    assert (read.layout.levels, read.layout.profile, read.nu) == (written.layout.levels, written.layout.profile, 0.01)
    assert (read.layout.vorticity_given, read.blocks.length) == (written.layout.vorticity_given, written.blocks.length)
    assert read.blocks.means.keys() == written.blocks.means.keys()
    for name, mean in written.blocks.means.items():
        np.testing.assert_array_equal(read.blocks.means[name], mean)
    for name in Series.__dataclass_fields__:
        np.testing.assert_array_equal(getattr(read.series, name), getattr(written.series, name))
    np.testing.assert_array_equal(read.rms.plus_minus, written.rms.plus_minus)


def test_refuses_other_files(tmp_path: Path) -> None:
    (tmp_path / "text.h5").write_text("no HDF5")
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file.attrs["format"] = "else"
    flows()[0].save(tmp_path / "cut.h5")
    with h5py.File(tmp_path / "cut.h5", "a") as file:
        del file["series/energy"]
    for name in ("text.h5", "other.h5", "cut.h5", "absent.h5"):
        with pytest.raises(SchemaError, match=name):
            Statistics.load(tmp_path / name)


def test_tables_of_a_channel(tmp_path: Path) -> None:
    statistics = flows()[0]
    names = {path.name for path in write_tables(statistics, tmp_path)}
    assert names == {
        "series.csv",
        "profiles.csv",
        "densities.csv",
        "correlation.csv",
        "spectrum_x.csv",
        "spectrum_z.csv",
    }
    profiles = columns(tmp_path / "profiles.csv")
    np.testing.assert_allclose(np.array(profiles["y"], float), statistics.points, atol=1e-9)
    np.testing.assert_allclose(np.array(profiles["mean_x"], float), statistics.velocity.value[:, 0], rtol=1e-7)
    found = np.array(profiles["stress_xy_pm"], float)
    np.testing.assert_allclose(found, statistics.covariance.plus_minus[:, 0, 1], rtol=1e-7)
    spectrum = columns(tmp_path / "spectrum_z.csv")
    np.testing.assert_allclose(
        np.array(spectrum["E_y"], float), statistics.spectrum("z").value[:, 1].ravel(), rtol=1e-7
    )
    series = columns(tmp_path / "series.csv")
    np.testing.assert_allclose(np.array(series["friction_upper"], float), statistics.series.friction[:, 1], rtol=1e-7)


def test_tables_of_a_plane_flow(tmp_path: Path) -> None:
    statistics = flows()[1]
    names = {path.name for path in write_tables(statistics, tmp_path)}
    assert names == {"series.csv", "profiles.csv", "densities.csv", "correlation.csv", "spectrum_x.csv", "shells.csv"}
    shells = columns(tmp_path / "shells.csv")
    assert np.array(shells["energy"], float).sum() == pytest.approx(float(statistics.energy.value))
    densities = columns(tmp_path / "densities.csv")
    assert set(densities["quantity"]) == {"velocity_x", "velocity_y", "vorticity"}
