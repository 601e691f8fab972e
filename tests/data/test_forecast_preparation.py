"""From a table to stored series: what each column is taken for, what is done to bad input, and the account of it."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from data.errors import ConfigError, PenstockError
from data.forecast import ColumnsConfig, Prepared, Reading, prepare
from data.forecast.kinds import FORECAST_SERIES
from data.forecast.leaks import exact_terms
from data.store import Reader
from data.synthetic.forecast import SyntheticForecastConfig, generate

N = 240
HOURS = pd.date_range("2021-01-01", periods=N, freq="h")
RNG = np.random.default_rng(7)
VALUES = RNG.normal(size=N)
BASE = pd.DataFrame({"date": HOURS, "y": VALUES})
SHARED = Path(__file__).parents[3] / "shared/datasets/forecast"


def read(tmp_path: Path, frame: pd.DataFrame, config: ColumnsConfig | None = None, **named: object) -> Prepared:
    path = tmp_path / "table.csv"
    frame.to_csv(path, index=False)
    return prepare(path, config or ColumnsConfig(**named), tmp_path / "prepared")  # type: ignore[arg-type]


def arrays(prepared: Prepared, index: int = 0) -> dict[str, np.ndarray]:
    return Reader(prepared.path, FORECAST_SERIES).read(index)


def columns(prepared: Prepared) -> dict[str, list[str]]:
    import json

    found: dict[str, list[str]] = json.loads(str(Reader(prepared.path, FORECAST_SERIES).attributes["columns"]))
    return found


def test_a_plain_table_is_stored_to_the_last_bit_and_the_account_comes_back(tmp_path: Path) -> None:
    prepared = read(tmp_path, BASE)
    stored = arrays(prepared)
    np.testing.assert_array_equal(stored["targets"][:, 0], VALUES)
    assert stored["start"] == HOURS.values.astype("datetime64[ns]").view(np.int64)[0]
    reader = Reader(prepared.path, FORECAST_SERIES)
    assert reader.attributes["step"] == "h" and reader.attributes["gaps"] is False
    again = read(tmp_path, BASE)
    assert again.reused and again.reading == prepared.reading and again.ids == ("table",)
    assert (tmp_path / "prepared/reading.json").exists()
    changed = BASE.assign(y=VALUES + 1)
    assert not read(tmp_path, changed).reused


def test_a_long_table_finds_ids_static_known_and_observed(tmp_path: Path) -> None:
    parts = []
    for store in ("north", "south", "east"):
        for item in (1, 2):
            frame = BASE.assign(
                store=store, item=item, sales=RNG.normal(size=N), price=RNG.random(N), visits=RNG.random(N)
            ).drop(columns="y")
            frame["size"] = {"north": "big", "south": "small", "east": "big"}[store]
            frame["region code"] = item * 10
            frame = frame.iloc[: N - 10 * item]
            frame.loc[frame.index[-24:], ["sales", "visits"]] = np.nan
            parts.append(frame)
    table = pd.concat(parts).sample(frac=1, random_state=3)
    prepared = read(tmp_path, table)
    assert sorted(prepared.ids) == [f"{s}/{i}" for s in ("east", "north", "south") for i in (1, 2)]
    assert columns(prepared) == {
        "targets": ["sales"],
        "observed": ["visits"],
        "known": ["price"],
        "static": ["size=big", "size=small", "region code"],
    }
    reading = prepared.reading
    assert reading.ahead == {"price": 24} and reading.unsorted and not reading.missing_values
    k = prepared.ids.index("south/2")
    frame = next(part for part in parts if part["store"].iloc[0] == "south" and part["item"].iloc[0] == 2)
    stored = arrays(prepared, k)
    np.testing.assert_array_equal(stored["targets"][:, 0], frame["sales"].iloc[:-24])
    np.testing.assert_array_equal(stored["known"][:, 0], frame["price"])
    np.testing.assert_array_equal(stored["observed"][:, 0], frame["visits"].iloc[:-24])
    np.testing.assert_array_equal(stored["static"], [0, 1, 20])


def test_rows_after_the_last_target_make_the_other_columns_known(tmp_path: Path) -> None:
    table = pd.DataFrame({"date": HOURS, "power": VALUES, "wind": RNG.random(N)})
    table.loc[N - 24 :, "power"] = np.nan
    unnamed = read(tmp_path, table).reading
    assert unnamed.names("target") == ("power", "wind")
    assert "power (by 24 steps)" in unnamed.warnings[0]
    prepared = read(tmp_path, table, target=("power",))
    assert prepared.reading.ahead == {"wind": 24} and not prepared.reading.warnings
    assert len(arrays(prepared)["targets"]) == N - 24 and len(arrays(prepared)["known"]) == N
    table.loc[N - 10 :, "wind"] = np.nan
    assert read(tmp_path, table, target=("power",)).reading.ahead == {"wind": 14}
    table.loc[N - 30 :, "wind"] = np.nan
    early = read(tmp_path, table, target=("power",), known=("wind",)).reading
    assert early.ahead == {"wind": -6} and "wind ends with the target" in early.warnings[-1]
    assert any("hold nothing" in text for text in read(tmp_path, table[["date", "power"]]).reading.warnings)


def test_gaps_stay_open_and_are_counted(tmp_path: Path) -> None:
    prepared = read(tmp_path, BASE.drop(index=[5, *range(100, 112)]).assign(z=VALUES[13:]))
    stored = arrays(prepared)["targets"]
    assert np.isnan(stored[100:112]).all() and np.isnan(stored[5]).all() and np.isfinite(stored[112:]).all()
    reading = prepared.reading
    assert (reading.gap_steps, reading.longest_gap, reading.missing_values) == (13, 12, 13)
    assert Reader(prepared.path, FORECAST_SERIES).attributes["gaps"] is True
    assert any("13 of 240 steps" in line for line in reading.summary())


@pytest.mark.parametrize(
    ("change", "named", "message"),
    [
        (lambda f: f.astype({"y": object}).replace({"y": {VALUES[5]: "high"}}), {}, "row 6 of the table says 'high'"),
        (lambda f: f.assign(y="calm"), {"target": ("y",)}, "the target 'y' holds words: row 1 says 'calm'"),
        (lambda f: f.assign(y=np.nan), {"target": ("y",)}, "holds no value at all"),
        (lambda f: f.assign(y=np.nan), {}, "all of it is missing"),
        (lambda f: f[["y"]], {}, "no column of the table can be read as stamps"),
        (lambda f: pd.concat([f, f.assign(y=f.y + 1)]), {}, "no column tells them apart"),
        (lambda f: pd.concat([f, f.iloc[:2].assign(y=9)]), {"duplicates": "refuse"}, "share their stamp"),
        (lambda f: f.assign(a=2 * f.y + 1), {"known": ("a",)}, "give the target away"),
        (lambda f: f.assign(s=np.arange(N) // 9), {"static": ("s",)}, "changes within a series, first in row 10"),
        (lambda f: f.assign(w=[f"w{k}" for k in range(N)]), {"known": ("w",)}, "240 different words"),
        (lambda f: f, {"target": ("yy",)}, "Did you mean 'y'"),
        (lambda f: f, {"step": "integer"}, "does not go with stamps"),
        (lambda f: f.iloc[:1], {}, "no series has two different stamps"),
        (lambda f: f, {"clock": "y", "time": "date"}, "expected times of day"),
    ],
)
def test_bad_input_is_refused_in_one_clear_message(tmp_path: Path, change, named: dict, message: str) -> None:
    with pytest.raises(PenstockError, match=message):
        read(tmp_path, change(BASE), **named)
    assert not (tmp_path / "prepared/series.h5").exists()


def test_what_is_treated_is_told(tmp_path: Path) -> None:
    table = BASE.astype({"y": object})
    table.loc[[3, 9], "y"] = ["?", "n/a"]
    table = table.assign(nothing=np.nan, fixed=4, noise=RNG.normal(size=N))
    table = pd.concat([table, table.iloc[20:25], table.iloc[30:31].assign(y=VALUES[30] + 2)])
    prepared = read(tmp_path, table.sample(frac=1, random_state=0))
    reading = prepared.reading
    assert reading.missing_codes == {"'?'": 1, "'n/a'": 1}
    assert (reading.equal_rows, reading.conflicting_rows, reading.unsorted) == (5, 2, True)
    assert arrays(prepared)["targets"][30, 0] == pytest.approx(VALUES[30] + 1)
    assert reading.names("dropped") == ("nothing", "fixed") and reading.names("observed") == ("noise",)
    text = " ".join(reading.summary())
    for words in ("5 rows repeat", "the mean of each stamp", "not in the order of time", "all of it is missing"):
        assert words in text


def test_constant_targets_and_series_without_values(tmp_path: Path) -> None:
    table = pd.concat([BASE.assign(id="a"), BASE.assign(id="b", y=3.0), BASE.assign(id="c", y=np.nan)])
    prepared = read(tmp_path, table)
    assert prepared.ids == ("a", "b") and prepared.reading.constant == ("y of b",)
    assert prepared.refused == {"c": "no target value at all."}
    assert "c,no target value" in (tmp_path / "prepared/refused.csv").read_text()


def test_codes_for_missing_values(tmp_path: Path) -> None:
    table = BASE.assign(other=RNG.random(N) * 900)
    table.loc[[4, 5, 6, 90], "y"] = -200
    table.loc[[7, 8], "other"] = -200
    assert read(tmp_path, table).reading.missing_codes == {"-200": 6}
    assert read(tmp_path, table, missing=()).reading.missing_codes == {}
    assert read(tmp_path, table, missing=(-200.0, VALUES[0])).reading.missing_codes["-200"] == 6
    cold = BASE.assign(y=np.where(np.arange(N) % 9, VALUES * 100, -99))  # -99 is a value among others here
    assert read(tmp_path, cold).reading.missing_codes == {}


def test_mixed_offsets_are_moved_to_utc_and_shown_in_the_named_zone(tmp_path: Path) -> None:
    berlin = pd.date_range("2021-10-28", periods=N, freq="h", tz="Europe/Berlin")
    table = BASE.assign(date=[stamp.isoformat() for stamp in berlin])
    prepared = read(tmp_path, table)
    assert prepared.reading.zone == "UTC" and "2 offsets" in prepared.reading.warnings[0]
    assert not prepared.reading.gap_steps and arrays(prepared)["start"] == berlin[0].as_unit("ns").value
    assert read(tmp_path, table, zone="Europe/Berlin").reading.first == "2021-10-28 00:00:00"
    naive = BASE.assign(date=berlin.tz_localize(None))
    assert read(tmp_path, naive, zone="Europe/Berlin").reading.conflicting_rows == 0
    assert read(tmp_path, naive).reading.conflicting_rows == 2


def test_days_of_a_zone_with_summer_time_are_regular(tmp_path: Path) -> None:
    days = pd.date_range("2021-01-01", periods=N, freq="D", tz="Europe/Berlin")
    prepared = read(tmp_path, BASE.assign(date=[d.isoformat() for d in days]), zone="Europe/Berlin")
    assert (prepared.reading.step, prepared.reading.moved, prepared.reading.gap_steps) == ("D", 0, 0)


def test_year_month_day_and_hour_in_columns_of_their_own(tmp_path: Path) -> None:
    table = pd.DataFrame({"No": np.arange(1, N + 1), "year": HOURS.year, "month": HOURS.month, "day": HOURS.day,
                          "hour": HOURS.hour, "pm2.5": VALUES})  # fmt: skip
    prepared = read(tmp_path, table)
    assert columns(prepared)["targets"] == ["pm2.5"] and prepared.reading.step == "h"


def test_codes_of_digits_and_letters_are_words_and_flags_are_no_targets(tmp_path: Path) -> None:
    table = pd.DataFrame({"date": HOURS, "kW": VALUES, "state": np.resize(["0", "0", "a", "0", "a"], N),
                          "open": np.arange(N) % 7 > 0, "kind": np.resize(["x", None, "y", "y", "x"], N)})  # fmt: skip
    prepared = read(tmp_path, table)
    assert columns(prepared)["targets"] == ["kW"]
    assert columns(prepared)["observed"] == ["state=0", "state=a", "open", "kind=x", "kind=y"]
    stored = arrays(prepared)["observed"]
    np.testing.assert_array_equal(stored[:3, :2], [[1, 0], [1, 0], [0, 1]])
    np.testing.assert_array_equal(stored[:3, 3:], [[1, 0], [np.nan, np.nan], [0, 1]])
    table["list"] = [[1, 2]] * N
    table.to_parquet(tmp_path / "nested.parquet")
    assert prepare(tmp_path / "nested.parquet", ColumnsConfig(), tmp_path / "b").reading.names("dropped") == ("list",)


@pytest.mark.parametrize(("rule", "how"), [("auto", "mean"), ("sum", "sum")])
@pytest.mark.parametrize(("step", "frequency"), [("D", "D"), ("W", "W-MON"), ("MS", "MS"), ("ME", "ME"), ("QS", "QS")])
def test_a_longer_step_gathers_rows_as_pandas_resamples(
    tmp_path: Path, step: str, frequency: str, rule: str, how: str
) -> None:
    moments = pd.date_range("2020-01-05", periods=900, freq="6h")
    table = pd.DataFrame({"date": moments, "y": RNG.normal(size=900)})
    prepared = read(tmp_path, table, step=step, duplicates=rule)
    sides = {"closed": "left", "label": "left"} if step == "W" else {}
    wanted = table.set_index("date")["y"].resample(frequency, **sides).agg(how)
    stored = arrays(prepared)
    np.testing.assert_allclose(stored["targets"][:, 0], wanted)
    assert stored["start"] == wanted.index[0].as_unit("ns").value
    assert f"the {how} of the rows within it" in prepared.reading.step_reason


def test_a_folder_of_files_and_a_parquet_file(tmp_path: Path) -> None:
    folder = tmp_path / "many"
    folder.mkdir()
    BASE.to_csv(folder / "one.csv", index=False)
    BASE.iloc[:50].to_parquet(folder / "two.parquet")
    prepared = prepare(folder, ColumnsConfig(), tmp_path / "prepared")
    assert prepared.ids == ("one", "two") and prepared.reading.shortest == 50
    np.testing.assert_array_equal(arrays(prepared, 1)["targets"][:, 0], VALUES[:50])
    BASE.rename(columns={"y": "z"}).to_csv(folder / "three.csv", index=False)
    with pytest.raises(PenstockError, match="expected the same columns"):
        prepare(folder, ColumnsConfig(), tmp_path / "prepared")
    (tmp_path / "empty").mkdir()
    with pytest.raises(PenstockError, match="there are none"):
        prepare(tmp_path / "empty", ColumnsConfig(), tmp_path / "prepared")
    with pytest.raises(PenstockError, match="is missing"):
        prepare(tmp_path / "nowhere", ColumnsConfig(), tmp_path / "prepared")


def test_columns_are_given_one_role() -> None:
    with pytest.raises(ConfigError, match="a column has one role"):
        ColumnsConfig(target=("y",), known=("y",))
    with pytest.raises(ConfigError, match="column of the date"):
        ColumnsConfig(clock="hr")


def test_exact_terms_are_found_and_chance_is_not() -> None:
    a, b, c = RNG.normal(size=(3, 400))
    assert exact_terms(a + 2 * b + 5, {"a": a, "b": b, "c": c}) == pytest.approx({"a": 1, "b": 2})
    assert exact_terms(a + b + 1e-3 * RNG.normal(size=400), {"a": a, "b": b}) == {}
    assert exact_terms(a[:12], dict(enumerate(RNG.normal(size=(10, 12))))) == {}  # type: ignore[arg-type]


def test_synthetic_series_are_stored_as_they_are_made(tmp_path: Path) -> None:
    config = SyntheticForecastConfig(series=5, steps=300, ahead=24)
    prepared = prepare(config, ColumnsConfig(), tmp_path)
    assert len(prepared.ids) == 5 and prepared.reading.ahead == {"promotion": 24, "price": 24}
    for name, value in generate(config, 3).items():
        np.testing.assert_array_equal(arrays(prepared, 3)[name], value)
    assert Reading.from_json(prepared.reading.to_json()) == prepared.reading


@pytest.mark.skipif(not SHARED.exists(), reason="no shared data sets")
class TestSharedTables:
    """Public tables, read without a single option."""

    @staticmethod
    def read(name: str, folder: Path) -> Prepared:
        return prepare(SHARED / name, ColumnsConfig(), folder)

    def test_transformer_temperature(self, tmp_path: Path) -> None:
        prepared = self.read("ETTh1.csv", tmp_path)
        assert columns(prepared)["targets"] == ["HUFL", "HULL", "MUFL", "MULL", "LUFL", "LULL", "OT"]
        wanted = np.loadtxt(SHARED / "ETTh1.csv", delimiter=",", skiprows=1, usecols=range(1, 8))
        np.testing.assert_array_equal(arrays(prepared)["targets"], wanted)
        assert prepared.reading.step == "h" and not prepared.reading.warnings

    def test_electricity_prices(self, tmp_path: Path) -> None:
        prepared = self.read("EPF_NP.csv", tmp_path)
        assert columns(prepared)["targets"] == ["OT"]
        assert columns(prepared)["known"] == ["Grid load forecast", "Wind power forecast"]

    def test_air_quality(self, tmp_path: Path) -> None:
        prepared = self.read("air_quality_uci.csv", tmp_path)
        assert prepared.reading.missing_codes == {"-200": 16701}
        assert prepared.reading.first == "2004-03-10 18:00:00" and prepared.reading.step == "h"
        assert not prepared.reading.gap_steps

    def test_rented_bikes(self, tmp_path: Path) -> None:
        prepared = self.read("bike_sharing_hour.csv", tmp_path)
        reading = prepared.reading
        assert columns(prepared)["targets"] == ["cnt"] and reading.last == "2012-12-31 23:00:00"
        assert (reading.gap_steps, reading.longest_gap) == (165, 36)
        assert any("cnt = casual + registered" in warning for warning in reading.warnings)
        assert reading.names("clock") == ("hr",) and not {"casual", "registered"} & set(columns(prepared)["known"])
