"""How far a set of generated backbones is from a set of real ones, without a folding model.

Every distance has a floor, what two samples of the same distribution give: `floor` measures it, and no distance should
be shown without it. None of these numbers says whether a sequence would fold into the structure (designability).
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from scipy.spatial.distance import cdist
from scipy.stats import wasserstein_distance

from data.errors import PenstockError
from modules.protein.measures import Measures, measure
from modules.protein.table import ROWS, Row, StructureTable, structure_table

__all__ = [
    "DISTANCES",
    "ROWS",
    "Distance",
    "Measures",
    "Row",
    "StructureTable",
    "distances",
    "floor",
    "measure",
    "score_interval",
    "score_terms",
    "structure_score",
    "structure_table",
]

TORSION_BIN = 20.0
"""Degrees."""


@dataclass(frozen=True)
class Distance:
    """What one number of `distances` means."""

    unit: str
    half: float
    """The distance that counts one half in the score: about where a structure is plainly not protein-like."""
    definition: str
    of: Callable[[StructureTable, StructureTable], float]


def _pooled(name: str) -> Callable[[StructureTable, StructureTable], float]:
    return lambda a, b: _wasserstein(a.pooled(name), b.pooled(name))


def _mean_pooled(*names: str) -> Callable[[StructureTable, StructureTable], float]:
    return lambda a, b: float(np.mean([_wasserstein(a.pooled(name), b.pooled(name)) for name in names]))


def _share(name: str) -> Callable[[StructureTable, StructureTable], float]:
    return lambda a, b: abs(a.values.get(name, 0.0) - b.values.get(name, 0.0))


def _excess(name: str) -> Callable[[StructureTable, StructureTable], float]:
    """Means per 100 residues."""

    def rate(table: StructureTable) -> float:
        return float(100 * table.per_chain(name).sum() / table.residues)

    return lambda a, b: abs(rate(a) - rate(b))


def _planarity(a: StructureTable, b: StructureTable) -> float:
    return _wasserstein(180 - np.abs(a.pooled("omega")), 180 - np.abs(b.pooled("omega")))


def _given_length(name: str, logarithmic: bool = False) -> Callable[[StructureTable, StructureTable], float]:
    """Wasserstein distance of what is left of a quantity when its trend with the logarithm of the length, fitted on the
    second set, is taken off: sets of other lengths stay comparable."""

    def distance(a: StructureTable, b: StructureTable) -> float:
        def values(table: StructureTable) -> np.ndarray:
            found = table.per_chain(name)
            return np.log(np.maximum(found, 1e-3)) if logarithmic else found

        x, y = np.log(b.per_chain("residues")), values(b)
        slope = float(np.cov(x, y)[0, 1] / x.var(ddof=1)) if len(x) > 2 and x.std() > 0.05 else 0.0
        return _wasserstein(values(a) - slope * np.log(a.per_chain("residues")), y - slope * x)

    return distance


def _ramachandran(a: StructureTable, b: StructureTable) -> float:
    """Jensen-Shannon distance (square root of the divergence in bits) of binned φ, ψ: 0 the same, 1 disjoint."""
    p, q = (_torsion_histogram(table) for table in (a, b))
    middle = (p + q) / 2

    def bits(x: np.ndarray) -> float:
        seen = x > 0
        return float((x[seen] * np.log2(x[seen] / middle[seen])).sum())

    return float(np.sqrt(max((bits(p) + bits(q)) / 2, 0.0)))


def _torsion_histogram(table: StructureTable) -> np.ndarray:
    edges = np.linspace(-180, 180, round(360 / TORSION_BIN) + 1)
    counts = np.histogram2d(table.pooled("phi"), table.pooled("psi"), bins=[edges, edges])[0].ravel()
    return counts / max(counts.sum(), 1)


def _secondary(a: StructureTable, b: StructureTable) -> float:
    """Energy distance (square root of 2 E|X-Y| - E|X-X'| - E|Y-Y'|) of the chains in the helix-strand plane."""
    x, y = (np.stack([table.per_chain(name) for name in ("helix", "strand")], axis=1) for table in (a, b))
    squared = 2 * cdist(x, y).mean() - cdist(x, x).mean() - cdist(y, y).mean()
    return float(np.sqrt(max(squared, 0.0)))


DISTANCES: Mapping[str, Distance] = {
    "bonds": Distance(
        "Å", 0.05, "Wasserstein distance, mean of N-CA, CA-C, C-N, C-O", _mean_pooled("n_ca", "ca_c", "c_n", "c_o")
    ),
    "angles": Distance(
        "°", 6.0, "Wasserstein distance, mean of the three backbone angles", _mean_pooled("n_ca_c", "ca_c_n", "c_n_ca")
    ),
    "ca_ca": Distance("Å", 0.2, "Wasserstein distance of neighbouring CA", _pooled("ca_ca")),
    "breaks": Distance("1", 0.1, "difference of the shares of CA breaks", _share("ca_breaks")),
    "planarity": Distance("°", 15.0, "Wasserstein distance of 180° - |ω|", _planarity),
    "ramachandran": Distance("1", 0.5, "Jensen-Shannon distance of φ, ψ in bins of 20°", _ramachandran),
    "handedness": Distance("1", 0.1, "difference of the shares of left-handed helical turns", _share("left_turns")),
    "rg": Distance("1", 0.15, "Wasserstein distance of log Rg given length", _given_length("rg", logarithmic=True)),
    "contacts": Distance(
        "1", 0.5, "Wasserstein distance of contacts per residue, given length", _given_length("contacts")
    ),
    "contact_order": Distance(
        "1", 0.07, "Wasserstein distance of the relative contact order given length", _given_length("contact_order")
    ),
    "ca_clashes": Distance("1", 2.0, "difference of CA pairs < 3.6 Å per 100 residues", _excess("ca_close")),
    "atom_clashes": Distance("1", 10.0, "difference of atom pairs < 2.6 Å per 100 residues", _excess("atom_clashes")),
    "secondary": Distance("1", 0.3, "energy distance in the plane of helix and strand shares", _secondary),
}


def distances(generated: StructureTable, reference: StructureTable) -> dict[str, float]:
    """Every number of `DISTANCES`; "secondary" only where the secondary structure of both sets is known.

    Raises:
        PenstockError: the secondary structure of one set is known and that of the other is not.
    """
    if generated.has_secondary != reference.has_secondary:
        raise PenstockError(
            "expected the secondary structure of both sets or of neither, got that of one: "
            "assign it to the other too, or scores would not compare."
        )
    names = [name for name in DISTANCES if name != "secondary" or generated.has_secondary]
    return {name: DISTANCES[name].of(generated, reference) for name in names}


def score_terms(generated: StructureTable, reference: StructureTable) -> dict[str, float]:
    """The terms of `structure_score`: d / (d + half) for each distance d, 0 for equal distributions, below 1 always."""
    return {name: d / (d + DISTANCES[name].half) for name, d in distances(generated, reference).items()}


def structure_score(generated: StructureTable, reference: StructureTable) -> float:
    """One number for how unlike the reference a set is: the mean of `score_terms`; lower is better.

    0 for the same set, near 1 for noise; see `floor` for what a perfect generator would get. Compare two scores only
    if both used the same reference, lengths alike, and both or neither have the secondary structure.
    """
    return float(np.mean(list(score_terms(generated, reference).values())))


def floor(reference: StructureTable, chains: int, draws: int = 5, seed: int = 0) -> dict[str, float]:
    """What a perfect generator would get: distances (and "score") of `chains` reference chains to the others, mean over
    random draws. At most half of the reference is drawn."""
    rng = np.random.default_rng(seed)
    few = max(min(chains, reference.chains // 2), 1)
    found = []
    for _ in range(draws):
        order = rng.permutation(reference.chains)
        one, other = reference.subset(order[:few]), reference.subset(order[few:])
        if other.chains:
            found.append(distances(one, other) | {"score": structure_score(one, other)})
    return {name: float(np.mean([values[name] for values in found])) for name in (found[0] if found else {})}


def score_interval(
    generated: StructureTable, reference: StructureTable, level: float = 0.95, resamples: int = 100, seed: int = 0
) -> tuple[float, float]:
    """Confidence interval of `structure_score` over the choice of generated chains (basic bootstrap, which takes off
    what drawing chains twice adds to every distance)."""
    rng = np.random.default_rng(seed)
    here = structure_score(generated, reference)
    drawn = [
        structure_score(generated.subset(rng.integers(0, generated.chains, generated.chains)), reference)
        for _ in range(resamples)
    ]
    low, high = np.quantile(drawn, [(1 - level) / 2, (1 + level) / 2])
    return max(2 * here - float(high), 0.0), max(2 * here - float(low), 0.0)


def _wasserstein(a: Float[np.ndarray, " one"], b: Float[np.ndarray, " other"]) -> float:
    return float(wasserstein_distance(a, b)) if len(a) and len(b) else 0.0
