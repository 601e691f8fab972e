"""What was measured and should not have been: anomaly scores from a backtest's errors.

A value is odd if its forecast missed it by more than forecasts of the same step and target did lately. Its p-value is
the share of the last known errors that were at least as large (conformal, Laxhammar and Falkman 2014): a flag at
p <= alpha is a value outside the trailing conformal interval of 1 - alpha, and on data that goes on as before about a
share alpha is flagged.
"""

from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Bool, Float, Int

from data.errors import ConfigError
from modules.forecast.backtest import Backtest
from modules.forecast.conformal import Calibration, TrailingConformal, joined
from modules.forecast.trailing import compressed, trailing_quantile

GAUSSIAN = 1.4826
"""Standard deviation of normal errors over their median absolute one."""
DOUBTLESS = 8.0
"""Robust scales beyond which an error is no ordinary one."""
_BLOCK = 4_000_000
"""Comparisons made at a time; bounds the memory, not the result."""


@dataclass(frozen=True)
class Anomalies:
    """Arrays as the backtest's; NaN, and not flagged, where nothing was measured."""

    scores: Float[np.ndarray, "row horizon target"]
    """Error over the robust trailing scale of its step and target; NaN too where no error was known yet."""
    p_values: Float[np.ndarray, "row horizon target"]
    """1 where no error was known yet."""
    flagged: Bool[np.ndarray, "row horizon target"]


@dataclass(frozen=True)
class Findings:
    """One verdict for each measured value, rows by item, step and target."""

    items: Int[np.ndarray, " value"]
    steps: Int[np.ndarray, " value"]
    """Number of the value's step on its series' grid."""
    targets: Int[np.ndarray, " value"]
    scores: Float[np.ndarray, " value"]
    p_values: Float[np.ndarray, " value"]
    flagged: Bool[np.ndarray, " value"]


def find_anomalies(
    history: Backtest | None,
    backtest: Backtest,
    alpha: float = 0.01,
    conformal: TrailingConformal | None = None,
    control: bool = False,
) -> Anomalies:
    """Scores and p-values of all measured values of `backtest`; flagged is p <= alpha.

    `control` bounds the expected share of false ones among the flagged by alpha instead (Benjamini and Hochberg 1995).
    So strict a test needs errors free of anomalies to compare with: those beyond `DOUBTLESS` robust scales then do not
    count among them, which heavy-tailed errors pay for with more flags than alpha promises.

    p-values are never below 1 / (known errors + 1), so that few errors, or a window shorter than 1 / alpha, flag
    nothing. Cost: a comparison with each error of the window per value.
    """
    if not 0 < alpha < 1:
        raise ConfigError(f"anomalies: alpha must be between 0 and 1, got {alpha}.")
    conformal = TrailingConformal() if conformal is None else conformal
    known = backtest if history is None else joined(history, backtest)
    if control:
        known = _without_doubtless(known, conformal)
    scores, p_values = (np.empty(backtest.forecast.shape) for _ in range(2))
    for rows, found in conformal.calibrations(known, backtest):
        scores[rows] = _scores(backtest.residuals[rows], found, conformal.window)
        p_values[rows] = _p_values(backtest.residuals[rows], found, conformal.window)
    flagged = p_values <= (_false_discovery_bound(p_values, alpha) if control else alpha)
    return Anomalies(scores, p_values, flagged)


def nearest_verdicts(backtest: Backtest, anomalies: Anomalies) -> Findings:
    """The verdict on each measured value by the newest forecast of it."""
    steps = backtest.origins[:, None] + np.arange(backtest.forecast.shape[1])
    row, step, target = np.nonzero(~np.isnan(anomalies.p_values))
    items, at = backtest.items[row], steps[row, step]
    order = np.lexsort((step, target, at, items))
    keys = np.stack([items, at, target])[:, order]
    first = np.ones(len(order), bool)
    first[1:] = (np.diff(keys, axis=1) != 0).any(axis=0)
    chosen = order[first]
    place = row[chosen], step[chosen], target[chosen]
    return Findings(
        items=items[chosen],
        steps=at[chosen],
        targets=target[chosen],
        scores=anomalies.scores[place],
        p_values=anomalies.p_values[place],
        flagged=anomalies.flagged[place],
    )


def _without_doubtless(known: Backtest, conformal: TrailingConformal) -> Backtest:
    """The same forecasts with the truth left out where its score is beyond doubt."""
    scores = np.empty(known.forecast.shape)
    for rows, found in conformal.calibrations(known, known):
        scores[rows] = _scores(known.residuals[rows], found, conformal.window)
    return replace(known, truth=np.where(np.abs(scores) > DOUBTLESS, np.nan, known.truth))


def _scores(errors: np.ndarray, found: Calibration, window: int) -> np.ndarray:
    """Errors [row, horizon, target] of one series over the robust scale of those known before; NaN without any."""
    _, horizon, targets = errors.shape
    scores = np.empty(errors.shape)
    scaled = errors / found.scale[:, None]
    for step in range(horizon):
        values, known = _known(found, step, targets)
        middle = GAUSSIAN * trailing_quantile(values, known, 0.5, window)
        with np.errstate(invalid="ignore", divide="ignore"):
            scores[:, step] = np.where(known > 0, scaled[:, step].T / middle, np.nan).T
    return scores


def _known(found: Calibration, step: int, targets: int) -> tuple[np.ndarray, np.ndarray]:
    """Absolute errors [target, known] of one step of the horizon, and how many of them count for each row."""
    values, seen = compressed(np.ascontiguousarray(np.abs(found.errors[:, step]).T, np.float64))
    return values, np.take_along_axis(seen, np.repeat(found.stops[step][None], targets, axis=0), axis=1)


def _p_values(errors: np.ndarray, found: Calibration, window: int) -> np.ndarray:
    """Conformal p-values [row, horizon, target] of one series' errors."""
    _, horizon, targets = errors.shape
    p_values = np.empty(errors.shape)
    scaled = errors / found.scale[:, None]
    for step in range(horizon):
        values, known = _known(found, step, targets)
        for target in range(targets):
            asked = scaled[:, step, target]
            larger = _count_larger(values[target], known[target], np.abs(asked), window)
            share = (1 + larger) / (1 + np.minimum(known[target], window))
            p_values[:, step, target] = np.where(np.isnan(asked), np.nan, share)
    return p_values


def _count_larger(values: np.ndarray, stops: np.ndarray, asked: np.ndarray, window: int) -> np.ndarray:
    """How many of the last `window` of the first `stop` values are at least as large as each number asked."""
    padded = np.concatenate([np.full(window, -np.inf), values])
    windows = np.lib.stride_tricks.sliding_window_view(padded, window)
    larger = np.empty(len(stops), np.int64)
    block = max(_BLOCK // window, 1)
    for start in range(0, len(stops), block):
        part = slice(start, start + block)
        larger[part] = (windows[stops[part]] >= asked[part, None]).sum(axis=1)
    return larger


def _false_discovery_bound(p_values: np.ndarray, alpha: float) -> float:
    """The largest of the sorted p-values p_k with p_k <= alpha k / m; -1 where there is none."""
    ordered = np.sort(p_values[~np.isnan(p_values)])
    below = np.flatnonzero(ordered <= alpha * np.arange(1, len(ordered) + 1) / max(len(ordered), 1))
    return float(ordered[below[-1]]) if len(below) else -1.0
