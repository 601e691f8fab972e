"""Exported fields read by VTK: the same values at the same points and times, whichever axis is long."""

import errno
import shutil
import xml.etree.ElementTree as ElementTree

import h5py
import numpy as np
import pytest
import vtk
from vtk.util.numpy_support import vtk_to_numpy

from data.atomic import DiskFullError
from data.errors import PenstockError
from data.export import field as export
from data.export.field import FORMATS, write_field
from data.grid import Grid, between_walls, fourier, stretched
from data.turbulence.well import WellFile, WellWriter

CHANNEL = Grid((fourier("x", 4, 8.0), between_walls("y", 5), fourier("z", 3, 6.0)))
PLANE = Grid((fourier("x", 5, 10.0), fourier("y", 3, 6.0)))
STRETCHED = Grid((stretched("x", [0.0, 0.5, 2.0]), stretched("y", [0.0, 0.1, 0.4, 1.0]), fourier("z", 2, 1.0)))
VELOCITY = ("velocity_x", "velocity_y", "velocity_z")
FRAMES, SPACING, TRAJECTORIES = 4, 0.25, 2


def value(point, component, time, trajectory):
    """No two points, components, times or trajectories have the same."""
    x, y, z = (*point, 0.0)[:3]
    return (component + 1) * (x + 10 * y + 100 * z + 1) + 1000 * time + 10_000 * trajectory


def well(path, grid, components, frames=FRAMES):
    points = np.meshgrid(*(axis.points for axis in grid.axes), indexing="ij")
    with WellWriter(
        path, name="made", grid=grid, components=components, parameters={"nu": 0.1}, trajectories=TRAJECTORIES
    ) as writer:
        for trajectory in range(TRAJECTORIES):
            for k in range(frames):
                time = 1 + SPACING * k
                frame = [value(points, c, time, trajectory) for c in range(len(components))]
                writer.append(trajectory, time, np.stack(frame, axis=-1).astype(np.float32))
    return WellFile(path)


def read_vtr(path):
    reader = vtk.vtkXMLRectilinearGridReader()
    reader.SetFileName(str(path))
    reader.Update()
    return reader.GetOutput()


def read_xdmf(path):
    """Every frame with its time."""
    reader = vtk.vtkXdmfReader()
    reader.SetFileName(str(path))
    reader.UpdateInformation()
    times = reader.GetOutputInformation(0).Get(vtk.vtkStreamingDemandDrivenPipeline.TIME_STEPS())
    for time in times:
        reader.UpdateTimeStep(time)
        reader.Update()
        copy = vtk.vtkRectilinearGrid()
        copy.DeepCopy(reader.GetOutputDataObject(0))
        yield time, copy


def check(found, grid, components, time, trajectory):
    """Every node of a VTK data set against the function of its coordinates."""
    assert found.GetNumberOfPoints() == np.prod(grid.shape)
    assert found.GetDimensions() == (*grid.shape, 1)[:3]
    points = np.array([found.GetPoint(k) for k in range(found.GetNumberOfPoints())])
    for k, axis in enumerate(grid.axes):
        assert np.allclose(np.unique(points[:, k]), axis.points, rtol=1e-6)
    data = found.GetPointData()
    arrays = {data.GetArrayName(k): vtk_to_numpy(data.GetArray(k)) for k in range(data.GetNumberOfArrays())}
    for c, name in enumerate(components):
        stem, _, axis = name.rpartition("_")
        column = arrays[name] if name in arrays else arrays[stem][:, grid.names.index(axis)]
        assert column.dtype == np.float32
        assert np.allclose(column, value(points.T, c, time, trajectory), rtol=1e-6)
    return arrays


