"""Laws of geodesic paths."""

import torch

from modules.geometry.manifold import Euclidean
from modules.transport.path import GeodesicPath, left_align


def ends() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    x0, x1 = torch.randn(2, 6, 4, 3, generator=generator, dtype=torch.float64)
    return x0, x1


def test_path_starts_at_noise_and_ends_at_data():
    x0, x1 = ends()
    path = GeodesicPath(Euclidean())
    torch.testing.assert_close(path.sample(x0, x1, torch.zeros(6)).x_t, x0)
    torch.testing.assert_close(path.sample(x0, x1, torch.ones(6)).x_t, x1)


def test_velocity_is_the_derivative_of_the_path():
    x0, x1 = ends()
    path = GeodesicPath(Euclidean())
    t, h = torch.linspace(0.1, 0.8, 6, dtype=torch.float64), 1e-4
    central = (path.sample(x0, x1, t + h).x_t - path.sample(x0, x1, t - h).x_t) / (2 * h)
    torch.testing.assert_close(path.sample(x0, x1, t).velocity, central, rtol=1e-8, atol=1e-8)


def test_path_commutes_with_isometries():
    """A rotation and translation of both ends carries the whole path along."""
    x0, x1 = ends()
    rotation = torch.linalg.qr(torch.randn(3, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)).Q
    path, t = GeodesicPath(Euclidean()), torch.rand(6, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    carried = path.sample(x0 @ rotation + 2.0, x1 @ rotation + 2.0, t)
    torch.testing.assert_close(carried.x_t, path.sample(x0, x1, t).x_t @ rotation + 2.0)
    torch.testing.assert_close(carried.velocity, path.sample(x0, x1, t).velocity @ rotation)


def test_each_sample_has_its_own_time():
    x0, x1 = ends()
    path, t = GeodesicPath(Euclidean()), torch.linspace(0, 1, 6, dtype=torch.float64)
    together = path.sample(x0, x1, t).x_t
    alone = torch.cat([path.sample(x0[i : i + 1], x1[i : i + 1], t[i : i + 1]).x_t for i in range(6)])
    assert torch.equal(together, alone)


def test_left_align_takes_the_dtype_of_the_state():
    assert left_align(torch.zeros(2, dtype=torch.float64), torch.zeros(2, 3, 4)).dtype == torch.float32
    assert left_align(torch.zeros(2), torch.zeros(2, 3, 4)).shape == (2, 1, 1)
