"""Synthetic solids are closed, solid enough, and depend on (seed, index) alone."""

import numpy as np
import pytest

from data.errors import ConfigError
from data.shape.distance import balanced, bodies, winding_numbers
from data.shape.sampling import sample_surface
from data.synthetic.shape import (
    FAMILIES,
    FILL_RANGE,
    HALF_EXTENT,
    SyntheticShapesConfig,
    synthetic_ids,
    synthetic_mesh,
)

CONFIG = SyntheticShapesConfig(count=27, seed=3)


def volume(mesh) -> float:
    a, b, c = (mesh.vertices[mesh.faces[:, k]].astype(np.float64) for k in range(3))
    return float(np.einsum("ij,ij->", a, np.cross(b, c)) / 6)


@pytest.mark.parametrize("index", range(27))
def test_each_is_one_closed_solid_with_room_inside(index):
    mesh, family = synthetic_mesh(CONFIG, index)
    assert family == CONFIG.families[index % len(CONFIG.families)]
    assert balanced(mesh.faces)
    assert len(bodies(mesh.faces)) == 1
    assert FILL_RANGE[0] <= volume(mesh) / 8 <= FILL_RANGE[1]
    assert np.abs(mesh.vertices).max() == pytest.approx(HALF_EXTENT, abs=1e-6)


@pytest.mark.parametrize("index", range(27))
def test_no_self_intersection_and_no_wall_below_a_twentieth_of_the_cube(index):
    """0.09 cube units behind (nearly) every surface point lies the inside: no thin walls, only edges fail."""
    mesh, _ = synthetic_mesh(CONFIG, index)
    points = sample_surface(mesh.vertices, mesh.faces, 300, np.random.default_rng(0))

    def inside(offset: float) -> float:
        return float((winding_numbers(mesh.vertices, mesh.faces, points[:, :3] + offset * points[:, 3:]) > 0.5).mean())

    assert inside(1e-4) < 0.004
    assert inside(-1e-4) > 0.996
    assert inside(-0.09) > 0.9


def test_solid_k_depends_on_seed_and_k_alone():
    alone, _ = synthetic_mesh(SyntheticShapesConfig(count=100, seed=3), 12)
    within = [synthetic_mesh(CONFIG, k)[0] for k in range(14)]
    other, _ = synthetic_mesh(SyntheticShapesConfig(count=27, seed=4), 12)
    assert np.array_equal(alone.vertices, within[12].vertices)
    assert np.array_equal(alone.faces, within[12].faces)
    assert not np.array_equal(alone.vertices, other.vertices)


def test_ids_name_the_family_and_are_unique():
    ids = synthetic_ids(CONFIG)
    assert len(set(ids)) == 27
    assert ids[5] == f"{CONFIG.families[5]}-0005"
    assert set(CONFIG.families) == set(FAMILIES)


@pytest.mark.parametrize("wrong", [{"count": 0}, {"families": ()}, {"families": ("tours",)}])
def test_mistakes_are_named(wrong):
    with pytest.raises(ConfigError):
        SyntheticShapesConfig(**wrong)
