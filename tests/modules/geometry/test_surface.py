"""Extraction against analytic solids, against libigl's marching cubes on the dense grid, and against its own laws."""

import math
from collections.abc import Callable

import igl
import numpy as np
import pytest
import torch
from scipy.spatial import cKDTree
from torch import Tensor

from data.batch import TriangleMesh
from data.errors import ConfigError, PenstockError
from modules.geometry.marching import CORNERS, march
from modules.geometry.surface import ExtractionConfig, ExtractionStats, extract_surface

Field = Callable[[Tensor], Tensor]


def ball(radius: float, centre: tuple[float, float, float] = (0.0, 0.0, 0.0)) -> Field:
    return lambda p: (p - torch.tensor(centre)).norm(dim=1) - radius


def torus(p: Tensor) -> Tensor:
    return torch.hypot(torch.hypot(p[:, 0], p[:, 1]) - 0.6, p[:, 2]) - 0.25


def box(*half: float, centre: tuple[float, float, float] = (0.0, 0.0, 0.0)) -> Field:
    def distance(p: Tensor) -> Tensor:
        q = (p - torch.tensor(centre)).abs() - torch.tensor(half)
        return q.clamp(min=0).norm(dim=1) + q.amax(dim=1).clamp(max=0)

    return distance


def union(*fields: Field) -> Field:
    return lambda p: torch.stack([f(p) for f in fields]).amin(dim=0)


def without(solid: Field, tool: Field) -> Field:
    return lambda p: torch.maximum(solid(p), -tool(p))


def waves(seed: int, terms: int = 24, highest: float = 9.0) -> Field:
    """A smooth random field with many components, handles and saddles, cut by the box."""
    draw = torch.Generator().manual_seed(seed)
    directions = torch.randn(terms, 3, generator=draw) * highest / 2
    phases = torch.rand(terms, generator=draw) * 2 * math.pi
    return lambda p: torch.cos(p @ directions.T + phases).sum(dim=1) + 0.3


SOLIDS: dict[str, tuple[Field, int, int]] = {  # field, bodies, Euler number
    "sphere": (ball(0.8), 1, 2),
    "torus": (torus, 1, 0),
    "box": (box(0.5, 0.6, 0.7), 1, 2),
    "two bodies": (union(ball(0.3, (-0.5, 0.0, 0.1)), box(0.2, 0.3, 0.2, centre=(0.5, 0.1, 0.0))), 2, 4),
    "drilled box": (without(box(0.6, 0.6, 0.6), lambda p: p[:, :2].norm(dim=1) - 0.25), 1, 0),
    "hollow ball": (without(ball(0.8), ball(0.5)), 2, 4),
}


def edges_of(mesh: TriangleMesh) -> np.ndarray:
    f = mesh.faces
    return np.concatenate([f[:, [0, 1]], f[:, [1, 2]], f[:, [2, 0]]])


def assert_closed_manifold(mesh: TriangleMesh) -> None:
    """Each edge has two faces that run along it in opposite directions, each vertex one fan, no face is flat."""
    size = len(mesh.vertices)
    forth, back = (np.unique(edges_of(mesh).astype(np.int64) @ strides) for strides in ((1, size), (size, 1)))
    assert len(forth) == 3 * len(mesh.faces)
    assert bool(np.all(forth == back))
    assert igl.is_vertex_manifold(mesh.faces.astype(np.int64)).all()
    assert np.array_equal(np.unique(mesh.faces), np.arange(len(mesh.vertices)))
    v = mesh.vertices.astype(np.float64)[mesh.faces]
    assert np.linalg.norm(np.cross(v[:, 1] - v[:, 0], v[:, 2] - v[:, 0]), axis=1).min() > 0
    ordered = mesh.vertices[np.lexsort(mesh.vertices.T)]
    assert bool(np.any(ordered[1:] != ordered[:-1], axis=1).all())


