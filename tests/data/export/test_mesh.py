"""Written meshes read back as they were, by our reader and by trimesh's."""

import numpy as np
import pytest
import trimesh

from data.batch import TriangleMesh
from data.errors import PenstockError
from data.export.mesh import FORMATS, is_closed, write_mesh
from data.shape.mesh_reading import read_mesh
from data.shape.repair import merge
from data.synthetic.shape import SyntheticShapesConfig, synthetic_mesh


@pytest.mark.parametrize("ending", FORMATS)
def test_reading_back_gives_the_same_triangles(tmp_path, ending):
    mesh, _ = synthetic_mesh(SyntheticShapesConfig(), 5)
    report = write_mesh(mesh, tmp_path / f"torus.{ending}")
    back = read_mesh(report.path)
    found, expected = back.vertices[back.faces], mesh.vertices[mesh.faces]
    assert found.shape == expected.shape
    assert np.abs(found - expected).max() <= 1e-8
    assert report.closed
    assert is_closed(TriangleMesh(*merge(back.vertices, back.faces)))
    assert report.volume == pytest.approx(trimesh.load_mesh(report.path).volume, rel=1e-5)
    assert [p.name for p in tmp_path.iterdir()] == [report.path.name]


def test_back_to_source_units(tmp_path):
    source = trimesh.creation.box(extents=[3.0, 2.0, 1.0])
    centre, scale = np.array([10.0, 20.0, -5.0]), 1.9 / 3
    cube = TriangleMesh((np.asarray(source.vertices)) * scale, np.asarray(source.faces))
    write_mesh(cube, tmp_path / "box.obj", centre=centre, scale=scale)
    assert np.allclose(trimesh.load_mesh(tmp_path / "box.obj").bounds.mean(axis=0), centre)
    assert trimesh.load_mesh(tmp_path / "box.obj").volume == pytest.approx(6.0)


def test_equal_meshes_give_equal_bytes(tmp_path):
    mesh, _ = synthetic_mesh(SyntheticShapesConfig(), 1)
    for ending in FORMATS:
        write_mesh(mesh, tmp_path / f"a.{ending}")
        write_mesh(mesh, tmp_path / f"b.{ending}")
        assert (tmp_path / f"a.{ending}").read_bytes() == (tmp_path / f"b.{ending}").read_bytes()


def test_an_open_mesh_is_reported_open(tmp_path):
    mesh, _ = synthetic_mesh(SyntheticShapesConfig(), 1)
    assert not write_mesh(TriangleMesh(mesh.vertices, mesh.faces[1:]), tmp_path / "open.ply").closed


def test_mistakes_are_named_and_leave_nothing(tmp_path):
    mesh, _ = synthetic_mesh(SyntheticShapesConfig(), 1)
    with pytest.raises(PenstockError, match="glb, obj, ply, stl"):
        write_mesh(mesh, tmp_path / "mesh.fbx")
    with pytest.raises(PenstockError, match="no faces"):
        write_mesh(TriangleMesh(mesh.vertices, mesh.faces[:0]), tmp_path / "mesh.glb")
    assert not list(tmp_path.iterdir())
