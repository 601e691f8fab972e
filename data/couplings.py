"""Stored couplings: noise and the sample that a model made of it, without loss and with where each pair came from."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from data.batch import FramePairBatch
from data.errors import PenstockError, SchemaError
from data.schema import Array, FileKind
from data.store import Reader, Writer

COUPLINGS = FileKind(
    name="couplings",
    version=1,
    meaning=(
        "Pairs of noise (t = 0) and the sample that a model made of it (t = 1), what a rectified flow is trained on "
        "again. Values are kept bit for bit; rejected pairs are kept too, with the reasons. A residue frame has 7 "
        "coordinates: unit quaternion (w, x, y, z), then translation in Å."
    ),
    arrays={
        "source": Array("event* coordinate", "float32", "model", "noise, as the model was given it"),
        "target": Array("event* coordinate", "float32", "model", "sample, as the model made it"),
        "position": Array("event*", "int32", "1", "residue index, from 1"),
        "resolved": Array("event*", "bool", "1", "False where the event takes no part"),
        "seed": Array("", "int64", "1", "seed of the sampling run"),
        "sample_index": Array("", "int64", "1", "number of the sample; with the seed it fixes the noise"),
        "model": Array("", "str", "1", "fingerprint of the weights that made the sample"),
        "sampling": Array("", "str", "1", "sampling configuration, JSON"),
        "accepted": Array("", "bool", "1", "verdict of the pair filter"),
        "reasons": Array("", "str", "1", "why it was not accepted, JSON list"),
        "measures": Array("", "str", "1", "what the filter measured, JSON"),
    },
)


@dataclass(frozen=True)
class Provenance:
    """Where a pair came from, and what was found about it."""

    seed: int
    sample_index: int
    model: str
    """Fingerprint of the weights that made the sample."""
    sampling: Mapping[str, Any]
    """The sampling configuration."""
    accepted: bool = True
    reasons: tuple[str, ...] = ()
    """Why it was not accepted."""
    measures: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Coupling:
    """One pair to store. Frames are unit quaternion (w, x, y, z) and translation in Å, float32."""

    item_id: str
    source: Float[np.ndarray, "residue 7"]
    """Noise, t = 0."""
    target: Float[np.ndarray, "residue 7"]
    """Sample, t = 1."""
    residue_index: Int[np.ndarray, " residue"]
    resolved: Bool[np.ndarray, " residue"]
    provenance: Provenance

    def __len__(self) -> int:
        return len(self.source)


def write_couplings(path: Path, pairs: Iterable[Coupling]) -> str:
    """Write pairs to a file that appears whole or not at all; its fingerprint.

    Raises:
        SchemaError: frames that are not finite float32 `[residue, 7]`, of two lengths, or an id that comes twice.
        PenstockError: no pairs.
        DiskFullError: no space left.
    """
    with Writer(path, COUPLINGS) as writer:
        for pair in pairs:
            _check(pair)
            made = pair.provenance
            arrays = {
                "source": pair.source,
                "target": pair.target,
                "position": pair.residue_index,
                "resolved": pair.resolved,
                "seed": made.seed,
                "sample_index": made.sample_index,
                "model": made.model,
                "sampling": json.dumps(dict(made.sampling), sort_keys=True),
                "accepted": made.accepted,
                "reasons": json.dumps(made.reasons),
                "measures": json.dumps(dict(made.measures), sort_keys=True),
            }
            writer.add(pair.item_id, arrays)
    assert writer.fingerprint is not None
    return writer.fingerprint


def _check(pair: Coupling) -> None:
    for name, frames in (("source", pair.source), ("target", pair.target)):
        # Not left to the schema: it would take float16, whose values have lost digits before they came here.
        if frames.dtype != np.float32 or frames.shape != (len(pair), 7) or not np.isfinite(frames).all():
            raise SchemaError(
                f"pair '{pair.item_id}', {name}: expected finite float32 frames [{len(pair)}, 7], got {frames.dtype} "
                f"{list(frames.shape)}{'' if np.isfinite(frames).all() else ' with values that are not finite'}."
            )


@dataclass(frozen=True)
class PairSample:
    """One pair as it goes into a batch."""

    item_id: str
    seed: int
    source: Float[Tensor, "residue 7"]
    target: Float[Tensor, "residue 7"]
    residue_index: Int[Tensor, " residue"]
    resolved: Bool[Tensor, " residue"]


class Couplings:
    """The pairs of a file as items to train on; those that were not accepted only with `accepted_only=False`.

    Raises (on making):
        SchemaError: not an intact couplings file.
        PenstockError: no pair was accepted.
    """

    def __init__(self, path: Path, *, accepted_only: bool = True) -> None:
        self._reader = Reader(path, COUPLINGS)
        self.fingerprint = self._reader.fingerprint
        stored = range(len(self._reader))
        self._rows = [k for k in stored if not accepted_only or self._reader.read(k, ["accepted"])["accepted"]]
        if not self._rows:
            raise PenstockError(
                f"{path}: expected pairs to train on, but none of the {len(stored)} stored ones was accepted. Loosen "
                "the pair filter, train the base model for longer, or draw more pairs."
            )
        self.ids: tuple[str, ...] = tuple(self._reader.ids[k] for k in self._rows)
        self.lengths: tuple[int, ...] = tuple(len(self._reader.read(k, ["resolved"])["resolved"]) for k in self._rows)
        """Residues of each pair."""

    def __len__(self) -> int:
        return len(self.ids)

    def load(self, index: int, seed: int) -> PairSample:
        """Pair `index` as it was stored; nothing in it is random, the seed travels along."""
        stored = self._reader.read(self._rows[index], ["source", "target", "position", "resolved"])
        return PairSample(
            self.ids[index],
            seed,
            source=torch.from_numpy(stored["source"]),
            target=torch.from_numpy(stored["target"]),
            residue_index=torch.from_numpy(stored["position"].astype(np.int64)),
            resolved=torch.from_numpy(stored["resolved"]),
        )

    def collate(self, samples: list[PairSample]) -> FramePairBatch:
        """The pairs as one batch, padded with identity frames that are not resolved."""
        longest = max(len(s.source) for s in samples)
        frames = torch.zeros(2, len(samples), longest, 7)
        frames[..., 0] = 1
        residue_index = torch.zeros(len(samples), longest, dtype=torch.int64)
        resolved = torch.zeros(len(samples), longest, dtype=torch.bool)
        for row, sample in enumerate(samples):
            length = len(sample.source)
            frames[0, row, :length], frames[1, row, :length] = sample.source, sample.target
            residue_index[row, :length], resolved[row, :length] = sample.residue_index, sample.resolved
        return FramePairBatch(
            ids=tuple(s.item_id for s in samples),
            seeds=torch.tensor([s.seed for s in samples], dtype=torch.int64),
            source=frames[0],
            target=frames[1],
            residue_index=residue_index,
            resolved=resolved,
        )

    def provenance(self, index: int) -> Provenance:
        """Where pair `index` came from."""
        names = ["seed", "sample_index", "model", "sampling", "accepted", "reasons", "measures"]
        stored = self._reader.read(self._rows[index], names)
        return Provenance(
            seed=int(stored["seed"]),
            sample_index=int(stored["sample_index"]),
            model=str(stored["model"]),
            sampling=json.loads(str(stored["sampling"])),
            accepted=bool(stored["accepted"]),
            reasons=tuple(json.loads(str(stored["reasons"]))),
            measures=json.loads(str(stored["measures"])),
        )
