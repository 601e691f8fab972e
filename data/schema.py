"""One table per kind of stored file: writer, reader, checker and `docs/data-format.md` all work from it.

`python -m data.schema` prints the page; a test keeps `docs/data-format.md` equal to it.
"""

import importlib
import pkgutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from data.errors import SchemaError

DTYPES = ("bool", "uint8", "int32", "int64", "float32", "float64", "str")
ATTRIBUTE_TYPES: dict[str, type] = {"str": str, "int64": int, "float64": float, "bool": bool}
RESERVED_NAMES = ("ids", "spans")
RESERVED_ATTRIBUTES = ("kind", "version", "fingerprint")


@dataclass(frozen=True)
class Axis:
    """One axis of an array: `xyz=3` has a fixed length, `point*` differs per item, `token` is equal in the file."""

    name: str
    length: int | None
    ragged: bool

    @classmethod
    def parse(cls, text: str) -> "Axis":
        name, _, length = text.partition("=")
        return cls(name.rstrip("*"), int(length) if length else None, name.endswith("*"))


@dataclass(frozen=True)
class Array:
    """One array of an item.

    `axes` names the axes of ONE item, without the leading item axis: `"point* channel=6"`, `"token channel"`, or `""`
    for one number (or one string) per item. `name=3` (or a bare `3`) is a fixed length, `name*` differs from item to
    item, any other name has one length in the whole file; equal names have equal lengths.
    """

    axes: str
    dtype: str
    unit: str
    meaning: str
    optional: bool = False

    def __post_init__(self) -> None:
        if self.dtype not in DTYPES:
            raise SchemaError(f"dtype '{self.dtype}' cannot be stored; use one of {', '.join(DTYPES)}.")
        if any(axis.ragged for axis in self.parsed[1:]):
            raise SchemaError(f"axes '{self.axes}': only the first axis may be ragged (end in '*').")
        if self.dtype == "str" and self.axes:
            raise SchemaError(f"axes '{self.axes}': a str array holds one string per item, write axes=''.")

    @property
    def parsed(self) -> tuple[Axis, ...]:
        words = self.axes.split()
        return tuple(Axis(word, int(word), False) if word.isdigit() else Axis.parse(word) for word in words)

    @property
    def ragged(self) -> str | None:
        """Name of the ragged axis, None where every item has the same shape."""
        axes = self.parsed
        return axes[0].name if axes and axes[0].ragged else None


@dataclass(frozen=True)
class Attribute:
    """One value that holds for the whole file: `str`, `int64`, `float64` or `bool`."""

    dtype: str
    meaning: str
    unit: str = "1"

    def __post_init__(self) -> None:
        if self.dtype not in ATTRIBUTE_TYPES:
            raise SchemaError(f"attribute type '{self.dtype}' is unknown; use one of {', '.join(ATTRIBUTE_TYPES)}.")


@dataclass(frozen=True)
class FileKind:
    """A kind of stored file: `arrays` per item, `attributes` per file. Raise `version` when either changes."""

    name: str
    version: int
    meaning: str
    arrays: Mapping[str, Array]
    attributes: Mapping[str, Attribute] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in self.arrays:
            if name in RESERVED_NAMES or "/" in name or not name:
                raise SchemaError(f"{self.name}: an array cannot be called '{name}'.")
        for name in self.attributes:
            if name in RESERVED_ATTRIBUTES:
                raise SchemaError(f"{self.name}: an attribute cannot be called '{name}'.")


def check_shape(name: str, array: Array, shape: tuple[int, ...], sizes: dict[str, int]) -> None:
    """Compare the shape of one item's array with its row of the table.

    `sizes` remembers axis lengths: pass one dictionary per file for the plain axes. Ragged axes are remembered under
    `axis*`, and the caller forgets them between items.

    Raises:
        SchemaError: another number of axes, or an axis of another length than the table or another array says.
    """
    axes = array.parsed
    if len(axes) != len(shape):
        raise SchemaError(f"'{name}': expected axes ({array.axes}), got {len(shape)} axes {shape}.")
    for axis, length in zip(axes, shape, strict=True):
        key = f"{axis.name}*" if axis.ragged else axis.name
        expected = axis.length if axis.length is not None else sizes.setdefault(key, length)
        if length != expected:
            raise SchemaError(
                f"'{name}': axis '{axis.name}' of ({array.axes}) has length {length}, expected {expected}."
            )


