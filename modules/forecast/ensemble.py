"""A mean of several models' forecasts, weighted by what they did on the validation block."""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from jaxtyping import Float
from scipy.optimize import nnls

from data.errors import ConfigError, PenstockError

_BLOCK = 1_000_000
"""Numbers of each member that are looked at together; bounds the memory, not the result."""


@dataclass(frozen=True)
class Ensemble:
    """Non-negative weights that sum to one, the same for all steps of a block of the horizon."""

    names: tuple[str, ...]
    weights: Float[np.ndarray, "block member"]
    horizon: int

    def apply(self, forecasts: Mapping[str, Float[np.ndarray, "row horizon target *output"]]) -> np.ndarray:
        """The weighted mean of the members' forecasts, or of their quantiles.

        Raises:
            PenstockError: a member is missing, or has another horizon.
        """
        missing = [name for name in self.names if name not in forecasts]
        if missing:
            raise PenstockError(f"ensemble: no forecasts of {', '.join(missing)}; it was made of {list(self.names)}.")
        mixed = np.zeros_like(forecasts[self.names[0]])
        if mixed.shape[1] != self.horizon:
            raise PenstockError(f"ensemble: expected forecasts of {self.horizon} steps, got {mixed.shape[1]}.")
        for part, weights in zip(_parts(self.horizon, len(self.weights)), self.weights, strict=True):
            for name, weight in zip(self.names, weights, strict=True):
                if weight > 0:
                    mixed[:, part] += (weight * forecasts[name][:, part]).astype(mixed.dtype)
        return mixed


def combine(
    forecasts: Mapping[str, Float[np.ndarray, "row horizon target"]],
    truth: Float[np.ndarray, "row horizon target"],
    blocks: int = 1,
) -> Ensemble:
    """The weights with the least squared error on these (validation) windows, for each of `blocks` parts of a horizon.

    As the weights sum to one, the error of the mean is the mean of the errors e_m: minimise w' C w with C = e' e over
    the simplex. The minimiser z of |C^(1/2) z|^2 + (1' z - 1)^2 over z >= 0 points the same way, since for any sum of z
    the first term alone decides on its direction; so non-negative least squares (Lawson and Hanson 1974) finds it.
    Where rounding makes it worse than the best member, that member takes all.

    Raises:
        PenstockError: no members, other shapes, a forecast that is not finite, or nothing measured in a block.
    """
    if not forecasts:
        raise PenstockError("ensemble: expected forecasts of at least one model, got none.")
    if not 1 <= blocks <= truth.shape[1]:
        raise ConfigError(f"ensemble: expected between 1 and {truth.shape[1]} blocks of the horizon, got {blocks}.")
    for name, forecast in forecasts.items():
        if forecast.shape != truth.shape:
            raise PenstockError(f"ensemble: '{name}' has shape {forecast.shape}, the truth {truth.shape}.")
    weights = [_simplex_minimum(_products(forecasts, truth, part)) for part in _parts(truth.shape[1], blocks)]
    return Ensemble(tuple(forecasts), np.stack(weights), truth.shape[1])


def _parts(horizon: int, blocks: int) -> list[slice]:
    edges = np.linspace(0, horizon, blocks + 1).round().astype(int).tolist()
    return [slice(low, high) for low, high in pairwise(edges)]


def _products(forecasts: Mapping[str, np.ndarray], truth: np.ndarray, part: slice) -> np.ndarray:
    """Mean products of the members' errors [member, member] over the measured numbers of some steps."""
    products = np.zeros((len(forecasts), len(forecasts)))
    count = 0
    step = max(_BLOCK // max(truth[:1, part].size, 1), 1)
    for first in range(0, len(truth), step):
        rows = slice(first, first + step)
        value = truth[rows, part].astype(np.float64)
        measured = ~np.isnan(value)
        errors = np.stack([forecast[rows, part][measured] - value[measured] for forecast in forecasts.values()])
        products += errors @ errors.T
        count += int(measured.sum())
    if not count or not np.isfinite(products).all():
        raise PenstockError(
            "ensemble: expected finite forecasts and at least one measured value in each block of the horizon; "
            f"got {count} measured values and errors that are {'finite' if np.isfinite(products).all() else 'not'}."
        )
    return products / count


def _simplex_minimum(products: np.ndarray) -> np.ndarray:
    """The w >= 0 with sum 1 that makes w' C w least."""
    members = len(products)
    best = int(np.argmin(np.diag(products)))
    alone = np.eye(members)[best]
    if products[best, best] <= 0:
        return alone
    values, vectors = np.linalg.eigh(products / products[best, best])
    root = np.sqrt(np.maximum(values, 0))[:, None] * vectors.T
    solution, _ = nnls(np.vstack([root, np.ones(members)]), np.append(np.zeros(members), 1.0))
    weights = solution / solution.sum()
    return weights if weights @ products @ weights <= products[best, best] else alone
