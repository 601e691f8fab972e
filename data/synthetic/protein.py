"""Protein backbones made on the fly: the embedded data of the protein domain.

Bond lengths, bond angles and peptide planes are those of real chains by construction; torsions come from the basins of
the Ramachandran plane. Chain `k` depends on (configuration, k) alone.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from data.batch import UNKNOWN, Backbone
from data.errors import ConfigError
from data.synthetic.torsions import Stiff, build


@dataclass(frozen=True, kw_only=True)
class SyntheticProteinConfig:
    """Which chains are made."""

    count: int = 200
    """Number of chains."""
    seed: int = 0
    families: tuple[str, ...] = ("helix",)
    """Kinds of folds, taken in turn."""
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
        if not 20 <= self.min_length <= self.max_length <= 200:
            raise ConfigError(
                "synthetic chains have 20 to 200 residues, expected 20 <= min_length <= max_length <= 200, got "
                f"min_length={self.min_length} and max_length={self.max_length}."
            )


def synthetic_ids(config: SyntheticProteinConfig) -> tuple[str, ...]:
    """The item ids "bundle-0012" of all chains, in order."""
    digits = max(4, len(str(config.count - 1)))
    return tuple(f"{config.families[k % len(config.families)]}-{k:0{digits}d}" for k in range(config.count))


def generate(config: SyntheticProteinConfig, index: int) -> tuple[str, Backbone]:
    """(item id, chain number `index`): N, CA, C and O of one chain of unknown residues, CA centred at the origin."""
    family = config.families[index % len(config.families)]
    rng = np.random.default_rng([config.seed, index])
    atoms = FAMILIES[family](rng, config)
    atoms = atoms - atoms[:, 1].mean(axis=0)
    length = len(atoms)
    return synthetic_ids(config)[index], Backbone(
        atoms=atoms.astype(np.float32),
        present=np.ones((length, 4), bool),
        chain=np.zeros(length, np.int64),
        residue_index=np.arange(1, length + 1),
        residue_type=np.full(length, UNKNOWN),
    )


def synthetic_backbones(config: SyntheticProteinConfig) -> Iterator[tuple[str, Backbone]]:
    """`generate` for every chain, in order."""
    for index in range(config.count):
        yield generate(config, index)


def _helix(rng: np.random.Generator, config: SyntheticProteinConfig) -> np.ndarray:
    """One straight right-handed helix."""
    length = int(rng.integers(config.min_length, config.max_length + 1))
    phi, psi = np.radians(-63 + 3 * rng.standard_normal(length)), np.radians(-42 + 3 * rng.standard_normal(length))
    return build(phi, psi, np.full(length, np.pi), Stiff.draw(length, rng)).atoms


FAMILIES: dict[str, Callable[[np.random.Generator, SyntheticProteinConfig], np.ndarray]] = {"helix": _helix}
