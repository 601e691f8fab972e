"""Stamps in many writings against pandas, and the steps between them."""

import numpy as np
import pandas as pd
import pytest

from data.errors import PenstockError
from data.forecast.calendar import parse_step
from data.forecast.grid import Rows, to_grid
from data.forecast.stamps import NO_STAMP, in_zone, infer_step, parse_clock, parse_stamps

MOMENTS = pd.date_range("2012-12-30 21:00", periods=60, freq="h")
NS = MOMENTS.values.astype("datetime64[ns]").view(np.int64)


@pytest.mark.parametrize(
    "form",
    ["%Y-%m-%d %H:%M:%S", "%Y-%m-%dT%H:%M:%S.%f", "%Y/%m/%d %H:%M", "%d.%m.%Y %H:%M", "%m/%d/%Y %H:%M",
     "%m/%d/%y %H:%M", "%d/%m/%Y %H:%M:%S", "%m/%d/%Y %I:%M %p", "%Y%m%d %H:%M", "%d-%b-%Y %H:%M", "%b %d, %Y %H:%M"],
)  # fmt: skip
def test_dates_as_people_write_them(form: str) -> None:
    found = parse_stamps(pd.Series(MOMENTS.strftime(form), name="when"))
    np.testing.assert_array_equal(found.values, NS)
    assert not found.integer and found.naive


def test_quarters() -> None:
    quarters = pd.date_range("2019-07-01", periods=20, freq="QS")
    words = [f"{stamp.year}-Q{stamp.quarter}" for stamp in quarters]
    found = parse_stamps(pd.Series(words))
    np.testing.assert_array_equal(found.values, quarters.values.astype("datetime64[ns]").view(np.int64))


def test_a_midnight_without_its_clock() -> None:
    words = [text.removesuffix(" 00:00") for text in MOMENTS.strftime("%m/%d/%Y %H:%M")]
    np.testing.assert_array_equal(parse_stamps(pd.Series(words)).values, NS)


def test_day_or_month_first_can_be_said() -> None:
    words = pd.Series(["03/04/2020", "04/04/2020", "05/04/2020"])
    day = parse_stamps(words, day_first=True).values.view("datetime64[ns]").astype("datetime64[D]")
    month = parse_stamps(words, day_first=False).values.view("datetime64[ns]").astype("datetime64[D]")
    assert str(day[0]) == "2020-04-03" and str(month[0]) == "2020-03-04"
    even = parse_stamps(words).values.view("datetime64[ns]").astype("datetime64[D]")
    np.testing.assert_array_equal(even, day)  # daily rather than monthly with gaps of 31, 30 days


