"""Motifs: exact where hard, nearer where guided, in the coordinates of their file."""

from dataclasses import dataclass

import numpy as np
import pytest
import torch

from data.batch import UNKNOWN, Backbone
from data.errors import ConfigError
from modules.geometry import quaternion
from modules.geometry.frames import backbone_from_frames, place_oxygen
from modules.geometry.manifold import FRAMES
from modules.protein.motif import GuidedMotif, HardMotif, motif_constraint, motif_rmsd, place_motif


@dataclass(frozen=True)
class Given:
    name: str
    backbone: Backbone
    numbers: tuple[str, ...]


def random_frames(*shape: int, seed: int = 0) -> torch.Tensor:
    noise = torch.randn(*shape, 7, generator=torch.Generator().manual_seed(seed))
    return torch.cat([quaternion.uniform(noise[..., :4]), 10 * noise[..., 4:]], dim=-1)


def given() -> Given:
    """Forty residues far from the origin; the atoms are off the ideal geometry, as in a crystal."""
    atoms = place_oxygen(backbone_from_frames(random_frames(40))) + torch.tensor([85.0, -40.0, 33.0])
    atoms = atoms + 0.05 * torch.randn(atoms.shape, generator=torch.Generator().manual_seed(1))
    present = np.ones((40, 4), dtype=bool)
    present[12, 3] = False
    backbone = Backbone(
        atoms=np.where(present[..., None], atoms.numpy(), 0.0).astype(np.float32),
        present=present,
        chain=np.zeros(40, dtype=np.int64),
        residue_index=np.arange(1, 41),
        residue_type=np.arange(40) % 20,
    )
    return Given("A", backbone, tuple(str(n) for n in range(1, 41)))


MOTIF = place_motif("6/A11-20/8/A30-32/4", [given()])
FIXED = [*range(6, 16), *range(24, 27)]
PLACES = [*range(10, 20), *range(29, 32)]


def test_the_motif_lies_where_the_contig_says():
    assert MOTIF.fixed.nonzero()[:, 0].tolist() == FIXED
    assert torch.equal(MOTIF.atoms[FIXED], torch.from_numpy(given().backbone.atoms[PLACES]))
    assert MOTIF.residue_type[FIXED].tolist() == [p % 20 for p in PLACES]
    assert (MOTIF.residue_type[~MOTIF.fixed] == UNKNOWN).all()


def test_sampling_has_its_origin_in_the_motif():
    assert MOTIF.frames[FIXED, 4:].mean(0).abs().max() < 1e-5
    torch.testing.assert_close(MOTIF.frames[FIXED, 4:] + MOTIF.origin, MOTIF.atoms[FIXED, 1])


@pytest.mark.parametrize("batch", [(), (3,)], ids=["one", "batch"])
def test_a_hard_motif_stands_still_and_all_else_is_left(batch: tuple[int, ...]):
    constraint, frames = HardMotif(MOTIF), random_frames(*batch, len(MOTIF), seed=2)
    for held in (constraint.start(frames), constraint.project(frames, 0.4), constraint.guide(frames, 0.4)):
        assert torch.equal(held[..., FIXED, :], MOTIF.frames[FIXED].expand(*batch, -1, -1))
        assert torch.equal(held[..., constraint.generated, :], frames[..., constraint.generated, :])


def test_a_hard_motif_comes_back_bit_for_bit():
    """0.00 Å, in the coordinates of the file, off-ideal geometry and oxygens included."""
    sample = HardMotif(MOTIF).finish(random_frames(len(MOTIF), seed=2))
    expected, present = given().backbone.atoms[PLACES], given().backbone.present[PLACES]
    assert np.array_equal(sample.atoms[FIXED][present], expected[present])
    assert motif_rmsd(sample, MOTIF, superposed=False) == 0.0
    assert sample.motif is not None and sample.motif.nonzero()[0].tolist() == FIXED
    assert sample.present.all()
    # The oxygen that the file lacks is built, one C=O bond away.
    built = FIXED[PLACES.index(12)]
    assert np.linalg.norm(sample.atoms[built, 3] - sample.atoms[built, 2]) == pytest.approx(1.23, abs=1e-3)


def test_the_generated_part_keeps_its_place_around_the_motif():
    frames = HardMotif(MOTIF).project(random_frames(len(MOTIF), seed=2), 1.0)
    sample = HardMotif(MOTIF).finish(frames)
    free = ~MOTIF.fixed
    ours = torch.from_numpy(sample.atoms)[free, :3]
    torch.testing.assert_close(ours, backbone_from_frames(frames)[free] + MOTIF.origin, rtol=0, atol=1e-4)


