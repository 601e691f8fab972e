"""Protein backbones made on the fly: the embedded data of the protein domain.

Bond lengths, bond angles and peptide planes are those of real chains by construction; torsions stay in the basins of
the Ramachandran plane; helices and strands are hydrogen-bonded, and no two atoms clash. Chain `k` depends on
(configuration, k) alone.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from data.batch import UNKNOWN, Backbone
from data.errors import ConfigError, PenstockError
from data.synthetic.blueprints import FAMILIES
from data.synthetic.folding import fold


@dataclass(frozen=True, kw_only=True)
class SyntheticProteinConfig:
    """Which chains are made."""

    count: int = 200
    """Number of chains."""
    seed: int = 0
    families: tuple[str, ...] = ("bundle", "mixed", "sheet")
    """Kinds of folds, taken in turn: helix, hairpin (one alone, long and thin), bundle (of helices), sheet, mixed."""
    min_length: int = 40
    """Residues."""
    max_length: int = 96
    """Residues."""

    def __post_init__(self) -> None:
        unknown = [name for name in self.families if name not in FAMILIES]
        if unknown or not self.families:
            raise ConfigError(
                f"synthetic families must be some of {', '.join(FAMILIES)}; got {', '.join(unknown) or 'none'}."
            )
        if self.count < 1:
            raise ConfigError(f"the number of synthetic chains must be at least 1, got count={self.count}.")
        if not 24 <= self.min_length <= self.max_length <= 128:
            raise ConfigError(
                "synthetic chains have 24 to 128 residues, expected 24 <= min_length <= max_length <= 128, got "
                f"min_length={self.min_length} and max_length={self.max_length}."
            )


def synthetic_ids(config: SyntheticProteinConfig) -> tuple[str, ...]:
    """The item ids "bundle-0012" of all chains, in order."""
    digits = max(4, len(str(config.count - 1)))
    return tuple(f"{config.families[k % len(config.families)]}-{k:0{digits}d}" for k in range(config.count))


def generate(config: SyntheticProteinConfig, index: int) -> tuple[str, Backbone]:
    """(item id, chain number `index`): N, CA, C and O of one chain of unknown residues, CA centred at the origin."""
    family = config.families[index % len(config.families)]
    atoms = _atoms(family, config, np.random.default_rng([config.seed, index]))
    atoms = atoms - atoms[:, 1].mean(axis=0)
    length = len(atoms)
    return synthetic_ids(config)[index], Backbone(
        atoms=atoms.astype(np.float32),
        present=np.ones((length, 4), bool),
        chain=np.zeros(length, np.int64),
        residue_index=np.arange(1, length + 1),
        residue_type=np.full(length, UNKNOWN),
    )


def _atoms(family: str, config: SyntheticProteinConfig, rng: np.random.Generator) -> np.ndarray:
    """The first sound chain of the stream of random numbers."""
    drafts = 0
    for _ in range(100):
        length = int(rng.integers(config.min_length, config.max_length + 1))
        plan = None
        while plan is None and drafts < 100_000:
            plan, drafts = FAMILIES[family](rng, length), drafts + 1
        atoms = None if plan is None else fold(plan, rng)
        if atoms is not None:
            return atoms
    raise PenstockError(
        f"no sound synthetic {family} of {config.min_length} to {config.max_length} residues in 100 draws; widen the "
        "range of lengths, or leave the family out."
    )


def synthetic_backbones(config: SyntheticProteinConfig) -> Iterator[tuple[str, Backbone]]:
    """`generate` for every chain, in order."""
    for index in range(config.count):
        yield generate(config, index)
