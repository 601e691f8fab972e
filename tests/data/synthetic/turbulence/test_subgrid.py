"""Subgrid models on velocity gradients whose viscosity is known."""

import math

import pytest
import torch
from torch import Tensor

from data.errors import ConfigError
from data.synthetic.turbulence.fourier import Box, box
from data.synthetic.turbulence.subgrid import (
    FilterScales,
    SubgridConfig,
    dynamic_coefficient,
    eddy_viscosity,
    magnitude,
    smagorinsky,
    strain,
    subgrid_stress,
    wale,
)

WIDTH = torch.tensor(0.1, dtype=torch.float64)


def tensor(rows: list[list[float]]) -> Tensor:
    return torch.tensor(rows, dtype=torch.float64)[..., None]


SHEAR = tensor([[0, 7, 0], [0, 0, 0], [0, 0, 0]])
"""∂u/∂y = 7"""
ROTATION = tensor([[0, -2, 0], [2, 0, 0], [0, 0, 0]])
STRAINING = tensor([[3, 0, 0], [0, -3, 0], [0, 0, 0]])


def rotated(gradient: Tensor) -> Tensor:
    """The same flow in other axes."""
    q, _ = torch.linalg.qr(torch.randn(3, 3, generator=torch.Generator().manual_seed(3), dtype=torch.float64))
    return torch.einsum("ai,bj,ij...->ab...", q, q, gradient)


def test_smagorinsky_in_shear() -> None:
    """|S| is the shear rate."""
    for gradient in (SHEAR, rotated(SHEAR)):
        assert magnitude(strain(gradient)).item() == pytest.approx(7, rel=1e-14)
        assert smagorinsky(gradient, WIDTH, 0.17).item() == pytest.approx((0.17 * 0.1) ** 2 * 7, rel=1e-14)
    assert smagorinsky(ROTATION, WIDTH, 0.17).item() == 0


def test_wale_vanishes_in_shear() -> None:
    assert wale(SHEAR, WIDTH, 0.5).item() == 0
    assert wale(rotated(SHEAR), WIDTH, 0.5).item() < 1e-12 * smagorinsky(SHEAR, WIDTH, 0.5).item()
    assert wale(torch.zeros_like(SHEAR), WIDTH, 0.5).item() == 0


def test_wale_in_rotation_and_strain() -> None:
    """By hand. Rotation at rate w: g² = -w² diag(1, 1, 0), S^d = w² diag(-1, -1, 2) / 3, S^d S^d = 2/3 w⁴, S = 0: ν_t =
    (C Δ)² (2/3)^{1/4} w. Plane strain a: g² = a² diag(1, 1, 0), S^d S^d = 2/3 a⁴, S S = 2 a²: the sum below."""
    scale = (0.5 * 0.1) ** 2
    for gradient in (ROTATION, rotated(ROTATION)):
        assert wale(gradient, WIDTH, 0.5).item() == pytest.approx(scale * (2 / 3) ** 0.25 * 2, rel=1e-12)
    expected = scale * (2 / 3) ** 1.5 / (2**2.5 + (2 / 3) ** 1.25) * 3
    assert wale(STRAINING, WIDTH, 0.5).item() == pytest.approx(expected, rel=1e-12)


def test_wale_falls_with_the_cube_of_the_distance_to_a_wall() -> None:
    """u = a y, v = b y², and what continuity and no slip allow beside them (Nicoud and Ducros 1999, section 3.2)."""
    y = torch.tensor([1e-3, 1e-4], dtype=torch.float64)
    gradient = torch.zeros(3, 3, 2, dtype=torch.float64)
    gradient[0, 1], gradient[2, 1] = 5.0, 2.0
    gradient[0, 0], gradient[1, 1], gradient[1, 2], gradient[1, 0] = -2 * y, 2 * y, y**2, 3 * y**2
    near, nearer = wale(gradient, WIDTH, 0.5).tolist()
    assert math.log10(near / nearer) == pytest.approx(3, abs=0.02)
    near, nearer = smagorinsky(gradient, WIDTH, 0.17).tolist()
    assert near == pytest.approx(nearer, rel=1e-4)


def test_the_stress_is_that_of_a_viscosity() -> None:
    stress = subgrid_stress(SHEAR, torch.tensor([0.5], dtype=torch.float64))
    expected = torch.zeros(3, 3, dtype=torch.float64)
    expected[0, 1] = expected[1, 0] = 0.5 * 7
    torch.testing.assert_close(stress[..., 0], expected)


