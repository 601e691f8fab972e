"""The rules of The Well's layout: our files and the shared ones keep them, and each broken one is named."""

import os
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest

from data.errors import SchemaError
from data.grid import Grid, between_walls, fourier, stretched
from data.turbulence.well import WellFile
from data.turbulence.well_rules import component_names, contained, fields_of, violations
from tests.data.turbulence.well_files import CHANNEL, PLANE, follows_the_well, frames, written


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return written(tmp_path / "toy.hdf5", frames(3)[None])


def test_our_files_keep_the_rules_as_they_are_stated_a_second_time(file: Path, tmp_path: Path) -> None:
    plane = written(tmp_path / "plane.h5", frames(4, PLANE, 1)[None], PLANE, ("vorticity",), parameters={})
    two = np.stack([frames(3, components=4), frames(3, components=4, seed=1)])
    mixed = written(
        tmp_path / "mixed.hdf5", two, components=("pressure", "velocity_x", "velocity_y", "velocity_z"), open_axes=["y"]
    )
    for path in (file, plane, mixed):
        follows_the_well(path)
        assert violations(path) == []


def test_the_shared_files_keep_the_rules_and_say_what_they_hold(datasets: Path) -> None:
    shared = datasets / "turbulence"
    if not shared.is_dir():
        pytest.skip("the shared fields are not here")
    channel = WellFile(shared / "channel180.h5")
    assert channel.components == ("velocity_x", "velocity_y", "velocity_z")
    assert [axis.periodic for axis in channel.grid.axes] == [True, False, True]
    axes = (fourier("x", 32, 4 * np.pi), between_walls("y", 33), fourier("z", 16, 4 * np.pi / 3))
    assert channel.grid.same(Grid(axes))
    assert channel.spacing == pytest.approx(3 / 70, rel=1e-6)
    assert set(channel.parameters) == {"Re_tau_nominal", "nu", "U_bulk"}
    for split, runs in (("train", 12), ("valid", 2), ("test", 2)):
        (path,) = (shared / "kolmogorov2d" / "data" / split).glob("*.hdf5")
        plane = WellFile(path)
        assert (plane.trajectories, plane.components, plane.lengths) == (runs, ("vorticity",), (48,) * runs)


BROKEN: list[tuple[Callable[[h5py.File], object], str]] = [
    (lambda f: f.attrs.pop("dataset_name"), "attribute 'dataset_name'"),
    (lambda f: f.attrs.pop("grid_type"), "attribute 'grid_type'"),
    (lambda f: f.attrs.pop("n_spatial_dims"), "attribute 'n_spatial_dims'"),
    (lambda f: f.attrs.pop("n_trajectories"), "attribute 'n_trajectories'"),
    (lambda f: f.attrs.__setitem__("n_trajectories", 1.5), "attribute 'n_trajectories', an integer"),
    (lambda f: f.attrs.pop("simulation_parameters"), "attribute 'simulation_parameters'"),
    (lambda f: f.attrs.pop("nu"), "'nu' is not"),
    (lambda f: f.attrs.modify("grid_type", "skewed"), "cartesian or spherical"),
    (lambda f: f.pop("t2_fields"), "group 't2_fields'"),
    (lambda f: f.pop("scalars"), "group 'scalars'"),
    (lambda f: f.pop("boundary_conditions"), "group 'boundary_conditions'"),
    (lambda f: f["dimensions"].attrs.pop("spatial_dims"), "'spatial_dims'"),
    (lambda f: f.attrs.modify("n_spatial_dims", 2), "n_spatial_dims = 2"),
    (lambda f: f["dimensions"].pop("y"), "hold 'y'"),
    (lambda f: f["dimensions/x"].attrs.pop("sample_varying"), "'dimensions/x' must have the attribute 'sample"),
    (lambda f: f["dimensions/x"].attrs.pop("time_varying"), "'dimensions/x' must have the attribute 'time"),
    (lambda f: f["dimensions/x"].attrs.__setitem__("sample_varying", 0), "attribute 'sample_varying', true or false"),
    (lambda f: f["dimensions/time"].write_direct(np.float32([0, 2, 1])), "finite and increasing"),
    (lambda f: f["dimensions/y"].write_direct(np.float32([0, 1, np.nan, 3, 4])), "finite and increasing"),
    (lambda f: f["t1_fields"].attrs.pop("field_names"), "attribute 'field_names'"),
    (lambda f: f["t1_fields"].pop("velocity"), "'t1_fields/velocity' is listed"),
    (lambda f: f["t1_fields/velocity"].attrs.pop("dim_varying"), "attribute 'dim_varying'"),
    (lambda f: f["t1_fields/velocity"].attrs.pop("time_varying"), "'sample_varying' and 'time_varying'"),
    (lambda f: f.attrs.modify("n_trajectories", 2), "must have the shape (2, 3, 6, 5, 4, 3)"),
    (lambda f: f["t1_fields"].move("velocity", "../t0_fields/velocity"), "'t1_fields/velocity' is listed"),
    (lambda f: f["scalars"].pop("nu"), "'scalars' lists 'nu'"),
    (lambda f: f["scalars/nu"].attrs.modify("time_varying", np.True_), "'scalars/nu' must have the shape (3,)"),
    (lambda f: f["boundary_conditions/y_wall"].attrs.modify("bc_type", "SLIP"), "WALL, OPEN, PERIODIC; got 'SLIP'"),
    (lambda f: f["boundary_conditions/y_wall"].pop("mask"), "must hold 'mask'"),
    (lambda f: f["boundary_conditions/y_wall"].attrs.pop("associated_fields"), "'associated_fields'"),
    (lambda f: f["boundary_conditions/y_wall"].attrs.pop("associated_dims"), "'associated_dims'"),
    (lambda f: f["t1_fields"].__setitem__("more", h5py.SoftLink("/scalars")), "'/t1_fields/more' is a link"),
    (lambda f: f.__setitem__("other", h5py.ExternalLink("/etc/passwd", "/")), "'/other' is a link"),
    (lambda f: f.create_dataset("raw", (4,), "f4", external=[("/etc/passwd", 0, 16)]), "keeps its values in other"),
]  # fmt: skip


