"""IGSO(3) against quadrature, its limits, and simulated Brownian motion."""

import math

import pytest
import torch
from scipy import stats
from scipy.integrate import quad

from data.errors import ConfigError
from modules.geometry import quaternion
from modules.geometry.igso3 import IGSO3


@pytest.mark.parametrize("sigma", [0.05, 0.4, 1.5, 4.0])
def test_distribution_is_the_integral_of_the_density(sigma: float):
    gaussian = IGSO3(sigma)
    for angle in (0.02, 0.1, 0.7, 2.0, math.pi):
        integral, _ = quad(
            lambda w: gaussian.density(torch.tensor([w])).item(), 0, angle, limit=200, points=[min(angle, 3 * sigma)]
        )
        assert gaussian.cdf(torch.tensor([angle], dtype=torch.float64)).item() == pytest.approx(integral, abs=1e-7)
    assert gaussian.cdf(torch.tensor([math.pi], dtype=torch.float64)).item() == pytest.approx(1.0, abs=1e-12)


def test_wide_is_uniform_and_narrow_is_gaussian():
    angles = torch.linspace(0.01, math.pi, 200, dtype=torch.float64)
    torch.testing.assert_close(IGSO3(8.0).cdf(angles), (angles - angles.sin()) / math.pi)
    # On a small scale a rotation vector is a Gaussian of R^3, its length a Maxwell variable.
    narrow, near = IGSO3(0.02), torch.linspace(0.005, 0.1, 50, dtype=torch.float64)
    maxwell = torch.from_numpy(stats.maxwell(scale=0.02).cdf(near.numpy()))
    torch.testing.assert_close(narrow.cdf(near), maxwell, rtol=0, atol=3e-4)


@pytest.mark.parametrize("sigma", [0.02, 0.5, 1.5])
def test_angles_have_the_distribution(sigma: float):
    uniform = torch.linspace(0, 1, 20_001, dtype=torch.float64)
    gaussian = IGSO3(sigma)
    angles = gaussian.angle(uniform)
    assert (angles.diff() > 0).all()
    torch.testing.assert_close(gaussian.cdf(angles), uniform, rtol=0, atol=5e-5)


def test_angles_fit_simulated_brownian_motion():
    """Many small steps of variance sigma^2 / n each, at sigma = 1.5."""
    steps, count, generator = 100, 4000, torch.Generator().manual_seed(0)
    q = torch.tensor([1.0, 0, 0, 0], dtype=torch.float64).repeat(count, 1)
    for _ in range(steps):
        step = 1.5 / math.sqrt(steps) * torch.randn(count, 3, generator=generator, dtype=torch.float64)
        q = quaternion.multiply(q, quaternion.exp(step))
    walked = quaternion.log(q).norm(dim=-1)
    assert stats.kstest(walked.numpy(), lambda w: IGSO3(1.5).cdf(torch.from_numpy(w)).numpy()).pvalue > 1e-3


def test_rotation_vectors_have_the_angle_and_the_axis_asked_for():
    uniform = torch.rand(100, generator=torch.Generator().manual_seed(0))
    normal = torch.randn(100, 3, generator=torch.Generator().manual_seed(1))
    vectors = IGSO3(1.5).sample(uniform, normal)
    torch.testing.assert_close(vectors.norm(dim=-1), IGSO3(1.5).angle(uniform))
    torch.testing.assert_close(torch.linalg.cross(vectors, normal), torch.zeros(100, 3), rtol=0, atol=1e-5)


@pytest.mark.parametrize("sigma", [0.0, -1.0, math.nan, math.inf])
def test_impossible_spread_is_refused(sigma: float):
    with pytest.raises(ConfigError, match="sigma"):
        IGSO3(sigma)