@pytest.mark.parametrize(
    ("grid", "components"),
    [
        (CHANNEL, VELOCITY),
        (STRETCHED, ("pressure", *VELOCITY)),
        (PLANE, ("vorticity",)),
        (PLANE, ("vorticity", *VELOCITY[:2])),
    ],
)
def test_vtk_reads_the_values_at_their_points(tmp_path, grid, components):
    source = well(tmp_path / "source.hdf5", grid, components)
    pvd = write_field(source, tmp_path / "out" / "run.pvd", trajectory=1)
    xdmf = write_field(source, tmp_path / "out" / "run.xdmf", trajectory=1)
    assert pvd.frames == xdmf.frames == FRAMES
    # What lies together can be moved together.
    (tmp_path / "out").rename(tmp_path / "moved")
    listed = ElementTree.parse(tmp_path / "moved" / "run.pvd").findall("./Collection/DataSet")
    from_vtk = [(float(e.get("timestep")), read_vtr(tmp_path / "moved" / e.get("file"))) for e in listed]
    for frames in (from_vtk, list(read_xdmf(tmp_path / "moved" / "run.xdmf"))):
        assert [time for time, _ in frames] == [1 + SPACING * k for k in range(FRAMES)]
        for time, found in frames:
            arrays = check(found, grid, components, time, trajectory=1)
            assert ("velocity" in arrays) == ("velocity_x" in components)
            if "velocity" in arrays:
                assert arrays["velocity"].shape[1] == 3
                assert len(grid.axes) == 3 or (arrays["velocity"][:, 2] == 0).all()


def test_times_stand_in_the_frames_too(tmp_path):
    write_field(well(tmp_path / "a.hdf5", PLANE, ("vorticity",)), tmp_path / "a.pvd", trajectory=0, frames=[3, 1])
    times = [
        read_vtr(path).GetFieldData().GetArray("TimeValue").GetValue(0) for path in sorted((tmp_path / "a").iterdir())
    ]
    assert times == [1.75, 1.25]


def test_hyperslabs_by_hand(tmp_path):
    """The description resolved without VTK, as XDMF's specification has it: start, stride, count of a named array."""
    write_field(well(tmp_path / "a.hdf5", CHANNEL, VELOCITY), tmp_path / "b.xdmf", trajectory=0, frames=slice(1, 3))
    grids = ElementTree.parse(tmp_path / "b.xdmf").findall("./Domain/Grid/Grid")
    assert len(grids) == 2
    for grid in grids:
        time = float(grid.find("Time").get("Value"))

        def array(item):
            file, where = item.text.split(":")
            with h5py.File(tmp_path / file) as stored:
                found = stored[where][()]
            assert [int(n) for n in item.get("Dimensions").split()] == list(found.shape)
            return found

        x, y, z = (array(item) for item in grid.findall("Geometry/DataItem"))
        slab, stored = grid.findall("Attribute/DataItem/DataItem")
        start, stride, count = np.array(slab.text.split(), int).reshape(3, -1)
        cut = tuple(slice(a, a + s * n, s) for a, s, n in zip(start, stride, count, strict=True))
        shape = [int(n) for n in grid.find("Attribute/DataItem").get("Dimensions").split()]
        values = array(stored)[cut].reshape(shape)
        assert shape == [*(int(n) for n in grid.find("Topology").get("Dimensions").split()), 3]
        for (k, j, i, c), number in np.ndenumerate(values):
            assert number == pytest.approx(value((x[i], y[j], z[k]), c, time, 0), rel=1e-6)


def test_a_closed_mesh_fills_the_period(tmp_path):
    source = well(tmp_path / "a.hdf5", CHANNEL, VELOCITY)
    write_field(source, tmp_path / "a.pvd", trajectory=0, closed=True)
    found = read_vtr(tmp_path / "a" / "a_000002.vtr")
    assert found.GetDimensions() == (5, 5, 4)
    assert found.GetBounds() == pytest.approx((0, 8, 0, 2, 0, 6))
    values = vtk_to_numpy(found.GetPointData().GetArray("velocity")).reshape(4, 5, 5, 3)
    assert (values[-1] == values[0]).all()
    assert (values[:, :, -1] == values[:, :, 0]).all()
    assert np.array_equal(values[:3, :, :4].transpose(2, 1, 0, 3), source.read(0, [2])[0])


