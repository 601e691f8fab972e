"""Losses of backbones: what they are on cases worked out by hand, what they do not depend on, and their slopes."""

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from data.errors import ConfigError
from modules.geometry import quaternion
from modules.geometry.frames import backbone_from_frames
from modules.geometry.manifold import FRAMES
from modules.protein.losses import PEPTIDE_BOND, WEIGHTS, ProteinLossConfig, protein_losses

NOTHING = ProteinLossConfig(**dict.fromkeys(WEIGHTS, 0.0), clamp=None, auxiliary_from=0.0)  # type: ignore[arg-type]
BATCH, LENGTH = 3, 9


def chain(seed: int, *, dtype: torch.dtype = torch.float64) -> Tensor:
    """Frames with steps of 3.8 Å."""
    source = torch.Generator().manual_seed(seed)
    steps = torch.randn(BATCH, LENGTH, 3, generator=source, dtype=dtype)
    places = 3.8 * (steps / steps.norm(dim=-1, keepdim=True)).cumsum(dim=1)
    turns = quaternion.normalise(torch.randn(BATCH, LENGTH, 4, generator=source, dtype=dtype))
    return torch.cat([turns, places], dim=-1)


def nudged(frames: Tensor, size: float, seed: int = 7) -> Tensor:
    source = torch.Generator().manual_seed(seed)
    return FRAMES.exp(frames, size * torch.randn(*frames.shape[:-1], 6, generator=source, dtype=frames.dtype))


def losses(config: ProteinLossConfig, predicted: Tensor, target: Tensor, **changes):
    batch, length = target.shape[:2]
    ones = torch.ones(batch, length, dtype=torch.bool)
    t = changes.pop("t", torch.full((batch,), 0.6, dtype=torch.float64))
    given = {
        "resolved": ones,
        "generated": ones,
        "residue_index": torch.arange(1, length + 1).expand(batch, -1),
        "noised": nudged(target, 0.5, seed=3),
    } | changes
    return protein_losses(config, predicted, target, given.pop("noised"), t, t, **given)


def one(weight: str, **changes) -> ProteinLossConfig:
    return replace(NOTHING, **{weight: 1.0}, **changes)


@pytest.mark.parametrize("weight", WEIGHTS)
def test_a_perfect_prediction_costs_nothing_but_its_own_clashes(weight: str):
    target = chain(0)
    spread = torch.cat([target[..., :4], 3.0 * target[..., 4:]], dim=-1)
    total = losses(one(weight, clash_distance=0.5), spread, spread).total
    torch.testing.assert_close(total, torch.zeros_like(total), rtol=0, atol=0.011 if weight == "local" else 1e-12)


@pytest.mark.parametrize("weight", WEIGHTS)
def test_every_term_rises_with_the_error_and_has_finite_slopes(weight: str):
    target = chain(0)
    found = []
    for size in (0.02, 0.3, 1.5):
        predicted = nudged(target, size).requires_grad_()
        total = losses(one(weight, clash_distance=8.0), predicted, target).total
        total.sum().backward()
        assert predicted.grad is not None and torch.isfinite(predicted.grad).all() and predicted.grad.abs().max() > 0
        found.append(total.mean().item())
    if weight != "clash":  # which knows no target
        assert found[0] < found[1] < found[2]


def test_translation_is_the_published_term():
    """2 Å off along one axis: 2 · (0.1 · 2 / s)² / 3, here with s = 0.4."""
    target = chain(0)
    moved = target + torch.tensor([0, 0, 0, 0, 2.0, 0, 0])
    found = losses(replace(NOTHING, translation=2.0), moved, target)
    torch.testing.assert_close(found.translation, torch.full_like(found.translation, 2 * (0.2 / 0.4) ** 2 / 3))