def check_item(kind: FileKind, arrays: Mapping[str, Any], sizes: dict[str, int]) -> dict[str, np.ndarray]:
    """The arrays of one item as numpy arrays of the table's dtypes, checked against `kind`.

    A dtype is changed only where no value can change (float32 to float64, an int that fits); otherwise it is refused.

    Raises:
        SchemaError: an array is missing, unknown, of another dtype or shape.
    """
    unknown = sorted(set(arrays) - set(kind.arrays))
    missing = sorted(name for name, row in kind.arrays.items() if not row.optional and name not in arrays)
    if unknown or missing:
        raise SchemaError(f"an item of '{kind.name}' has arrays {', '.join(kind.arrays)}; {missing=}, {unknown=}.")
    for key in [key for key in sizes if key.endswith("*")]:
        del sizes[key]
    checked = {}
    for name in sorted(arrays):
        row = kind.arrays[name]
        value = np.asarray(arrays[name])
        if row.dtype == "str":
            if value.ndim or value.dtype.kind != "U" or "\0" in str(value):
                raise SchemaError(f"'{name}': expected one string without null characters, got {arrays[name]!r}.")
        elif not np.can_cast(value.dtype, row.dtype, casting="safe"):
            cast = value.astype(row.dtype) if value.dtype.kind in "iub" and row.dtype != "bool" else None
            if cast is None or not np.array_equal(cast, value):
                raise SchemaError(
                    f"'{name}': expected dtype {row.dtype}, got {value.dtype}; convert it before storing."
                )
        check_shape(name, row, value.shape, sizes)
        checked[name] = (
            value if row.dtype == "str" else np.ascontiguousarray(value, dtype=row.dtype).reshape(value.shape)
        )
    return checked


def check_attributes(kind: FileKind, attributes: Mapping[str, Any]) -> dict[str, str | int | float | bool]:
    """The attributes as plain Python values of the table's types.

    Raises:
        SchemaError: an attribute is missing, unknown, or of another type.
    """
    missing = sorted(set(kind.attributes) - set(attributes))
    unknown = sorted(set(attributes) - set(kind.attributes))
    if missing or unknown:
        raise SchemaError(
            f"attributes of '{kind.name}': {', '.join(kind.attributes) or 'none'}; {missing=}, {unknown=}."
        )
    checked: dict[str, str | int | float | bool] = {}
    for name in sorted(attributes):
        value: Any = attributes[name]
        value = value.item() if isinstance(value, np.generic) else value
        expected = ATTRIBUTE_TYPES[kind.attributes[name].dtype]
        if expected is float and type(value) is int:
            value = float(value)
        found: type = type(value)
        if found is not expected:  # not isinstance: True is an int, and would be stored as another type
            raise SchemaError(f"attribute '{name}': expected {expected.__name__}, got {value!r}.")
        if expected is str and "\0" in value:
            raise SchemaError(f"attribute '{name}': a null character cannot be stored, got {value!r}.")
        checked[name] = value
    return checked


def declared_kinds() -> list[FileKind]:
    """Every FileKind declared at the top level of a module under `data/`, by name."""
    import data

    found: dict[str, FileKind] = {}
    for module in pkgutil.walk_packages(data.__path__, "data."):
        for value in vars(importlib.import_module(module.name)).values():
            if isinstance(value, FileKind):
                found[value.name] = value
    return [found[name] for name in sorted(found)]


PREAMBLE = """# Data format

This page is printed from the tables in `data/` by `python -m data.schema > docs/data-format.md`; a test keeps it equal.

Every prepared file is HDF5 (format 1.10, so that its metadata is checksummed too), written to a temporary name and
renamed when complete. The root group holds:

| name | what |
| --- | --- |
| attribute `kind`, `version` | which table below the file follows |
| attribute `fingerprint` | SHA-256 (hex) of kind, version, attributes, ids and values, whatever the compression |
| `ids` | `[item]`, UTF-8 strings of fixed length, one id per item, no two alike |
| `spans/<axis>` | `[item, 2]` int64, per ragged axis: first and end row of the item in each array with that axis |
| one dataset per array | `[item, axes...]`, or `[row, axes...]` where the first axis is ragged (`*`) |

Axes: `name=3` has that length, `name*` differs from item to item, any other name has one length in the whole file;
equal names have equal lengths. Numbers are little-endian. A chunk holds rows of one item only, except that items below
16 KiB share one. Every dataset carries Fletcher-32 checksums and uses no filter but gzip, lzf, shuffle and Fletcher-32.
Readers refuse soft and external links, external storage, virtual datasets, other filters, and what the table does not
name.
"""


def markdown(kinds: Iterable[FileKind]) -> str:
    """The page `docs/data-format.md`: one section per kind."""
    lines = [PREAMBLE]
    for kind in kinds:
        lines += [f"## `{kind.name}`, version {kind.version}", "", kind.meaning, ""]
        lines += ["| array | axes | dtype | unit | meaning |", "| --- | --- | --- | --- | --- |"]
        for name, row in kind.arrays.items():
            meaning = f"{row.meaning} (optional)" if row.optional else row.meaning
            lines.append(f"| `{name}` | {f'`{row.axes}`' if row.axes else ''} | {row.dtype} | {row.unit} | {meaning} |")
        lines.append("")
        if kind.attributes:
            lines += ["| attribute | type | unit | meaning |", "| --- | --- | --- | --- |"]
            lines += [f"| `{n}` | {a.dtype} | {a.unit} | {a.meaning} |" for n, a in kind.attributes.items()]
            lines.append("")
    return "\n".join(lines)


if __name__ == "__main__":
    # Run as a script this file is a second module, whose FileKind is not the one that `data.shape` declares with.
    from data import schema

    print(schema.markdown(schema.declared_kinds()), end="")
