"""Which generated backbones are good enough to be learnt from again: a filter that needs no folding model.

The ablation of Yue et al. (2025) found that the filter decides as much as the rectification itself.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields

import numpy as np

from data.batch import Backbone
from data.errors import ConfigError, PenstockError
from modules.protein.measures import CA_BOND, PEPTIDE_BOND, Measures, measure

LEAST_WIDTH: Mapping[str, float] = {"rg": 0.2, "contacts": 1.0, "contact_order": 0.15, "coil": 0.3}
"""A range from the reference is at least this wide: of log(radius of gyration), contacts per residue, contact order,
share of coil."""


@dataclass(frozen=True, kw_only=True)
class PairFilterConfig:
    """Bounds of a backbone that is kept. A bound that is null is not looked at."""

    max_breaks: float | None = 0.02
    """Share of bonds whose CA lie outside 3.6-4.0 Å or whose C-N outside 1.2-1.5 Å, cis bonds aside."""
    max_ca_clashes: float | None = 1.0
    """CA pairs < 3.6 Å, two residues apart or more, per 100 residues."""
    max_atom_clashes: float | None = 10.0
    """Backbone atom pairs < 2.6 Å, two residues apart or more, per 100 residues."""
    max_left_turns: float | None = 0.25
    """Share of helical turns that are left-handed, where there are ten or more."""
    max_phi_positive: float | None = 0.2
    """Share of residues with φ > 0."""
    max_coil: float | None = 0.65
    """Share of residues that are neither helix nor strand; where the reference's secondary structure is known, what
    is usual there counts too."""
    max_helix: float | None = None
    """Share of helix: rectification raises it from round to round, at the cost of diversity."""
    radius: bool = True
    """Whether the radius of gyration must lie in the range of the reference, given the length."""
    contacts: bool = True
    """The same for contacts per residue."""
    contact_order: bool = True
    """The same for the relative contact order."""
    quantile: float = 0.02
    """The range of the reference is from this quantile to one minus it."""
    slack: float = 0.25
    """By which share of its width that range is widened at either end."""

    def __post_init__(self) -> None:
        for field in fields(self):
            bound = getattr(self, field.name)
            if field.name.startswith("max_") and bound is not None and bound < 0:
                raise ConfigError(f"filter: {field.name} must be at least 0 or null, got {bound}.")
        if not 0 <= self.quantile < 0.5 or self.slack < 0:
            raise ConfigError(
                f"filter: expected 0 <= quantile < 0.5 and slack >= 0, got {self.quantile} and {self.slack}."
            )


@dataclass(frozen=True)
class Range:
    """Where a quantity of real chains lies: value - slope · ln(length) within low and high."""

    slope: float
    low: float
    high: float

    def at(self, length: int) -> tuple[float, float]:
        trend = self.slope * float(np.log(length))
        return self.low + trend, self.high + trend


ReferenceRanges = Mapping[str, Range]


@dataclass(frozen=True)
class Verdict:
    """Whether a backbone is kept, and why not."""

    accepted: bool
    reasons: tuple[str, ...]
    """Each "kind: what was found and what was expected"."""
    measures: Mapping[str, float]


def reference_ranges(
    backbones: Sequence[Backbone], secondary: Sequence[np.ndarray] | None, config: PairFilterConfig
) -> ReferenceRanges:
    """The ranges of radius of gyration (its logarithm), contacts and contact order of real chains, given the length;
    and of coil, where the secondary structure is known.

    Raises:
        PenstockError: no chains.
    """
    if not len(backbones):
        raise PenstockError("expected real chains to take the filter's ranges from, got none.")
    if secondary is not None and len(secondary) != len(backbones):
        raise PenstockError(f"expected the secondary structure of {len(backbones)} chains, got {len(secondary)}.")
    found = [measure(backbone) for backbone in backbones]
    trend = np.log([float(one.residues) for one in found])
    ranges = {name: _range(trend, np.array([value(one) for one in found]), name, config) for name, value in _RANGED}
    if secondary is not None:
        coil = [float((letters[b.resolved] == "C").mean()) for b, letters in zip(backbones, secondary, strict=True)]
        ranges["coil"] = _range(np.zeros(len(coil)), np.array(coil), "coil", config)
    return ranges


def judge(
    backbone: Backbone, secondary: np.ndarray | None, ranges: ReferenceRanges, config: PairFilterConfig
) -> Verdict:
    """The filter's verdict on one backbone; `secondary` holds "H", "E", "C" per residue; None leaves coil and helix.

    What cannot be measured (positions that are not finite, under four residues) is refused, not raised.
    """
    try:
        found = measure(backbone, secondary)
    except PenstockError as error:
        return Verdict(accepted=False, reasons=(f"not measurable: {error}",), measures={})
    measures = _measures(found)
    reasons = []
    for kind, (name, what, _) in _BOUNDS.items():
        bound, value = getattr(config, f"max_{kind}"), measures.get(name)
        if kind == "coil" and bound is not None and "coil" in ranges:
            bound = min(bound, ranges["coil"].high)
        if bound is not None and value is not None and value > bound:
            reasons.append(f"{what}: {value:.3g}, at most {bound:.3g}")
    for name, value_of in _RANGED:
        if getattr(config, "radius" if name == "rg" else name) and name in ranges:
            value, (low, high) = value_of(found), ranges[name].at(found.residues)
            if not low <= value <= high:
                if name == "rg":
                    value, low, high = (float(np.exp(x)) for x in (value, low, high))
                reasons.append(f"{_RANGE_WORDS[name]}: {value:.3g}, expected {low:.3g} to {high:.3g}")
    return Verdict(accepted=not reasons, reasons=tuple(reasons), measures=measures)


def _log_radius(found: Measures) -> float:
    return float(np.log(max(found.numbers["rg"], 1e-3)))


_RANGED: tuple[tuple[str, Callable[[Measures], float]], ...] = (
    ("rg", _log_radius),
    ("contacts", lambda found: found.numbers["contacts"]),
    ("contact_order", lambda found: found.numbers["contact_order"]),
)
_RANGE_WORDS = {"rg": "radius of gyration", "contacts": "contacts per residue", "contact_order": "contact order"}


def _broken_share(found: Measures) -> float:
    """Share of bonds with CA or C and N too far or too near. In a cis peptide bond the CA are 2.9 Å apart, rightly."""
    ca, bond = found.samples["ca_ca"], found.samples["c_n"]
    cis = (np.abs(found.samples["omega"]) < 30) & (np.abs(ca - 2.9) < 0.3)
    broken = ((ca < CA_BOND[0]) | (ca > CA_BOND[1])) & ~cis | (bond < PEPTIDE_BOND[0]) | (bond > PEPTIDE_BOND[1])
    return float(broken.mean()) if len(broken) else 0.0


def _left_share(found: Measures) -> float:
    turns = found.samples["helix_turn"]
    return float((turns < 0).mean()) if len(turns) > 9 else 0.0


def _phi_positive(found: Measures) -> float:
    phi = found.samples["phi"]
    return float((phi > 0).mean()) if len(phi) else 0.0


_BOUNDS: Mapping[str, tuple[str, str, Callable[[Measures], float]]] = {
    "breaks": ("broken", "broken bonds", _broken_share),
    "ca_clashes": (
        "ca_clashes",
        "clashing residues per 100",
        lambda found: 100 * found.numbers["ca_close"] / found.residues,
    ),
    "atom_clashes": (
        "atom_clashes",
        "clashing atoms per 100 residues",
        lambda found: 100 * found.numbers["atom_clashes"] / found.residues,
    ),
    "left_turns": ("left_turns", "left-handed turns", _left_share),
    "phi_positive": ("phi_positive", "residues with φ above zero", _phi_positive),
    "coil": ("coil", "coil", lambda found: found.numbers["coil"]),
    "helix": ("helix", "helix", lambda found: found.numbers["helix"]),
}
"""By the name of the bound: the name of the measure, what a user calls it, and how it is taken."""


def _measures(found: Measures) -> dict[str, float]:
    measures = {name: of(found) for name, _, of in _BOUNDS.values() if name not in ("coil", "helix")}
    measures |= {name: found.numbers[name] for name in ("rg", "rg_ratio", "contacts", "contact_order")}
    shares = {name: found.numbers[name] for name in ("helix", "strand", "coil") if name in found.numbers}
    return {"residues": float(found.residues)} | measures | shares


def _range(trend: np.ndarray, values: np.ndarray, name: str, config: PairFilterConfig) -> Range:
    """Of few chains, or chains of one length, no trend is taken."""
    varied = len(trend) >= 8 and trend.std() > 0.05
    slope = float(np.cov(trend, values)[0, 1] / trend.var(ddof=1)) if varied else 0.0
    if name == "rg" and not varied:
        slope = 0.38  # the law of globular proteins
    rest = values - slope * trend
    low, high = np.quantile(rest, (config.quantile, 1 - config.quantile))
    short = max(LEAST_WIDTH[name] - (high - low), 0.0) / 2
    slack = config.slack * (high - low) + short
    return Range(slope, float(low - slack), float(high + slack))
