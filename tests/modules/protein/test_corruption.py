"""Noise and paths of backbones: right distributions, functions of the sample's seed alone."""

import math

import pytest
import torch
from torch import Tensor

from modules.geometry import quaternion
from modules.geometry.igso3 import IGSO3
from modules.geometry.manifold import FRAMES
from modules.protein.corruption import around, centre, corrupt, draw_motifs, draw_noise


def all_of(batch: int, length: int) -> Tensor:
    return torch.ones(batch, length, dtype=torch.bool)


def angle(q: Tensor) -> Tensor:
    return quaternion.log(q).norm(dim=-1)


def test_noise_is_normal_centred_and_uniform():
    noise = draw_noise(torch.arange(40), all_of(40, 100))
    places = noise[..., 4:]
    torch.testing.assert_close(places.mean(1), torch.zeros(40, 3), rtol=0, atol=1e-5)
    # centring takes one of 100 degrees of freedom
    assert places.std().item() == pytest.approx(10 * math.sqrt(99 / 100), rel=0.02)
    # uniform rotations: the distribution function of the angle is (θ - sin θ) / π
    angles = angle(noise[..., :4]).flatten().sort().values
    uniform = (angles - angles.sin()) / math.pi
    assert (uniform - torch.linspace(0, 1, len(uniform))).abs().max() < 0.03


def test_noise_of_a_sample_does_not_depend_on_its_company_or_padding():
    """Also at lengths where torch fills tails of a tensor in another way."""
    seeds = torch.tensor([5, 9, 5])
    for length in (7, 16, 17, 33):
        resolved = all_of(3, length + 20)
        resolved[:, length:] = False
        padded = draw_noise(seeds, resolved)
        alone = draw_noise(seeds[1:2], all_of(1, length))
        assert torch.equal(padded[1, :length], alone[0])
        assert torch.equal(padded[0], padded[2])
        assert (padded[:, length:] == torch.tensor([1.0, 0, 0, 0, 0, 0, 0])).all()
    assert not torch.equal(padded[0], padded[1])


def test_rotations_around_the_data_have_the_angles_of_igso3():
    target = draw_noise(torch.arange(100, 140), all_of(40, 100))
    noise = draw_noise(torch.arange(40), all_of(40, 100))
    igso3 = IGSO3(0.8)
    found = around(noise, target, all_of(40, 100), igso3)
    assert torch.equal(found[..., 4:], noise[..., 4:])
    turns = quaternion.multiply(quaternion.conjugate(target[..., :4]), found[..., :4])
    angles = angle(turns).flatten().sort().values
    assert (igso3.cdf(angles) - torch.linspace(0, 1, len(angles))).abs().max() < 0.03
    axes = quaternion.log(turns)
    assert (axes / axes.norm(dim=-1, keepdim=True)).flatten(0, 1).mean(0).abs().max() < 0.03


def test_paths_are_geodesics_and_held_residues_stay():
    target, source = (draw_noise(torch.arange(k, k + 3), all_of(3, 12)) for k in (0, 10))
    generated = all_of(3, 12)
    generated[:, 3:6] = False
    resolved = all_of(3, 12)
    resolved[1, 8:] = False
    t = torch.tensor([0.0, 0.3, 1.0])
    at = corrupt(source, target, t, resolved=resolved, generated=generated, residue_index=all_of(3, 12).cumsum(1))
    assert torch.equal(at.noised[:, 3:6], target[:, 3:6])
    moving = resolved & generated
    way, gone = FRAMES.log(source, target), FRAMES.log(source, at.noised)
    torch.testing.assert_close(gone[moving], (t[:, None, None] * way)[moving], rtol=0, atol=2e-5)
    assert (at.noised[1, 8:] == torch.tensor([1.0, 0, 0, 0, 0, 0, 0])).all()


def test_centre_is_that_of_the_chosen_residues():
    frames = draw_noise(torch.arange(2), all_of(2, 10)) + 3.0
    chosen = all_of(2, 10)
    chosen[:, 4:] = False
    torch.testing.assert_close(centre(frames, chosen)[:, :4, 4:].mean(1), torch.zeros(2, 3), rtol=0, atol=1e-5)
    assert torch.equal(centre(frames, ~all_of(2, 10))[..., 4:], frames[..., 4:])


def test_motifs_hold_five_to_fifty_percent_in_segments():
    count, length = 300, 40
    generated = draw_motifs(torch.arange(count), all_of(count, length), share=0.7)
    held = (~generated).sum(1)
    chosen = held > 0
    assert chosen.float().mean().item() == pytest.approx(0.7, abs=0.08)
    shares = held[chosen] / length
    assert shares.min() >= 0.04 and shares.max() <= 0.51 and shares.float().std() > 0.1
    starts = (~generated).int().diff(dim=1, prepend=torch.zeros(count, 1, dtype=torch.int)).eq(1).sum(1)[chosen]
    assert set(starts.tolist()) == {1, 2, 3, 4}
    # every residue may be given, those at the ends too
    assert (~generated).any(0).all()
    assert generated[chosen].any(1).all()


def test_motifs_avoid_what_is_not_resolved_and_follow_the_seed():
    resolved = all_of(50, 30)
    resolved[:, ::3] = False
    seeds = torch.arange(50)
    generated = draw_motifs(seeds, resolved, share=1.0)
    assert generated[~resolved].all() and not generated.all(1).any()
    assert torch.equal(draw_motifs(seeds[7:8], resolved[7:8], share=1.0), generated[7:8])
    assert draw_motifs(seeds, resolved, share=0.0).all()
