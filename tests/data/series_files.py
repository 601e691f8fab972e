"""Small files of time series for tests."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from data.forecast.kinds import FORECAST_SERIES
from data.forecast.series_store import SeriesStore
from data.store import Writer

HOUR = 3600 * 10**9
BEGIN = 409_008 * HOUR
"""Stamp of 2016-08-29 00:00 UTC, a Monday."""


def write_series(
    path: Path,
    series: Sequence[Mapping[str, Any]],
    *,
    step: str = "h",
    zone: str = "",
    gaps: bool | None = None,
) -> SeriesStore:
    """A store of `series`, each with arrays by role; `start` is BEGIN where not given."""
    widths = {role: np.shape(series[0][role])[-1] for role in ("targets", "observed", "known", "static")
              if role in series[0]}  # fmt: skip
    columns = {role: [f"{role[0]}{k}" for k in range(width)] for role, width in widths.items()}
    missing = any(np.isnan(np.asarray(one[role], float)).any() for one in series for role in widths)
    attributes = {
        "columns": json.dumps(columns),
        "step": step,
        "zone": zone,
        "gaps": missing if gaps is None else gaps,
        "reading": "{}",
    }
    with Writer(path, FORECAST_SERIES, attributes) as writer:
        for k, one in enumerate(series):
            arrays = {name: np.asarray(value, np.float64) for name, value in one.items() if name != "start"}
            writer.add(f"series-{k}", {**arrays, "start": np.int64(one.get("start", BEGIN))})
    return SeriesStore(path)


def random_series(
    lengths: Sequence[int], *, targets: int = 2, observed: int = 0, known: int = 0, static: int = 0, ahead: int = 0,
    missing: float = 0.0, seed: int = 0,
) -> list[dict[str, Any]]:  # fmt: skip
    """Normal numbers, of which the share `missing` is NaN; `known` goes on for `ahead` rows."""
    rng = np.random.default_rng(seed)

    def draw(*shape: int) -> np.ndarray:
        values = rng.normal(3.0, 2.0, shape)
        values[rng.random(shape) < missing] = np.nan
        return values

    series: list[dict[str, Any]] = []
    for length in lengths:
        one: dict[str, Any] = {"targets": draw(length, targets)}
        if observed:
            one["observed"] = draw(length, observed)
        if known:
            one["known"] = draw(length + ahead, known)
        if static:
            one["static"] = rng.normal(size=static)
        series.append(one)
    return series
