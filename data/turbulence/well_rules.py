"""The rules of The Well's HDF5 layout, and that a file keeps all of its own data.

Restated from the specification at https://polymathic-ai.org/the_well (Ohana et al., arXiv:2412.00568) and from what its
own format checker asks for.
"""

from collections.abc import Callable, Iterator, Sequence
from itertools import product
from pathlib import Path

import h5py
import numpy as np

from data.errors import ConfigError
from data.store_check import ALLOWED_FILTERS, LARGEST_CHUNK

ORDERS = ("t0_fields", "t1_fields", "t2_fields")
"""Groups of scalars, vectors and tensors; the position is the number of component axes."""
RESERVED = ("dataset_name", "grid_type", "n_spatial_dims", "n_trajectories", "simulation_parameters", "fingerprint")
LENGTHS = "frames_of_trajectory"
"""Attribute of files whose trajectories do not all have as many frames; the missing frames are NaN."""

CONDITIONS = ("WALL", "OPEN", "PERIODIC")
DAMAGED = (OSError, KeyError, TypeError, ValueError, RuntimeError, AttributeError)
"""What h5py raises where a file is damaged, by the place of the damage."""
_REQUIRED: tuple[tuple[str, type | tuple[type, ...], str], ...] = (
    ("dataset_name", str, "a string"),
    ("grid_type", str, "a string"),
    ("n_spatial_dims", (int, np.integer), "an integer"),
    ("n_trajectories", (int, np.integer), "an integer"),
)


def violations(path: Path) -> list[str]:
    """The rules that a file breaks, one sentence each; none where it follows The Well's layout."""
    if not path.is_file():
        return ["there is no such file"]
    return _found(path, lambda file: list(_outside(file)) or list(_broken(file)))


def contained(path: Path) -> list[str]:
    """As `violations`, of the one rule that holds for all HDF5 files: the data lie in the file and need no plug-in."""
    return _found(path, lambda file: list(_outside(file)))


def _found(path: Path, look: Callable[[h5py.File], list[str]]) -> list[str]:
    try:
        with h5py.File(path, "r") as file:
            return look(file)
    except DAMAGED as error:
        reason = "it is a truncated or damaged HDF5 file" if h5py.is_hdf5(path) else "it is not an HDF5 file"
        return [f"{reason} ({str(error).splitlines()[0] if str(error) else error!r})"]


def names_of(holder: h5py.HLObject, attribute: str) -> list[str] | None:
    """An attribute that lists names; None where it does not."""
    value = holder.attrs.get(attribute)
    if not isinstance(value, np.ndarray | list | tuple):
        return None
    found = [name.decode() if isinstance(name, bytes) else name for name in np.asarray(value).tolist()]
    return found if all(isinstance(name, str) for name in found) else None


def flag(holder: h5py.HLObject, attribute: str) -> bool | None:
    """A true-or-false attribute; None where it is missing or something else."""
    value = holder.attrs.get(attribute)
    return bool(value) if isinstance(value, bool | np.bool_) else None


def component_names(name: str, order: int, axes: Sequence[str]) -> list[str]:
    """The components of a field of tensor order 0, 1 or 2: `p`, or `u_x`, `u_y`, …, or `t_xx`, `t_xy`, …"""
    return ["_".join(filter(None, (name, "".join(index)))) for index in product(axes, repeat=order)]


def fields_of(components: Sequence[str], axes: Sequence[str]) -> list[tuple[str, int]]:
    """The fields (name, tensor order) that components make up, in the layout's order.

    Raises:
        ConfigError: the components of a vector are not next to each other, or a scalar comes after a vector.
    """
    names, found = list(components), []
    while names:
        for order in (2, 1, 0):
            width = len(axes) ** order
            name = names[0][: -order - 1] if order else names[0]
            if name and names[:width] == component_names(name, order, axes):
                found.append((name, order))
                names = names[width:]
                break
    orders = [order for _, order in found]
    if not found or orders != sorted(orders) or len(set(found)) < len(found):
        raise ConfigError(
            f"components: expected different names, scalars first and then vectors as in The Well's layout, got "
            f"{', '.join(components) or 'none'}."
        )
    return found


