"""Motifs and symmetries through the whole sampler, with a small network of random weights."""

from dataclasses import dataclass

import numpy as np
import pytest
import torch

from data.batch import Backbone
from modules.geometry import quaternion
from modules.geometry.frames import backbone_from_frames, place_oxygen
from modules.protein.motif import GuidedMotif, HardMotif, Motif, motif_rmsd, place_motif
from modules.protein.network import ProteinNetwork, ProteinNetworkConfig
from modules.protein.sampling import ProteinSamplingConfig, sample_backbones
from modules.protein.symmetry import SymmetricSampling, Symmetry, asymmetry

METHODS = pytest.mark.parametrize("method", ["first", "two-call", "multistep"])


@dataclass(frozen=True)
class Given:
    name: str
    backbone: Backbone
    numbers: tuple[str, ...]


@pytest.fixture(scope="module")
def network() -> ProteinNetwork:
    """Every weight random, so that frames move and residues differ."""
    torch.manual_seed(0)
    network = ProteinNetworkConfig(
        node_width=16,
        edge_width=8,
        blocks=2,
        heads=2,
        head_width=4,
        query_points=2,
        value_points=3,
        pair_value_width=4,
        transformer_layers=1,
        transformer_heads=2,
        index_channels=8,
        time_channels=8,
        edge_channels=4,
    ).build()
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return network.eval()


def motif(contig: str = "6/A3-9/8") -> Motif:
    noise = torch.randn(12, 7, generator=torch.Generator().manual_seed(0))
    frames = torch.cat([quaternion.uniform(noise[:, :4]), 4 * noise[:, 4:] + 60], dim=-1)
    atoms = place_oxygen(backbone_from_frames(frames)).numpy()
    ones = np.ones((12, 4), dtype=bool)
    backbone = Backbone(atoms, ones, np.zeros(12, dtype=np.int64), np.arange(1, 13), np.arange(12))
    return place_motif(contig, [Given("A", backbone, tuple(str(n) for n in range(1, 13)))])


@METHODS
def test_a_hard_motif_stands_still_at_every_call(network: ProteinNetwork, method: str):
    constraint = HardMotif(motif())
    config = ProteinSamplingConfig(steps=6, method=method)
    length = len(constraint.generated)
    (sample,) = sample_backbones(
        network, config, seed=1, indices=[0], lengths=[length], constraint=constraint, trajectory=True
    )
    fixed, expected = ~constraint.generated, constraint.motif.frames
    for frames in (sample.source, sample.frames, *sample.trajectory, *sample.predictions):
        assert torch.equal(frames[fixed], expected[fixed])
    moved = (sample.frames - sample.source)[constraint.generated, 4:].norm(dim=-1)
    assert moved.min() > 0.01
    backbone = constraint.finish(sample.frames)
    assert motif_rmsd(backbone, constraint.motif, superposed=False) == 0.0


def test_the_network_is_told_what_is_given(network: ProteinNetwork):
    """With the same start, a motif changes what is made of the other residues."""
    constraint = HardMotif(motif())
    config, length = ProteinSamplingConfig(steps=3), len(constraint.generated)
    (held,) = sample_backbones(network, config, seed=1, indices=[0], lengths=[length], constraint=constraint)
    (free,) = sample_backbones(network, config, seed=1, indices=[0], lengths=[length], noise=[held.source])
    assert (held.frames - free.frames)[constraint.generated].abs().max() > 1e-2


@METHODS
def test_a_guided_motif_is_met(network: ProteinNetwork, method: str):
    constraint = GuidedMotif(motif())
    config, length = ProteinSamplingConfig(steps=8, method=method), len(constraint.generated)
    (guided,) = sample_backbones(network, config, seed=1, indices=[0], lengths=[length], constraint=constraint)
    (free,) = sample_backbones(network, config, seed=1, indices=[0], lengths=[length])
    without = motif_rmsd(constraint.finish(free.frames), constraint.motif)
    assert without > 3.0
    assert motif_rmsd(constraint.finish(guided.frames), constraint.motif) < 0.01


@METHODS
@pytest.mark.parametrize("name", ["C3", "D2"])
def test_an_assembly_is_symmetric_at_every_call(network: ProteinNetwork, name: str, method: str):
    constraint = SymmetricSampling(Symmetry(name), 7)
    config = ProteinSamplingConfig(steps=5, method=method)
    (sample,) = sample_backbones(
        network, config, seed=2, indices=[3], lengths=[constraint.residues], constraint=constraint, trajectory=True
    )
    for frames in (sample.source, sample.frames, *sample.trajectory):
        assert asymmetry(frames, constraint.symmetry) < 1e-3


def test_a_constrained_sample_does_not_depend_on_its_company(network: ProteinNetwork):
    for constraint in (HardMotif(motif()), GuidedMotif(motif("3 A3-9/11")), SymmetricSampling(Symmetry("C3"), 7)):
        config, length = ProteinSamplingConfig(steps=4), len(constraint.generated)
        together = sample_backbones(
            network, config, seed=1, indices=[0, 1, 2], lengths=[length] * 3, constraint=constraint
        )
        (alone,) = sample_backbones(network, config, seed=1, indices=[1], lengths=[length], constraint=constraint)
        assert torch.equal(together[1].frames, alone.frames)
        assert not torch.equal(together[0].frames, alone.frames)
