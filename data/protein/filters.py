"""Which chains are fit to learn from; every one that is not is refused with a reason."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike

from data.batch import Backbone
from data.errors import ConfigError
from data.protein.reading import BOND_LIMIT


@dataclass(frozen=True, kw_only=True)
class ProteinFilterConfig:
    """Bounds of a chain, first to last residue that has N, CA and C. The published set of 23 thousand chains came from
    length 60-512, coil <= 0.5, resolution < 5 Å, one chain per file, and the quantile curve at 0.96 + 1 Å."""

    min_length: int = 40
    """Residues with N, CA and C."""
    max_length: int = 512
    max_missing: float = 0.2
    """Share of residues without N, CA or C, those that the numbering leaves out included."""
    max_breaks: int = 1
    """Places where the chain is interrupted: a gap in the numbering, or C and the next N over 2 Å apart."""
    max_coil: float = 0.6
    """Share of residues that are neither helix nor strand."""
    max_resolution: float = 5.0
    """Å; a chain of unknown resolution passes."""
    radius: Literal["law", "quantile", "none"] = "law"
    """Bound of the radius of gyration: "law" is `max_radius_ratio` times 2.2 Å * L^0.38; "quantile" is a curve through
    the data's own `radius_quantile`, for thousands of chains."""
    max_radius_ratio: float = 1.6
    radius_quantile: float = 0.96
    radius_slack: float = 1.0
    """Å above the quantile curve."""
    single_chain: bool = False
    """Refuse all chains of a file that holds several."""

    def __post_init__(self) -> None:
        if not 1 <= self.min_length <= self.max_length:
            raise ConfigError(
                f"filter: expected 1 <= min_length <= max_length, got {self.min_length} and {self.max_length}."
            )
        if not (0 <= self.max_missing <= 1 and 0 <= self.max_coil <= 1 and 0 < self.radius_quantile < 1):
            raise ConfigError("filter: max_missing and max_coil are shares in [0, 1], radius_quantile lies in (0, 1).")
        if self.radius not in ("law", "quantile", "none"):
            raise ConfigError(f"filter: radius is law, quantile or none, got '{self.radius}'.")
        if self.max_breaks < 0 or min(self.max_resolution, self.max_radius_ratio) <= 0:
            raise ConfigError("filter: max_breaks is at least 0, max_resolution and max_radius_ratio are above 0.")


def refusal(
    backbone: Backbone, states: np.ndarray, resolution: float | None, config: ProteinFilterConfig
) -> str | None:
    """Why the chain is refused, None where it is fit. `states` are letters H, E, C, `[residue]`.

    The quantile curve needs all chains and is not looked at here; see `radius_curve`.
    """
    length = int(backbone.resolved.sum())
    if not config.min_length <= length <= config.max_length:
        return f"{length} residues with N, CA and C, expected {config.min_length} to {config.max_length}."
    span = int(backbone.residue_index[-1] - backbone.residue_index[0]) + 1
    missing = 1 - length / span
    if missing > config.max_missing:
        return f"{missing:.0%} of its residues are missing or incomplete, more than {config.max_missing:.0%}."
    breaks = count_breaks(backbone)
    if breaks > config.max_breaks:
        return f"the chain is interrupted at {breaks} places, more than {config.max_breaks}."
    if resolution is not None and resolution > config.max_resolution:
        return f"resolution {resolution:g} Å, worse than {config.max_resolution:g} Å."
    coil = float((states[backbone.resolved] == "C").mean())
    if coil > config.max_coil:
        return f"{coil:.0%} coil, more than {config.max_coil:.0%}."
    radius, limit = radius_of_gyration(backbone), config.max_radius_ratio * expected_radius(length)
    if config.radius == "law" and radius > limit:
        return f"radius of gyration {radius:.1f} Å, more than {limit:.1f} Å for {length} residues: it is not compact."
    return None


def count_breaks(backbone: Backbone) -> int:
    """Interruptions between neighbouring residues that both have N, CA and C: a step in `residue_index`, or C and the
    next N more than 2 Å apart."""
    kept = np.flatnonzero(backbone.resolved)
    atoms, index = backbone.atoms[kept], backbone.residue_index[kept]
    apart = np.linalg.norm(atoms[1:, 0] - atoms[:-1, 2], axis=-1) > BOND_LIMIT
    return int((apart | (np.diff(index) != 1)).sum())


def radius_of_gyration(backbone: Backbone) -> float:
    """Å, over CA of residues with N, CA and C."""
    alphas = backbone.atoms[backbone.resolved, 1].astype(np.float64)
    return float(np.sqrt(((alphas - alphas.mean(axis=0)) ** 2).sum(axis=1).mean()))


def expected_radius(length: int) -> float:
    """Å: 2.2 L^0.38, within a quarter of which folded chains lie."""
    return 2.2 * float(length) ** 0.38


def radius_curve(
    lengths: ArrayLike, radii: ArrayLike, quantile: float, *, cutoff: float = 1e-13
) -> Callable[[np.ndarray], np.ndarray]:
    """Radius of gyration by length: a polynomial of degree 4 through the `quantile` of the radii at each length, every
    length weighing the same. Length and unit as in `radii`.

    Directions whose singular value (of the powers of L about their means) is below `cutoff` of the largest are left out
    of the fit. The published filter's solver cuts at 1e-6: two directions of four remain, and the curve misses a plain
    power law by up to 8 %.
    """
    by_length: dict[int, list[float]] = {}
    for length, radius in zip(np.asarray(lengths), np.asarray(radii), strict=True):
        by_length.setdefault(int(length), []).append(float(radius))
    seen = np.array(sorted(by_length))
    values = np.array([np.quantile(by_length[int(length)], quantile) for length in seen])
    powers = _powers(seen)
    middle, level = powers.mean(axis=0), values.mean()
    weights = np.linalg.lstsq(powers - middle, values - level, rcond=cutoff)[0]
    return lambda at: (_powers(at) - middle) @ weights + level


def _powers(lengths: np.ndarray) -> np.ndarray:
    return np.asarray(lengths, dtype=np.float64)[..., None] ** np.arange(1, 5)
