"""Pictures that condition a generation: found by item id, read as arrays."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from data.errors import PenstockError

SUFFIXES = (".png", ".webp", ".jpg", ".jpeg")


def read_image(path: Path) -> UInt8[np.ndarray, "height width 4"]:
    """An RGBA picture, 0 to 255; alpha is 255 throughout where the file has none.

    Raises PenstockError for a missing file, a file that is no picture, and where Pillow is not installed.
    """
    try:
        from PIL import Image, UnidentifiedImageError
    except ImportError as missing:
        raise PenstockError("reading pictures needs Pillow: pip install 'penstock[vision]'.") from missing
    try:
        with Image.open(path) as picture:
            return np.asarray(picture.convert("RGBA"))
    except FileNotFoundError:
        raise PenstockError(f"no picture at {path}. Give the path of a {', '.join(SUFFIXES)} file.") from None
    except (UnidentifiedImageError, OSError) as broken:
        raise PenstockError(f"{path} is not a picture that can be read ({broken}).") from broken


def find_images(folder: Path, ids: Sequence[str]) -> dict[str, Path]:
    """The picture of each item: `folder/ID.png` (or another of SUFFIXES).

    Raises PenstockError naming the items that have none.
    """
    if not folder.is_dir():
        raise PenstockError(f"expected a folder of pictures named after the items, found none at {folder}.")
    found: dict[str, Path] = {}
    for item in ids:
        candidates = [folder / f"{item}{suffix}" for suffix in SUFFIXES]
        existing = [path for path in candidates if path.is_file()]
        if existing:
            found[item] = existing[0]
    missing = [item for item in ids if item not in found]
    if missing:
        shown = ", ".join(missing[:5]) + (f" and {len(missing) - 5} more" if len(missing) > 5 else "")
        raise PenstockError(
            f"{folder}: no picture for {shown}. Each item needs one named after it, such as {missing[0]}.png."
        )
    return found
