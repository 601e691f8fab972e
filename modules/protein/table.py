"""The structure table: what a set of backbones looks like in numbers, with the uncertainty of each."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

import numpy as np
from jaxtyping import Float

from data.batch import Backbone
from data.errors import PenstockError
from modules.protein.measures import CA_BOND, Measures, measure

CIS, TRANS = 30.0, 150.0
"""A peptide bond is cis below this |ω|, trans above; between them twisted."""


@dataclass(frozen=True)
class Row:
    """What one number of the table is: the mean over all values that `of` gives, of all chains together."""

    unit: str
    definition: str
    of: Callable[[Measures], np.ndarray]
    spread: bool = False
    """Whether the standard deviation of these values is in the table too, as NAME_sd."""
    better: str = "real"
    """"lower" or "higher"; "real" where the best value is that of real chains."""


def _sample(name: str, unit: str, definition: str) -> Row:
    return Row(unit, definition, lambda found: found.samples[name], spread=True)


def _number(name: str, unit: str, definition: str, better: str = "real", spread: bool = True) -> Row:
    def of(found: Measures) -> np.ndarray:
        return np.array([found.numbers[name]] if name in found.numbers else [])

    return Row(unit, definition, of, spread, better)


def _share(name: str, definition: str, test: Callable[[np.ndarray], np.ndarray], better: str = "real") -> Row:
    return Row("1", definition, lambda found: test(found.samples[name]).astype(np.float64), better=better)


def _region(definition: str, test: Callable[[np.ndarray, np.ndarray], np.ndarray]) -> Row:
    def of(found: Measures) -> np.ndarray:
        return test(found.samples["phi"], found.samples["psi"]).astype(np.float64)

    return Row("1", definition, of)


def _trans_deviation(found: Measures) -> np.ndarray:
    away: np.ndarray = 180.0 - np.abs(found.samples["omega"])
    return away[away < 180.0 - TRANS]


ROWS: Mapping[str, Row] = {
    "n_ca": _sample("n_ca", "Å", "N-CA bond"),
    "ca_c": _sample("ca_c", "Å", "CA-C bond"),
    "c_n": _sample("c_n", "Å", "bond of C to the next N"),
    "c_o": _sample("c_o", "Å", "C-O bond"),
    "n_ca_c": _sample("n_ca_c", "°", "angle N-CA-C"),
    "ca_c_n": _sample("ca_c_n", "°", "angle CA-C-N"),
    "c_n_ca": _sample("c_n_ca", "°", "angle C-N-CA"),
    "ca_ca": _sample("ca_ca", "Å", "distance of CA that follow each other"),
    "ca_breaks": _share(
        "ca_ca",
        f"share of bonds whose CA lie outside {CA_BOND[0]}-{CA_BOND[1]} Å (cis bonds too)",
        lambda x: (x < CA_BOND[0]) | (x > CA_BOND[1]),
        "lower",
    ),
    "cis": _share("omega", f"share of peptide bonds with |ω| < {CIS:.0f}°", lambda x: np.abs(x) < CIS),
    "twisted": _share(
        "omega", f"share with {CIS:.0f}° ≤ |ω| ≤ {TRANS:.0f}°", lambda x: (np.abs(x) >= CIS) & (np.abs(x) <= TRANS)
    ),
    "trans_deviation": Row("°", f"mean of 180° - |ω| over |ω| > {TRANS:.0f}°", _trans_deviation),
    "alpha": _region("-160° < φ < -20°, -80° < ψ < 30°", lambda p, q: (abs(p + 90) < 70) & (abs(q + 25) < 55)),
    "beta": _region("φ < -20°, ψ > 90° or ψ < -150°", lambda p, q: (p < -20) & ((q > 90) | (q < -150))),
    "bridge": _region("-160° < φ < -20°, 30° < ψ < 90°", lambda p, q: (abs(p + 90) < 70) & (abs(q - 60) < 30)),
    "left_alpha": _region("20° < φ < 120°, -20° < ψ < 90°", lambda p, q: (abs(p - 70) < 50) & (abs(q - 35) < 55)),
    "phi_positive": _region("φ > 0", lambda p, q: p > 0),
    "left_turns": _share("helix_turn", "share of helical turns of four CA that are left-handed", lambda x: x < 0),
    "helix": _number("helix", "1", "share of residues that DSSP calls helix, mean over chains"),
    "strand": _number("strand", "1", "share of residues that DSSP calls strand, mean over chains"),
    "coil": _number("coil", "1", "share of the others, mean over chains"),
    "rg": _number("rg", "Å", "radius of gyration of CA"),
    "rg_ratio": _number("rg_ratio", "1", "radius of gyration over 2.2 L^0.38 Å"),
    "contacts": _number("contacts", "1", "CA pairs < 8 Å, three residues apart or more, per residue"),
    "contact_order": _number("contact_order", "1", "mean separation of these pairs over the length"),
    "ca_close": _number("ca_close", "1", "CA pairs < 3.6 Å, two residues apart or more, per chain", "lower"),
    "ca_clashes": _number("ca_clashes", "1", "CA pairs < 3.0 Å, two residues apart or more, per chain", "lower"),
    "atom_clashes": _number("atom_clashes", "1", "backbone atom pairs < 2.6 Å, two residues apart or more", "lower"),
    "whole": _number(
        "whole", "1", "share of chains without break: CA-CA within 3.6-4.0 Å, C-N within 1.2-1.5 Å", "higher", False
    ),
    "clash_free": _number(
        "clash_free", "1", "share of chains without CA pair < 3.0 Å or backbone atom pair < 2.0 Å", "higher", False
    ),
}


@dataclass(frozen=True)
class StructureTable:
    """The numbers of a set of backbones; see `ROWS` for what each means."""

    measures: tuple[Measures, ...]

    @cached_property
    def values(self) -> dict[str, float]:
        """Every number, NAME_sd where the row has a spread, and ca_ca_p01, ca_ca_p99; those without data are absent."""
        found = {
            name: float(value)
            for name, value in zip(self._names, self._summary(np.ones((1, len(self.measures))))[0], strict=True)
            if np.isfinite(value)
        }
        ca_ca = self.pooled("ca_ca")
        if len(ca_ca):
            found["ca_ca_p01"], found["ca_ca_p99"] = (float(q) for q in np.percentile(ca_ca, (1, 99)))
        return found

    @property
    def chains(self) -> int:
        return len(self.measures)

    @property
    def residues(self) -> int:
        return sum(found.residues for found in self.measures)

    @property
    def has_secondary(self) -> bool:
        """Whether the secondary structure of every chain is known."""
        return all("helix" in found.numbers for found in self.measures)

    def pooled(self, sample: str) -> Float[np.ndarray, " found"]:
        """A quantity of `Measures.samples`, of all chains."""
        return np.concatenate([found.samples[sample] for found in self.measures])

    def per_chain(self, number: str) -> Float[np.ndarray, " chain"]:
        """A quantity of `Measures.numbers`, or "residues"."""
        if number == "residues":
            return np.array([float(found.residues) for found in self.measures])
        return np.array([found.numbers[number] for found in self.measures])

    def intervals(self, level: float = 0.95, resamples: int = 500, seed: int = 0) -> dict[str, tuple[float, float]]:
        """Confidence interval of every mean and standard deviation, by drawing whole chains again (percentile
        bootstrap: residues of one chain are not independent). Of a single chain the two ends are equal."""
        rng = np.random.default_rng(seed)
        weights = rng.multinomial(self.chains, np.full(self.chains, 1 / self.chains), resamples)
        drawn = self._summary(weights.astype(np.float64))
        ends = np.array([(1 - level) / 2, (1 + level) / 2])
        found = {}
        for name, column in zip(self._names, drawn.T, strict=True):
            column = column[np.isfinite(column)]
            if len(column):
                low, high = np.quantile(column, ends)
                found[name] = (round(float(low), 12) + 0.0, round(float(high), 12) + 0.0)  # no -0.0
        return found

    def subset(self, keep: Sequence[int] | np.ndarray) -> "StructureTable":
        """The table of some of the chains."""
        return StructureTable(tuple(self.measures[k] for k in keep))

    def by_length(self, edges: Sequence[int]) -> dict[str, "StructureTable"]:
        """One table per group of lengths that has chains; `edges` [60, 100] cuts into "<60", "60-99" and "≥100"."""
        lengths = self.per_chain("residues")
        cuts = sorted(set(edges))
        names = [f"<{cuts[0]}", *(f"{a}-{b - 1}" for a, b in pairwise(cuts)), f"≥{cuts[-1]}"]
        group = np.searchsorted(cuts, lengths, side="right")
        return {name: self.subset(np.flatnonzero(group == k)) for k, name in enumerate(names) if (group == k).any()}

    @cached_property
    def _names(self) -> list[str]:
        return [*ROWS, *(f"{name}_sd" for name, row in ROWS.items() if row.spread)]

    @cached_property
    def _moments(self) -> tuple[np.ndarray, np.ndarray]:
        """Per chain and row: how many values, their sum and sum of squares about the second result, the row's mean."""
        columns = [[row.of(found) for found in self.measures] for row in ROWS.values()]
        counts = np.array([[len(values) for values in column] for column in columns], dtype=np.float64)
        totals = np.array([sum(values.sum() for values in column) for column in columns])
        centre = totals / np.maximum(counts.sum(axis=1), 1)
        shifted = [[values - c for values in column] for c, column in zip(centre, columns, strict=True)]
        sums = np.array([[values.sum() for values in column] for column in shifted])
        squares = np.array([[np.square(values).sum() for values in column] for column in shifted])
        return np.stack([counts, sums, squares]), centre

    def _summary(self, weights: Float[np.ndarray, "draw chain"]) -> Float[np.ndarray, "draw name"]:
        """Means and then standard deviations, each chain counted `weights` times; NaN where there are no values."""
        moments, centre = self._moments
        counts, sums, squares = np.moveaxis(moments @ weights.T, 2, 1)
        with np.errstate(invalid="ignore", divide="ignore"):
            shift = sums / counts
            deviations = np.sqrt(np.maximum(squares / counts - np.square(shift), 0.0))
        spread = np.array([row.spread for row in ROWS.values()])
        return np.concatenate([centre + shift, deviations[:, spread]], axis=1)


def structure_table(backbones: Sequence[Backbone], secondary: Sequence[np.ndarray] | None = None) -> StructureTable:
    """The table of a set of backbones; `secondary` holds "H", "E", "C" per residue of each, where it is known.

    Raises:
        PenstockError: the set is empty, or one of it cannot be measured (see `measure`).
    """
    if not len(backbones):
        raise PenstockError("expected at least one backbone to measure, got none.")
    if secondary is not None and len(secondary) != len(backbones):
        raise PenstockError(
            f"expected the secondary structure of {len(backbones)} backbones, got that of {len(secondary)}."
        )
    letters: Sequence[np.ndarray | None] = secondary if secondary is not None else [None] * len(backbones)
    return StructureTable(tuple(measure(b, ss) for b, ss in zip(backbones, letters, strict=True)))
