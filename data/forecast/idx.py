"""Images in the idx format, in which MNIST and its relatives are given (LeCun, Cortes and Burges)."""

import gzip
import math
import struct
import zlib
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from data.errors import PenstockError

_GZIP = b"\x1f\x8b"
_UNSIGNED_BYTES = 0x08
LARGEST = 2**31
"""Bytes; a header that announces more is taken for damaged."""


def read_images(path: Path) -> UInt8[np.ndarray, "image row column"]:
    """The images of an idx file, compressed with gzip or not.

    Raises:
        PenstockError: missing, no idx file of images of bytes, cut off or damaged.
    """
    try:
        raw = path.read_bytes()
        content = gzip.decompress(raw) if raw[:2] == _GZIP else raw
    except FileNotFoundError as error:
        raise PenstockError(f"expected an idx file of images, but {path} is missing. Check its path.") from error
    except (OSError, EOFError, zlib.error) as error:
        raise PenstockError(f"cannot read {path}: {error}. Fetch the file again.") from error
    if len(content) < 4 or content[:2] != b"\0\0" or content[2] != _UNSIGNED_BYTES or content[3] != 3:
        raise PenstockError(
            f"expected an idx file of images (first bytes 00 00 08 03), got {content[:4].hex(' ') or 'an empty file'} "
            f"in {path}. MNIST's images are t10k-images-idx3-ubyte and train-images-idx3-ubyte, not the labels."
        )
    sizes = struct.unpack(">3I", content[4:16]) if len(content) >= 16 else (0, 0, 0)
    expected = math.prod(sizes)
    if not 0 < expected <= LARGEST or len(content) - 16 != expected:
        raise PenstockError(
            f"{path}: its head announces {sizes[0]} images of {sizes[1]} x {sizes[2]} bytes, after it come "
            f"{max(len(content) - 16, 0)} bytes: cut off or damaged. Fetch the file again."
        )
    return np.frombuffer(content, np.uint8, offset=16).reshape(sizes)
