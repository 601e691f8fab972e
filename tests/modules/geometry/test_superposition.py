"""Superposition against SciPy, and on motions known exactly."""

import numpy as np
import torch
from scipy.spatial.transform import Rotation

from modules.geometry.superposition import apply_motion, rmsd, superpose


def cloud(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_a_motion_is_found_again():
    x = cloud(5, 20)
    rotation = torch.from_numpy(Rotation.random(5, random_state=0).as_matrix())
    shift = cloud(5, seed=1)
    found, translation = superpose(x, apply_motion(rotation, shift, x))
    torch.testing.assert_close(found, rotation)
    torch.testing.assert_close(translation, shift)
    torch.testing.assert_close(rmsd(x, apply_motion(rotation, shift, x)), torch.zeros(5).double(), rtol=0, atol=1e-7)


def test_best_rotation_agrees_with_scipy():
    x, y = cloud(15), cloud(15, seed=1)
    expected, residual = Rotation.align_vectors((y - y.mean(0)).numpy(), (x - x.mean(0)).numpy())
    torch.testing.assert_close(superpose(x, y)[0], torch.from_numpy(expected.as_matrix()))
    assert abs(rmsd(x, y).item() - residual / np.sqrt(15)) < 1e-10


def test_a_mirror_image_is_not_turned_into_its_original():
    x = cloud(12)
    mirrored = x * torch.tensor([-1.0, 1.0, 1.0])
    assert torch.linalg.det(superpose(x, mirrored)[0]) > 0
    assert rmsd(x, mirrored) > 0.3


def test_masked_points_count_for_nothing():
    x, y = cloud(2, 20), cloud(2, 20, seed=1)
    mask = torch.zeros(2, 20, dtype=torch.bool)
    mask[0, 3:11], mask[1, ::2] = True, True
    y_wild = torch.where(mask[..., None], y, 1e3)
    for k in range(2):
        torch.testing.assert_close(rmsd(x, y_wild, mask)[k], rmsd(x[k][mask[k]], y[k][mask[k]]))
        torch.testing.assert_close(superpose(x, y_wild, mask)[0][k], superpose(x[k][mask[k]], y[k][mask[k]])[0])


def test_rmsd_without_superposition_is_the_plain_one():
    x, y = cloud(7), cloud(7, seed=1)
    torch.testing.assert_close(rmsd(x, y, superposed=False), (x - y).square().sum(-1).mean().sqrt())
