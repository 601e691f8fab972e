"""Quaternions against SciPy's rotations, and at the angles where formulas break."""

import math

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from modules.geometry import quaternion
from modules.geometry.manifold import SO3

ANGLES = [0.0, 1e-12, 1e-8, 1e-5, 1e-3, 0.003, 0.0063, 0.1, 1.0, 2.0, 3.0, 3.1, math.pi - 1e-3, math.pi - 1e-6]


def random_quaternions(count: int, seed: int = 0) -> torch.Tensor:
    return quaternion.uniform(torch.randn(count, 4, generator=torch.Generator().manual_seed(seed), dtype=torch.float64))


def scipy_rotation(q: torch.Tensor) -> Rotation:
    return Rotation.from_quat(q.numpy(), scalar_first=True)


def random_axes(count: int) -> torch.Tensor:
    axes = torch.randn(count, 3, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    return axes / axes.norm(dim=-1, keepdim=True)


def test_all_maps_agree_with_scipy():
    p, q = random_quaternions(200), random_quaternions(200, seed=1)
    x = torch.randn(200, 3, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    matrix = torch.from_numpy(scipy_rotation(q).as_matrix())
    torch.testing.assert_close(quaternion.to_matrix(q), matrix)
    torch.testing.assert_close(quaternion.log(q), torch.from_numpy(scipy_rotation(q).as_rotvec()))
    torch.testing.assert_close(quaternion.rotate(q, x), torch.from_numpy(scipy_rotation(q).apply(x.numpy())))
    product = torch.from_numpy((scipy_rotation(p) * scipy_rotation(q)).as_matrix())
    torch.testing.assert_close(quaternion.to_matrix(quaternion.multiply(p, q)), product)
    torch.testing.assert_close(quaternion.to_matrix(quaternion.conjugate(q)), matrix.mT)
    vector = 5 * x
    expected = torch.from_numpy(Rotation.from_rotvec(vector.numpy()).as_matrix())
    torch.testing.assert_close(quaternion.to_matrix(quaternion.exp(vector)), expected)


def test_matrix_to_quaternion_at_every_greatest_entry():
    """Half turns about each axis, rotations near them, and random ones; w is never negative."""
    half_turns = torch.eye(4, dtype=torch.float64)
    near = quaternion.normalise(half_turns.repeat_interleave(50, 0) + 1e-4 * random_quaternions(200))
    q = torch.cat([half_turns, near, random_quaternions(500)])
    back = quaternion.from_matrix(quaternion.to_matrix(q))
    assert (back[:, 0] >= 0).all()
    torch.testing.assert_close((back * q).sum(-1).abs(), torch.ones(len(q), dtype=torch.float64))


def test_gradient_of_matrix_to_quaternion_is_finite_and_right():
    q = torch.cat([torch.eye(4, dtype=torch.float64), random_quaternions(20)])
    matrix = quaternion.to_matrix(q).requires_grad_()
    assert torch.autograd.gradcheck(quaternion.from_matrix, (matrix[4:],))
    quaternion.from_matrix(matrix).square().sum().backward()
    assert torch.isfinite(matrix.grad).all()


@pytest.mark.parametrize("negated", [False, True], ids=["q", "minus-q"])
@pytest.mark.parametrize("angle", ANGLES)
def test_log_is_right_to_a_microradian_in_float32(angle: float, negated: bool):
    """Relative rotations of float32 quaternions, against the angle known exactly."""
    vector = angle * random_axes(100)
    start = random_quaternions(100)
    end = quaternion.multiply(start, quaternion.exp(vector))
    x, y = start.float(), (-end if negated else end).float()
    assert (SO3().log(x, y).double() - vector).norm(dim=-1).max() < 1e-6
    assert (SO3().log(start, end) - vector).norm(dim=-1).max() < 1e-14
    back = SO3().exp(x, vector.float())
    assert 1 - (back.double() * end).sum(-1).abs().min() < 1e-6


@pytest.mark.parametrize("angle", [*ANGLES, math.pi])
@pytest.mark.parametrize("sign", [1.0, -1.0], ids=["q", "antipode"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_gradients_are_finite_at_every_angle(angle: float, sign: float, dtype: torch.dtype):
    start = random_quaternions(20)
    end = sign * quaternion.multiply(start, quaternion.exp(angle * random_axes(20)))
    x, y = start.to(dtype).requires_grad_(), end.to(dtype).requires_grad_()
    v = (angle * random_axes(20)).to(dtype).requires_grad_()
    (SO3().log(quaternion.normalise(x), quaternion.normalise(y)).sum() + SO3().exp(x, v).sum()).backward()
    for tensor in (x, y, v):
        assert torch.isfinite(tensor.grad).all()
        assert tensor.grad.abs().max() < 1e3


def test_gradients_are_right_also_in_the_series():
    for scale in (1e-4, 1e-2, 1.0):
        v = (scale * random_axes(5)).requires_grad_()
        assert torch.autograd.gradcheck(quaternion.exp, (v,))
        q = quaternion.exp(v.detach()).requires_grad_()
        assert torch.autograd.gradcheck(quaternion.log, (q,))


def test_log_has_no_seam_where_the_series_begins():
    """Angles on both sides of the switch, in float64: the error stays at rounding."""
    angles = torch.linspace(
        2 * math.sqrt(quaternion.SMALL) - 1e-6, 2 * math.sqrt(quaternion.SMALL) + 1e-6, 1001
    ).double()
    vectors = angles[:, None] * torch.tensor([0.6, 0.0, 0.8], dtype=torch.float64)
    torch.testing.assert_close(quaternion.log(quaternion.exp(vectors)), vectors, rtol=1e-14, atol=0)


def test_the_zero_quaternion_of_a_padded_residue_harms_nothing():
    zero = torch.zeros(2, 4, requires_grad=True)
    values = [quaternion.log(zero), quaternion.normalise(zero), SO3().exp(zero, torch.ones(2, 3))]
    sum(value.sum() for value in values).backward()
    assert all(torch.equal(value, torch.zeros_like(value)) for value in values)
    assert torch.isfinite(zero.grad).all()


def test_uniform_rotations_have_no_preferred_direction():
    """The trace of uniform rotations has mean 0 and variance 1; a turned vector is uniform on the sphere."""
    q = random_quaternions(20_000)
    trace = quaternion.to_matrix(q).diagonal(dim1=-2, dim2=-1).sum(-1)
    assert abs(trace.mean().item()) < 0.03
    assert trace.var().item() == pytest.approx(1.0, abs=0.05)
    turned = quaternion.rotate(q, torch.tensor([0.0, 0.0, 1.0], dtype=torch.float64))
    assert np.abs(turned.mean(0).numpy()).max() < 0.03
