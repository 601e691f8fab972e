"""Laws of geodesic paths."""

import torch

from modules.geometry import quaternion
from modules.geometry.manifold import FRAMES, Euclidean
from modules.transport.path import GeodesicPath, left_align


def ends() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    x0, x1 = torch.randn(2, 6, 4, 3, generator=generator, dtype=torch.float64)
    return x0, x1


def test_path_starts_at_noise_and_ends_at_data(space):
    x0, x1, path = space.points(0), space.points(1), GeodesicPath(space.on)
    space.assert_same_points(path.sample(x0, x1, torch.zeros(6)).x_t, x0)
    space.assert_same_points(path.sample(x0, x1, torch.ones(6)).x_t, x1)


def test_velocity_is_the_derivative_of_the_path(space):
    """In the frame of the point on the path, on every manifold."""
    x0, x1, path = space.points(0), space.points(1), GeodesicPath(space.on)
    t, h = torch.linspace(0.1, 0.8, 6, dtype=torch.float64), 1e-4
    at = path.sample(x0, x1, t)
    ahead, behind = (space.on.log(at.x_t, path.sample(x0, x1, t + d).x_t) for d in (h, -h))
    torch.testing.assert_close(at.velocity, (ahead - behind) / (2 * h), rtol=1e-8, atol=1e-8)


def test_what_is_left_of_the_path_is_its_velocity_times_the_time_left(space):
    """The target of a network that predicts the end: log_{x_t}(x1) = (1 - t) v, constant speed to the end."""
    x0, x1, path = space.points(0), space.points(1), GeodesicPath(space.on)
    t = torch.linspace(0, 0.95, 6, dtype=torch.float64)
    at = path.sample(x0, x1, t)
    torch.testing.assert_close(space.on.log(at.x_t, x1), left_align(1 - t, at.velocity) * at.velocity)


def test_path_commutes_with_isometries():
    """A rotation and translation of both ends carries the whole path along."""
    x0, x1 = ends()
    rotation = torch.linalg.qr(torch.randn(3, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)).Q
    path, t = GeodesicPath(Euclidean()), torch.rand(6, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    carried = path.sample(x0 @ rotation + 2.0, x1 @ rotation + 2.0, t)
    torch.testing.assert_close(carried.x_t, path.sample(x0, x1, t).x_t @ rotation + 2.0)
    torch.testing.assert_close(carried.velocity, path.sample(x0, x1, t).velocity @ rotation)


def test_path_of_frames_commutes_with_motions_of_the_world():
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(2, 6, 4, 7, generator=generator, dtype=torch.float64)
    x0, x1 = torch.cat([quaternion.uniform(noise[..., :4]), noise[..., 4:]], dim=-1)
    turn = quaternion.uniform(torch.randn(4, generator=generator, dtype=torch.float64))

    def moved(x: torch.Tensor) -> torch.Tensor:
        return torch.cat([quaternion.multiply(turn, x[..., :4]), quaternion.rotate(turn, x[..., 4:]) + 2.0], dim=-1)

    path, t = GeodesicPath(FRAMES), torch.rand(6, generator=generator, dtype=torch.float64)
    torch.testing.assert_close(path.sample(moved(x0), moved(x1), t).x_t, moved(path.sample(x0, x1, t).x_t))


def test_each_sample_has_its_own_time(space):
    x0, x1 = space.points(0), space.points(1)
    path, t = GeodesicPath(space.on), torch.linspace(0, 1, 6, dtype=torch.float64)
    together = path.sample(x0, x1, t).x_t
    alone = torch.cat([path.sample(x0[i : i + 1], x1[i : i + 1], t[i : i + 1]).x_t for i in range(6)])
    assert torch.equal(together, alone)


def test_left_align_takes_the_dtype_of_the_state():
    assert left_align(torch.zeros(2, dtype=torch.float64), torch.zeros(2, 3, 4)).dtype == torch.float32
    assert left_align(torch.zeros(2), torch.zeros(2, 3, 4)).shape == (2, 1, 1)