@pytest.mark.parametrize("factor", [1, 1000, 10**6, 10**9])
def test_unix_times(factor: int) -> None:
    found = parse_stamps(pd.Series(NS // 10**9 * factor))
    np.testing.assert_array_equal(found.values, NS)
    assert found.zone == "UTC"


def test_numbers_that_are_dates_and_numbers_that_are_steps() -> None:
    days = pd.date_range("2019-12-30", periods=40)
    found = parse_stamps(pd.Series(days.strftime("%Y%m%d").astype(int)))
    np.testing.assert_array_equal(found.values, days.values.astype("datetime64[ns]").view(np.int64))
    months = pd.date_range("2019-11-01", periods=20, freq="MS")
    found = parse_stamps(pd.Series(months.strftime("%Y%m").astype(int)))
    np.testing.assert_array_equal(found.values, months.values.astype("datetime64[ns]").view(np.int64))
    found = parse_stamps(pd.Series(np.arange(3, 90, 2), name="t"))
    assert found.integer and found.values[1] == 5


def test_stamps_with_offsets() -> None:
    berlin = MOMENTS.tz_localize("Europe/Berlin")
    found = parse_stamps(pd.Series(berlin.strftime("%Y-%m-%dT%H:%M:%S%z")))
    np.testing.assert_array_equal(found.values, NS - 3600 * 10**9)
    assert found.zone == "+01:00" and not found.warnings and not found.naive
    summer = ["2021-10-31T02:30:00+02:00", "2021-10-31T02:30:00+01:00"]
    found = parse_stamps(pd.Series(summer))
    assert np.diff(found.values) == 3600 * 10**9 and found.zone == "UTC"
    assert "2 offsets" in found.warnings[0]


@pytest.mark.parametrize(
    ("cells", "message"),
    [
        (["2021-01-01 00:00:00+01:00", "2021-01-01 01:00:00"], "mixes stamps with a time zone"),
        (["2021-01-01", "2021-02-31"], r"row 2: expected a date .*, got '2021-02-31'"),
        (["1203-01-01", "1204-01-01"], "1678"),
        ([0.5, 1.25, 2.5], "fractions"),
        ([None, None], "no stamp"),
    ],
)
def test_what_is_no_stamp_is_refused(cells: list, message: str) -> None:
    with pytest.raises(PenstockError, match=message):
        parse_stamps(pd.Series(cells, name="when", dtype=float if cells[0] is None else None))


def test_cells_without_a_stamp_are_marked() -> None:
    assert (parse_stamps(pd.Series(["2021-01-01", "", "2021-01-02", None])).values == NO_STAMP).sum() == 2


def test_clock_times() -> None:
    hour = 3600 * 10**9
    assert parse_clock(pd.Series(["18:00:00", "6:30", "24:00"])).tolist() == [18 * hour, 6.5 * hour, 24 * hour]  # type: ignore[union-attr]
    assert parse_clock(pd.Series(["6:30 pm", "12:00 AM"])).tolist() == [18.5 * hour, 0]  # type: ignore[union-attr]
    assert parse_clock(pd.Series([0, 23, 24])).tolist() == [0, 23 * hour, 24 * hour]  # type: ignore[union-attr]
    assert parse_clock(pd.Series([0, 25])) is None and parse_clock(pd.Series(["noon"])) is None


def test_an_hour_that_comes_twice_is_told_apart_in_its_zone() -> None:
    true = pd.date_range("2021-10-30 12:00", periods=40, freq="h", tz="UTC")
    naive = pd.Series(true.tz_convert("Europe/Berlin").tz_localize(None))
    two = pd.concat([naive, naive], ignore_index=True)
    found = in_zone(parse_stamps(two), "Europe/Berlin", np.repeat([0, 1], 40))
    wanted = true.tz_localize(None).values.astype("datetime64[ns]").view(np.int64)
    np.testing.assert_array_equal(found.values, np.tile(wanted, 2))
    with pytest.raises(PenstockError, match="expected a time zone"):
        in_zone(parse_stamps(two), "Mars/Olympus", np.repeat([0, 1], 40))


@pytest.mark.parametrize("frequency", ["s", "15min", "h", "3h", "D", "7D", "B", "MS", "ME", "QS", "QE", "YS", "YE"])
def test_steps_are_found_with_gaps_and_from_several_series(frequency: str) -> None:
    whole = pd.date_range("1989-01-31" if frequency[-1] == "E" else "1990-01-01", periods=90, freq=frequency)
    values = whole.values.astype("datetime64[ns]").view(np.int64)
    kept = np.delete(np.arange(90), [20, 21, 50])
    series = np.repeat([0, 1], len(kept))
    step, _ = infer_step(np.tile(values[kept], 2), series, False, "")
    assert str(step) == frequency
    gridded = to_grid(Rows(series, np.tile(values[kept], 2), np.zeros((len(series), 1))), None, False, "", "auto")
    np.testing.assert_array_equal(gridded.position, np.tile(kept, 2))
    assert gridded.start.tolist() == [values[0]] * 2 and gridded.treatment.moved == 0


def test_rows_beside_the_grid_move_to_the_nearest_stamp() -> None:
    hour = 3600 * 10**9
    stamp = np.arange(100) * hour + 7 * 60 * 10**9
    stamp[[10, 40]] += np.array([5, -20]) * 60 * 10**9
    gridded = to_grid(Rows(np.zeros(100, np.int64), stamp, np.arange(100.0)[:, None]), None, False, "", "auto")
    np.testing.assert_array_equal(gridded.position, np.arange(100))
    assert gridded.start[0] == 7 * 60 * 10**9  # the phase that most rows have
    assert (gridded.treatment.moved, gridded.treatment.moved_most, gridded.treatment.merged) == (2, "20 min", 0)


def test_duplicates_by_every_rule() -> None:
    stamp = np.array([0, 1, 1, 2, 2, 3, 4])
    values = np.array([[0.0], [1], [5], [2], [2], [3], [4]])
    rows = Rows(np.zeros(7, np.int64), stamp, values)
    wanted = {"auto": 3.0, "mean": 3.0, "sum": 6.0, "first": 1.0, "last": 5.0}
    for rule, value in wanted.items():
        gridded = to_grid(rows, None, True, "", rule)  # type: ignore[arg-type]
        assert gridded.rows.values[:, 0].tolist() == [0, value, 2, 3, 4]
        assert (gridded.treatment.equal_rows, gridded.treatment.conflicting_rows) == (1, 2)
    with pytest.raises(PenstockError, match="share their stamp"):
        to_grid(rows, None, True, "", "refuse")


def test_merging_twice_gives_what_merging_once_gives() -> None:
    """Law: the order of the rows changes nothing, and a table that was gridded is left as it is."""
    rng = np.random.default_rng(1)
    series, stamp = rng.integers(0, 4, 300), rng.integers(0, 60, 300)
    values = rng.normal(size=(300, 2))
    values[rng.random((300, 2)) < 0.1] = np.nan
    first = to_grid(Rows(series, stamp, values), "1", True, "", "mean")
    order = rng.permutation(300)
    other = to_grid(Rows(series[order], stamp[order], values[order]), "1", True, "", "mean")
    np.testing.assert_allclose(first.rows.values, other.rows.values)
    again = to_grid(first.rows, "1", True, "", "refuse")
    np.testing.assert_array_equal(again.position, first.position)
    for k in range(4):  # against pandas
        frame = pd.DataFrame(values[series == k]).groupby(stamp[series == k]).mean()
        rows = slice(first.first[k], first.stop[k])
        np.testing.assert_allclose(first.rows.values[rows], frame.to_numpy())
        np.testing.assert_array_equal(first.position[rows] + first.start[k], frame.index)


def test_a_step_far_too_short_is_refused() -> None:
    stamp = np.cumsum(np.full(5000, 10**12))
    with pytest.raises(PenstockError, match="would have"):
        to_grid(Rows(np.zeros(5000, np.int64), stamp, np.zeros((5000, 1))), "s", False, "", "auto")
    assert parse_step("s").nanoseconds == 10**9
