"""Columns that give the target away."""

from collections.abc import Mapping

import numpy as np
from jaxtyping import Float64

from data.errors import PenstockError
from data.forecast.columns import ColumnsConfig
from data.forecast.roles import Roles

MOST_ROWS = 5000
"""Rows looked at, spread over the table."""
EXACT = 1e-9
"""Of the target's standard deviation: what a weighted sum may miss and still be called exact."""
MOST_TERMS = 200


def find_leaks(roles: Roles, config: ColumnsConfig) -> list[str]:
    """Warnings about targets that are a weighted sum of covariates (casual + registered = cnt).

    Known columns that equal a target or add up to it (but for factors and a constant) would let a forecast read its
    answer: named as known they are refused, and otherwise they become observed.

    Raises:
        PenstockError: the columns that the user names as known give a target away.
    """
    warnings: list[str] = []
    for target, values in roles.values["target"].items():
        terms = exact_terms(values, roles.values["known"])
        if terms:
            what = _formula(target, values, terms, roles.values["known"])
            if config.known is not None:
                raise PenstockError(
                    f"known columns give the target away: {what} in every row. Whoever knows them ahead needs no "
                    "forecast; leave them out (ignore) or name them as observed."
                )
            for name in list(terms):
                roles.values["observed"][name] = roles.values["known"].pop(name)
            warnings.append(f"{what} in every row, so {', '.join(terms)} cannot be known ahead: taken as observed.")
            continue
        columns = {**roles.values["observed"], **roles.values["known"]}
        terms = exact_terms(values, columns)
        if terms:
            warnings.append(
                f"{_formula(target, values, terms, columns)} in every row. Their past is used as it is; as columns "
                "known ahead they would give the target away."
            )
    return warnings


def exact_terms(
    target: Float64[np.ndarray, " row"], columns: Mapping[str, Float64[np.ndarray, " row"]]
) -> dict[str, float]:
    """Weights of the columns whose sum (and a constant) is the target wherever all are measured; else none."""
    if not 1 <= len(columns) <= MOST_TERMS:
        return {}
    matrix = np.stack(list(columns.values()), axis=1)
    rows = np.flatnonzero(np.isfinite(target) & np.isfinite(matrix).all(axis=1))
    if len(rows) < 3 * matrix.shape[1] + 10:
        return {}
    rows = rows[np.unique(np.linspace(0, len(rows) - 1, MOST_ROWS).astype(int))]
    y, x = target[rows] - target[rows].mean(), matrix[rows] - matrix[rows].mean(axis=0)
    scale, spread = x.std(axis=0), y.std()
    moving = scale > 0
    if not spread or not moving.any():
        return {}
    weight, _, rank, _ = np.linalg.lstsq(x[:, moving] / scale[moving], y / spread, rcond=None)
    if rank < moving.sum() or np.abs(x[:, moving] / scale[moving] @ weight - y / spread).max() > EXACT * 100:
        return {}
    names = np.array(list(columns))[moving]
    weight = weight * spread / scale[moving]
    taken = np.abs(weight) * scale[moving] > 1e-6 * spread
    return {str(name): float(value) for name, value in zip(names[taken], weight[taken], strict=True)}


def _formula(
    target: str,
    values: Float64[np.ndarray, " row"],
    terms: Mapping[str, float],
    columns: Mapping[str, Float64[np.ndarray, " row"]],
) -> str:
    parts = [name if abs(weight - 1) < 1e-6 else f"{weight:.4g} · {name}" for name, weight in list(terms.items())[:6]]
    rest = values - np.sum([weight * columns[name] for name, weight in terms.items()], axis=0)
    constant = float(np.nanmean(rest))
    parts += [f"{constant:.4g}"] if abs(constant) > 1e-6 * np.nanstd(values) else []
    return f"{target} = {' + '.join(parts)}{' + ...' if len(terms) > 6 else ''}"