def test_rotation_is_the_error_of_the_velocity():
    """Seen from the true frames themselves, a turn by 0.3 rad is a rotation vector of that length."""
    target = chain(0)
    turned = FRAMES.exp(target, torch.tensor([0, 0.3, 0, 0, 0, 0], dtype=torch.float64).expand(BATCH, LENGTH, 6))
    found = losses(one("rotation"), turned, target, noised=target)
    torch.testing.assert_close(found.rotation, torch.full_like(found.rotation, (0.3 / 0.4) ** 2 / 3))


def test_pairs_agree_with_loops():
    target, predicted = chain(0), nudged(chain(0), 0.4)
    a, b = ((backbone_from_frames(frames) * 0.1 / 0.4).reshape(BATCH, -1, 3) for frames in (predicted, target))
    expected = []
    for x, y in zip(a, b, strict=True):
        squares = [
            ((p - q).norm() - (r - s).norm()) ** 2 for p, r in zip(x, y, strict=True) for q, s in zip(x, y, strict=True)
        ]
        expected.append(sum(squares) / ((3 * LENGTH) ** 2 + 1))
    torch.testing.assert_close(losses(one("pairs"), predicted, target).auxiliary, torch.stack(expected))


def test_early_times_leave_the_auxiliary_terms_out_and_late_ones_are_clipped():
    target, predicted = chain(0), nudged(chain(0), 0.4)
    config = replace(NOTHING, backbone=1.0, translation=1.0, auxiliary_from=0.5)
    found = losses(config, predicted, target, t=torch.tensor([0.5, 0.9, 0.99]))
    assert found.auxiliary[0] == 0 and (found.auxiliary[1:] > 0).all()
    again = losses(config, predicted, target, t=torch.tensor([0.1, 0.95, 0.9]))
    torch.testing.assert_close(found.translation[1:], again.translation[1:])


def test_clamp_stops_the_gradient():
    target = chain(0)
    predicted = nudged(target, 30.0).requires_grad_()
    config = replace(NOTHING, translation=2.0, clamp=5.0)
    total = losses(config, predicted, target).total
    assert total.tolist() == [5.0] * BATCH
    total.sum().backward()
    assert predicted.grad is not None and not predicted.grad.any()


@pytest.mark.parametrize("weight", WEIGHTS)
def test_only_resolved_and_generated_residues_count(weight: str):
    target, predicted = chain(0), nudged(chain(0), 0.4)
    config = one(weight, clash_distance=9.0)
    cut = slice(None, 6)
    resolved = torch.arange(LENGTH).expand(BATCH, -1) < 6
    wild = torch.where(resolved[..., None], predicted, nudged(predicted, 20.0))
    padded = losses(config, wild, target, resolved=resolved)
    short = losses(config, predicted[:, cut], target[:, cut], noised=nudged(target, 0.5, seed=3)[:, cut])
    torch.testing.assert_close(padded.total, short.total)
    held = losses(config, predicted, target, generated=torch.zeros(BATCH, LENGTH, dtype=torch.bool))
    assert not held.total.any()


@pytest.mark.parametrize("weight", ["bond", "local", "clash", "pairs"])
def test_terms_that_look_at_shape_do_not_see_a_motion_of_the_whole(weight: str):
    target, predicted = chain(0), nudged(chain(0), 0.4)
    turn = quaternion.normalise(torch.tensor([0.3, -1.0, 0.5, 2.0], dtype=torch.float64)).expand(BATCH, LENGTH, 4)
    places = quaternion.rotate(turn, predicted[..., 4:]) + torch.tensor([5.0, -40.0, 3.0])
    moved = torch.cat([quaternion.multiply(turn, predicted[..., :4]), places], dim=-1)
    config = one(weight, clash_distance=9.0)
    torch.testing.assert_close(losses(config, moved, target).total, losses(config, predicted, target).total)


def test_bonds_are_not_asked_for_across_a_gap():
    target = chain(0)
    apart = target.clone()
    apart[:, 5:, 4:] += 30.0
    index = torch.arange(1, LENGTH + 1).expand(BATCH, -1)
    gap = torch.where(index > 5, index + 3, index)
    assert (losses(one("bond"), apart, target).total > 1).all()
    torch.testing.assert_close(losses(one("bond"), apart, target, residue_index=gap).total, torch.zeros(BATCH).double())


