"""Readers of published channel tables: made-up tables in their layouts, and the check values of the real ones."""

from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest

from data.errors import SchemaError
from data.turbulence.comparison import compare_profiles
from data.turbulence.profiles import Profiles
from data.turbulence.reference import read_dns_statistics, read_filtered, read_hoyas_jimenez, read_moser

Y = np.sin(np.pi / 4 * np.linspace(0, 1, 9)) ** 2 * 2
COLUMNS = np.stack([Y, 100 * Y, 20 * Y * (2 - Y), 3 * Y, 2 * Y, Y, 0.5 * Y * (1 - Y)], axis=-1)
"""y/h, y+, U+, u', v', w', -uv"""


def written(path: Path, table: np.ndarray, comment: str) -> Path:
    np.savetxt(path, table, header="made up\n", comments=f"{comment} ")
    return path


def padded(*columns: np.ndarray, width: int) -> np.ndarray:
    """A table of these columns with others after them, which nobody is to read."""
    found = np.stack(columns, axis=-1)
    return np.concatenate([found, np.full((len(Y), width - found.shape[1]), 7.0)], axis=1)


def moser(folder: Path) -> Profiles:
    y, y_plus, u, *rms, shear = COLUMNS.T
    return read_moser(
        written(folder / "means", padded(y, y_plus, u, width=7), "#"),
        written(folder / "stresses", padded(y, y_plus, *(c**2 for c in rms), -shear, width=8), "#"),
    )


def hoyas(folder: Path) -> Profiles:
    y, y_plus, u, *rms, shear = COLUMNS.T
    table = padded(y, y_plus, u, *rms, 7 + 0 * y, 7 + 0 * y, 7 + 0 * y, 7 + 0 * y, -shear, width=17)
    return read_hoyas_jimenez(written(folder / "table", table, "%"))


def of_a_file(folder: Path) -> Profiles:
    """Wall to wall, in units in which u_tau is 2."""
    both = np.concatenate([Y, 2 - Y[-2::-1]])
    half = np.stack([COLUMNS[:, 2] * 2, *(4 * COLUMNS[:, 3:6].T ** 2), -4 * COLUMNS[:, 6]])
    with h5py.File(folder / "file.h5", "w") as file:
        file.attrs["nu"] = 0.02
        file["dns_statistics/y"] = both
        file["dns_statistics/profiles"] = np.concatenate([half, half[:, -2::-1]], axis=1)
        file["dns_statistics/u_tau_mean"] = 2.0
    return read_dns_statistics(folder / "file.h5")


@pytest.mark.parametrize("read", [moser, hoyas, of_a_file])
def test_every_layout_gives_the_same_profiles(read: Callable[[Path], Profiles], tmp_path: Path) -> None:
    found = read(tmp_path)
    np.testing.assert_allclose(found.y, Y)
    np.testing.assert_allclose(found.y_plus, 100 * Y)
    np.testing.assert_allclose(found.velocity.value, COLUMNS[:, 2])
    np.testing.assert_allclose(found.rms.value, COLUMNS[:, 3:6])
    assert found.shear is not None
    np.testing.assert_allclose(found.shear.value, COLUMNS[:, 6], atol=1e-12)
    assert not found.filtered
    assert found.re_tau == pytest.approx(100)


def test_filtered_table(tmp_path: Path) -> None:
    found = read_filtered(written(tmp_path / "table", COLUMNS[:, 1:6], "#"), "made up")
    np.testing.assert_allclose(found.y, Y)
    assert found.re_tau == pytest.approx(100)
    assert found.filtered
    assert found.shear is None
    assert found.centre_velocity == pytest.approx(20)


def test_refuses_other_tables(tmp_path: Path) -> None:
    four = written(tmp_path / "four", COLUMNS[:, :4], "#")
    falling = written(tmp_path / "falling", COLUMNS[::-1, 1:6], "#")
    for path in (four, falling):
        with pytest.raises(SchemaError, match="expected 5 columns and heights that increase"):
            read_filtered(path, "table")
    (tmp_path / "text").write_text("no numbers here\n")
    with pytest.raises(SchemaError, match="expected a table of numbers"):
        read_filtered(tmp_path / "text", "table")
    other = padded(Y / 2, 50 * Y, width=8)
    with pytest.raises(SchemaError, match="same heights"):
        read_moser(
            written(tmp_path / "means", padded(*COLUMNS.T[:3], width=7), "#"), written(tmp_path / "s", other, "#")
        )
    with h5py.File(tmp_path / "empty.h5", "w"), pytest.raises(SchemaError, match="dns_statistics"):
        read_dns_statistics(tmp_path / "absent.h5")


@pytest.fixture(scope="module")
def published(datasets: Path) -> dict[str, Profiles]:
    folder = datasets / "turbulence" / "reference"
    if not folder.is_dir():
        pytest.skip(f"no {folder}")
    return {
        "moser": read_moser(folder / "mkm180_means.txt", folder / "mkm180_reystress.txt"),
        "hoyas": read_hoyas_jimenez(folder / "hoyas_jimenez180_profiles.txt"),
        "filtered": read_filtered(folder / "fdns180_paper_group.txt", "filtered DNS"),
        "iufno": read_filtered(folder / "iufno180_paper_group.txt", "IUFNO"),
        "dns": read_dns_statistics(folder.parent / "channel180.h5"),
    }


def test_check_values_of_the_published_tables(published: dict[str, Profiles]) -> None:
    """Those of the README beside the tables."""
    moser, filtered = published["moser"], published["filtered"]
    assert moser.re_tau == pytest.approx(178.12)
    assert moser.bulk_velocity == pytest.approx(15.68, abs=0.005)
    assert moser.centre_velocity == pytest.approx(18.30, abs=0.005)
    np.testing.assert_allclose(moser.rms.value.max(axis=0), [2.658, 0.836, 1.087], atol=5e-4)
    assert moser.y_plus[moser.rms.value[:, 0].argmax()] == pytest.approx(15.3, abs=0.05)
    assert moser.shear is not None and moser.shear.value.max() == pytest.approx(0.723, abs=5e-4)
    assert moser.kinetic_energy == pytest.approx(1.774, abs=1e-3)
    assert filtered.centre_velocity == pytest.approx(18.56, abs=0.005)
    np.testing.assert_allclose(filtered.rms.value.max(axis=0), [1.997, 0.567, 0.859], atol=5e-4)
    assert filtered.y_plus[filtered.rms.value[:, 0].argmax()] == pytest.approx(16.3, abs=0.06)


def test_error_of_the_published_rollout(published: dict[str, Profiles]) -> None:
    """0.39 %, 3.8 %, 9.7 %, 6.5 %, every point alike, computed from the two tables elsewhere."""
    rows = compare_profiles(published["iufno"], published["filtered"], by_points=True)
    found = [row.error for row in rows[:4]]
    np.testing.assert_allclose(found, [0.0039, 0.038, 0.097, 0.065], atol=6e-4)
    assert [row.quantity for row in rows[:4]] == ["mean velocity", "rms streamwise", "rms wall-normal", "rms spanwise"]


def test_two_simulations_of_the_literature_agree(published: dict[str, Profiles]) -> None:
    for name, limit in (("hoyas", 0.025), ("dns", 0.04)):
        for row in compare_profiles(published[name], published["moser"]):
            assert row.error < limit, row
