"""Clusters of similar sequences, so that a held-out chain is no near-copy of one that was trained on."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
from scipy import sparse

from data.batch import RESIDUE_TYPES, UNKNOWN
from data.errors import ConfigError
from data.extras import require

WORD = 3
"""Residues per word of the prefilter."""
KNOWN = UNKNOWN
"""Residue types with a name."""
PLAIN = 0.8
"""A sequence of one residue type to this share says nothing (poly-alanine, all unknown)."""
EVERY_PAIR = 300
"""Sequences up to which every pair is aligned (0.2 ms each) and the prefilter is not needed."""
ROWS = 512
"""Sequences compared with all others at a time."""
_COLUMNS = re.compile(r"(\d+)([MID])")


@dataclass(frozen=True, kw_only=True)
class ClusterConfig:
    """When two sequences belong together."""

    identity: float = 0.3
    """Equal residues per column of the alignment, its ends of one sequence alone left out; unrelated chains of 40-250
    residues stay below 0.23 in 99 % of pairs. Where fewer than about 100 residues are aligned chance does more, and
    Rost's curve (Protein Engineering 12, 85, 1999) asks for more: 0.47 at 40, 0.83 at 16."""
    coverage: float = 0.5
    """Share of the shorter sequence that must be aligned with residues of the other."""
    words: float = 0.0
    """Of more than 300 sequences two are aligned only where they share so many 3-mers: standard deviations beyond
    chance. At 0, 45 % of unrelated pairs are aligned, all at 40 % identity and 94 % at 35 %; at 2, 5 %, 85 % and 66 %:
    for more than a few thousand chains."""

    def __post_init__(self) -> None:
        if not 0 < self.identity <= 1 or not 0 <= self.coverage <= 1:
            raise ConfigError(
                f"clusters: expected 0 < identity <= 1 and 0 <= coverage <= 1, got {self.identity} and {self.coverage}."
            )


def cluster_sequences(sequences: Sequence[np.ndarray], config: ClusterConfig | None = None) -> np.ndarray:
    """For each sequence the position of its cluster's first member, `[sequence]`.

    A sequence is an array of positions in RESIDUE_TYPES. Clusters are connected components: no pair that was found
    similar is parted. A sequence that says nothing (unknown, or of one residue type) is a cluster of its own.

    Raises:
        PenstockError: gemmi, whose alignment (BLOSUM62, affine gaps) is used, is not installed.
    """
    config = config or ClusterConfig()
    parent = np.arange(len(sequences))

    def root(k: int) -> int:
        while parent[k] != k:
            parent[k] = parent[parent[k]]
            k = int(parent[k])
        return k

    telling = [k for k, sequence in enumerate(sequences) if _tells(sequence)]
    if len(telling) > 1:
        gemmi = require("gemmi", "protein")
        scoring = gemmi.AlignmentScoring("b")
        names = {k: [RESIDUE_TYPES[t] for t in sequences[k]] for k in telling}
        for a, b in _candidates([sequences[k] for k in telling], config.words):
            first, second = root(telling[a]), root(telling[b])
            if first != second and _similar(gemmi, scoring, names[telling[a]], names[telling[b]], config):
                parent[max(first, second)] = min(first, second)
    return np.array([root(k) for k in range(len(sequences))], dtype=np.int64)


def identity(first: np.ndarray, second: np.ndarray) -> tuple[float, float]:
    """(identity, coverage) of two sequences as ClusterConfig means them."""
    gemmi = require("gemmi", "protein")
    names = [[RESIDUE_TYPES[t] for t in sequence] for sequence in (first, second)]
    return _aligned(gemmi, gemmi.AlignmentScoring("b"), *names)


def _tells(sequence: np.ndarray) -> bool:
    counts = np.bincount(sequence, minlength=UNKNOWN + 1)
    return len(sequence) >= WORD and counts[UNKNOWN] <= len(sequence) / 2 and counts.max() < PLAIN * len(sequence)


def _candidates(sequences: Sequence[np.ndarray], excess: float) -> Iterator[tuple[int, int]]:
    """Pairs (a < b) that share more words than chance explains; of a few sequences all pairs."""
    if len(sequences) <= EVERY_PAIR:
        yield from combinations(range(len(sequences)), 2)
        return
    rows, columns = [], []
    for k, sequence in enumerate(sequences):
        windows = np.lib.stride_tricks.sliding_window_view(sequence.astype(np.int64), WORD)
        words = np.unique(windows[(windows < KNOWN).all(axis=1)] @ KNOWN ** np.arange(WORD))
        rows.append(np.full(len(words), k))
        columns.append(words)
    places = np.concatenate(rows), np.concatenate(columns)
    table = sparse.csr_array((np.ones(len(places[0]), np.float32), places), (len(sequences), KNOWN**WORD))
    # By chance two words are equal as often as three pairs of residues drawn from the composition are. Counted on the
    # words themselves, kinship would pass for chance in a small set.
    composition = np.bincount(np.concatenate(sequences), minlength=KNOWN)[:KNOWN].astype(np.float64)
    usual = float(((composition / composition.sum()) ** 2).sum() ** WORD)
    richness = np.asarray(table.sum(axis=1)).ravel()
    for start in range(0, len(sequences), ROWS):
        shared = (table[start : start + ROWS] @ table.T).toarray()
        chance = usual * np.outer(richness[start : start + ROWS], richness)
        found = shared >= chance + excess * np.sqrt(chance)
        for a, b in np.argwhere(found):
            if start + a < b:
                yield int(start + a), int(b)


def _similar(gemmi: Any, scoring: Any, first: list[str], second: list[str], config: ClusterConfig) -> bool:
    equal, covered = _aligned(gemmi, scoring, first, second)
    length = covered * min(len(first), len(second))
    return covered >= config.coverage and equal >= max(config.identity, chance_identity(length))


def chance_identity(length: float) -> float:
    """Identity of an alignment of `length` residues that tells kinship from chance (Rost 1999, n = 0), at most 1."""
    return min(4.8 * max(length, 1.0) ** (-0.32 * (1 + float(np.exp(-length / 1000)))), 1.0)


def _aligned(gemmi: Any, scoring: Any, first: list[str], second: list[str]) -> tuple[float, float]:
    # Of equally good alignments the first found is taken, so the order must not be the caller's.
    result = gemmi.align_string_sequences(*sorted((first, second)), [], scoring)
    runs = [(int(count), kind) for count, kind in _COLUMNS.findall(result.cigar_str())]
    paired = [k for k, (_, kind) in enumerate(runs) if kind == "M"]
    if not paired:
        return 0.0, 0.0
    inside = runs[paired[0] : paired[-1] + 1]
    columns = sum(count for count, _ in inside)
    matched = sum(count for count, kind in inside if kind == "M")
    return result.match_count / columns, matched / min(len(first), len(second))
