"""Groups: closed under multiplication; assemblies: the same after each rotation of their group."""

import pytest
import torch

from data.errors import ConfigError
from modules.geometry import quaternion
from modules.geometry.frames import backbone_from_frames
from modules.geometry.manifold import FRAMES
from modules.protein.symmetry import SymmetricSampling, Symmetry, asymmetry

GROUPS = pytest.mark.parametrize("name", ["C1", "C2", "C3", "C7", "D2", "D3", "D5"])


def random_frames(*shape: int, seed: int = 0) -> torch.Tensor:
    noise = torch.randn(*shape, 7, generator=torch.Generator().manual_seed(seed))
    return torch.cat([quaternion.uniform(noise[..., :4]), 10 * noise[..., 4:]], dim=-1)


@GROUPS
def test_rotations_are_a_group(name: str):
    """As many as the order says, all different, closed under products and inverses, the identity first."""
    symmetry = Symmetry(name)
    turns = symmetry.rotations
    assert len(turns) == symmetry.order == int(name[1:]) * (2 if name[0] == "D" else 1)
    overlap = (turns @ turns.mT).abs()
    torch.testing.assert_close(overlap.fill_diagonal_(0).max().clamp_min(0.999), torch.tensor(0.999).double())
    products = quaternion.multiply(turns[:, None], turns[None]).flatten(0, 1)
    for element in (products, quaternion.conjugate(turns)):
        torch.testing.assert_close((element @ turns.mT).abs().amax(-1), torch.ones(len(element)).double())
    assert torch.equal(turns[0], torch.tensor([1.0, 0, 0, 0]).double())


@GROUPS
def test_an_assembly_is_the_same_after_each_rotation_of_its_group(name: str):
    """All atoms, to 1e-3 Å, and each rotation carries chains onto chains."""
    symmetry = Symmetry(name)
    sampling = SymmetricSampling(symmetry, 12)
    frames = sampling.start(random_frames(sampling.residues))
    chains = backbone_from_frames(frames).double().unflatten(0, (symmetry.order, -1))
    for turn in symmetry.rotations:
        image = quaternion.rotate(turn, chains)
        apart = (image[:, None] - chains[None]).abs().amax(dim=(-1, -2, -3))
        assert apart.min(dim=1).values.max() < 1e-3
        assert sorted(apart.argmin(dim=1).tolist()) == list(range(symmetry.order))
    assert asymmetry(frames, symmetry) < 1e-3


@GROUPS
def test_projection_makes_symmetric_what_a_step_has_bent_and_then_changes_nothing(name: str):
    symmetry = Symmetry(name)
    sampling = SymmetricSampling(symmetry, 9)
    start = sampling.start(random_frames(sampling.residues))
    bent = FRAMES.exp(start, torch.randn(len(start), 6, generator=torch.Generator().manual_seed(1)))
    projected = sampling.project(bent, 0.3)
    assert torch.equal(projected[:9], bent[:9])
    assert asymmetry(projected, symmetry) < 1e-3
    assert torch.equal(sampling.project(projected, 0.3), projected)
    if symmetry.order > 1:
        assert asymmetry(bent, symmetry) > 0.1


@GROUPS
def test_noise_of_an_assembly_is_centred_and_as_wide_as_any(name: str):
    sampling = SymmetricSampling(Symmetry(name), 400)
    noise = sampling.start(random_frames(2, sampling.residues))
    if sampling.symmetry.order > 1:
        assert noise[..., 4:].mean(1).abs().max() < 1e-3
    assert noise[..., 4:].std().item() == pytest.approx(10.0, rel=0.1)


def test_noise_of_the_first_chain_alone_decides():
    sampling = SymmetricSampling(Symmetry("D2"), 6)
    noise, other = random_frames(24), random_frames(24, seed=1)
    other[:6] = noise[:6]
    assert torch.equal(sampling.start(noise), sampling.start(other))


def test_a_field_that_respects_symmetry_keeps_it():
    """Walking towards the centre of all residues, an equivariant field, needs no projection to stay symmetric."""
    sampling = SymmetricSampling(Symmetry("D3"), 8)
    frames = sampling.start(random_frames(48))
    for _ in range(10):
        inward = -0.1 * frames[:, 4:] / frames[:, 4:].norm(dim=-1, keepdim=True)
        frames = FRAMES.exp(frames, torch.cat([torch.full_like(inward, 0.05), inward], dim=-1))
    assert asymmetry(frames, sampling.symmetry) < 1e-3


def test_chains_are_numbered():
    sampling = SymmetricSampling(Symmetry("c3"), 2)
    assert sampling.chain.tolist() == [0, 0, 1, 1, 2, 2]
    assert sampling.residue_index.tolist() == [1, 2, 1, 2, 1, 2]
    assert sampling.follows.tolist() == [True, False] * 3
    assert sampling.generated.all()


@pytest.mark.parametrize("name", ["", "C0", "D1", "T", "C-3", "C99", "X4", "3"])
def test_unknown_groups_are_refused(name: str):
    with pytest.raises(ConfigError, match="C2, C3"):
        Symmetry(name)
    with pytest.raises(ConfigError, match="at least one residue"):
        SymmetricSampling(Symmetry("C2"), 0)
