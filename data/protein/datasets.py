"""Prepared backbones as items that the data module draws samples from."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from data.batch import Backbone, BackboneBatch
from data.errors import ConfigError
from data.item_cache import ItemCache
from data.protein.kinds import PROTEIN_BACKBONES
from data.protein.secondary_structure import decode
from data.store import Reader

SHORTEST = 8
"""Residues of a crop."""
_ARRAYS = ("atoms", "present", "residue_index")


@dataclass(frozen=True, kw_only=True)
class ProteinSamplesConfig:
    """What part of a chain makes one training sample."""

    crop: int | None = None
    """Residues; a longer chain gives a stretch of so many, drawn anew for every sample. None takes whole chains."""

    def __post_init__(self) -> None:
        if self.crop is not None and self.crop < SHORTEST:
            raise ConfigError(f"crop must be at least {SHORTEST} residues, or null for whole chains, got {self.crop}.")


@dataclass(frozen=True)
class ProteinSample:
    """One chain or a stretch of it; the mean of CA over its resolved residues lies at the origin."""

    item_id: str
    seed: int
    atoms: Float[Tensor, "residue 4 3"]
    present: Bool[Tensor, "residue 4"]
    residue_index: Int[Tensor, " residue"]


class ProteinSamples:
    """The chains of a `backbones.h5`. Up to `cache_bytes` of what was read are kept in memory, per process."""

    def __init__(self, path: Path, config: ProteinSamplesConfig | None = None, *, cache_bytes: int = 2**30) -> None:
        self.config = config or ProteinSamplesConfig()
        self._reader = Reader(path, PROTEIN_BACKBONES)
        self._stored = ItemCache(self._read, cache_bytes)
        self.path = Path(path)
        self.ids = self._reader.ids
        self.fingerprint = self._reader.fingerprint
        heads = [self._reader.read(k, ["group", "residue_type"]) for k in range(len(self._reader))]
        self.groups: tuple[str, ...] = tuple(str(head["group"]) for head in heads)
        """Cluster of each chain: chains of one cluster belong in one split."""
        crop = self.config.crop
        self.lengths: tuple[int, ...] = tuple(min(len(h["residue_type"]), crop or 2**31) for h in heads)
        """Residues of each sample, those without a frame included."""

    def __len__(self) -> int:
        return len(self.ids)

    def load(self, index: int, seed: int) -> ProteinSample:
        """One sample of chain `index`, a function of both arguments alone.

        Atoms are float32 in Å; absent ones are zero. `residue_index` begins at 1.
        """
        stored, length = self._stored[index], self.lengths[index]
        start = _start(np.all(stored["present"][:, :3], axis=1), length, np.random.default_rng(seed))
        atoms, present, residue_index = (stored[name][start : start + length] for name in _ARRAYS)
        resolved = present[:, :3].all(axis=1)
        centre = atoms[resolved, 1].astype(np.float64).mean(axis=0)
        centred = np.where(present[..., None], atoms - centre, 0).astype(np.float32)
        return ProteinSample(
            self.ids[index],
            seed,
            torch.from_numpy(centred),
            torch.from_numpy(present.copy()),
            torch.from_numpy(residue_index.astype(np.int64) - int(residue_index[0]) + 1),
        )

    def collate(self, samples: list[ProteinSample]) -> BackboneBatch:
        """The samples as one batch, padded to the longest."""
        shape = (len(samples), max(len(sample.atoms) for sample in samples))
        atoms, present = torch.zeros(*shape, 4, 3), torch.zeros(*shape, 4, dtype=torch.bool)
        residue_index = torch.zeros(shape, dtype=torch.int64)
        for row, sample in enumerate(samples):
            length = len(sample.atoms)
            atoms[row, :length] = sample.atoms
            present[row, :length] = sample.present
            residue_index[row, :length] = sample.residue_index
        return BackboneBatch(
            ids=tuple(sample.item_id for sample in samples),
            seeds=torch.tensor([sample.seed for sample in samples], dtype=torch.int64),
            atoms=atoms,
            present=present,
            residue_index=residue_index,
            chain=torch.zeros(shape, dtype=torch.int64),
        )

    def backbone(self, index: int) -> Backbone:
        """The whole chain, where it lies in its file."""
        stored = self._reader.read(index, [*_ARRAYS, "residue_type"])
        return Backbone(
            atoms=stored["atoms"],
            present=stored["present"].astype(bool),
            chain=np.zeros(len(stored["atoms"]), dtype=np.int64),
            residue_index=stored["residue_index"].astype(np.int64),
            residue_type=stored["residue_type"].astype(np.int64),
        )

    def secondary_structure(self, index: int) -> np.ndarray:
        """ "H", "E" or "C" per residue, as assigned when the chain was prepared."""
        return decode(self._reader.read(index, ["secondary"])["secondary"])

    def numbers(self, index: int) -> tuple[str, ...]:
        """The author's residue numbers with insertion code."""
        return tuple(str(self._reader.read(index, ["numbers"])["numbers"]).split(" "))

    def source(self, index: int) -> str:
        """File and chain that it came from."""
        return str(self._reader.read(index, ["source"])["source"])

    def resolution(self, index: int) -> float | None:
        """Å; None where not known."""
        value = float(self._reader.read(index, ["resolution"])["resolution"])
        return None if np.isnan(value) else value

    def _read(self, index: int) -> dict[str, np.ndarray]:
        stored = self._reader.read(index, _ARRAYS)
        return stored | {"present": stored["present"].astype(bool)}


def _start(resolved: np.ndarray, length: int, rng: np.random.Generator) -> int:
    """First residue of a stretch, uniform among those of which at least half the residues have a frame."""
    counts = np.convolve(resolved, np.ones(length, dtype=np.int64), mode="valid")
    starts = np.flatnonzero(counts * 2 >= min(length, 2 * int(counts.max())))
    return int(rng.choice(starts))
