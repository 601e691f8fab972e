"""Stored pairs come back bit for bit, with where they came from."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from data.batch import FramePairBatch
from data.couplings import COUPLINGS, Coupling, Couplings, Provenance, write_couplings
from data.datamodule import ItemDataset
from data.errors import PenstockError, SchemaError
from data.store import Reader


def pair(number: int, length: int, accepted: bool = True) -> Coupling:
    rng = np.random.default_rng(number)
    frames = rng.standard_normal((2, length, 7)).astype(np.float32)
    frames[..., :4] /= np.linalg.norm(frames[..., :4], axis=-1, keepdims=True)
    frames[..., 4:] *= np.float32(1e4 / 3)
    frames[0, 0] = np.array([-0.0, 1e-42, 1, -1e-30, np.nextafter(np.float32(1), np.float32(2)), 3e38, -0.0])
    made = Provenance(
        seed=2**62 + number,
        sample_index=number,
        model="a" * 64,
        sampling={"steps": 50, "order": 1, "rotation_rate": 10.0},
        accepted=accepted,
        reasons=() if accepted else ("clash: 4 pairs below 2.6 Å",),
        measures={"rg": 11.25 + number, "helix": 0.1},
    )
    resolved = rng.random(length) < 0.9
    return Coupling(f"pair-{number:04d}", frames[0], frames[1], np.arange(1, length + 1), resolved, made)


PAIRS = [pair(0, 9), pair(1, 5, accepted=False), pair(2, 12), pair(3, 9)]


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("couplings") / "pairs.h5"
    fingerprint = write_couplings(path, PAIRS)
    assert fingerprint == Reader(path, COUPLINGS).fingerprint
    return path


def bits(x: torch.Tensor | np.ndarray) -> np.ndarray:
    return np.asarray(x).view(np.int32)


def test_every_bit_comes_back(path: Path) -> None:
    """Signed zeros, denormals and the neighbour of one included."""
    couplings = Couplings(path, accepted_only=False)
    assert isinstance(couplings, ItemDataset)
    assert couplings.ids == tuple(p.item_id for p in PAIRS) and couplings.lengths == (9, 5, 12, 9)
    for k, stored in enumerate(PAIRS):
        sample = couplings.load(k, seed=k)
        assert np.array_equal(bits(sample.source), bits(stored.source))
        assert np.array_equal(bits(sample.target), bits(stored.target))
        assert np.array_equal(sample.resolved, stored.resolved)
        assert couplings.provenance(k) == stored.provenance


def test_only_accepted_pairs_are_trained_on(path: Path) -> None:
    couplings = Couplings(path)
    assert couplings.ids == ("pair-0000", "pair-0002", "pair-0003") and couplings.lengths == (9, 12, 9)
    assert couplings.provenance(1) == PAIRS[2].provenance
    assert np.array_equal(bits(couplings.load(1, 0).target), bits(PAIRS[2].target))


def test_a_batch_holds_the_pairs_and_identity_frames_that_take_no_part(path: Path) -> None:
    couplings = Couplings(path)
    batch = couplings.collate([couplings.load(k, 40 + k) for k in (1, 0)])
    assert isinstance(batch, FramePairBatch)
    assert batch.ids == ("pair-0002", "pair-0000") and batch.seeds.tolist() == [41, 40]
    assert np.array_equal(bits(batch.source[1, :9]), bits(PAIRS[0].source))
    assert np.array_equal(bits(batch.target[0]), bits(PAIRS[2].target))
    identity = torch.tensor([1.0, 0, 0, 0, 0, 0, 0]).expand(3, 7)
    assert torch.equal(batch.source[1, 9:], identity) and torch.equal(batch.target[1, 9:], identity)
    assert batch.resolved[1].tolist() == [*PAIRS[0].resolved.tolist(), False, False, False]
    assert batch.residue_index[1].tolist() == [1, 2, 3, 4, 5, 6, 7, 8, 9, 0, 0, 0]


@pytest.mark.parametrize(
    "wrong",
    [
        replace(PAIRS[0], source=PAIRS[0].source.astype(np.float64)),
        replace(PAIRS[0], target=PAIRS[0].target.astype(np.float16)),
        replace(PAIRS[0], target=PAIRS[2].target),
        replace(PAIRS[0], source=np.full((9, 7), np.nan, np.float32)),
        replace(PAIRS[0], resolved=np.ones(8, bool)),
        PAIRS[2],
    ],
    ids=["float64", "float16", "lengths", "nan", "mask", "twice"],
)
def test_a_wrong_pair_is_refused_and_an_earlier_file_stays(tmp_path: Path, wrong: Coupling) -> None:
    path = tmp_path / "pairs.h5"
    write_couplings(path, PAIRS[:1])
    before = path.read_bytes()
    with pytest.raises(SchemaError):
        write_couplings(path, [PAIRS[2], wrong])
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]


def test_no_accepted_pair_says_what_to_do(tmp_path: Path) -> None:
    write_couplings(tmp_path / "pairs.h5", [PAIRS[1]])
    with pytest.raises(PenstockError, match=r"none of the 1 stored ones was accepted\. Loosen"):
        Couplings(tmp_path / "pairs.h5")
    with pytest.raises(PenstockError, match="nothing to write"):
        write_couplings(tmp_path / "none.h5", [])
