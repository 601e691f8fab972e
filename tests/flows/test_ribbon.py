"""Proteins in the report: the ribbon follows the chain, is cut where the chain is, and shows where along it one is."""

import numpy as np
import pytest
import trimesh

from data.batch import UNKNOWN, Backbone
from flows.report import Mesh, MeshGallery, MeshItem, Report, Ribbon
from flows.reporting import geometry
from flows.reporting.page import render
from flows.reporting.ribbon import AROUND, HALF_WIDTH, ribbon


def helix(residues: int = 24) -> Backbone:
    """CA on an ideal alpha helix (rise 1.5 Å, 100 degrees, radius 2.3 Å), O along the axis."""
    turn = np.deg2rad(100) * np.arange(residues)
    calpha = np.stack([2.3 * np.cos(turn), 2.3 * np.sin(turn), 1.5 * np.arange(residues)], axis=1)
    atoms = np.repeat(calpha[:, None], 4, axis=1)
    atoms[:, 3] += [0.0, 0.0, 1.23]
    return Backbone(
        atoms=atoms.astype(np.float32),
        present=np.ones((residues, 4), bool),
        chain=np.zeros(residues, int),
        residue_index=np.arange(1, residues + 1),
        residue_type=np.full(residues, UNKNOWN),
    )


def test_the_ribbon_is_a_closed_surface_through_every_alpha_carbon():
    backbone = helix()
    mesh, places = ribbon(backbone, np.full(len(backbone), "H"))
    body = trimesh.Trimesh(mesh.vertices, mesh.faces, process=False)
    assert body.is_watertight and body.volume > 0
    rings = mesh.vertices.reshape(-1, AROUND, 3).mean(axis=1)
    distance = np.linalg.norm(rings[None] - backbone.atoms[:, None, 1], axis=2).min(axis=1)
    assert distance.max() < 1e-4
    assert (np.diff(places) >= 0).all() and places[0] == 0 and places[-1] == 1


def test_a_helix_is_a_band_along_its_axis():
    """C=O points along the axis of a helix, so the band's width does too: it is a strip wound round a cylinder."""
    backbone = helix()
    mesh, _ = ribbon(backbone, np.full(len(backbone), "H"))
    rings = mesh.vertices.reshape(-1, AROUND, 3)
    across = rings[:, 0] - rings[:, AROUND // 2]
    assert np.linalg.norm(across, axis=1) == pytest.approx(2 * HALF_WIDTH["H"], rel=1e-6)
    rise = np.abs(across[:, 2]) / np.linalg.norm(across, axis=1)
    # The chord over two residues climbs 3.0 of 5.4 Å; 0.83 of the axis is left across it, between residues more.
    assert (rise[10:-10] > 0.8).all() and (rise < 1).all()


def test_a_break_cuts_the_ribbon_and_absent_residues_are_left_out():
    backbone = helix()
    backbone.atoms[12:] += 20.0
    backbone.present[5] = False
    mesh, _ = ribbon(backbone)
    assert trimesh.Trimesh(mesh.vertices, mesh.faces, process=False).body_count == 3


@pytest.mark.parametrize("residues", [0, 1, 2])
def test_a_chain_too_short_or_not_finite_does_not_stop_the_page(residues):
    backbone = helix(residues)
    backbone.atoms[residues // 2 :] = np.nan
    item = MeshItem(caption="short", meshes=[Mesh(mesh=Ribbon(backbone))])
    assert "short" in render(Report(run="r", domain="protein", sections=[MeshGallery(title="Samples", items=[item])]))


def test_the_preview_carries_one_place_per_vertex():
    import base64
    import zlib

    mesh, places = ribbon(helix())
    stream = zlib.decompress(base64.b64decode(geometry.encode(mesh, places=places).data))
    vertices, faces, shades = np.frombuffer(stream, "<i4", 3)
    assert vertices == shades == len(mesh.vertices)
    stored = np.frombuffer(stream, np.uint8, offset=28 + 6 * vertices + 12 * faces)
    assert len(stored) == shades and np.ptp(stored) == 255