def volume(mesh: TriangleMesh) -> float:
    v = mesh.vertices.astype(np.float64)[mesh.faces]
    return float(np.einsum("fi,fi->", v[:, 0], np.cross(v[:, 1], v[:, 2]))) / 6


def euler_number(mesh: TriangleMesh) -> int:
    edges = np.unique(np.sort(edges_of(mesh).astype(np.int64), axis=1) @ (1, len(mesh.vertices)))
    return len(mesh.vertices) - len(edges) + len(mesh.faces)


def bodies(mesh: TriangleMesh) -> int:
    return int(igl.vertex_components(mesh.faces.astype(np.int64)).max()) + 1


def extract(field: Field, resolution: int, **options: float) -> tuple[TriangleMesh, ExtractionStats]:
    return extract_surface(field, ExtractionConfig(resolution=resolution, **options))


def assert_same(a: TriangleMesh, b: TriangleMesh) -> None:
    for ours, theirs in ((a.vertices, b.vertices), (a.faces, b.faces)):
        same = ours.shape == theirs.shape and bool(np.all(ours == theirs))  # a plain bool: failures print no arrays
        assert same


@pytest.mark.parametrize("resolution", [64, 101])
@pytest.mark.parametrize("name", SOLIDS)
def test_solids_are_closed_manifold_and_in_place(name: str, resolution: int) -> None:
    field, expected_bodies, euler = SOLIDS[name]
    mesh, stats = extract(field, resolution)
    assert_closed_manifold(mesh)
    assert bodies(mesh) == expected_bodies
    assert euler_number(mesh) == euler
    assert volume(mesh) > 0
    assert stats.empty == "" and not stats.cut_by_box
    # Distances to the true surface in cells. Edges of a box are cut off by marching cubes: there one cell is allowed.
    error = field(torch.from_numpy(mesh.vertices)).abs().numpy() / (2 * 1.005 / resolution)
    assert np.mean(error) < 0.05
    assert np.max(error) < (0.2 if name in ("sphere", "torus", "hollow ball") else 1.0)


@pytest.mark.parametrize("resolution", [63, 64, 96, 128])
def test_no_shift_and_no_scale(resolution: int) -> None:
    """Least-squares sphere through the vertices: centre and radius are right to a hundredth of a cell."""
    centre, radius = (0.031, -0.017, 0.023), 0.7
    mesh, _ = extract(ball(radius, centre), resolution)
    cell = 2 * 1.005 / resolution
    v = mesh.vertices.astype(np.float64)
    solution = np.linalg.lstsq(np.c_[2 * v, np.ones(len(v))], (v**2).sum(axis=1), rcond=None)[0]
    fitted = solution[:3]
    assert np.abs(fitted - centre).max() < 0.01 * cell
    assert math.sqrt(solution[3] + fitted @ fitted) == pytest.approx(radius, abs=0.05 * cell)
    extents = np.array([v.min(axis=0), v.max(axis=0)])
    assert np.abs(extents - (np.array([[-radius], [radius]]) + np.array(centre))).max() < 0.2 * cell


def dense_with_libigl(field: Field, resolution: int, bound: float = 1.005) -> np.ndarray:
    """Vertices of libigl's marching cubes on the whole grid, as an unordered set."""
    axis = (bound * (2 * np.arange(resolution + 1) / resolution - 1)).astype(np.float32)
    z, y, x = np.meshgrid(axis, axis, axis, indexing="ij")
    points = np.stack([x, y, z], axis=-1).reshape(-1, 3)
    values = field(torch.from_numpy(points)).numpy().astype(np.float64)
    return igl.marching_cubes(values, points.astype(np.float64), *[resolution + 1] * 3, 0.0)[:2]


