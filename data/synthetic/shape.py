"""Closed solids made on the fly: the embedded data of the shape domain.

Every solid is a closed triangle mesh, so that its exact signed distance is that of the mesh itself; nothing is
approximated by a label. Solid `k` depends on (seed, families, k) alone.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache

import manifold3d as m3d
import numpy as np
from jaxtyping import Float

from data.batch import TriangleMesh
from data.errors import ConfigError, MeshError

HALF_EXTENT = 0.95
"""Half of the longest side of each solid's bounding box, in cube units."""
FILL_RANGE = (0.05, 0.6)
"""Smallest and largest enclosed volume, as a fraction of the cube [-1, 1]^3."""
_CIRCLE = 64
"""Segments of a full circle."""


@dataclass(frozen=True, kw_only=True)
class SyntheticShapesConfig:
    """Which solids are made."""

    count: int = 200
    """Number of solids."""
    seed: int = 0
    families: tuple[str, ...] = (
        "superellipsoid",
        "box",
        "cylinder",
        "cone",
        "capsule",
        "torus",
        "supershape",
        "union",
        "difference",
    )
    """Kinds of solids, taken in turn; the class label of a solid is its family's position here."""
    max_rotation: float = 20.0
    """Largest rotation from the upright pose, about a random axis, in degrees."""

    def __post_init__(self) -> None:
        unknown = [name for name in self.families if name not in FAMILIES]
        if unknown or not self.families:
            raise ConfigError(
                f"synthetic families must be some of {', '.join(FAMILIES)}; got {', '.join(unknown) or 'none'}."
            )
        if self.count < 1:
            raise ConfigError(f"the number of synthetic solids must be at least 1, got count={self.count}.")


def synthetic_ids(config: SyntheticShapesConfig) -> tuple[str, ...]:
    """The item ids "torus-0012" of all solids, in order."""
    digits = max(4, len(str(config.count - 1)))
    return tuple(f"{config.families[k % len(config.families)]}-{k:0{digits}d}" for k in range(config.count))


def synthetic_mesh(config: SyntheticShapesConfig, index: int) -> tuple[TriangleMesh, str]:
    """Solid number `index` and the name of its family.

    Vertices are float32, the longest side of the bounding box spans [-0.95, 0.95] and its centre is the origin.
    Solids outside `FILL_RANGE` are drawn again, from the same stream of random numbers.
    """
    family = config.families[index % len(config.families)]
    rng = np.random.default_rng([config.seed, index])
    for _ in range(100):
        solid = FAMILIES[family](rng).rotate(_rotation(rng, config.max_rotation))
        vertices, faces = _normalised(solid)
        fill = _volume(vertices, faces) / 8
        if FILL_RANGE[0] <= fill <= FILL_RANGE[1]:
            return TriangleMesh(vertices, faces), family
    raise MeshError(f"no {family} with a fill between {FILL_RANGE[0]} and {FILL_RANGE[1]} in 100 draws (a bug).")


def synthetic_meshes(config: SyntheticShapesConfig) -> Iterator[tuple[str, TriangleMesh, str]]:
    """(item id, mesh, family) of every solid, in order."""
    for index, item_id in enumerate(synthetic_ids(config)):
        yield item_id, *synthetic_mesh(config, index)


def _normalised(solid: m3d.Manifold) -> tuple[np.ndarray, np.ndarray]:
    """Vertices (float32, centred, longest side 1.9) and faces (int32) of a solid."""
    mesh = solid.to_mesh64()
    vertices = np.asarray(mesh.vert_properties, dtype=np.float64)[:, :3]
    low, high = vertices.min(axis=0), vertices.max(axis=0)
    vertices = (vertices - (low + high) / 2) * (2 * HALF_EXTENT / (high - low).max())
    return vertices.astype(np.float32), np.asarray(mesh.tri_verts, dtype=np.int32)


def _volume(vertices: np.ndarray, faces: np.ndarray) -> float:
    a, b, c = (vertices[faces[:, k]].astype(np.float64) for k in range(3))
    return float(np.einsum("ij,ij->", a, np.cross(b, c)) / 6)


