"""Grids of time against pandas' own calendars, and calendar features against the benchmark's numbers."""

import numpy as np
import pandas as pd
import pytest

from data.errors import ConfigError
from data.forecast.calendar import (
    calendar_features,
    calendar_names,
    parse_step,
    positions,
    seasons,
    stamps,
)


def ns(text: str) -> int:
    return int(np.datetime64(text, "ns").view(np.int64))


@pytest.mark.parametrize(
    ("frequency", "start"),
    [
        ("h", "2016-07-01T03:00"),
        ("15min", "1969-12-31T22:45"),
        ("7D", "2002-01-01"),
        ("MS", "2019-11-01T06:00"),
        ("ME", "2019-11-30"),
        ("QS", "2019-10-01"),
        ("QE", "2019-12-31"),
        ("YS", "1950-01-01"),
        ("YE", "1950-12-31"),
        ("B", "2021-01-04"),
    ],
)
def test_stamps_are_those_of_pandas_and_positions_their_inverse(frequency: str, start: str) -> None:
    wanted = pd.date_range(start, periods=120, freq=frequency).values.astype("datetime64[ns]")
    found = stamps(ns(start), frequency, 0, 120)
    np.testing.assert_array_equal(found, wanted)
    np.testing.assert_array_equal(stamps(ns(start), frequency, 37, 50), wanted[37:50])
    step = parse_step(frequency)
    assert parse_step(str(step)) == step
    number, off = positions(wanted.view(np.int64), np.full(120, ns(start)), step)
    np.testing.assert_array_equal(number, np.arange(120))
    assert not off.any()


def test_months_that_begin_on_the_31st_end_with_the_month() -> None:
    found = stamps(ns("2024-01-31"), "MS", 0, 4).astype("datetime64[D]")
    assert [str(day) for day in found] == ["2024-01-31", "2024-02-29", "2024-03-31", "2024-04-30"]


def test_days_in_a_zone_follow_its_clock() -> None:
    wanted = pd.date_range("2021-03-26", periods=5, freq="D", tz="Europe/Berlin")
    utc = wanted.tz_convert("UTC").tz_localize(None).values.astype("datetime64[ns]")
    found = stamps(int(utc[0].view(np.int64)), "D", 0, 5, "Europe/Berlin")
    np.testing.assert_array_equal(found, utc)
    assert len(set(np.diff(found.astype(np.int64)))) == 2  # one day of 23 hours


def test_integer_steps_are_counted() -> None:
    np.testing.assert_array_equal(stamps(7, "5", 2, 5), [17, 22, 27])
    assert calendar_features(np.arange(3), "integer").shape == (3, 0)
    assert seasons("integer") == ()


def test_features_of_an_hour_are_those_of_the_benchmarks() -> None:
    """`first_test_window.time_features_first_row` of the protocol's anchors (ETTh1, exchange rate, illness)."""
    hour = calendar_features(np.array(["2017-10-20T00"], "datetime64[ns]"), "h")
    np.testing.assert_allclose(hour[0], [-0.5, 1 / 6, 4 / 30, 0.3], atol=1e-7)
    day = calendar_features(np.array(["2006-05-12"], "datetime64[ns]"), "D")
    np.testing.assert_allclose(day[0], [4 / 6 - 0.5, 11 / 30 - 0.5, 131 / 365 - 0.5], atol=1e-7)


@pytest.mark.parametrize("step", ["30s", "15min", "h", "D", "7D", "B", "MS", "QS", "YS"])
def test_features_against_pandas_fields(step: str) -> None:
    rng = np.random.default_rng(0)
    moments = np.sort(rng.integers(ns("1960-01-01"), ns("2050-01-01"), 500)).view("datetime64[ns]")
    index = pd.DatetimeIndex(moments)
    exact = {
        "second": (index.second + index.microsecond / 1e6) / 59,
        "minute": index.minute / 59,
        "hour": index.hour / 23,
        "weekday": index.day_of_week / 6,
        "day": (index.day - 1) / 30,
        "day of year": (index.day_of_year - 1) / 365,
        "month": (index.month - 1) / 11,
    }
    found = calendar_features(moments, step)
    assert found.dtype == np.float32 and found.shape == (500, len(calendar_names(step)))
    for k, name in enumerate(calendar_names(step)):
        np.testing.assert_allclose(found[:, k], np.minimum(exact[name], 1) - 0.5, atol=1e-6)


def test_features_in_a_zone_are_those_of_its_clock() -> None:
    noon = np.array(["2021-07-01T10:00"], "datetime64[ns]")  # 12:00 in Vienna
    assert calendar_features(noon, "h", "Europe/Vienna")[0, 0] == pytest.approx(12 / 23 - 0.5)


@pytest.mark.parametrize(
    ("step", "wanted"),
    [("h", (24, 168)), ("15min", (96, 672)), ("D", (7, 365)), ("W", (52,)), ("MS", (12,)), ("QE", (4,)), ("YS", ()),
     ("30min", (48, 336)), ("B", (5, 260)), ("5min", (12, 288, 2016))],
)  # fmt: skip
def test_seasons(step: str, wanted: tuple[int, ...]) -> None:
    assert seasons(step) == wanted


def test_names_of_older_versions_and_what_is_not_a_step() -> None:
    for old, new in {"H": "h", "15T": "15min", "M": "ME", "A": "YE", "Q-DEC": "QE", "W-SUN": "7D", "48": "48"}.items():
        assert str(parse_step(old)) == new
    for wrong in ("fortnight", "", "0h", "-3h", "1.5h", "2B"):
        with pytest.raises(ConfigError, match="expected a frequency"):
            parse_step(wrong)
