"""Is one model better than another, or do their windows only happen to fall so?

Errors of neighbouring windows resemble each other, since the windows overlap and the weather lasts. The block bootstrap
keeps such neighbours together (Künsch 1989; circular: Politis and Romano 1992). Blocks of time are drawn for all series
at once, since series share their bad days; where there are many series these are drawn too (Owen 2007).
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Float, Int
from scipy.sparse import csr_array
from scipy.stats import norm
from scipy.stats import t as student

from data.errors import ConfigError, PenstockError

CONFIDENCE = 0.95
LEAST_BLOCKS = 4
"""With fewer blocks of time, and few series, nothing is called better: they say too little about each other."""
MANY = 30
"""Series from which on they count as drawn from more of their kind."""
_BLOCK = 10_000_000
"""Numbers of a resample's weights held at a time; bounds the memory, not the result."""

Verdict = Literal["better", "worse", "not distinguishable"]


@dataclass(frozen=True)
class Comparison:
    """Mean error of one model less that of another, and where it may lie at 95 %."""

    difference: float
    low: float
    high: float
    verdict: Verdict
    """Of the first model: `better` is said only where the whole interval lies below zero."""
    blocks: float
    """Blocks of time that fit into the backtest."""


def compare(
    errors_a: Float[np.ndarray, " row"],
    errors_b: Float[np.ndarray, " row"],
    items: Int[np.ndarray, " row"],
    origins: Int[np.ndarray, " row"],
    block: int,
    resamples: int = 1000,
    seed: int = 0,
    weights: Int[np.ndarray, " row"] | None = None,
) -> Comparison:
    """The difference of the mean errors of two models on the same windows.

    `block` is in steps of the origins, at least the horizon; three horizons keep more of what neighbours share.
    `weights` are the numbers behind each window's error (see `window_errors`); None counts windows alike. Windows
    without an error (NaN) are left out.

    The interval is the bootstrap's, stretched about the difference twice. Blocks cut ties at their ends, so their
    variance V(l) is too small; 2 V(l) - V(l / 2) has this error no more to first order (flat-top kernel, Politis and
    Romano 1995). And few blocks make the bootstrap too sure of itself: n / (n - 1) for the variance of n blocks, and
    Student's quantile with n - 1 degrees of freedom for the normal one.

    Raises:
        PenstockError: no window with errors of both models, or errors of one model only where the other has none.
    """
    if block < 1 or resamples < 100:
        raise ConfigError(f"comparison: expected block >= 1 and resamples >= 100, got {block} and {resamples}.")
    if (np.isnan(errors_a) != np.isnan(errors_b)).any():
        raise PenstockError("comparison: expected errors on the same windows; one model lacks some of the other's.")
    kept = ~np.isnan(errors_a)
    if not kept.any():
        raise PenstockError("comparison: no window has a measured truth, so there is nothing to compare.")
    weight = np.ones(len(items)) if weights is None else weights.astype(np.float64)
    loss = (errors_a - errors_b)[kept] * weight[kept]
    series, item = np.unique(items[kept], return_inverse=True)
    moments, moment = np.unique(origins[kept], return_inverse=True)
    shape = (len(series), len(moments))
    totals = csr_array((loss, (item, moment)), shape)
    counts = csr_array((weight[kept], (item, moment)), shape)
    difference = float(loss.sum() / weight[kept].sum())
    stride = float(np.median(np.diff(moments))) if len(moments) > 1 else 1.0
    length = min(max(int(np.ceil(block / stride)), 1), len(moments))
    drawn, halved = (
        _resampled(totals, counts, blocks_of, resamples, np.random.default_rng(seed))
        for blocks_of in (length, max(length // 2, 1))
    )
    blocks = len(moments) / length
    spread = np.quantile(drawn, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2]) - difference
    if drawn.var() > 0:
        spread = spread * np.sqrt(max(2 - halved.var() / drawn.var(), 1))
    many = len(series) >= MANY
    units = len(series) if many and blocks < LEAST_BLOCKS else blocks
    if units >= LEAST_BLOCKS:
        ratio = student.ppf((1 + CONFIDENCE) / 2, units - 1) / norm.ppf((1 + CONFIDENCE) / 2)
        spread = spread * ratio * np.sqrt(units / (units - 1))
        verdict = _verdict(difference + spread[0], difference + spread[1])
    else:
        verdict = "not distinguishable"
    return Comparison(difference, float(difference + spread[0]), float(difference + spread[1]), verdict, blocks)


def _resampled(
    totals: csr_array, counts: csr_array, length: int, resamples: int, generator: np.random.Generator
) -> np.ndarray:
    """The weighted mean in each resample of blocks of moments, and of series where they are many."""
    series, moments = totals.shape
    needed = -(-moments // length)
    found = np.empty(resamples)
    step = max(_BLOCK // max(moments + series, 1), 1)
    for first in range(0, resamples, step):
        number = min(step, resamples - first)
        starts = generator.integers(moments, size=(number, needed))
        places = ((starts[..., None] + np.arange(length)) % moments).reshape(number, -1)[:, :moments]
        at = (places + moments * np.arange(number)[:, None]).reshape(-1)
        times = np.bincount(at, minlength=number * moments).reshape(number, moments).astype(float)
        above, below = totals @ times.T, counts @ times.T
        if series >= MANY:
            chosen = generator.multinomial(series, np.full(series, 1 / series), size=number).T
            above, below = above * chosen, below * chosen
        # A resample may by chance hold no window of unevenly spread ones: it says nothing either way.
        below = below.sum(axis=0)
        found[first : first + number] = np.divide(above.sum(axis=0), below, out=np.zeros(number), where=below > 0)
    return found


def _verdict(low: float, high: float) -> Verdict:
    if high < 0:
        return "better"
    return "worse" if low > 0 else "not distinguishable"
