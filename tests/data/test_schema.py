"""The tables: what they refuse, and the page printed from them."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from data.errors import SchemaError
from data.schema import Array, Attribute, FileKind, check_attributes, check_item, markdown

KIND = FileKind(
    "test.kind",
    1,
    "For tests.",
    {
        "points": Array("point* xyz=3", "float32", "cube", "positions"),
        "weight": Array("point*", "float64", "1", "one per point", optional=True),
        "latent": Array("token channel", "float32", "1", "tokens"),
        "gate": Array("token", "bool", "1", "one per token"),
        "label": Array("", "int32", "1", "class"),
        "treatment": Array("", "str", "1", "what was done"),
    },
    {"scale": Attribute("float64", "a factor"), "name": Attribute("str", "a name")},
)


def item(points: int = 5, tokens: int = 2) -> dict[str, object]:
    return {
        "points": np.zeros((points, 3), np.float32),
        "weight": np.zeros(points),
        "latent": np.zeros((tokens, 4), np.float32),
        "gate": np.ones(tokens, bool),
        "label": 3,
        "treatment": "as-is",
    }


def test_an_item_comes_back_in_the_dtypes_of_the_table() -> None:
    checked = check_item(KIND, item(), {})
    assert {name: str(value.dtype) for name, value in checked.items() if name != "treatment"} == {
        "points": "float32",
        "weight": "float64",
        "latent": "float32",
        "gate": "bool",
        "label": "int32",
    }
    assert checked["label"].shape == ()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"points": np.zeros((5, 2), np.float32)}, "axis 'xyz'.*length 2, expected 3"),
        ({"points": np.zeros((5, 3, 1), np.float32)}, "got 3 axes"),
        ({"points": np.zeros((5, 3))}, "expected dtype float32, got float64"),
        ({"weight": np.zeros(6)}, "axis 'point'.*length 6, expected 5"),
        ({"gate": np.ones(3, bool)}, "axis 'token'.*length 2, expected 3"),
        ({"gate": np.ones(2, np.uint8)}, "expected dtype bool, got uint8"),
        ({"label": 2**40}, "expected dtype int32"),
        ({"label": 1.5}, "expected dtype int32, got float64"),
        ({"treatment": b"bytes"}, "expected one string"),
        ({"colour": np.zeros(3)}, r"unknown=\['colour'\]"),
    ],
)
def test_an_item_that_does_not_fit_is_refused_with_the_reason(change: dict[str, object], message: str) -> None:
    with pytest.raises(SchemaError, match=message):
        check_item(KIND, {**item(), **change}, {})


def test_a_missing_array_is_refused_and_an_optional_one_is_not() -> None:
    arrays = item()
    del arrays["weight"]
    check_item(KIND, arrays, {})
    del arrays["points"]
    with pytest.raises(SchemaError, match=r"missing=\['points'\]"):
        check_item(KIND, arrays, {})


def test_ragged_axes_may_differ_between_items_and_plain_ones_may_not() -> None:
    sizes: dict[str, int] = {}
    check_item(KIND, item(points=5, tokens=2), sizes)
    check_item(KIND, item(points=9, tokens=2), sizes)
    with pytest.raises(SchemaError, match="axis 'token'"):
        check_item(KIND, item(points=9, tokens=3), sizes)


@pytest.mark.parametrize(
    "change", [{"scale": "1"}, {"scale": True}, {"name": 3}, {"name": "a\0"}, {"other": 1}, {"name": None}]
)
def test_attributes_of_another_type_or_name_are_refused(change: dict[str, object]) -> None:
    with pytest.raises(SchemaError, match=next(iter(change))):
        check_attributes(KIND, {"scale": 1.0, "name": "x", **change})


def test_attributes_come_back_as_plain_values() -> None:
    assert check_attributes(KIND, {"scale": 2, "name": "x"}) == {"scale": 2.0, "name": "x"}
    assert type(check_attributes(KIND, {"scale": np.float32(0.5), "name": "x"})["scale"]) is float


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Array("point", "float16", "1", ""), "float16"),
        (lambda: Array("xyz=3 point*", "float32", "1", ""), "only the first axis"),
        (lambda: Array("word", "str", "1", ""), "one string per item"),
        (lambda: Attribute("list", ""), "list"),
        (lambda: FileKind("k", 1, "", {"ids": Array("", "int32", "1", "")}), "ids"),
        (lambda: FileKind("k", 1, "", {"a/b": Array("", "int32", "1", "")}), "a/b"),
        (lambda: FileKind("k", 1, "", {}, {"fingerprint": Attribute("str", "")}), "fingerprint"),
    ],
)
def test_a_table_that_cannot_be_stored_is_refused(make: object, message: str) -> None:
    with pytest.raises(SchemaError, match=message):
        make()  # type: ignore[operator]


def test_the_page_names_every_array_and_attribute() -> None:
    page = markdown([KIND])
    for name, row in KIND.arrays.items():
        line = next(line for line in page.splitlines() if line.startswith(f"| `{name}`"))
        assert row.axes in line and row.dtype in line and row.unit in line and row.meaning in line
        assert ("(optional)" in line) == row.optional
    assert all(f"| `{name}`" in page for name in KIND.attributes)


def test_the_page_in_docs_is_the_one_printed_from_the_tables() -> None:
    """In a process of its own: here the tables of a test's domain may be on the path too."""
    root = Path(__file__).resolve().parents[2]
    printed = subprocess.run(
        [sys.executable, "-m", "data.schema"], cwd=root, capture_output=True, text=True, check=True
    ).stdout
    assert (root / "docs" / "data-format.md").read_text(encoding="utf-8") == printed, (
        "a table under data/ has changed; print the page again: python -m data.schema > docs/data-format.md"
    )