@pytest.mark.parametrize("resolution", [64, 97])
@pytest.mark.parametrize("name", ["sphere", "torus", "two bodies", "drilled box", "hollow ball"])
def test_equals_the_dense_extraction(name: str, resolution: int) -> None:
    """Exactly the mesh of our own dense grid, and the vertices of libigl's dense marching cubes up to rounding."""
    # Off the grid planes: where a corner value is zero, libigl puts several vertices on one point and we do not.
    field = lambda p: SOLIDS[name][0](p * 1.0123 + 0.0037)
    mesh, stats = extract(field, resolution, coarse=16)
    dense, dense_stats = extract(field, resolution, coarse=resolution)
    assert dense_stats.queries == dense_stats.dense_queries > 2 * stats.queries
    assert_same(mesh, dense)
    vertices, faces = dense_with_libigl(field, resolution)
    assert len(faces) == len(mesh.faces)
    ours, theirs = (np.unique(np.round(v, 9).astype(np.float64), axis=0) for v in (mesh.vertices, vertices))
    distance, _ = cKDTree(theirs).query(ours)
    # CLEARANCE moves vertices that are closer than 1/256 of an edge to a grid point.
    assert distance.max() < 2 * 1.005 / resolution / 200
    assert np.median(distance) < 1e-7


@pytest.mark.parametrize("seed", range(4))
def test_random_smooth_fields_are_closed_and_equal_the_dense_extraction(seed: int) -> None:
    mesh, stats = extract(waves(seed), 64, coarse=16)
    assert_closed_manifold(mesh)
    assert stats.cut_by_box
    assert_same(mesh, extract(waves(seed), 64, coarse=64)[0])


@pytest.mark.parametrize("levels", [2, 100])
def test_any_signs_and_exact_zeros_are_closed_and_manifold(levels: int) -> None:
    """White noise shows every sign pattern; few levels make a third of all corners exactly zero."""
    rng = np.random.default_rng(levels)
    grid = np.full((26, 26, 26), 1.0, dtype=np.float32)
    grid[1:-1, 1:-1, 1:-1] = np.round(rng.standard_normal((24, 24, 24)) * levels + 0.25) / levels
    cells = np.argwhere(np.ones((25, 25, 25)))
    values = np.stack([grid[tuple((cells + corner).T)] for corner in CORNERS], axis=1)
    edges, faces = march(cells, values, 26)
    vertices = edges.corners.astype(np.float64)
    vertices[np.arange(len(vertices)), edges.axes] += edges.fractions()
    mesh = TriangleMesh(vertices, faces)
    assert_closed_manifold(mesh)
    assert len(np.unique(np.packbits(values < 0, axis=1))) == 256
    assert volume(mesh) > 0


@pytest.mark.parametrize("field", [box(0.5, 0.5, 0.5), lambda p: p.abs().sum(dim=1) - 0.5], ids=["box", "octahedron"])
def test_surface_exactly_on_grid_points(field: Field) -> None:
    mesh, _ = extract(field, 64, bound=1.0)
    assert_closed_manifold(mesh)
    assert euler_number(mesh) == 2
    assert field(torch.from_numpy(mesh.vertices)).abs().max() < 0.2 * 2 / 64


def test_each_point_is_asked_once_and_on_the_uniform_grid() -> None:
    asked: list[Tensor] = []

    def recorded(p: Tensor) -> Tensor:
        assert p.dtype == torch.float32 and p.shape[1:] == (3,) and 0 < len(p) <= 1000
        assert not torch.is_grad_enabled()
        asked.append(p)
        return torus(p)

    _, stats = extract(recorded, 96, chunk=1000)
    points = torch.cat(asked).numpy()
    assert len(points) == stats.queries == sum(level.queries for level in stats.levels) + stats.follow_queries
    assert len(np.unique(points, axis=0)) == len(points)
    axis = (1.005 * (2 * np.arange(97) / 96 - 1)).astype(np.float32)
    assert np.isin(points, axis).all()
    assert stats.queries < stats.dense_queries / 3


@pytest.mark.parametrize(("resolution", "fraction"), [(128, 0.12), (256, 0.055)])
def test_query_counts(resolution: int, fraction: float) -> None:
    for field in (ball(0.8), torus):
        _, stats = extract(field, resolution)
        assert stats.queries < fraction * stats.dense_queries


