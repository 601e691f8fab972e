"""Windows by time: the published counts, and the law that nothing trained on lies after what is tested on."""

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data.errors import ConfigError
from data.forecast.time_split import SPLITS, Spans, TimeSplitConfig, WindowIndex, spans

ETT = TimeSplitConfig(rows=(8640, 2880, 2880))


def anchors(golden: Path) -> Iterator[tuple[str, int, int, int, dict[str, int]]]:
    found = json.loads((golden / "forecast" / "protocol_anchors.json").read_text())["datasets"]
    for name, dataset in found.items():
        for sizes, counts in dataset["windows"].items():
            look_back, horizon = map(int, sizes.split("->"))
            yield name, dataset["rows"], look_back, horizon, counts


@pytest.mark.golden
def test_window_counts_are_those_of_the_published_protocol(golden: Path) -> None:
    seen = 0
    for name, rows, look_back, horizon, counts in anchors(golden):
        config = ETT if name.startswith("ETTh") else TimeSplitConfig()
        split = spans(np.array([rows]), look_back, horizon, config)
        found = {"train": len(split.train), "val": len(split.validation), "test": len(split.test)}
        assert found == {key: counts[key] for key in found}, (name, look_back, horizon)
        seen += 1
    assert seen >= 20


@settings(max_examples=200, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 400), min_size=1, max_size=6),
    look_back=st.integers(1, 60),
    horizon=st.integers(1, 30),
    shares=st.sampled_from([(0.1, 0.2), (0.0, 0.2), (0.3, 0.0), (0.0, 0.0), (0.25, 0.25)]),
)
def test_no_window_of_a_split_predicts_rows_of_another(
    lengths: list[int], look_back: int, horizon: int, shares: tuple[float, float]
) -> None:
    config = TimeSplitConfig(validation=shares[0], test=shares[1])
    try:
        split = spans(np.array(lengths), look_back, horizon, config)
    except ConfigError as error:
        assert "no series is long enough" in str(error)
        return
    for item, length in enumerate(lengths):
        begin = 0
        for name, end in zip(SPLITS, (split.train_ends, split.validation_ends, split.test_ends), strict=True):
            origins = range(split[name].first[item], split[name].stop[item])
            if item in split.refused:
                assert not origins
                continue
            assert end[item] <= length
            for origin in origins:
                assert begin <= origin
                assert origin + horizon <= end[item]
            # Nothing is left out either: the last window ends where its rows end.
            assert not origins or origins[-1] + horizon == end[item]
            begin = int(end[item])
        if item not in split.refused:
            assert len(range(split.train.first[item], split.train.stop[item]))
            assert begin == length
            for name, share in (("validation", shares[0]), ("test", shares[1])):
                assert (split[name].stop[item] > split[name].first[item]) == bool(share)


def test_full_windows_are_taken_where_there_are_any_and_padded_ones_where_not() -> None:
    split = spans(np.array([1000, 150, 60, 40]), 96, 24, TimeSplitConfig())
    assert list(split.train.first[:3]) == [96, 12, 12]  # 96 / 8 = 12 steps are enough for a short series
    assert list(split.train.stop[:2]) == [700 - 24 + 1, 150 - 24 - 30 - 24 + 1]
    assert sorted(split.refused) == [2, 3]
    assert split.refused[2] == "60 rows leave 12 for training, a window needs 36 (12 to see, 24 to predict)"
    assert len(spans(np.array([100]), 96, 24, TimeSplitConfig(validation=0, least=40)).train) == 13


def test_given_rows_leave_the_rest_of_the_file_and_refuse_shorter_series() -> None:
    split = spans(np.array([17420, 14399]), 96, 96, ETT)
    assert (split.test.stop[0], split.test_ends[0]) == (14400 - 96 + 1, 14400)
    assert split.refused == {1: "14399 rows, the split needs 14400"}
    assert split.train_ends[1] == 0


@pytest.mark.parametrize(
    "values", [{"validation": 0.5, "test": 0.5}, {"test": -0.1}, {"rows": (0, 5, 5)}, {"rows": (5, 5)}, {"least": 0}]
)
def test_senseless_splits_are_refused(values: dict[str, object]) -> None:
    with pytest.raises(ConfigError):
        TimeSplitConfig(**values)  # type: ignore[arg-type]


@settings(max_examples=100, deadline=None)
@given(
    bounds=st.lists(st.tuples(st.integers(0, 30), st.integers(0, 40)), min_size=1, max_size=8),
    stride=st.integers(1, 7),
)
def test_the_index_numbers_all_windows_in_order(bounds: list[tuple[int, int]], stride: int) -> None:
    listed = [(item, origin) for item, (first, stop) in enumerate(bounds) for origin in range(first, stop, stride)]
    index = WindowIndex(Spans(*np.array(bounds).T), stride)
    assert len(index) == len(listed)
    numbers = np.random.default_rng(0).permutation(len(listed))
    items, origins = index.locate(numbers)
    assert [(int(i), int(o)) for i, o in zip(items, origins, strict=True)] == [listed[n] for n in numbers]