def test_the_wells_file_is_copied_as_it_is(tmp_path):
    source = well(tmp_path / "a.hdf5", CHANNEL, VELOCITY)
    report = write_field(source, tmp_path / "out" / "b.hdf5")
    assert report.path.read_bytes() == source.path.read_bytes()
    assert (report.frames, report.companion) == (FRAMES * TRAJECTORIES, None)
    assert report.bytes == source.path.stat().st_size
    with pytest.raises(PenstockError, match="the whole"):
        write_field(source, tmp_path / "c.hdf5", trajectory=1)
    with pytest.raises(PenstockError, match="another place"):
        write_field(source, source.path)


def test_equal_fields_give_equal_files_over_earlier_ones(tmp_path):
    source = well(tmp_path / "a.hdf5", PLANE, ("vorticity",))
    for name in ("one", "two"):
        write_field(source, tmp_path / name / "f.pvd", trajectory=1)  # a longer film, to be replaced
        for ending in ("pvd", "xdmf"):
            write_field(source, tmp_path / name / f"f.{ending}", trajectory=0, frames=slice(2))
    files = sorted(str(path.relative_to(tmp_path / "one")) for path in (tmp_path / "one").rglob("*.*"))
    assert files == ["f.h5", "f.pvd", "f.xdmf", "f/f_000000.vtr", "f/f_000001.vtr"]
    assert all((tmp_path / "one" / path).read_bytes() == (tmp_path / "two" / path).read_bytes() for path in files)


def test_frames_are_read_one_by_one(tmp_path):
    source = well(tmp_path / "a.hdf5", PLANE, ("vorticity",), frames=20)
    asked = []
    read = source.read
    source.read = lambda trajectory, frames: asked.append(frames) or read(trajectory, frames)
    for ending in ("pvd", "xdmf"):
        write_field(source, tmp_path / f"b.{ending}", trajectory=0)
    assert asked == [slice(k, k + 1) for _ in range(2) for k in range(20)]


def test_mistakes_are_named_and_leave_nothing(tmp_path):
    source = well(tmp_path / "a.hdf5", CHANNEL, VELOCITY)
    out = tmp_path / "out"
    out.mkdir()
    for ending, arguments, words in [
        ("vti", {"trajectory": 0}, "[.]hdf5, [.]xdmf, [.]pvd"),
        ("xdmf", {}, "0 to 1"),
        ("pvd", {"trajectory": 2}, "trajectories 0 to 1, got 2"),
        ("pvd", {"trajectory": 0, "frames": [1, 4]}, "frames 0 to 3, got frame 4"),
        ("xdmf", {"trajectory": 0, "frames": slice(0, 0)}, "got none"),
    ]:
        with pytest.raises(PenstockError, match=words):
            write_field(source, out / f"a.{ending}", **arguments)
    assert not list(out.iterdir())


@pytest.mark.parametrize("ending", FORMATS.values())
def test_a_full_disk_leaves_the_earlier_files(tmp_path, ending, monkeypatch):
    source = well(tmp_path / "a.hdf5", PLANE, ("vorticity",))
    chosen = {} if ending == ".hdf5" else {"trajectory": 0, "frames": [0]}
    write_field(source, tmp_path / "out" / f"f{ending}", **chosen)
    before = {path: path.read_bytes() for path in (tmp_path / "out").rglob("*.*")}

    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(shutil, "copyfile", full)
    monkeypatch.setattr(export, "_read", full)
    with pytest.raises(DiskFullError):
        write_field(source, tmp_path / "out" / f"f{ending}", **{**chosen, **({"frames": [1, 2]} if chosen else {})})
    assert {path: path.read_bytes() for path in (tmp_path / "out").rglob("*.*")} == before