def test_two_dimensions_have_no_wale() -> None:
    flow = torch.randn(2, 2, 5)
    with pytest.raises(ConfigError, match="WALE needs three dimensions"):
        wale(flow, WIDTH, 0.5)
    flow[1, 1] = -flow[0, 0]
    squared = torch.einsum("ij...,jk...->ik...", flow, flow)
    torch.testing.assert_close(squared[0, 0], squared[1, 1])  # the reason: g² is a multiple of the identity
    torch.testing.assert_close(squared[0, 1], torch.zeros(5), atol=1e-6, rtol=0)


def test_the_constant_of_the_config_is_used() -> None:
    scales = FilterScales(width=WIDTH, ratio=2.0, test_filter=lambda t: t, average=lambda t: t.mean(-1, keepdim=True))
    velocity = torch.zeros(3, 1, dtype=torch.float64)
    found = eddy_viscosity(SubgridConfig(model="smagorinsky", constant=0.1), velocity, SHEAR, scales)
    assert found.item() == pytest.approx(0.01**2 * 7)
    assert eddy_viscosity(SubgridConfig(), velocity, SHEAR, scales).item() == 0
    with pytest.raises(ConfigError, match="the model smagorinsky or wale"):
        SubgridConfig(model="dynamic", constant=0.1)


def wave(axis: int, component: int, number: int, size: float, points: int) -> Tensor:
    """A shear wave of the velocity `component` along `axis`."""
    x = 2 * math.pi / points * torch.arange(points, dtype=torch.float64)
    shape = [1, 1, 1]
    shape[axis] = points
    velocity = torch.zeros(3, points, points, points, dtype=torch.float64)
    velocity[component] += size * torch.sin(number * x).reshape(shape)
    return velocity


def gradient_of(velocity: Tensor, flow: Box) -> Tensor:
    return flow.points(torch.stack([1j * k * flow.modes(velocity) for k in flow.wavenumbers], 1))


def test_dynamic_finds_the_coefficient_that_made_the_stress() -> None:
    """Germano's identity with products that hold a known C: hat(u_i u_j) - û_i û_j is replaced by C_s² M_ij.

    For that, the test filter answers the products with what they would be if the subgrid stress were C_s² times the
    model's.
    """
    points, known = 16, 0.031
    flow = Box(box(points, "xyz"), torch.float64, "cpu")
    generator = torch.Generator().manual_seed(1)
    modes = flow.modes(torch.randn(3, points, points, points, generator=generator, dtype=torch.float64)) * flow.kept
    level = sum(k * m for k, m in zip(flow.wavenumbers, modes, strict=True)) / flow.squared.clamp(min=1)
    velocity = flow.points(torch.stack([m - k * level for k, m in zip(flow.wavenumbers, modes, strict=True)]))
    gradient = gradient_of(velocity, flow)
    scales, resolved = flow.scales, strain(gradient)
    hat_strain = scales.test_filter(resolved)
    made = {}
    for i in range(3):
        for j in range(i, 3):
            model = scales.test_filter(magnitude(resolved) * resolved[i, j])
            model = 2 * scales.width**2 * (model - scales.ratio**2 * magnitude(hat_strain) * hat_strain[i, j])
            hat = scales.test_filter(velocity)
            made[i, j] = known * model + hat[i] * hat[j]

    def answering(fields: Tensor) -> Tensor:
        found = scales.test_filter(fields)
        for (i, j), planted in made.items():
            for k, field in enumerate(fields):
                if torch.equal(field, velocity[i] * velocity[j]):
                    found[k] = planted
        return found

    planted = FilterScales(width=scales.width, ratio=scales.ratio, test_filter=answering, average=scales.average)
    assert dynamic_coefficient(velocity, gradient, planted).item() == pytest.approx(known, rel=1e-12)
    made = {
        pair: 2 * scales.test_filter(velocity)[pair[0]] * scales.test_filter(velocity)[pair[1]] - value
        for pair, value in made.items()
    }  # the opposite sign: energy would come back from below
    assert dynamic_coefficient(velocity, gradient, planted).item() == 0


def test_dynamic_by_hand() -> None:
    """u = a sin(y) + b sin(m y) along x, of which the test filter keeps the first, at one time: L_ij = 0, so C_s = 0.
    With w = c sin(m y) along z beside it, hat(u w) - û ŵ = b c <sin² m y> is all of L, and M follows by hand."""
    points, number, b, c = 24, 6, 0.3, 0.2
    flow = Box(box(points, "xyz"), torch.float64, "cpu")
    laminar = wave(1, 0, 1, 1.0, points)
    assert dynamic_coefficient(laminar, gradient_of(laminar, flow), flow.scales).item() < 1e-20
    velocity = wave(1, 0, number, b, points) + wave(1, 2, number, c, points)
    # Nothing passes the test filter but means: L is uniform, <L M> = 0 by the mean of |S| S_ij, which is odd.
    assert abs(dynamic_coefficient(velocity, gradient_of(velocity, flow), flow.scales).item()) < 1e-20
