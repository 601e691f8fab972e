"""Other programs' PyTorch checkpoints (`.ckpt`, `.pt`), read without running anything in them.

Such a file is a zip archive of raw tensors beside a pickle that says how they belong together. The pickle is read by
`data.inert_pickle`, which calls nothing; the configuration objects that Lightning saves along (OmegaConf trees) are
taken apart as plain data.
"""

import math
import re
import struct
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from data.errors import CheckpointError
from data.inert_pickle import Inert, Maker, Name, read_pickle
from data.model_folder import read_safetensors

PICKLE = "data.pkl"
DTYPES = {
    "torch.FloatStorage": torch.float32,
    "torch.DoubleStorage": torch.float64,
    "torch.HalfStorage": torch.float16,
    "torch.BFloat16Storage": torch.bfloat16,
    "torch.LongStorage": torch.int64,
    "torch.IntStorage": torch.int32,
    "torch.ShortStorage": torch.int16,
    "torch.CharStorage": torch.int8,
    "torch.ByteStorage": torch.uint8,
    "torch.BoolStorage": torch.bool,
}
CONTAINERS = frozenset(["omegaconf.dictconfig.DictConfig", "omegaconf.listconfig.ListConfig"])
NODES = frozenset(
    f"omegaconf.nodes.{kind}Node" for kind in ("Any", "Boolean", "Bytes", "Float", "Integer", "Path", "String")
)
INERT = (
    CONTAINERS
    | NODES
    | {"omegaconf.base.ContainerMetadata", "omegaconf.base.Metadata", "torch.device"}
    | {f"typing.{name}" for name in ("Any", "Dict", "List", "Optional", "Tuple", "Union")}
    | {f"builtins.{name}" for name in ("bool", "bytes", "float", "int", "object", "str", "tuple")}
    | {f"torch.{name}" for name in ("bfloat16", "bool", "float16", "float32", "float64", "int32", "int64", "uint8")}
    | {f"{package}.utilities.data.AttributeDict" for package in ("lightning.fabric", "lightning_fabric")}
    | DTYPES.keys()
)
"""Names that may stand in a checkpoint; none is ever looked up."""
MAX_DEPTH, MAX_VALUES = 64, 1_000_000
"""Of a configuration taken apart: what refers to itself, or repeats itself without end, is refused."""
MAX_SHARING = 4
"""Bytes of all tensors over bytes of the file: tied weights are stored once."""
_REFERENCE = re.compile(r"\$\{([A-Za-z0-9_.\-]+)\}")


@dataclass(frozen=True)
class ForeignCheckpoint:
    """What an importer needs of another program's checkpoint."""

    state: dict[str, Tensor]
    """Its `state_dict`, contiguous and on the CPU, in the file's precision."""
    hyper: dict[str, Any]
    """Its `hyper_parameters` as plain values; empty where it has none. References `${a.b}` are followed."""


class _Storage(NamedTuple):
    key: str
    dtype: torch.dtype
    numel: int


class _View(NamedTuple):
    """A tensor as described; its numbers are read when they are asked for."""

    storage: _Storage
    offset: int
    size: tuple[int, ...]
    stride: tuple[int, ...]


def one_checkpoint(source: Path, patterns: Sequence[str]) -> Path:
    """`source` itself where it is a file, or the one file in that folder and its subfolders that fits a pattern.

    Raises:
        CheckpointError: none fits, or several do.
    """
    if not source.is_dir():
        return source
    found = sorted(path for pattern in patterns for path in source.rglob(pattern))
    if len(found) != 1:
        names = ", ".join(str(path.relative_to(source)) for path in found[:8]) or "none"
        raise CheckpointError(
            f"{source}: expected one checkpoint ({', '.join(patterns)}) in the folder, found {names}. Name the file."
        )
    return found[0]


