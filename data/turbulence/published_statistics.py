"""The statistics that the published training normalises by, which it pickles beside its checkpoints.

The file is a plain pickle of a dictionary of tensors. A tensor's numbers are in it as the bytes of a second file, in
PyTorch's form from before its zip archives: five pickles, then each storage's length and numbers. Both are read by
`data.inert_pickle`, which runs nothing.
"""

import io
import math
import pickletools
import struct
from collections import deque
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from data.errors import CheckpointError
from data.inert_pickle import Name, read_pickle

NUMBERS = {"torch.FloatStorage": "<f4", "torch.DoubleStorage": "<f8"}
MAGIC = 0x1950A86A20F9469CFC6C
"""The first value of PyTorch's old form."""
EXPECTED = ("x_mean", "x_std", "y_mean", "y_std")


@dataclass(frozen=True)
class PublishedStatistics:
    """Of each component over all training pairs, in the units of the data."""

    mean: Float[np.ndarray, " component"]
    """Of what the network sees."""
    std: Float[np.ndarray, " component"]
    target_mean: Float[np.ndarray, " component"]
    """Of what it is to predict: one frame later, and so nearly the same."""
    target_std: Float[np.ndarray, " component"]


def read_statistics(path: Path) -> PublishedStatistics:
    """The statistics in a published `norm.pkl`.

    Raises:
        CheckpointError: not such a file, or one that asks for more than tensors need.
    """
    try:
        found = read_pickle(
            path.read_bytes(),
            makers={
                "collections.OrderedDict": dict,
                "torch._utils._rebuild_tensor_v2": _tensor,
                "torch.storage._load_from_bytes": _storage,
            },
            inert=frozenset(),
        )
        if not isinstance(found, dict) or not set(EXPECTED) <= found.keys():
            names = sorted(map(str, found)) if isinstance(found, dict) else [type(found).__name__]
            raise CheckpointError(f"expected the statistics {', '.join(EXPECTED)}, found {', '.join(names[:8])}.")
        values = [found[name] for name in EXPECTED]
        shapes = {value.shape if isinstance(value, np.ndarray) else None for value in values}
        if len(shapes) > 1 or len(shapes.pop() or ()) != 1 or not all(np.isfinite(value).all() for value in values):
            raise CheckpointError("expected one finite number for each component in every one of the statistics.")
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from None
    except (OSError, ValueError, TypeError, IndexError, struct.error) as error:
        raise CheckpointError(f"{path}: cannot be read as published statistics: {str(error)[:300]}") from None
    return PublishedStatistics(*values)


def _tensor(arguments: tuple[Any, ...]) -> Float[np.ndarray, "..."]:
    """A tensor from (storage, offset, size, stride, …); only contiguous ones are in such files."""
    storage, offset, size, stride = arguments[:4]
    count = math.prod(size)
    contiguous = [math.prod(size[k + 1 :]) for k in range(len(size))]
    if not isinstance(storage, np.ndarray) or list(stride) != contiguous or not 0 <= offset <= len(storage) - count:
        raise CheckpointError("a tensor of it does not fit its numbers.")
    return storage[offset : offset + count].reshape(size).astype(np.float64)


def _storage(arguments: tuple[Any, ...]) -> Float[np.ndarray, " number"]:
    """The numbers of one storage in PyTorch's old form."""
    (content,) = arguments
    described: list[tuple[Any, ...]] = []

    def stored(key: Any) -> None:
        described.append(key)

    values, stream = [], io.BytesIO(content)
    for _ in range(5):
        start = stream.tell()
        deque(pickletools.genops(stream), maxlen=0)
        part = content[start : stream.tell()]
        values.append(read_pickle(part, makers={}, inert=frozenset(NUMBERS), stored=stored))
    content = stream.read()
    if values[0] != MAGIC or len(described) != 1:
        raise CheckpointError("its tensors are not in a form of PyTorch that is known here.")
    _, kind, _, _, count, *_ = described[0]
    if not isinstance(kind, Name):
        raise CheckpointError("its tensors do not say what numbers they are of.")
    dtype = np.dtype(NUMBERS[kind.text])
    (length,) = struct.unpack("<q", content[:8])
    if length != count or len(content) != 8 + count * dtype.itemsize:
        raise CheckpointError("it is cut off or damaged: copy it again.")
    return np.frombuffer(content[8:], dtype)
