"""Quantiles of the last values known at each moment, for many columns at once."""

import numpy as np
from jaxtyping import Float, Int

_BLOCK = 4_000_000
"""Values that are filtered at a time; bounds the memory, not the result."""
_SLACK = 1e-9
"""(count + 1) * level is often a whole number but for rounding."""


def lower_rank(count: int | np.ndarray, level: float) -> np.ndarray:
    """Rank (from 1) of the value below which at most a share `level` of the next one's chances lies; 0: none is."""
    return np.asarray(np.floor((np.asarray(count) + 1) * level + _SLACK), np.int64)


def upper_rank(count: int | np.ndarray, level: float) -> np.ndarray:
    """Rank (from 1) of the value that the next one is at most with a chance of `level` or more; count + 1: none is."""
    return np.asarray(np.ceil((np.asarray(count) + 1) * level - _SLACK), np.int64)


def compressed(
    values: Float[np.ndarray, "column row"],
) -> tuple[Float[np.ndarray, "column row"], Int[np.ndarray, "column seen"]]:
    """The measured values of each column moved to its front, in order, infinity after them; and how many of the first
    k rows were measured, for k from 0 to all."""
    missing = np.isnan(values)
    seen = np.zeros((len(values), values.shape[1] + 1), np.int64)
    np.cumsum(~missing, axis=1, out=seen[:, 1:])
    if missing.any():
        order = np.argsort(missing, axis=1, kind="stable")
        values = np.take_along_axis(np.where(missing, np.inf, values), order, axis=1)
    return values, seen


def trailing_quantile(
    values: Float[np.ndarray, "column row"],
    stops: Int[np.ndarray, "column query"],
    level: float,
    window: int,
    upper: bool | None = None,
) -> Float[np.ndarray, "column query"]:
    """Quantile of the last `window` of the first `stop` values of a column, or of all of them where there are fewer.

    With n values the rank is floor((n + 1) level) below one half and ceil((n + 1) level) above, the correction that
    makes split conformal prediction valid (Vovk et al. 2005; Lei et al. 2018); -inf or inf where that rank does not
    exist. One half is the mean of both, 0 where there is no value. `upper` overrules which of the two ranks it is.

    A single sliding filter over all columns does it. Before each column stand `window` paddings of ±inf, so ordered
    that the rank of a full window is the right one for a window that is not full yet too: going back through them,
    one is -inf wherever the rank wanted drops by one with one value less, else inf.
    """
    counts = np.arange(min(window, values.shape[1]) + 1)
    if level == 0.5 and upper is None:
        low, high = (_trailing(values, stops, rank(counts, level)) for rank in (lower_rank, upper_rank))
        return np.where(stops > 0, np.add(low, high, where=stops > 0, out=np.zeros_like(low)) / 2, 0.0)
    upper = level > 0.5 if upper is None else upper
    return _trailing(values, stops, (upper_rank if upper else lower_rank)(counts, level))


def _trailing(values: np.ndarray, stops: np.ndarray, ranks: np.ndarray) -> np.ndarray:
    """`trailing_quantile` for the rank wanted at each number of values, from 0 to a full window."""
    from scipy.ndimage import rank_filter  # late: configurations are read without it

    if not stops.size:
        return np.zeros(stops.shape)
    dropped = max(int(stops.min()) - len(ranks) + 1, 0)
    values, stops = values[:, dropped : int(stops.max())], stops - dropped
    window = max(min(len(ranks) - 1, values.shape[1]), 1)
    full = int(ranks[window]) if len(ranks) > 1 else 0
    if full == 0 or full > window:
        return np.full(stops.shape, -np.inf if full == 0 else np.inf)
    padding = np.where(np.diff(ranks[: window + 1]) == 1, -np.inf, np.inf)
    width = window + values.shape[1]
    found = np.empty(stops.shape)
    block = max(_BLOCK // width, 1)
    for start in range(0, len(values), block):
        part = values[start : start + block]
        padded = np.empty((len(part), width))
        padded[:, :window] = padding
        padded[:, window:] = part
        # The filter's window at i starts at i - window // 2; the one that ends with value `stop` starts at `stop`.
        filtered = rank_filter(padded.reshape(-1), full - 1, size=window, mode="nearest").reshape(padded.shape)
        found[start : start + block] = np.take_along_axis(filtered, stops[start : start + block] + window // 2, axis=1)
    return found
