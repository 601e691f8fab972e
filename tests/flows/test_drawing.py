"""Plots as SVG: points where they belong, gaps left open, names that do not cover each other."""

import math
import re
from xml.etree import ElementTree

import numpy as np

from flows.reporting.drawing import BOTTOM, LEFT, NAME_HEIGHT, TOP, Plot, ticks
from flows.steps.forecast_charts import fan_chart, gap_chart, horizon_chart, skill_chart


def texts(svg: str) -> list[tuple[float, float, str]]:
    """x, y and words of every text."""
    root = ElementTree.fromstring(svg)
    found = [one for one in root.iter() if one.tag.endswith("text")]
    return [(float(one.attrib["x"]), float(one.attrib["y"]), one.text or "") for one in found]


def test_corners_lie_on_the_axes() -> None:
    plot = Plot((2.0, 4.0), (-1.0, 3.0))
    assert plot.at(2, 3) == (LEFT, TOP)
    assert plot.at(4, -1) == (plot.width - plot.right, plot.height - BOTTOM)


def test_ticks_are_round_and_within() -> None:
    for low, high in ((0.0, 1.0), (-3.2, 17.0), (0.371, 0.383), (1e-6, 5e-6), (-4e5, 9e5)):
        found = ticks(low, high)
        assert 2 <= len(found) <= 7
        assert all(low - 1e-9 <= value <= high * (1 + 1e-9) for value in found)
        step = found[1] - found[0]
        assert float(f"{step / 10 ** math.floor(math.log10(step) + 1e-9):.3g}") in (1, 2, 5, 10)
    assert ticks(3, 3) == [3]


def test_a_line_is_broken_at_a_gap() -> None:
    plot = Plot((0, 3), (0, 1))
    plot.line([0, 1, 2, 3], [0, math.nan, 1, 1], "red")
    assert plot.svg().count("<polyline") == 2


def test_names_at_one_place_do_not_cover_each_other() -> None:
    svg = horizon_chart({name: [1.0, 1.0 + 1e-3 * k] for k, name in enumerate(("one", "two", "three"))})
    places = sorted(y for _, y, text in texts(svg) if text in ("one", "two", "three"))
    assert min(np.diff(places)) >= NAME_HEIGHT - 0.11


def test_what_users_call_their_series_is_text() -> None:
    svg = horizon_chart({"<script>&": [1.0, 2.0]})
    assert "<script>" not in svg
    assert any(text == "<script>&" for _, _, text in texts(svg))


def test_a_fan_holds_history_and_bands() -> None:
    history, quantiles = np.sin(np.arange(40.0)), np.tile([-1.0, -0.5, 0.0, 0.5, 1.0], (12, 1))
    history[5] = np.nan
    svg = fan_chart(history, quantiles, (0.05, 0.1, 0.5, 0.9, 0.95), ("a", "b", "c"), np.full(12, np.nan))
    assert svg.count("<polygon") == 2  # two intervals around the median
    assert svg.count("<polyline") == 3  # history before and after its gap, the median
    fan_chart(np.full(4, np.nan), np.full((2, 3), np.nan), (0.1, 0.5, 0.9), ("a", "b", "c"))


def test_skill_colours_say_on_which_side_of_the_floor() -> None:
    svg = skill_chart([("good", 0.3, 0.1, 0.5), ("bad", -0.3, -0.5, -0.1), ("who knows", 0.1, -0.1, 0.3)])
    colours = re.findall(r'circle [^>]*fill="(#\w+)"', svg)
    assert len(set(colours)) == 3


def test_a_filled_gap_is_drawn_through() -> None:
    measured = np.array([0.0, 1.0, np.nan, np.nan, 4.0])
    svg = gap_chart(measured, np.arange(5.0), 100)
    filled, *known = re.findall(r'points="([^"]+)"', svg)
    assert len(filled.split()) == 5
    assert [len(piece.split()) for piece in known] == [2, 1]
    assert {text for _, _, text in texts(svg)} >= {"100", "104", "step"}
