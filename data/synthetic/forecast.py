"""Synthetic time series: the embedded data of the forecasting domain.

A series is trend + seasons + the effect of a planned promotion and price (known ahead) + the delayed effect of an
observed covariate + autocorrelated noise; some change their regime, some are intermittent demand. Series `k` is a
function of (configuration, k) alone.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float64

from data.errors import ConfigError

CATEGORIES = ("small", "medium", "large")
DELAY = 3
"""Steps after which the observed covariate acts."""
NOISE, MEMORY = 0.35, 0.7
"""Standard deviation and autocorrelation of the noise, beside daily seasons of an amplitude of about 1."""
PROMOTION, ELASTICITY = 1.8, -2.0
"""Effect of a promotion on the level, and of the price's logarithm."""
FALLBACK_SEASONS = (12, 60)
"""Where the step has no natural ones."""


@dataclass(frozen=True, kw_only=True)
class SyntheticForecastConfig:
    """Which series are made."""

    series: int = 24
    steps: int = 2000
    """Of the longest series; the others have at least 70 % of it."""
    step: str = "h"
    """A frequency as pandas writes it, or 'integer'."""
    targets: int = 1
    kinds: tuple[str, ...] = ("seasonal", "seasonal", "regime", "intermittent")
    """Kinds of series, taken in turn."""
    ahead: int = 168
    """Steps that the promotion and the price are known beyond the end."""
    missing: float = 0.01
    """Share of the target values that are missing, in gaps of a few steps."""
    first: str = "2023-01-02 00:00:00"
    """Stamp of the first step; the number of the first step is 0 where the step is an integer."""
    seed: int = 0

    def __post_init__(self) -> None:
        unknown = [kind for kind in self.kinds if kind not in KINDS]
        if unknown or not self.kinds:
            raise ConfigError(f"kinds must be some of {', '.join(KINDS)}; got {', '.join(unknown) or 'none'}.")
        if min(self.series, self.targets) < 1 or self.steps < 20 or self.ahead < 0 or not 0 <= self.missing < 0.5:
            raise ConfigError(
                "expected series and targets from 1, steps from 20, ahead from 0 and missing from 0 to below 0.5, got "
                f"series={self.series}, targets={self.targets}, steps={self.steps}, ahead={self.ahead} and "
                f"missing={self.missing}."
            )
        _integer(self.step)


def synthetic_ids(config: SyntheticForecastConfig) -> tuple[str, ...]:
    """The ids "regime-0012" of all series, in order."""
    digits = max(4, len(str(config.series - 1)))
    return tuple(f"{config.kinds[k % len(config.kinds)]}-{k:0{digits}d}" for k in range(config.series))


def synthetic_columns(config: SyntheticForecastConfig) -> dict[str, list[str]]:
    """Names of the columns of each array."""
    targets = ["target"] if config.targets == 1 else [f"target {k + 1}" for k in range(config.targets)]
    category = [f"category={name}" for name in CATEGORIES]
    return {"targets": targets, "observed": ["temperature"], "known": ["promotion", "price"], "static": category}


def generate(config: SyntheticForecastConfig, index: int) -> dict[str, Any]:
    """The arrays (FORECAST_SERIES) of series number `index`."""
    from data.forecast.calendar import seasons  # late: the package of the tables imports this module

    rng = np.random.default_rng([config.seed, index])
    length = config.steps if index == 0 else int(config.steps * rng.uniform(0.7, 1.0))
    total = length + config.ahead
    lengths = seasons(config.step)[:2] or FALLBACK_SEASONS
    time = np.arange(total)
    category = int(rng.integers(len(CATEGORIES)))
    size = 0.8 + 0.4 * category
    promotion, price = _promotion(rng, total, lengths[0]), _price(rng, total, lengths[-1])
    temperature = _autocorrelated(rng, total, 0.95) + 1.5 * np.sin(2 * np.pi * time / (12 * lengths[-1]))
    season = _season(rng, time, lengths)
    drift = rng.uniform(-1, 1) * time / config.steps
    drivers = PROMOTION * promotion + ELASTICITY * np.log(price) + 0.5 * np.roll(temperature, DELAY)
    make = KINDS[config.kinds[index % len(config.kinds)]]
    targets = np.empty((length, config.targets))
    for k in range(config.targets):
        # Further targets follow the same drivers a little later and with a noise of their own.
        values = make(rng, np.roll(season, 2 * k), np.roll(drivers, k), drift, size)
        targets[:, k] = values[:length]
    _cut_gaps(rng, targets, config.missing)
    return {
        "targets": targets,
        "observed": temperature[:length, None].copy(),
        "known": np.stack([promotion, price], axis=1),
        "static": np.eye(len(CATEGORIES))[category],
        "start": np.int64(0) if _integer(config.step) else _start(config),
    }