@pytest.mark.parametrize("name", ["torus", "two bodies", "drilled box"])
@pytest.mark.parametrize(
    ("transform", "exact"),
    [
        (lambda v: 1024 * v, True),
        (lambda v: v / 4096, True),
        (lambda v: v.clamp(-0.05, 0.05), True),  # wider than a cell: crossed edges keep their values
        (lambda v: torch.tanh(v / 0.02), False),
        (lambda v: 20 * torch.tanh(v / 0.3) + 2 * v, False),
        (lambda v: (v / 0.01).clamp(-1, 1), False),  # narrower than a cell
        (lambda v: v.sign() * v.abs().sqrt(), False),  # infinitely steep at the surface
        (lambda v: 20 * v + 500 * v**3, False),
    ],
    ids=["x1024", "/4096", "clipped", "tanh", "slow tanh", "narrow clip", "root", "cubic"],
)
def test_the_scale_of_the_field_does_not_matter(name: str, transform: Field, exact: bool) -> None:
    field = SOLIDS[name][0]
    plain, _ = extract(field, 64, coarse=16)
    mesh, stats = extract(lambda p: transform(field(p)), 64, coarse=16)
    assert mesh.faces.shape == plain.faces.shape and bool(np.all(mesh.faces == plain.faces))
    assert stats.queries < 0.8 * stats.dense_queries  # 64 cells are few, and a saturated field tells little
    if exact:
        assert bool(np.all(mesh.vertices == plain.vertices))
    refined, _ = extract(lambda p: transform(field(p)), 64, coarse=16, root_steps=6)
    reference, _ = extract(field, 64, coarse=16, root_steps=6)
    assert np.abs(refined.vertices - reference.vertices).max() < 0.02 * 2.01 / 64


def test_root_steps_find_the_surface_of_a_clipped_field() -> None:
    clipped = lambda p: (ball(0.8)(p) / 0.004).clamp(-1, 1)  # a quarter of a cell
    errors = []
    for steps in (0, 2, 4):
        mesh, stats = extract(clipped, 128, root_steps=steps)
        errors.append(ball(0.8)(torch.from_numpy(mesh.vertices)).abs().mean().item() / (2.01 / 128))
        assert stats.root_queries == steps * len(mesh.vertices)
        assert_closed_manifold(mesh)
    assert errors[0] > 0.05 and errors[1] < 0.02 and errors[2] < 0.002


@pytest.mark.parametrize("chunk", [1, 777, 10**9])
def test_chunks_do_not_change_the_result(chunk: int) -> None:
    field = waves(3) if chunk > 1 else ball(0.5)
    resolution = 64 if chunk > 1 else 12
    mesh, stats = extract(field, resolution, chunk=chunk)
    again, same = extract(field, resolution)
    assert np.allclose(mesh.vertices, again.vertices, atol=1e-5)
    assert np.array_equal(mesh.faces, again.faces)
    assert stats == same


def test_same_call_twice_gives_the_same_bits() -> None:
    assert_same(extract(waves(1), 70)[0], extract(waves(1), 70)[0])


@pytest.mark.parametrize("thickness", [1.1, 1.5, 2.5])
@pytest.mark.parametrize("offset", [0.0, 0.25, 0.5])
def test_thin_plates_are_kept(thickness: float, offset: float) -> None:
    """A plate of 1.1 to 2.5 finest cells, far thinner than the coarse cells and anywhere between their corners."""
    resolution, cell = 96, 2.01 / 96
    for place in (0.0, 3.0):  # within the coarse cell of 8
        plate = box(0.6, 0.7, thickness * cell / 2, centre=(0.0, 0.0, (place + offset) * cell))
        mesh, _ = extract(plate, resolution, coarse=12)
        assert_closed_manifold(mesh)
        assert_same(mesh, extract(plate, resolution, coarse=96)[0])
        assert bodies(mesh) == 1
        if thickness > 1.1:  # where no sample lies near the middle of the plate, straight lines make it thinner
            assert volume(mesh) == pytest.approx(1.2 * 1.4 * thickness * cell, rel=0.05)