def displaced(seed: int) -> torch.Tensor:
    """A sample that holds the motif elsewhere in space, and roughly."""
    frames = random_frames(len(MOTIF), seed=seed)
    frames[FIXED] = MOTIF.frames[FIXED]
    generator = torch.Generator().manual_seed(seed)
    frames = FRAMES.exp(frames, torch.randn(len(MOTIF), 6, generator=generator) * torch.tensor([0.2] * 3 + [1.0] * 3))
    turn = quaternion.uniform(torch.randn(4, generator=generator))
    moved = quaternion.rotate(turn, frames[:, 4:]) + 5.0
    return torch.cat([quaternion.multiply(turn, frames[:, :4]), moved], dim=-1)


def test_guidance_makes_the_motif_wherever_it_is():
    """At full strength the motif is met but for the ideal geometry of frames, and the nearer in time the stronger."""
    prediction, constraint = displaced(3), GuidedMotif(MOTIF)
    before = motif_rmsd(MOTIF.backbone(MOTIF.atoms_of(prediction)), MOTIF)
    at = [motif_rmsd(constraint.finish(constraint.guide(prediction, t)), MOTIF) for t in (0.0, 0.2, 0.6, 1.0)]
    assert at[0] == pytest.approx(before, abs=1e-4)
    assert at[0] > at[1] > at[2] > at[3]
    assert before > 1.0
    assert at[3] < 0.1
    # Finished, it lies over the file's motif.
    final = constraint.finish(constraint.guide(prediction, 1.0))
    assert motif_rmsd(final, MOTIF, superposed=False) == pytest.approx(motif_rmsd(final, MOTIF), abs=1e-4)


def test_guidance_moves_with_the_world():
    prediction, constraint = displaced(3), GuidedMotif(MOTIF)
    turn = quaternion.uniform(torch.tensor([0.3, -0.4, 0.8, 0.1]))

    def moved(frames: torch.Tensor) -> torch.Tensor:
        shifted = quaternion.rotate(turn, frames[:, 4:]) - 7.0
        return torch.cat([quaternion.multiply(turn, frames[:, :4]), shifted], dim=-1)

    expected, actual = moved(constraint.guide(prediction, 0.7)), constraint.guide(moved(prediction), 0.7)
    torch.testing.assert_close(actual[:, 4:], expected[:, 4:], rtol=0, atol=1e-4)
    assert (actual[:, :4] * expected[:, :4]).sum(-1).abs().min() > 1 - 1e-5


def test_guidance_bends_the_chain_around_the_motif_instead_of_breaking_it():
    """A motif residue that moves takes its neighbours along, each farther one less."""
    prediction, constraint = displaced(3), GuidedMotif(MOTIF)
    shift = (constraint.guide(prediction, 1.0) - prediction)[:, 4:].norm(dim=-1)
    assert torch.equal(shift[16:19].argsort(descending=True), torch.arange(3))
    assert shift[16] == pytest.approx(shift[15].item() * np.exp(-1 / 3), rel=1e-3)
    batch = torch.stack([prediction, displaced(4)])
    torch.testing.assert_close(constraint.guide(batch, 0.5)[1], constraint.guide(displaced(4), 0.5))


def test_chains_of_a_design_are_kept_apart():
    """The chain beyond a break is not dragged along, and no oxygen looks across."""
    motif = place_motif("A1-5/3 4", [given()])
    assert motif.chain.tolist() == [0] * 8 + [1] * 4
    frames = random_frames(12, seed=5)
    guided = GuidedMotif(motif).guide(frames, 1.0)
    assert torch.equal(guided[8:, 4:], frames[8:, 4:])
    alone = place_oxygen(backbone_from_frames(frames[:8]))
    torch.testing.assert_close(motif.atoms_of(frames)[:8], alone + motif.origin)


def test_a_contig_without_motif_constrains_nothing():
    motif = place_motif("5-5", [])
    frames = random_frames(5)
    for constraint in (HardMotif(motif), GuidedMotif(motif)):
        assert torch.equal(constraint.guide(frames, 1.0), frames)
        assert constraint.generated.all()
        assert motif_rmsd(constraint.finish(frames), motif) == 0.0


def test_mistakes_are_named():
    with pytest.raises(ConfigError, match="strength=0"):
        GuidedMotif(MOTIF, strength=0.0)
    with pytest.raises(Exception, match="hard"):  # the shape checks refuse the word first
        motif_constraint(MOTIF, "soft")  # type: ignore[arg-type]
    assert isinstance(motif_constraint(MOTIF, "guided"), GuidedMotif)