def _rotation(rng: np.random.Generator, max_degrees: float) -> tuple[float, float, float]:
    """Euler angles in degrees, each within the bound."""
    x, y, z = rng.uniform(-max_degrees, max_degrees, size=3)
    return float(x), float(y), float(z)


# The families below keep every wall, rod and neck above about 0.1 cube units after normalisation.


def _superellipsoid(rng: np.random.Generator) -> m3d.Manifold:
    """|x/a|^(2/e) … = 1 in its two-exponent form (Barr 1981): from rounded boxes over ellipsoids to diamonds."""
    half = rng.uniform(0.45, 1.0, size=3)
    e_polar, e_equator = rng.uniform(0.35, 1.5, size=2)

    def radius(d: Float[np.ndarray, "vertex 3"]) -> Float[np.ndarray, " vertex"]:
        x, y, z = (np.abs(d) / half).T
        equator = (x ** (2 / e_equator) + y ** (2 / e_equator)) ** (e_equator / e_polar)
        return (equator + z ** (2 / e_polar)) ** (-e_polar / 2)

    return _star(radius)


def _supershape(rng: np.random.Generator) -> m3d.Manifold:
    """A ball with 3 to 6 rounded lobes around its axis, a superformula section (Gielis 2003) fading to the poles."""
    lobes = int(rng.integers(3, 7))
    depth, exponent, flatness = rng.uniform(0.12, 0.25), rng.uniform(1.2, 2.8), rng.uniform(0.6, 1.0)

    def radius(d: Float[np.ndarray, "vertex 3"]) -> Float[np.ndarray, " vertex"]:
        azimuth = np.arctan2(d[:, 1], d[:, 0])
        quarter = lobes * azimuth / 4
        section = (np.abs(np.cos(quarter)) ** exponent + np.abs(np.sin(quarter)) ** exponent) ** (-1 / exponent)
        section = section * (1 + depth * np.cos(lobes * azimuth))
        # The lobes fade towards the poles, where the azimuth has no meaning.
        return 1 + (d[:, 0] ** 2 + d[:, 1] ** 2) * (section - 1)

    return _star(radius).scale((1.0, 1.0, float(flatness)))


def _box(rng: np.random.Generator) -> m3d.Manifold:
    """A box whose edges are sharp in one of three and rounded otherwise."""
    half = rng.uniform(0.35, 0.9, size=3)
    if rng.random() < 1 / 3:
        return m3d.Manifold.cube(tuple(2 * half), True)
    rounding = rng.uniform(0.15, 0.6) * half.min()
    ball = m3d.Manifold.sphere(float(rounding), 32)
    corners = [tuple((half - rounding) * (2 * np.array(s) - 1)) for s in np.ndindex(2, 2, 2)]
    return m3d.Manifold.batch_hull([ball.translate(corner) for corner in corners])


def _cylinder(rng: np.random.Generator) -> m3d.Manifold:
    """A round or polygonal prism along one of the axes."""
    sides = int(rng.choice([3, 4, 5, 6, 8, _CIRCLE, _CIRCLE, _CIRCLE]))
    radius, height = rng.uniform(0.3, 1.0), rng.uniform(0.5, 2.0)
    return _along_axis(m3d.Manifold.cylinder(height, radius, radius, sides, True), rng)


def _cone(rng: np.random.Generator) -> m3d.Manifold:
    """A truncated cone along one of the axes."""
    radius, height = rng.uniform(0.6, 1.0), rng.uniform(0.8, 2.0)
    top = radius * rng.uniform(0.15, 0.65)
    return _along_axis(m3d.Manifold.cylinder(height, radius, top, _CIRCLE, True), rng)


def _capsule(rng: np.random.Generator) -> m3d.Manifold:
    """The hull of two balls."""
    first, second = rng.uniform(0.3, 0.7, size=2)
    distance = rng.uniform(0.5, 1.4)
    balls = [m3d.Manifold.sphere(first, _CIRCLE), m3d.Manifold.sphere(second, _CIRCLE).translate((0, 0, distance))]
    return _along_axis(m3d.Manifold.batch_hull(balls), rng)