def test_wires_are_followed_through_cells_that_show_no_sign() -> None:
    """A clipped field hides a thin wire between coarse corners, but it hangs on a ball."""
    wire = lambda p: torch.hypot(p[:, 1] - 0.06, p[:, 2] - 0.06) - 0.02
    solid = union(ball(0.3, (-0.5, 0.0, 0.0)), lambda p: torch.maximum(wire(p), p[:, 0].abs() - 0.8))
    clipped = lambda p: solid(p).clamp(-0.01, 0.01)
    mesh, stats = extract(clipped, 128, coarse=16)
    assert stats.follow_queries > 0
    assert_closed_manifold(mesh)
    assert bodies(mesh) == 1
    assert_same(mesh, extract(clipped, 128, coarse=128)[0])


def test_a_solid_cut_by_the_box_is_capped_or_left_open() -> None:
    cylinder = lambda p: torch.hypot(p[:, 0], p[:, 1]) - 0.5
    mesh, stats = extract(cylinder, 64, coarse=16)
    assert stats.cut_by_box
    assert_closed_manifold(mesh)
    assert euler_number(mesh) == 2
    assert volume(mesh) == pytest.approx(math.pi * 0.25 * 2.01, rel=0.01)
    assert np.abs(mesh.vertices).max() == pytest.approx(1.005, abs=0.01 * 2.01 / 64)

    open_mesh, open_stats = extract(cylinder, 64, coarse=16, closed=False)
    assert open_stats.cut_by_box
    assert euler_number(open_mesh) == 0  # a tube
    assert np.abs(open_mesh.vertices).max() <= np.float32(1.005)

    # All but a small hollow is solid: faces, edges and corners of the box are all capped.
    hollow, _ = extract(without(lambda p: torch.full((len(p),), -1.0), ball(0.3)), 40)
    assert_closed_manifold(hollow)
    assert bodies(hollow) == 2
    assert volume(hollow) == pytest.approx(2.01**3 - 4 / 3 * math.pi * 0.027, rel=0.01)


@pytest.mark.parametrize(("value", "side"), [(1.0, "outside"), (-1.0, "inside"), (0.0, "outside")])
def test_no_surface_is_said(value: float, side: str) -> None:
    mesh, stats = extract(lambda p: torch.full((len(p),), value), 40)
    assert mesh.faces.shape == (0, 3) and mesh.vertices.shape == (0, 3)
    assert stats.empty == side


def test_infinite_values_are_far_away() -> None:
    mesh, _ = extract(lambda p: torch.where(ball(0.5)(p) > 0.1, math.inf, ball(0.5)(p)), 64)
    assert_same(mesh, extract(ball(0.5), 64)[0])


def test_half_precision_and_double_fields() -> None:
    for dtype in (torch.float16, torch.bfloat16, torch.float64):
        mesh, _ = extract(lambda p, dtype=dtype: ball(0.5)(p).to(dtype), 48)
        assert_closed_manifold(mesh)


def test_nan_is_refused_with_the_place() -> None:
    with pytest.raises(PenstockError, match=r"NaN at \d+ of \d+ points.*check the weights"):
        extract(lambda p: torch.where(p[:, 0] > 0.9, math.nan, ball(0.5)(p)), 40)


def test_wrong_shape_is_refused() -> None:
    with pytest.raises(PenstockError, match="one value per point"):
        extract(lambda p: ball(0.5)(p)[:, None], 40)


@pytest.mark.parametrize(
    "mistake",
    [{"resolution": 1}, {"chunk": 0}, {"bound": 0.0}, {"bound": math.nan}, {"safety": -1.0}],
    ids=str,
)
def test_config_mistakes_are_refused(mistake: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match=next(iter(mistake))):
        ExtractionConfig(**mistake)
