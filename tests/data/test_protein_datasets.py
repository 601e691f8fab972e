"""Samples of prepared chains: what a crop is, that it follows from its seed alone, and how a batch is padded."""

import copy

import numpy as np
import pytest
import torch

from data.errors import ConfigError
from data.protein import ProteinFilterConfig, ProteinPreparationConfig, ProteinSamples, ProteinSamplesConfig, prepare
from tests.data.protein_files import helix_atoms, pdb, write


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """Chains of 20, 40 and 30 residues; the second has a gap of 5 and residues without N, far from the origin."""
    folder = tmp_path_factory.mktemp("proteins")
    write(folder / "in" / "a.pdb", pdb(helix_atoms("ACDEFGHIKLMNPQRSTVWY")))
    holed = [a for a in helix_atoms("LEVKAGIMNQ" * 4 + "HHHHH", shift=500.0) if not 11 <= a.number <= 15]
    write(folder / "in" / "b.pdb", pdb([a for a in holed if not (a.number in (20, 21) and a.name == "N")]))
    write(folder / "in" / "c.pdb", pdb(helix_atoms("WYTSRPQNMLKIHGFEDCAVWYTSRPQNML")))
    filters = ProteinFilterConfig(min_length=12, radius="none", max_breaks=2)
    config = ProteinPreparationConfig(filter=filters, processes=1)
    found = prepare(folder / "in", config, folder / "out")
    assert found.ids == ("a", "b", "c") and not found.refused
    return found.path


def test_whole_chains_are_centred_and_complete(prepared):
    samples = ProteinSamples(prepared)
    assert samples.lengths == (20, 40, 30) and len(samples) == 3
    for k in range(3):
        sample, stored = samples.load(k, 5), samples.backbone(k)
        resolved = torch.from_numpy(stored.resolved)
        assert torch.allclose(
            sample.atoms[resolved, 1].double().mean(dim=0), torch.zeros(3, dtype=torch.float64), atol=1e-5
        )
        assert np.array_equal(sample.present, stored.present) and np.array_equal(
            sample.residue_index, stored.residue_index
        )
        assert not sample.atoms[~sample.present].any()
        moved = torch.from_numpy(stored.atoms) - sample.atoms
        assert torch.allclose(moved[sample.present], moved[0, 0], atol=1e-4)


def test_a_crop_is_a_stretch_of_its_chain(prepared):
    samples = ProteinSamples(prepared, ProteinSamplesConfig(crop=16))
    stored = samples.backbone(1)
    assert samples.lengths == (16, 16, 16)
    starts = set()
    for seed in range(200):
        sample = samples.load(1, seed)
        # Where it came from, by the distances between neighbouring CA and the holes.
        steps = np.diff(stored.residue_index)
        candidates = [
            k
            for k in range(25)
            if np.array_equal(stored.present[k : k + 16], sample.present)
            and np.array_equal(steps[k : k + 15], np.diff(sample.residue_index))
            and np.allclose(
                (stored.atoms[k : k + 16] - stored.atoms[k, 1])[sample.present],
                (sample.atoms - sample.atoms[0, 1])[sample.present],
                atol=1e-3,
            )
        ]
        assert candidates and sample.residue_index[0] == 1
        centre = sample.atoms[sample.present[:, :3].all(dim=1), 1].mean(dim=0)
        assert torch.allclose(centre, torch.zeros(3), atol=1e-4)
        starts.update(candidates[:1])
    assert len(starts) > 12  # helices look alike, so that not every start can be told


def test_a_sample_follows_from_its_seed_alone(prepared):
    one, other = (
        ProteinSamples(prepared, ProteinSamplesConfig(crop=10)),
        ProteinSamples(prepared, ProteinSamplesConfig(crop=10), cache_bytes=0),
    )
    first = one.load(2, 7)
    one.load(2, 8), one.load(0, 7)
    for again in (one.load(2, 7), other.load(2, 7), copy.deepcopy(one).load(2, 7)):
        assert torch.equal(again.atoms, first.atoms) and torch.equal(again.residue_index, first.residue_index)
    assert any(not torch.equal(one.load(2, seed).atoms, first.atoms) for seed in range(5))
    assert one.fingerprint == other.fingerprint


def test_a_batch_is_padded_with_nothing(prepared):
    samples = ProteinSamples(prepared)
    batch = samples.collate([samples.load(k, 10 + k) for k in range(3)])
    assert batch.ids == ("a", "b", "c") and batch.seeds.tolist() == [10, 11, 12]
    assert batch.atoms.shape == (3, 40, 4, 3) and batch.atoms.dtype == torch.float32
    assert batch.resolved.sum(dim=1).tolist() == [20, 38, 30]
    for row, length in enumerate((20, 40, 30)):
        assert not batch.present[row, length:].any() and not batch.atoms[row, length:].any()
        assert not batch.residue_index[row, length:].any() and (batch.residue_index[row, :length] > 0).all()
        assert torch.equal(batch.atoms[row, :length], samples.load(row, 0).atoms)
    assert batch.residue_index[1, 9:11].tolist() == [10, 16] and not batch.chain.any()


def test_a_change_of_a_sample_does_not_reach_the_store(prepared):
    samples = ProteinSamples(prepared)
    sample = samples.load(0, 0)
    sample.atoms.fill_(7), sample.present.fill_(False), sample.residue_index.fill_(7)
    assert samples.load(0, 0).present.all() and samples.load(0, 0).atoms.abs().sum() > 0


def test_bad_values():
    with pytest.raises(ConfigError, match="crop"):
        ProteinSamplesConfig(crop=3)