def read_foreign_checkpoint(path: Path) -> ForeignCheckpoint:
    """The tensors and settings of a PyTorch or Lightning checkpoint, or of a bare state dict saved by `torch.save`.

    Nothing in the file is executed: a pickle that names anything but tensors, plain containers and OmegaConf's classes
    is refused, and so are archives that are compressed, larger unpacked than packed, or whose tensors reach beyond
    their storage.

    Raises:
        CheckpointError: not such a file, a damaged one, or one that asks for more than weights need.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            return _read(archive, path)
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from None
    except zipfile.BadZipFile as error:
        raise CheckpointError(f"{path}: {_not_a_zip(path)} ({error})") from None
    except (OSError, EOFError, ArithmeticError, RuntimeError, TypeError, ValueError, struct.error) as error:
        raise CheckpointError(f"{path}: cannot be read as a PyTorch checkpoint: {str(error)[:300]}") from None


def read_weights(path: Path, inside: str) -> Mapping[str, Tensor]:
    """The tensors of a `.safetensors` file, or else of a checkpoint as `read_foreign_checkpoint` reads it.

    A `.safetensors` file may hold other tensors too: where names in it begin with `inside`, those alone are taken.

    Raises:
        CheckpointError: it cannot be read, or is refused.
    """
    if path.suffix != ".safetensors":
        return read_foreign_checkpoint(path).state
    try:
        tensors = read_safetensors(path.read_bytes(), path)
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error}") from None
    return {key.removeprefix(inside): tensor for key, tensor in tensors.items() if key.startswith(inside)} or tensors


def _not_a_zip(path: Path) -> str:
    """Why a file that is no zip archive may be none."""
    with path.open("rb") as file:
        head = file.read(2)
    if head[:1] == b"\x80":
        return (
            "this is a bare pickle, the form of PyTorch before 1.6, which is not read here. Where you trust the file, "
            "load it with PyTorch and save it again"
        )
    return "expected a PyTorch checkpoint (a zip archive), which this is not or no longer: fetch it again"


def _read(archive: zipfile.ZipFile, path: Path) -> ForeignCheckpoint:
    folder = _check_archive(archive, path)
    content = archive.read(f"{folder}/{PICKLE}")
    top = read_pickle(content, makers=MAKERS, inert=INERT, stored=_storage)
    if not isinstance(top, dict):
        raise CheckpointError(f"expected a checkpoint's keys and values, got a {_said(top)}.")
    state = top.get("state_dict", top)
    if not isinstance(state, dict) or not state or not all(isinstance(value, _View) for value in state.values()):
        raise CheckpointError(
            f"expected tensors by name under 'state_dict', or nothing but tensors by name; found the keys "
            f"{', '.join(str(key)[:40] for key in list(top)[:8]) or 'none'}."
        )
    unpacked = sum(math.prod(view.size) * view.storage.dtype.itemsize for view in state.values())
    if unpacked > MAX_SHARING * path.stat().st_size:
        raise CheckpointError(f"its tensors share memory until they make {unpacked} bytes of a much smaller file.")
    hyper = top.get("hyper_parameters") if "state_dict" in top else None
    tensors = _Tensors(archive, folder)
    return ForeignCheckpoint({str(name): tensors.read(view) for name, view in state.items()}, plain(hyper))


def _check_archive(archive: zipfile.ZipFile, path: Path) -> str:
    """The archive's one folder, after a look at what its entries claim."""
    entries = archive.infolist()
    names = [entry.filename for entry in entries]
    folders = {name.partition("/")[0] for name in names}
    if len(folders) != 1 or f"{(folder := folders.pop())}/{PICKLE}" not in names:
        raise CheckpointError(f"expected an archive of one folder with {PICKLE} in it, as torch.save writes it.")
    if f"{folder}/constants.pkl" in names:
        raise CheckpointError("this is a TorchScript archive, which holds a program. Hand over the weights instead.")
    if len(set(names)) != len(names):
        raise CheckpointError("an entry of the archive appears twice.")
    total = 0
    for entry in entries:
        if entry.compress_type != zipfile.ZIP_STORED or entry.flag_bits & 1 or entry.file_size != entry.compress_size:
            raise CheckpointError(
                f"the entry {entry.filename!r} is compressed or encrypted, which torch.save never does."
            )
        total += entry.file_size
    if total > path.stat().st_size:
        raise CheckpointError(f"its entries claim {total} bytes, the file has {path.stat().st_size}.")
    if f"{folder}/byteorder" in names and archive.read(f"{folder}/byteorder") != b"little":
        raise CheckpointError("it was written on a big-endian machine; save it again on a little-endian one.")
    return folder


# -- tensors


def _storage(identity: Any) -> _Storage:
    match identity:
        case ("storage", Name(text=kind), str(key), _, int(numel)) if kind in DTYPES and numel >= 0:
            return _Storage(key, DTYPES[kind], numel)
    raise CheckpointError(f"it points at something other than a tensor's numbers: {_said(identity)}.")


def _view(args: tuple[Any, ...]) -> _View:
    match args:
        case (_Storage() as storage, int(offset), tuple(size), tuple(stride), *_) if (
            len(size) == len(stride) <= 16 and offset >= 0 and all(type(n) is int and n >= 0 for n in size + stride)
        ):
            view = _View(storage, offset, size, stride)
            _check_bounds(view)
            return view
    raise CheckpointError("a tensor in it is described in another way than torch.save does.")


def _check_bounds(view: _View) -> None:
    """No number outside the storage, and not more numbers than it holds (a repeated one could fill the memory)."""
    count = math.prod(view.size)
    last = view.offset + sum((n - 1) * step for n, step in zip(view.size, view.stride, strict=True))
    if count and (last >= view.storage.numel or count > view.storage.numel):
        raise CheckpointError(
            f"a tensor of size {list(view.size)} and stride {list(view.stride)} at {view.offset} does not fit its "
            f"storage of {view.storage.numel} numbers."
        )


def _parameter(args: tuple[Any, ...]) -> _View:
    if args and isinstance(args[0], _View):
        return args[0]
    raise CheckpointError("a parameter in it is described in another way than torch.save does.")