def _outside(file: h5py.File) -> Iterator[str]:
    """What would have HDF5 read other files, run a plug-in, or take more memory than any file needs."""
    waiting: list[tuple[str, h5py.Group]] = [("", file)]
    seen = set()
    while waiting:
        where, group = waiting.pop()
        address = h5py.h5o.get_info(group.id).addr
        if address in seen:
            continue
        seen.add(address)
        for name in group:
            full = f"{where}/{name}"
            if not isinstance(group.get(name, getlink=True), h5py.HardLink):
                yield f"'{full}' is a link to another place; data must lie in the file itself"
                continue
            member = group[name]
            if isinstance(member, h5py.Group):
                waiting.append((full, member))
            elif isinstance(member, h5py.Dataset) and (problem := _storage(member)):
                yield f"'{full}' {problem}"


def _storage(dataset: h5py.Dataset) -> str | None:
    plist = dataset.id.get_create_plist()
    foreign = {plist.get_filter(k)[0] for k in range(plist.get_nfilters())} - set(ALLOWED_FILTERS)
    if dataset.is_virtual or plist.get_external_count():
        return "keeps its values in other files; data must lie in the file itself"
    if foreign:
        return f"needs the HDF5 filter {min(foreign)}; allowed are {', '.join(ALLOWED_FILTERS.values())}"
    if dataset.chunks and int(np.prod(dataset.chunks, dtype=object)) * dataset.dtype.itemsize > LARGEST_CHUNK * 16:
        return f"has chunks {dataset.chunks} of more than {LARGEST_CHUNK * 16} bytes"
    return None


def _broken(file: h5py.File) -> Iterator[str]:
    missing = False
    for name, kind, wanted in _REQUIRED:
        if not isinstance(file.attrs.get(name), kind) or isinstance(file.attrs.get(name), bool | np.bool_):
            missing = True
            yield f"the file must have the attribute '{name}', {wanted}; got {file.attrs.get(name)!r}"
    for name in ("dimensions", "boundary_conditions", "scalars", *ORDERS):
        if not isinstance(file.get(name), h5py.Group):
            missing = True
            yield f"the file must have the group '{name}'"
    if missing:
        return  # nothing more can be said of the rest
    yield from _parameters(file)
    dimensions = list(_dimensions(file))
    yield from dimensions
    if not dimensions:
        for order, name in enumerate(ORDERS):
            yield from _fields(file, name, order)
        if not any(names_of(file[name], "field_names") for name in ORDERS):
            yield "the file must have a field in t0_fields, t1_fields or t2_fields; it has none"
        yield from _scalars(file)
        yield from _boundaries(file)


def _parameters(file: h5py.File) -> Iterator[str]:
    names = names_of(file, "simulation_parameters")
    if names is None:
        yield "the file must have the attribute 'simulation_parameters', a list of names (it may be empty)"
    for name in names or []:
        if name not in file.attrs:
            yield f"every name in 'simulation_parameters' must be an attribute of the file; '{name}' is not"
    if file.attrs["grid_type"] not in ("cartesian", "spherical"):
        yield f"'grid_type' must be cartesian or spherical; got {file.attrs['grid_type']!r}"
    if file.attrs["n_trajectories"] < 1 or file.attrs["n_spatial_dims"] < 1:
        yield "'n_trajectories' and 'n_spatial_dims' must be at least 1"


def _dimensions(file: h5py.File) -> Iterator[str]:
    group = file["dimensions"]
    names = names_of(group, "spatial_dims")
    if names is None or len(names) != file.attrs["n_spatial_dims"]:
        yield f"'dimensions' must list n_spatial_dims = {file.attrs['n_spatial_dims']} 'spatial_dims'; got {names}"
        return
    for name in ("time", *names):
        dataset = group.get(name)
        if not isinstance(dataset, h5py.Dataset) or dataset.dtype.kind != "f":
            yield f"'dimensions' must hold '{name}', floating-point numbers"
            continue
        if flag(dataset, "sample_varying") is None:
            yield f"'dimensions/{name}' must have the attribute 'sample_varying', true or false"
            continue
        if name != "time" and flag(dataset, "time_varying") is None:
            yield f"'dimensions/{name}' must have the attribute 'time_varying', true or false"
        varying = bool(flag(dataset, "sample_varying"))
        if dataset.ndim != 1 + varying or (varying and dataset.shape[0] != file.attrs["n_trajectories"]):
            yield f"'dimensions/{name}' must be [trajectory if sample_varying][point]; got the shape {dataset.shape}"
        elif not np.isfinite(values := dataset[()]).all() or np.any(np.diff(values) <= 0):
            yield f"'dimensions/{name}' must be finite and increasing"


