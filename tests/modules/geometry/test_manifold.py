"""The laws that make a manifold, on each of them."""

import torch

from modules.geometry import quaternion
from modules.geometry.manifold import FRAMES, SO3, Euclidean, Manifold


def test_exp_undoes_log_and_log_undoes_exp(space):
    x, y, v = space.points(0), space.points(1), space.tangents(2)
    space.assert_same_points(space.on.exp(x, space.on.log(x, y)), y)
    torch.testing.assert_close(space.on.log(x, space.on.exp(x, v)), v)


def test_log_there_is_minus_log_back(space):
    """In the body frame the geodesic's velocity is one vector all along, so only its sign turns."""
    x, y = space.points(0), space.points(1)
    torch.testing.assert_close(space.on.log(y, x), -space.on.log(x, y))


def test_no_way_leads_from_a_point_to_itself(space):
    x = space.points(0)
    torch.testing.assert_close(space.on.log(x, x), torch.zeros_like(space.on.log(x, x)), rtol=0, atol=1e-15)
    space.assert_same_points(space.on.exp(x, torch.zeros_like(space.on.log(x, x))), x)


def test_a_geodesic_can_be_walked_in_parts(space):
    x, v = space.points(0), space.tangents(1)
    space.assert_same_points(space.on.exp(space.on.exp(x, 0.3 * v), 0.7 * v), space.on.exp(x, v))


def test_all_are_manifolds(space):
    assert isinstance(space.on, Manifold)


def test_distance_obeys_the_triangle(space):
    x, y, z = space.points(0), space.points(1), space.points(2)

    def far(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        return space.on.log(a, b).norm(dim=-1)

    assert (far(x, z) <= far(x, y) + far(y, z) + 1e-12).all()


def test_sign_of_a_quaternion_means_nothing(space):
    x, y = space.points(0), space.points(1)
    if space.rotations:
        negative = torch.cat([-y[..., :4], y[..., 4:]], dim=-1)
        torch.testing.assert_close(space.on.log(x, negative), space.on.log(x, y))


def test_a_rotation_is_never_longer_than_half_a_turn():
    generator = torch.Generator().manual_seed(0)
    x, y = quaternion.normalise(torch.randn(2, 10_000, 4, generator=generator, dtype=torch.float64))
    length = SO3().log(x, y).norm(dim=-1)
    assert length.max() <= torch.pi + 1e-12
    # For uniform rotations the mean angle is pi / 2 + 2 / pi.
    assert abs(length.mean().item() - (torch.pi / 2 + 2 / torch.pi)) < 0.03


def test_a_product_moves_its_parts_apart(space):
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(2, 3, 5, 7, generator=generator, dtype=torch.float64)
    v = FRAMES.log(x, y)
    assert v.shape == (3, 5, 6)
    torch.testing.assert_close(v[..., :3], SO3().log(x[..., :4], y[..., :4]))
    assert torch.equal(v[..., 3:], Euclidean().log(x[..., 4:], y[..., 4:]))


def test_tangents_of_frames_turn_with_the_world_only_in_translation():
    """A motion of the world leaves body-frame rotation vectors as they are and turns the translations' velocities."""
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(2, 3, 5, 7, generator=generator, dtype=torch.float64)
    turn = quaternion.uniform(torch.randn(4, generator=generator, dtype=torch.float64))

    def moved(frames: torch.Tensor) -> torch.Tensor:
        q = quaternion.multiply(turn, quaternion.normalise(frames[..., :4]))
        return torch.cat([q, quaternion.rotate(turn, frames[..., 4:]) + 2.0], dim=-1)

    before, after = FRAMES.log(x, y), FRAMES.log(moved(x), moved(y))
    torch.testing.assert_close(after[..., :3], before[..., :3])
    torch.testing.assert_close(after[..., 3:], quaternion.rotate(turn, before[..., 3:]))