class _Tensors:
    """Reads views out of the archive, each storage once."""

    def __init__(self, archive: zipfile.ZipFile, folder: str) -> None:
        self.archive, self.folder = archive, folder
        self.storages: dict[str, Tensor] = {}

    def read(self, view: _View) -> Tensor:
        if not math.prod(view.size):
            return torch.empty(view.size, dtype=view.storage.dtype)
        flat = self._flat(view.storage)
        return flat.as_strided(view.size, view.stride, view.offset).clone(memory_format=torch.contiguous_format)

    def _flat(self, storage: _Storage) -> Tensor:
        if storage.key not in self.storages:
            name = f"{self.folder}/data/{storage.key}"
            try:
                content = bytearray(self.archive.read(name))
            except KeyError:
                raise CheckpointError(f"the numbers {name!r} are missing from the archive.") from None
            self.storages[storage.key] = torch.frombuffer(content, dtype=torch.uint8)
        flat = self.storages[storage.key]
        size = storage.numel * storage.dtype.itemsize
        if flat.numel() != size:
            raise CheckpointError(f"the numbers {storage.key!r} take {flat.numel()} bytes instead of {size}.")
        return flat.view(storage.dtype)


# -- plain containers


def _dictionary(args: tuple[Any, ...]) -> dict[Any, Any]:
    """`dict()`, `OrderedDict()`, `OrderedDict([[key, value], …])`, `defaultdict(factory)`."""
    pairs = next((arg for arg in args if isinstance(arg, list)), [])
    for pair in pairs:
        match pair:
            case [str() | int(), _]:  # a list or a tuple
                continue
        raise CheckpointError("a dictionary in it is described in another way than torch.save does.")
    return dict(pairs)


def _sequence(args: tuple[Any, ...]) -> list[Any]:
    """`list()`, `set([…])`, `torch.Size((…))`."""
    match args:
        case ():
            return []
        case (list() | tuple() as values,):
            return list(values)
    raise CheckpointError("a list in it is described in another way than torch.save does.")


MAKERS: Mapping[str, Maker] = {
    "torch._utils._rebuild_tensor_v2": _view,
    "torch._utils._rebuild_tensor": _view,
    "torch._utils._rebuild_parameter": _parameter,
    "torch.Size": lambda args: tuple(_sequence(args)),
    "collections.OrderedDict": _dictionary,
    "collections.defaultdict": _dictionary,
    "builtins.dict": _dictionary,
    "builtins.list": _sequence,
    "builtins.set": _sequence,
}
"""What stands in the place of the few functions that a checkpoint calls."""


# -- settings


def plain(hyper: Any) -> dict[str, Any]:
    """Saved settings as dictionaries, lists, numbers and text; each OmegaConf tree follows its own references.

    Raises:
        CheckpointError: they refer to themselves, or grow without end.
    """
    value = _Plain().convert(hyper, 0)
    if not isinstance(value, dict):
        return {}
    if isinstance(hyper, Inert):
        return _resolved(value, value, 0)
    return {name: _resolved(part, part, 0) for name, part in value.items()}


class _Plain:
    """Takes objects apart, counting."""

    def __init__(self) -> None:
        self.count = 0

    def convert(self, value: Any, depth: int) -> Any:
        self.count += 1
        if depth > MAX_DEPTH or self.count > MAX_VALUES:
            raise CheckpointError("its settings contain themselves, or grow without end.")
        if value is None or isinstance(value, str | int | float | bool):
            return value
        if isinstance(value, _View):
            return f"tensor of size {list(value.size)}"
        if isinstance(value, dict):
            return {str(key): self.convert(inner, depth + 1) for key, inner in value.items()}
        if isinstance(value, list | tuple | set):
            return [self.convert(inner, depth + 1) for inner in value]
        return self._object(value, depth) if isinstance(value, Inert) else _said(value)

    def _object(self, value: Inert, depth: int) -> Any:
        state = value.state if isinstance(value.state, dict) else {}
        if value.kind in CONTAINERS:
            return self.convert(state.get("_content"), depth + 1)
        if value.kind in NODES:
            return self.convert(state.get("_val"), depth + 1)
        if value.items:
            return self.convert(value.items, depth + 1)
        return _said(value)


def _resolved(value: Any, root: Any, depth: int) -> Any:
    """`value` with every text that is a reference `${a.b}` from the root replaced by what is there, where it is."""
    if isinstance(value, dict):
        return {key: _resolved(inner, root, depth) for key, inner in value.items()}
    if isinstance(value, list):
        return [_resolved(inner, root, depth) for inner in value]
    match = _REFERENCE.fullmatch(value) if isinstance(value, str) else None
    if match is None or depth > MAX_DEPTH:
        return value
    found = root
    for part in match.group(1).split("."):
        if not isinstance(found, dict) or part not in found:
            return value
        found = found[part]
    return value if isinstance(found, dict | list) else _resolved(found, root, depth + 1)


def _said(value: Any) -> str:
    """A short word for a value in a message; never the value's own text, which may be without end."""
    if isinstance(value, Name):
        return value.text[:200]
    return value.kind[:200] if isinstance(value, Inert) else type(value).__name__
