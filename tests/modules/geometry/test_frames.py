"""Frames and atoms: each from the other, and the geometry of the peptide bond."""

import pytest
import torch

from modules.geometry import quaternion
from modules.geometry.frames import backbone_from_frames, beta_carbon, frames_from_backbone, place_oxygen


def random_frames(*shape: int, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    noise = torch.randn(*shape, 7, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return torch.cat([quaternion.uniform(noise[..., :4]), 20 * noise[..., 4:]], dim=-1).to(dtype)


def test_atoms_of_frames_give_the_frames_back():
    frames = random_frames(3, 40)
    back = frames_from_backbone(backbone_from_frames(frames))
    torch.testing.assert_close((back[..., :4] * frames[..., :4]).sum(-1).abs(), torch.ones(3, 40).double())
    assert torch.equal(back[..., 4:], frames[..., 4:])


def test_atoms_of_real_geometry_lie_as_the_frame_says():
    """CA at the origin, C on the x axis, N in the xy plane with y > 0, for any triangle of atoms."""
    atoms = torch.randn(50, 4, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    frames = frames_from_backbone(atoms)
    local = quaternion.rotate(quaternion.conjugate(frames[:, None, :4]), atoms - frames[:, None, 4:])
    torch.testing.assert_close(local[:, 1], torch.zeros(50, 3).double())
    torch.testing.assert_close(local[:, 2, 1:], torch.zeros(50, 2).double(), rtol=0, atol=1e-12)
    torch.testing.assert_close(local[:, 0, 2], torch.zeros(50).double(), rtol=0, atol=1e-12)
    assert (local[:, 2, 0] > 0).all()
    assert (local[:, 0, 1] > 0).all()


def test_atoms_by_whole_matrices_are_the_same():
    frames = random_frames(30)
    ideal = torch.tensor([[-0.525, 1.363, 0.0], [0.0, 0.0, 0.0], [1.526, 0.0, 0.0], [-0.529, -0.774, -1.205]]).double()
    expected = ideal @ quaternion.to_matrix(frames[:, :4]).mT + frames[:, None, 4:]
    torch.testing.assert_close(backbone_from_frames(frames), expected[:, :3])
    torch.testing.assert_close(beta_carbon(frames), expected[:, 3])


def test_beta_carbon_is_left_handed():
    """An L amino acid: seen from H, CO, R and N go clockwise; (N - CA) x (C - CA) . (CB - CA) is positive."""
    frames = random_frames(10)
    nitrogen, alpha, carbon = (backbone_from_frames(frames)).unbind(-2)
    volume = (torch.linalg.cross(nitrogen - alpha, carbon - alpha) * (beta_carbon(frames) - alpha)).sum(-1)
    assert (volume > 0).all()
    torch.testing.assert_close(
        (beta_carbon(frames) - alpha).norm(dim=-1), torch.full((10,), 1.5268).double(), rtol=1e-3, atol=0
    )


def test_motion_of_the_world_carries_frames_and_atoms():
    frames = random_frames(2, 12)
    turn = quaternion.uniform(torch.randn(4, generator=torch.Generator().manual_seed(1), dtype=torch.float64))
    atoms = place_oxygen(backbone_from_frames(frames))
    moved = quaternion.rotate(turn, atoms) + 3.0
    again = frames_from_backbone(moved)
    torch.testing.assert_close(place_oxygen(moved[..., :3, :]), moved)
    torch.testing.assert_close(again[..., 4:], quaternion.rotate(turn, frames[..., 4:]) + 3.0)
    aligned = (again[..., :4] * quaternion.multiply(turn, frames[..., :4])).sum(-1).abs()
    torch.testing.assert_close(aligned, torch.ones(2, 12).double())


def test_oxygen_lies_in_the_peptide_plane_away_from_both_neighbours():
    backbone = backbone_from_frames(random_frames(1, 30))
    atoms = place_oxygen(backbone)[0]
    alpha, carbon, oxygen, following = atoms[:-1, 1], atoms[:-1, 2], atoms[:-1, 3], atoms[1:, 0]
    torch.testing.assert_close((oxygen - carbon).norm(dim=-1), torch.full((29,), 1.23).double())
    normal = torch.linalg.cross(alpha - carbon, following - carbon)
    height = ((oxygen - carbon) * normal).sum(-1) / normal.norm(dim=-1)
    torch.testing.assert_close(height, torch.zeros(29).double(), rtol=0, atol=1e-9)

    def cosine(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        return (a * b).sum(-1) / (a.norm(dim=-1) * b.norm(dim=-1))

    torch.testing.assert_close(cosine(oxygen - carbon, alpha - carbon), cosine(oxygen - carbon, following - carbon))
    assert (cosine(oxygen - carbon, alpha - carbon) < 0).all()


def test_oxygen_at_a_chain_end_does_not_look_across():
    """The last residue of a chain has the oxygen that it would have alone."""
    backbone = backbone_from_frames(random_frames(9))
    follows = torch.ones(9, dtype=torch.bool)
    follows[3] = False
    both = place_oxygen(backbone, follows)
    assert torch.equal(both[:4], place_oxygen(backbone[:4]))
    assert torch.equal(both[4:], place_oxygen(backbone[4:]))


def test_absent_atoms_give_the_identity_and_finite_gradients():
    atoms = torch.zeros(2, 4, 3, requires_grad=True)
    frames = frames_from_backbone(atoms)
    assert torch.equal(frames, torch.tensor([[1.0, 0, 0, 0, 0, 0, 0]]).expand(2, 7))
    frames.sum().backward()
    assert torch.isfinite(atoms.grad).all()


def test_a_frame_needs_three_atoms():
    with pytest.raises(ValueError, match="N, CA and C"):
        frames_from_backbone(torch.zeros(5, 2, 3))