def _fields(file: h5py.File, group_name: str, order: int) -> Iterator[str]:
    group = file[group_name]
    names = names_of(group, "field_names")
    if names is None:
        yield f"'{group_name}' must have the attribute 'field_names', a list of names (it may be empty)"
    for name in names or []:
        where = f"{group_name}/{name}"
        dataset = group.get(name)
        if not isinstance(dataset, h5py.Dataset) or dataset.dtype.kind != "f":
            yield f"'{where}' is listed in 'field_names' and must be floating-point numbers"
            continue
        sizes = _sizes(file)
        axes = dataset.attrs.get("dim_varying")
        if not isinstance(axes, np.ndarray) or axes.dtype != bool or len(axes) != len(sizes):
            yield f"'{where}' must have the attribute 'dim_varying', true or false for each of {len(sizes)} axes"
            continue
        expected = _leading(file, dataset)
        if expected is None:
            yield f"'{where}' must have the attributes 'sample_varying' and 'time_varying', true or false"
            continue
        expected += tuple(size for size, varies in zip(sizes, axes, strict=True) if varies) + (len(sizes),) * order
        if dataset.shape != expected:
            yield f"'{where}' must have the shape {expected}; got {dataset.shape}"


def _scalars(file: h5py.File) -> Iterator[str]:
    names = names_of(file["scalars"], "field_names")
    if names is None:
        yield "'scalars' must have the attribute 'field_names', a list of names (it may be empty)"
    for name in names or []:
        dataset = file["scalars"].get(name)
        if not isinstance(dataset, h5py.Dataset):
            yield f"'scalars' lists '{name}' in 'field_names', which is not there"
        elif (expected := _leading(file, dataset)) is None:
            yield f"'scalars/{name}' must have the attributes 'sample_varying' and 'time_varying', true or false"
        elif dataset.shape != expected:
            yield f"'scalars/{name}' must have the shape {expected}; got {dataset.shape}"


def _boundaries(file: h5py.File) -> Iterator[str]:
    axes = dict(zip(names_of(file["dimensions"], "spatial_dims") or [], _sizes(file), strict=True))
    for name, group in file["boundary_conditions"].items():
        where = f"boundary_conditions/{name}"
        kind = group.attrs.get("bc_type")
        dims = names_of(group, "associated_dims")
        if not isinstance(kind, str) or kind.upper() not in CONDITIONS:
            yield f"'{where}' must have the attribute 'bc_type', one of {', '.join(CONDITIONS)}; got {kind!r}"
        if not dims or not set(dims) <= set(axes):
            yield f"'{where}' must list some of the axes {list(axes)} as 'associated_dims'; got {dims}"
        if "associated_fields" not in group.attrs:
            yield f"'{where}' must have the attribute 'associated_fields', a list (it may be empty)"
        leading = _leading(file, group)
        if leading is None:
            yield f"'{where}' must have the attributes 'sample_varying' and 'time_varying', true or false"
        elif dims and set(dims) <= set(axes):
            expected = leading + tuple(axes[dim] for dim in axes if dim in dims)
            mask = group.get("mask") if isinstance(group, h5py.Group) else None
            if not isinstance(mask, h5py.Dataset) or mask.dtype != bool or mask.shape != expected:
                yield f"'{where}' must hold 'mask', true or false of the shape {expected}"


def _leading(file: h5py.File, holder: h5py.HLObject) -> tuple[int, ...] | None:
    """The lengths of the axes before those of space, as the flags of a dataset or group say; None without flags."""
    sample, time = flag(holder, "sample_varying"), flag(holder, "time_varying")
    if sample is None or time is None:
        return None
    lengths = (int(file.attrs["n_trajectories"]), int(file["dimensions/time"].shape[-1]))
    return tuple(length for length, varies in zip(lengths, (sample, time), strict=True) if varies)


def _sizes(file: h5py.File) -> Sequence[int]:
    group = file["dimensions"]
    return [int(group[name].shape[-1]) for name in names_of(group, "spatial_dims") or ()]