@pytest.mark.parametrize(("breaking", "words"), BROKEN, ids=[words for _, words in BROKEN])
def test_names_the_broken_rule(file: Path, breaking: Callable[[h5py.File], object], words: str) -> None:
    with h5py.File(file, "r+") as opened:
        breaking(opened)
    assert any(words in found for found in violations(file)), violations(file)
    with pytest.raises(SchemaError, match="The Well's layout"):
        WellFile(file)


def test_of_a_file_that_is_not_hdf5_or_was_cut_short(file: Path, tmp_path: Path) -> None:
    text = tmp_path / "text.hdf5"
    text.write_text("velocity\n")
    assert "not an HDF5 file" in violations(text)[0]
    os.truncate(file, file.stat().st_size // 2)
    assert "truncated" in violations(file)[0]
    assert contained(file) == violations(file)
    assert violations(tmp_path / "none.hdf5") == ["there is no such file"]


def test_a_virtual_dataset_and_a_group_that_holds_itself(file: Path) -> None:
    with h5py.File(file, "r+") as opened:
        layout = h5py.VirtualLayout((4,), "f4")
        layout[:] = h5py.VirtualSource("elsewhere.h5", "x", (4,))
        opened.create_virtual_dataset("virtual", layout)
        opened["scalars/again"] = opened["scalars"]
    assert violations(file) == ["'/virtual' keeps its values in other files; data must lie in the file itself"]


def test_components_and_fields_are_each_others_inverse() -> None:
    axes = ("x", "y")
    fields = [("pressure", 0), ("u_x", 0), ("velocity", 1), ("stress", 2)]
    names = [part for name, order in fields for part in component_names(name, order, axes)]
    assert names == ["pressure", "u_x", "velocity_x", "velocity_y", "stress_xx", "stress_xy", "stress_yx", "stress_yy"]
    assert fields_of(names, axes) == fields


def test_the_package_the_well_loads_our_files(tmp_path: Path) -> None:
    """Against The Well's own loader, where it is installed (its fsspec does not go with ours)."""
    datasets = pytest.importorskip("the_well.data.datasets")
    values = np.stack([frames(6), frames(6, seed=1)])
    written(tmp_path / "data" / "train" / "toy.hdf5", values)
    loaded = datasets.WellDataset(path=str(tmp_path), well_split_name="train", n_steps_input=2, n_steps_output=1)
    assert len(loaded) == 2 * (6 - 2)
    sample = loaded[5]
    np.testing.assert_array_equal(sample["input_fields"], values[1, 1:3])
    np.testing.assert_array_equal(sample["output_fields"], values[1, 3:4])
    assert sample["boundary_conditions"].tolist() == [[2, 2], [0, 0], [2, 2]]
    np.testing.assert_allclose(sample["space_grid"][0, :, 0, 1], CHANNEL.axes[1].points, atol=1e-6)


def test_an_axis_between_walls_that_is_not_chebyshev_keeps_its_points(tmp_path: Path) -> None:
    points = np.array([0, 0.3, 0.5, 1.2, 2])
    grid = Grid((CHANNEL.axes[0], stretched("y", points), CHANNEL.axes[2]))
    found = WellFile(written(tmp_path / "toy.hdf5", frames(2)[None], grid)).grid
    np.testing.assert_allclose(found.axes[1].points, points, atol=1e-7)
    assert not found.axes[1].chebyshev


def test_of_a_file_with_flipped_bits_nothing_wrong_is_read(tmp_path: Path) -> None:
    """Metadata and values carry check sums: what can be read at all is what was written."""
    path = written(tmp_path / "toy.hdf5", frames(3)[None])
    whole, expected = path.read_bytes(), WellFile(path).fingerprint
    refused = 0
    for seed in range(40):
        damaged = bytearray(whole)
        damaged[int(np.random.default_rng(seed).integers(len(whole)))] ^= 1 + seed
        path = tmp_path / f"damaged-{seed}.hdf5"
        path.write_bytes(damaged)
        try:
            assert WellFile(path).checked() == expected  # the byte holds nothing
        except SchemaError:
            refused += 1
    assert refused > 20
