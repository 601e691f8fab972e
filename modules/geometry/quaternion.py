"""Rotations as unit quaternions (w, x, y, z), and the two maps between them and rotation vectors.

q and -q are one rotation. Rotation vectors are in radians, in the body frame: `multiply(q, exp(v))` turns q by v as
seen from q. Every function here is finite and has finite gradients at every rotation, also at angle 0, at pi, for
antipodal quaternions and for the zero quaternion that stands where a residue is padded.
"""

import torch
from jaxtyping import Float
from torch import Tensor

SMALL = 1e-5
"""Squared half angle below which a series of three terms is exact to float64 rounding."""


def multiply(p: Float[Tensor, "*#batch 4"], q: Float[Tensor, "*#batch 4"]) -> Float[Tensor, "... 4"]:
    """The Hamilton product p q: first turn by q, then by p."""
    a, b, c, d = p.unbind(-1)
    w, x, y, z = q.unbind(-1)
    return torch.stack(
        [
            a * w - b * x - c * y - d * z,
            a * x + b * w + c * z - d * y,
            a * y - b * z + c * w + d * x,
            a * z + b * y - c * x + d * w,
        ],
        dim=-1,
    )


def conjugate(q: Float[Tensor, "*batch 4"]) -> Float[Tensor, "*batch 4"]:
    """The inverse rotation, for unit quaternions."""
    return torch.cat([q[..., :1], -q[..., 1:]], dim=-1)


def normalise(q: Float[Tensor, "*batch 4"]) -> Float[Tensor, "*batch 4"]:
    """`q` at unit length; the zero quaternion stays zero."""
    squared = q.square().sum(-1, keepdim=True)
    return q * torch.where(squared < 1e-24, 1.0, squared).rsqrt()


def exp(v: Float[Tensor, "*batch 3"]) -> Float[Tensor, "*batch 4"]:
    """The unit quaternion that turns by the rotation vector `v` (radians, any length)."""
    squared = 0.25 * v.square().sum(-1, keepdim=True)
    small = squared < SMALL
    half = torch.where(small, 1.0, squared).sqrt()
    cosine = torch.where(small, 1.0 - squared / 2.0 + squared.square() / 24.0, half.cos())
    sine_over_half = torch.where(small, 1.0 - squared / 6.0 + squared.square() / 120.0, half.sin() / half)
    return torch.cat([cosine, 0.5 * sine_over_half * v], dim=-1)


def log(q: Float[Tensor, "*batch 4"]) -> Float[Tensor, "*batch 3"]:
    """The shortest rotation vector of `q`, of length 0 to pi; the same for q and -q, and for any positive multiple.

    The half angle is atan2(|xyz|, |w|), which is accurate at every angle, where acos(w) loses half the digits at 0. At
    exactly pi both signs of the axis are right; the one with the sign of xyz is given.
    """
    q = torch.where(q[..., :1] < 0, -q, q)
    w, axis = q[..., :1], q[..., 1:]
    squared = axis.square().sum(-1, keepdim=True)
    small = squared <= SMALL * w.square()
    # Each branch is given an argument at which it is finite where the other branch is taken.
    length = torch.where(small, 1.0, squared).sqrt()
    angle_over_length = 2.0 * torch.atan2(length, w) / length
    safe = torch.where(small & (w > 0), w, 1.0)
    ratio = torch.where(small, squared, 0.0) / safe.square()
    series = 2.0 / safe * (1.0 - ratio / 3.0 + ratio.square() / 5.0)
    return torch.where(small, series, angle_over_length) * axis


def rotate(q: Float[Tensor, "*#batch 4"], x: Float[Tensor, "*#batch 3"]) -> Float[Tensor, "... 3"]:
    """The vectors `x` turned by the unit quaternions `q`."""
    axis, x = torch.broadcast_tensors(q[..., 1:], x)
    twice = 2.0 * torch.linalg.cross(axis, x)
    return x + q[..., :1] * twice + torch.linalg.cross(axis, twice)


def to_matrix(q: Float[Tensor, "*batch 4"]) -> Float[Tensor, "*batch 3 3"]:
    """The rotation matrix of the unit quaternion `q`; its columns are the turned axes."""
    w, x, y, z = q.unbind(-1)
    entries = [
        1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y),
        2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x),
        2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y),
    ]  # fmt: skip
    return torch.stack(entries, dim=-1).unflatten(-1, (3, 3))


def from_matrix(matrix: Float[Tensor, "*batch 3 3"]) -> Float[Tensor, "*batch 4"]:
    """The unit quaternion with w >= 0 of a rotation matrix.

    The entries of the matrix give all products 4 q_i q_j; the row of the greatest q_i, normalised, is q up to its sign
    (Shepperd 1978). No root of a small number, no eigenvectors: right and differentiable at every rotation.
    """
    m = matrix
    xx, yy, zz = m[..., 0, 0], m[..., 1, 1], m[..., 2, 2]
    wx, wy, wz = m[..., 2, 1] - m[..., 1, 2], m[..., 0, 2] - m[..., 2, 0], m[..., 1, 0] - m[..., 0, 1]
    xy, xz, yz = m[..., 0, 1] + m[..., 1, 0], m[..., 0, 2] + m[..., 2, 0], m[..., 1, 2] + m[..., 2, 1]
    diagonal = torch.stack([1 + xx + yy + zz, 1 + xx - yy - zz, 1 - xx + yy - zz, 1 - xx - yy + zz], dim=-1)
    ww, x2, y2, z2 = diagonal.unbind(-1)
    rows = torch.stack([ww, wx, wy, wz, wx, x2, xy, xz, wy, xy, y2, yz, wz, xz, yz, z2], dim=-1).unflatten(-1, (4, 4))
    greatest = diagonal.argmax(-1)[..., None, None].expand(*diagonal.shape[:-1], 1, 4)
    q = normalise(rows.gather(-2, greatest).squeeze(-2))
    return torch.where(q[..., :1] < 0, -q, q)


def uniform(noise: Float[Tensor, "*batch 4"]) -> Float[Tensor, "*batch 4"]:
    """Rotations uniform on SO(3) from standard normal `noise` (Marsaglia 1972)."""
    return normalise(noise)
