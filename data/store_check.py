"""What a stored file must look like before one value of it is read."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np

from data.errors import SchemaError
from data.schema import Array, FileKind, check_attributes, check_shape

ALLOWED_FILTERS = {
    h5py.h5z.FILTER_DEFLATE: "gzip",
    h5py.h5z.FILTER_SHUFFLE: "shuffle",
    h5py.h5z.FILTER_FLETCHER32: "fletcher32",
    h5py.h5z.FILTER_LZF: "lzf",
}
"""All built into h5py. Any other would make HDF5 look for a plug-in: a shared library, code."""
LARGEST_CHUNK = 64 * 1024 * 1024
"""Bytes. HDF5 holds a whole chunk in memory, and a hostile file may declare one of 4 GiB."""


@dataclass(frozen=True)
class Structure:
    """What a checked file holds, without its arrays."""

    ids: tuple[str, ...]
    attributes: Mapping[str, str | int | float | bool]
    fingerprint: str
    names: tuple[str, ...]
    spans: Mapping[str, np.ndarray]


def check_structure(path: Path, file: h5py.File, kind: FileKind) -> Structure:
    """Compare an open file with the table of its kind.

    Raises:
        SchemaError: another kind or version; arrays or attributes missing, unknown or ill-typed; links, external
            storage, virtual datasets or filters that reach outside the file.
    """
    attributes, fingerprint = _check_attributes(path, file, kind)
    datasets = _hard_linked(path, file, "")
    groups = [name for name, value in datasets.items() if not isinstance(value, h5py.Dataset)]
    known = {"ids", "spans", *kind.arrays}
    required = {"ids", "spans", *(name for name, row in kind.arrays.items() if not row.optional)}
    missing, unknown = sorted(required - set(datasets)), sorted(set(datasets) - known)
    if missing or unknown or groups != ["spans"]:
        raise SchemaError(
            f"{path}: expected the arrays of '{kind.name}' ({', '.join(sorted(known))}), got {missing=}, {unknown=}, "
            f"groups={groups}. Prepare the data again with this version."
        )
    ids = _read_ids(path, datasets["ids"])
    names = tuple(name for name in kind.arrays if name in datasets)
    spans = _read_spans(path, file, kind, names, len(ids))
    sizes: dict[str, int] = {}
    for name in names:
        _check_array(path, name, datasets[name], kind.arrays[name], len(ids), spans, sizes)
    return Structure(ids, attributes, fingerprint, names, spans)


def _check_attributes(path: Path, file: h5py.File, kind: FileKind) -> tuple[dict[str, str | int | float | bool], str]:
    # Strings are stored with fixed length, which h5py gives back as bytes.
    stored = {name: value.decode() if isinstance(value, bytes) else value for name, value in file.attrs.items()}
    name, version, fingerprint = stored.pop("kind", None), stored.pop("version", None), stored.pop("fingerprint", None)
    version = int(version) if isinstance(version, np.integer) else version
    if name != kind.name or version != kind.version:
        raise SchemaError(
            f"{path}: expected kind '{kind.name}' version {kind.version}, got kind {name!r} version {version!r}. "
            "Give the right file, or prepare the data again with this version."
        )
    if not isinstance(fingerprint, str) or not re.fullmatch("[0-9a-f]{64}", fingerprint):
        raise SchemaError(f"{path}: expected a SHA-256 fingerprint, got {fingerprint!r}. Prepare the data again.")
    try:
        return check_attributes(kind, stored), fingerprint
    except SchemaError as error:
        raise SchemaError(f"{path}: {error} Prepare the data again.") from None


def _hard_linked(path: Path, group: h5py.Group, where: str) -> dict[str, h5py.HLObject]:
    """The members of a group, each checked to lie in this file."""
    members = {}
    for name in group:
        link = group.get(name, getlink=True)
        if not isinstance(link, h5py.HardLink):
            kind = "an external link" if isinstance(link, h5py.ExternalLink) else "a soft link"
            raise SchemaError(
                f"{path}: '{where}{name}' is {kind}. Prepared files hold their own data: links could reach "
                "other files and are refused. Prepare the data again."
            )
        members[name] = group[name]
        if isinstance(members[name], h5py.Dataset):
            _check_storage(path, where + name, members[name])
    return members


def _check_storage(path: Path, name: str, dataset: h5py.Dataset) -> None:
    """Refuse storage that reaches outside the file, needs foreign code, has no checksum, or is partly missing."""
    plist = dataset.id.get_create_plist()
    filters = [plist.get_filter(position)[0] for position in range(plist.get_nfilters())]
    foreign = [code for code in filters if code not in ALLOWED_FILTERS]
    problem = None
    if dataset.is_virtual:
        problem = "is a virtual dataset, whose values may lie in other files"
    elif plist.get_external_count():
        problem = "has external storage: its values lie in other files"
    elif foreign:
        problem = (
            f"uses HDF5 filter {foreign[0]}, which needs a plug-in; allowed: {', '.join(ALLOWED_FILTERS.values())}"
        )
    elif dataset.chunks is None or h5py.h5z.FILTER_FLETCHER32 not in filters:
        problem = "has no Fletcher-32 checksum"
    elif dataset.dtype.hasobject or dataset.dtype.kind not in "biufS" or dataset.dtype.subdtype is not None:
        problem = f"has type {dataset.dtype}, which no table uses"
    elif int(np.prod(dataset.chunks, dtype=object)) * dataset.dtype.itemsize > LARGEST_CHUNK:
        problem = f"has chunks {dataset.chunks} of more than {LARGEST_CHUNK} bytes"
    else:
        pairs = zip(dataset.shape, dataset.chunks, strict=True)
        expected = int(np.prod([-(-length // chunk) for length, chunk in pairs], dtype=object))
        if dataset.id.get_num_chunks() != expected:
            problem = f"holds {dataset.id.get_num_chunks()} of its {expected} chunks"
    if problem:
        raise SchemaError(f"{path}: dataset '{name}' {problem}. Refused; prepare the data again.")


def _read_ids(path: Path, dataset: h5py.Dataset) -> tuple[str, ...]:
    if dataset.ndim != 1 or dataset.dtype.kind != "S" or not len(dataset):
        raise SchemaError(
            f"{path}: 'ids' is {dataset.dtype} {dataset.shape}, expected at least one fixed-length string."
        )
    ids = tuple(raw.decode() for raw in dataset[()])
    if len(set(ids)) != len(ids):
        raise SchemaError(f"{path}: item ids are not unique. Prepare the data again.")
    return ids


def _read_spans(
    path: Path, file: h5py.File, kind: FileKind, names: tuple[str, ...], items: int
) -> dict[str, np.ndarray]:
    stored = _hard_linked(path, file["spans"], "spans/")
    expected = {kind.arrays[name].ragged for name in names} - {None}
    if set(stored) != expected:
        raise SchemaError(f"{path}: expected spans of the axes {expected}, got {set(stored)}. Prepare the data again.")
    spans = {}
    for axis, dataset in stored.items():
        if not isinstance(dataset, h5py.Dataset) or dataset.dtype != np.dtype("<i8") or dataset.shape != (items, 2):
            raise SchemaError(f"{path}: 'spans/{axis}' is not int64 [{items}, 2]. Prepare the data again.")
        rows = dataset[()]
        flat = rows.ravel()
        if flat[0] < 0 or np.any(np.diff(flat) < 0):
            raise SchemaError(f"{path}: 'spans/{axis}' is not a list of rows in growing order. Prepare the data again.")
        spans[axis] = rows
    return spans


def _check_array(
    path: Path,
    name: str,
    dataset: h5py.Dataset,
    row: Array,
    items: int,
    spans: Mapping[str, np.ndarray],
    sizes: dict[str, int],
) -> None:
    right_type = (
        dataset.dtype.kind == "S" if row.dtype == "str" else dataset.dtype == np.dtype(row.dtype).newbyteorder("<")
    )
    if not right_type:
        raise SchemaError(f"{path}: '{name}' has dtype {dataset.dtype}, expected {row.dtype}. Prepare the data again.")
    if not dataset.shape:
        raise SchemaError(f"{path}: '{name}' is a single value, expected one per item. Prepare the data again.")
    if row.ragged is None:
        leading, shape = items, dataset.shape[1:]
    else:
        # The length of the ragged axis differs per item: any length stands for it here.
        leading, shape = int(spans[row.ragged][-1, 1]), (0, *dataset.shape[1:])
        sizes.pop(f"{row.ragged}*", None)
    if dataset.shape[0] != leading:
        raise SchemaError(f"{path}: '{name}' has {dataset.shape[0]} rows, expected {leading}. Prepare the data again.")
    try:
        check_shape(name, row, shape, sizes)
    except SchemaError as error:
        raise SchemaError(f"{path}: {error} Prepare the data again.") from None
