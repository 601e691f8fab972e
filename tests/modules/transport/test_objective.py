"""Velocity matching: its minimum is the conditional expectation of the velocity."""

import math

import pytest
import torch

from modules.geometry.manifold import Euclidean
from modules.transport.objective import WEIGHTINGS, VelocityMatching
from modules.transport.path import GeodesicPath

PATH = GeodesicPath(Euclidean())


def test_the_loss_vanishes_at_the_true_velocity_and_grows_with_its_error(space):
    x0, x1 = space.points(0), space.points(1)
    t = torch.rand(6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    matching, chord = VelocityMatching(GeodesicPath(space.on)), space.on.log(x0, x1)
    assert torch.equal(matching(lambda x, t: chord, x0, x1, t), torch.zeros(6, dtype=torch.float64))
    torch.testing.assert_close(
        matching(lambda x, t: chord + 0.5, x0, x1, t), torch.full((6,), 0.25, dtype=torch.float64)
    )


def test_masked_events_count_for_nothing(space):
    """Each sample's loss is that of its unmasked residues alone, whatever stands in the others."""
    x0, x1 = space.points(0), space.points(1)
    t = torch.rand(6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    mask = torch.tensor([True, False, True, True]).repeat(6, 1)
    matching, chord = VelocityMatching(GeodesicPath(space.on)), space.on.log(x0, x1)
    error = torch.randn(chord.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    wild = torch.where(mask[..., None], error, torch.nan)
    loss = matching(lambda x, t: chord + wild, x0, x1, t, mask=mask)
    torch.testing.assert_close(loss, error[:, [0, 2, 3]].square().mean(dim=(1, 2)))
    nothing = matching(lambda x, t: chord + wild, x0, x1, t, mask=torch.zeros(6, 4, dtype=torch.bool))
    assert torch.equal(nothing, torch.zeros(6, dtype=torch.float64))


def test_gaussian_data_are_fitted_by_the_analytic_velocity():
    """For data ~ N(m, s^2) the best velocity at (x, t) is known in closed form; no affine field has a lower loss."""
    m, s, t = 0.7, 0.4, 0.6
    generator = torch.Generator().manual_seed(0)
    x0 = torch.randn(200_000, 1, generator=generator, dtype=torch.float64)
    x1 = m + s * torch.randn(200_000, 1, generator=generator, dtype=torch.float64)
    times = torch.full((200_000,), t, dtype=torch.float64)
    variance = (1 - t) ** 2 + t**2 * s**2
    slope = (t * s**2 - (1 - t)) / variance
    matching = VelocityMatching(PATH)

    def loss(a: float, b: float) -> float:
        return matching(lambda x, _: m + b + a * (x - t * m), x0, x1, times).mean().item()

    best = loss(slope, 0.0)
    # The posterior variance of x1 - x0 given x_t.
    assert best == pytest.approx(1 + s**2 - slope**2 * variance, rel=0.02)
    assert best < min(loss(slope + 0.1, 0.0), loss(slope - 0.1, 0.0), loss(slope, 0.1), loss(slope, -0.1))


def test_weights_in_noise_levels():
    level = torch.tensor([0.1, 0.5, 0.9], dtype=torch.float64)
    torch.testing.assert_close(WEIGHTINGS["inverse-square"](1 - level), level**-2)
    torch.testing.assert_close(WEIGHTINGS["cosine"](1 - level), 2 / (math.pi * (1 - 2 * level + 2 * level**2)))
    assert torch.equal(WEIGHTINGS["uniform"](level), torch.ones(3, dtype=torch.float64))


def test_unknown_weighting_is_refused():
    # The shape checks of the tests refuse the word before the class does; both list what is available.
    with pytest.raises(Exception, match="inverse-square"):
        VelocityMatching(PATH, weighting="sigma")  # type: ignore[arg-type]