def test_bond_error_is_small_squared_and_large_linear():
    """One CA-CA, C-N … off by e: e² / 2w² below the width w, e / w far above it."""
    target = chain(0)[:, :2]
    width = 0.5
    for factor, expected in ((1e-3, lambda e: e**2 / 2), (1e4, lambda e: e)):
        direction = torch.zeros_like(target)
        direction[:, 1, 4:] = target[:, 1, 4:] - target[:, 0, 4:]
        moved = target + factor * direction
        here, there = backbone_from_frames(moved), backbone_from_frames(target)
        errors = []
        for a in (1, 2):
            for b in (0, 1):
                before, now = ((x[:, 0, a] - x[:, 1, b]).norm(dim=-1) for x in (there, here))
                errors.append(expected((now - before).abs() / width))
        found = losses(one("bond", bond_width=width), moved, target).total
        torch.testing.assert_close(found, torch.stack(errors).mean(0), rtol=2e-2, atol=1e-9)


def test_ideal_bonds_are_those_of_a_planar_trans_bond_whatever_the_target():
    """Distances worked out from bond lengths and angles: C-N 1.328, N-CA 1.461, CA-C 1.526 Å, 116.6° and 121.6°."""

    def opposite(a: float, b: float, degrees: float) -> float:
        return math.sqrt(a * a + b * b - 2 * a * b * math.cos(math.radians(degrees)))

    expected = (opposite(1.526, 1.328, 116.6), 3.80, 1.328, opposite(1.328, 1.461, 121.6))
    assert pytest.approx(expected, abs=0.01) == PEPTIDE_BOND
    other, predicted = nudged(chain(0), 3.0), chain(1)
    config = one("bond", bond_target="ideal")
    torch.testing.assert_close(losses(config, predicted, other).total, losses(config, predicted, predicted).total)
    assert (losses(config, predicted, predicted).total > 0.1).all()


def test_mirror_images_are_told_apart_by_local_and_not_by_pairs_of_ca():
    target = chain(0)
    mirror = target.clone()
    mirror[..., 4] *= -1
    assert (losses(one("local"), mirror, target).total > 0.5).all()
    alpha = [frames[..., 4:] for frames in (target, mirror)]
    torch.testing.assert_close(*(torch.cdist(x, x) for x in alpha))


def test_clash_counts_missing_distance_per_residue():
    """Four residues on a line, 1 Å apart: only the ends are three apart, at 3 Å where 4 are asked for."""
    frames = torch.zeros(1, 4, 7, dtype=torch.float64)
    frames[..., 0] = 1.0
    frames[0, :, 4] = torch.arange(4.0)
    found = losses(one("clash", clash_distance=4.0), frames, frames)
    assert found.total.item() == pytest.approx(2 * 1.0 / 4)


def test_a_sample_costs_the_same_in_any_batch():
    target, predicted = chain(0), nudged(chain(0), 0.4)
    config = ProteinLossConfig(bond=1.0, local=1.0, clash=1.0)
    noised = nudged(target, 0.5, seed=3)
    together = losses(config, predicted, target, noised=noised).total
    alone = [losses(config, predicted[k, None], target[k, None], noised=noised[k, None]).total for k in range(BATCH)]
    torch.testing.assert_close(together, torch.cat(alone))
    assert math.isfinite(together.sum().item())


def test_user_mistakes_are_named():
    for changes, message in (
        ({"bond": -1.0}, "bond"),
        ({"time_clip": 1.0}, "time_clip"),
        ({"clamp": 0.0}, "clamp"),
        ({"auxiliary_from": 2.0}, "auxiliary_from"),
        ({"local_window": 0}, "local_window"),
        ({"bond_width": 0.0}, "bond_width"),
    ):
        with pytest.raises(ConfigError, match=message):
            ProteinLossConfig(**changes)  # type: ignore[arg-type]