def _integer(step: str) -> bool:
    from data.forecast.calendar import parse_step

    return parse_step(step).kind == "integer"


def _start(config: SyntheticForecastConfig) -> np.int64:
    return np.int64(np.datetime64(config.first, "ns").view(np.int64))


def _season(rng: np.random.Generator, time: np.ndarray, lengths: tuple[int, ...]) -> Float64[np.ndarray, " step"]:
    """Smooth seasons of each length: the first with three harmonics, the next weaker."""
    season = np.zeros(len(time))
    for rank, length in enumerate(lengths):
        for harmonic in (1, 2, 3):
            weight = rng.normal(1, 0.2) / (harmonic * (1 + rank))
            phase = 0.8 * harmonic + rng.normal(0, 0.3)
            season += weight * np.sin(2 * np.pi * harmonic * time / length + phase)
    return season


def _autocorrelated(rng: np.random.Generator, length: int, memory: float) -> Float64[np.ndarray, " step"]:
    """A stationary first-order autoregression of variance 1."""
    from scipy.signal import lfilter

    shocks = rng.normal(size=length) * np.sqrt(1 - memory**2)
    shocks[0] /= np.sqrt(1 - memory**2)
    return np.asarray(lfilter([1.0], [1.0, -memory], shocks))


def _promotion(rng: np.random.Generator, length: int, season: int) -> Float64[np.ndarray, " step"]:
    """Zeros and ones: one half season or more of promotion, about an eighth of the time."""
    planned = np.zeros(length)
    start = int(rng.integers(season, 6 * season))
    while start < length:
        stop = start + int(rng.integers(max(season // 2, 1), 2 * season + 1))
        planned[start:stop] = 1
        start = stop + int(rng.integers(4 * season, 14 * season))
    return planned


def _price(rng: np.random.Generator, length: int, season: int) -> Float64[np.ndarray, " step"]:
    """Levels around 1 that hold for about the longer season each."""
    count = length // max(season // 2, 1) + 2
    holds = rng.integers(max(season // 2, 1), 2 * season, size=count)
    return np.repeat(np.exp(rng.normal(0, 0.25, size=count)), holds)[:length]


def _seasonal(
    rng: np.random.Generator, season: np.ndarray, drivers: np.ndarray, drift: np.ndarray, size: float
) -> Float64[np.ndarray, " step"]:
    noise = NOISE * _autocorrelated(rng, len(season), MEMORY)
    return np.asarray(10 + size * (season + drivers + drift + noise))


def _regime(
    rng: np.random.Generator, season: np.ndarray, drivers: np.ndarray, drift: np.ndarray, size: float
) -> Float64[np.ndarray, " step"]:
    """As `_seasonal`, but level, spread of the noise and amplitude of the seasons change once to three times."""
    length = len(season)
    noise = NOISE * _autocorrelated(rng, length, MEMORY)
    number = np.zeros(length, np.int64)
    changes = rng.integers(length // 8, max(length * 7 // 8, length // 8 + 1), size=int(rng.integers(1, 4)))
    for change in changes:
        number[change:] += 1
    level, spread = rng.normal(0, 1.5, len(changes) + 1), rng.uniform(0.6, 2.0, len(changes) + 1)
    amplitude = rng.uniform(0.5, 1.6, len(changes) + 1)
    return np.asarray(
        10 + size * (level[number] + amplitude[number] * season + drivers + drift + spread[number] * noise)
    )


def _intermittent(
    rng: np.random.Generator, season: np.ndarray, drivers: np.ndarray, drift: np.ndarray, size: float
) -> Float64[np.ndarray, " step"]:
    """Counts that are mostly zero, with bursts: whether and how much is sold follows the season and the drivers."""
    strength = 0.6 * season + 0.8 * drivers + 0.5 * drift + 0.5 * _autocorrelated(rng, len(season), 0.9)
    sold = rng.random(len(season)) < 1 / (1 + np.exp(1.5 - strength))
    return np.asarray(np.where(sold, 1 + rng.poisson(size * np.exp(0.4 * np.minimum(strength, 5))), 0.0))


def _cut_gaps(rng: np.random.Generator, targets: np.ndarray, share: float) -> None:
    """Make NaN of about `share` of the steps, in gaps of 1 to 11 steps, never of the first or the last."""
    length = len(targets)
    for _ in range(rng.poisson(share * length / 6)):
        start = int(rng.integers(1, length - 1))
        targets[start : min(start + int(rng.integers(1, 12)), length - 1)] = np.nan


KINDS: Mapping[str, Callable[..., Float64[np.ndarray, " step"]]] = {
    "seasonal": _seasonal,
    "regime": _regime,
    "intermittent": _intermittent,
}