def _torus(rng: np.random.Generator) -> m3d.Manifold:
    """A ring with a round section, flattened or stretched along its axis."""
    minor = rng.uniform(0.22, 0.42)
    section = m3d.CrossSection.circle(minor, 32).scale((1.0, rng.uniform(0.8, 1.8))).translate((1.0, 0.0))
    return _along_axis(section.revolve(_CIRCLE), rng)


def _union(rng: np.random.Generator) -> m3d.Manifold:
    """Two or three plain solids that overlap: crosses, T and L pieces, clusters."""
    solid = _plain(rng)
    for _ in range(int(rng.integers(1, 3))):
        axis = int(rng.integers(3))
        offset = np.zeros(3)
        offset[axis] = rng.choice([-1, 1]) * rng.uniform(0.2, 0.4)
        solid = solid + _plain(rng, scale=0.7).translate(tuple(offset))
    return solid


def _difference(rng: np.random.Generator) -> m3d.Manifold:
    """A plain solid with a round hole through it, a bite out of one side, or a notch in one corner."""
    half = rng.uniform(0.6, 0.95, size=3)
    kind = rng.integers(3)
    solid = m3d.Manifold.cube(tuple(2 * half), True) if rng.random() < 0.5 else m3d.Manifold.sphere(1.0, _CIRCLE)
    if kind == 0:
        radius = rng.uniform(0.4, 0.65) * 0.6
        return solid - _along_axis(m3d.Manifold.cylinder(3.0, radius, radius, _CIRCLE, True), rng)
    if kind == 1:
        direction = np.zeros(3)
        direction[rng.integers(3)] = rng.choice([-1, 1])
        return solid - m3d.Manifold.sphere(rng.uniform(0.5, 0.75), _CIRCLE).translate(tuple(direction))
    corner = rng.choice([-1, 1], size=3) * rng.uniform(0.75, 1.0, size=3)
    corner[rng.integers(3)] *= rng.integers(2)  # sometimes a groove along the middle
    return solid - m3d.Manifold.cube((1.5, 1.5, 1.5), True).translate(tuple(corner))


def _plain(rng: np.random.Generator, scale: float = 1.0) -> m3d.Manifold:
    """A box, a round rod or an ellipsoid, at the origin."""
    half = scale * rng.uniform(0.3, 0.8, size=3)
    kind = rng.integers(3)
    if kind == 0:
        return m3d.Manifold.cube(tuple(2 * half), True)
    if kind == 1:
        radius = float(half[:2].mean())
        return _along_axis(m3d.Manifold.cylinder(2 * float(half[2]), radius, radius, _CIRCLE, True), rng)
    return m3d.Manifold.sphere(1.0, 48).scale(tuple(half))


def _along_axis(solid: m3d.Manifold, rng: np.random.Generator) -> m3d.Manifold:
    """The solid with its z axis turned to x, y or z."""
    return solid.rotate([(0.0, 90.0, 0.0), (90.0, 0.0, 0.0), (0.0, 0.0, 0.0)][int(rng.integers(3))])


def _star(radius: Callable[[np.ndarray], np.ndarray]) -> m3d.Manifold:
    """The star-shaped solid whose surface lies at `radius(direction)` from the origin."""
    directions, faces = _unit_sphere()
    vertices = directions * radius(directions)[:, None]
    return m3d.Manifold(m3d.Mesh64(vertices, faces))


@cache
def _unit_sphere() -> tuple[np.ndarray, np.ndarray]:
    """A sphere of 8·24² = 4,608 faces: unit vertices (float64) and faces."""
    mesh = m3d.Manifold.sphere(1.0, 96).to_mesh64()
    vertices = np.array(mesh.vert_properties, dtype=np.float64)[:, :3]
    return vertices / np.linalg.norm(vertices, axis=1, keepdims=True), np.array(mesh.tri_verts)


FAMILIES: dict[str, Callable[[np.random.Generator], m3d.Manifold]] = {
    "superellipsoid": _superellipsoid,
    "box": _box,
    "cylinder": _cylinder,
    "cone": _cone,
    "capsule": _capsule,
    "torus": _torus,
    "supershape": _supershape,
    "union": _union,
    "difference": _difference,
}
