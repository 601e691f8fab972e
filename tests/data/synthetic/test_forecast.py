"""Synthetic series: functions of their number alone, with the structure that they promise."""

from dataclasses import replace

import numpy as np
import pytest

from data.errors import ConfigError
from data.forecast.kinds import FORECAST_SERIES
from data.schema import check_item
from data.synthetic.forecast import (
    SyntheticForecastConfig,
    generate,
    synthetic_columns,
    synthetic_ids,
)

CONFIG = SyntheticForecastConfig()


def synthetic_series(config: SyntheticForecastConfig) -> list[tuple[str, dict]]:
    """(id, arrays) of every series, in order."""
    return [(item_id, generate(config, k)) for k, item_id in enumerate(synthetic_ids(config))]


def left_over(target: np.ndarray, *inputs: np.ndarray) -> float:
    """Share of the variance that a linear fit leaves."""
    matrix = np.column_stack([*inputs, np.ones(len(target))])
    return float((target - matrix @ np.linalg.lstsq(matrix, target, rcond=None)[0]).var() / target.var())


def test_a_series_depends_on_its_number_alone() -> None:
    few = replace(CONFIG, series=3)
    for (item_id, arrays), k in zip(synthetic_series(few), range(3), strict=True):
        assert item_id == synthetic_ids(CONFIG)[k]
        for name, value in generate(CONFIG, k).items():
            np.testing.assert_array_equal(arrays[name], value)
    assert not np.array_equal(generate(CONFIG, 1)["known"], generate(replace(CONFIG, seed=1), 1)["known"])


@pytest.mark.parametrize(("step", "targets"), [("h", 1), ("D", 3), ("MS", 1), ("integer", 2)])
def test_arrays_follow_the_schema(step: str, targets: int) -> None:
    config = SyntheticForecastConfig(series=4, steps=120, step=step, targets=targets, ahead=10, missing=0.1)
    sizes: dict[str, int] = {}
    names = synthetic_columns(config)
    for _, arrays in synthetic_series(config):
        checked = check_item(FORECAST_SERIES, arrays, sizes)
        assert {name: checked[name].shape[-1] for name in names} == {name: len(names[name]) for name in names}
        assert len(checked["known"]) == len(checked["targets"]) + 10
        assert np.isfinite(checked["known"]).all() and np.isfinite(checked["targets"][[0, -1]]).all()


def test_lengths_differ_and_gaps_are_few() -> None:
    lengths = [len(arrays["targets"]) for _, arrays in synthetic_series(CONFIG)]
    assert max(lengths) == CONFIG.steps and min(lengths) >= 0.7 * CONFIG.steps and len(set(lengths)) > 12
    share = np.mean([np.isnan(arrays["targets"]).mean() for _, arrays in synthetic_series(CONFIG)])
    assert 0.003 < share < 0.03


@pytest.mark.parametrize("index", [0, 1, 3])
def test_what_is_known_ahead_explains_what_the_past_cannot(index: int) -> None:
    """A linear fit to the values of a day and a week ago, and the same with the known covariates of the hour."""
    config = replace(CONFIG, missing=0.0)
    arrays = generate(config, index)
    y = arrays["targets"][:, 0]
    known = arrays["known"][: len(y)]
    past = [y[168 - lag : len(y) - lag] for lag in (24, 168)]
    alone = left_over(y[168:], *past)
    together = left_over(y[168:], *past, known[168:], known[144:-24])
    assert together < 0.9 * alone


def test_hours_of_the_day_repeat_and_the_observed_covariate_acts_late() -> None:
    arrays = generate(replace(CONFIG, missing=0.0), 0)
    y, temperature = arrays["targets"][:, 0], arrays["observed"][:, 0]
    hour = np.arange(len(y)) % 24
    seasonal = np.array([y[hour == k].mean() for k in range(24)])
    assert seasonal.var() > 0.15 * y.var()
    rest = y - seasonal[hour]
    delayed = [abs(np.corrcoef(temperature[: len(y) - lag], rest[lag:])[0, 1]) for lag in range(12)]
    assert max(delayed) > 0.2


def test_intermittent_series_are_counts_with_many_zeros() -> None:
    y = generate(replace(CONFIG, kinds=("intermittent",), missing=0.0), 0)["targets"]
    assert (y == 0).mean() > 0.5 and (y == np.floor(y)).all() and y.max() >= 5 and y.min() == 0


def test_regimes_change_level_or_spread() -> None:
    config = replace(CONFIG, kinds=("regime",), missing=0.0, series=16)
    steady = replace(config, kinds=("seasonal",))

    def wander(config: SyntheticForecastConfig) -> float:
        """How far the mean moves between sixths of a series, beyond drivers and trend."""
        found = []
        for _, arrays in synthetic_series(config):
            y = arrays["targets"][:, 0]
            matrix = np.column_stack(
                [arrays["known"][: len(y)], arrays["observed"], np.ones(len(y)), np.arange(len(y))]
            )
            rest = y - matrix @ np.linalg.lstsq(matrix, y, rcond=None)[0]
            found.append(np.std([part.mean() for part in np.array_split(rest, 6)]) / rest.std())
        return float(np.median(found))

    assert wander(config) > 1.5 * wander(steady)


@pytest.mark.parametrize(
    "wrong", [{"kinds": ("chaotic",)}, {"kinds": ()}, {"series": 0}, {"steps": 3}, {"missing": 0.7}, {"step": "moon"}]
)
def test_what_cannot_be_made_is_refused(wrong: dict) -> None:
    with pytest.raises(ConfigError):
        SyntheticForecastConfig(**wrong)
