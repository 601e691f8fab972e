"""Arrays of items, kept in memory as long as they fit."""

from collections.abc import Callable
from typing import Any

import numpy as np


class ItemCache:
    """Arrays of items, read once and kept up to `num_bytes` in all; a copy in another process starts empty."""

    def __init__(self, read: Callable[[int], dict[str, np.ndarray]], num_bytes: int) -> None:
        self._read, self._room = read, num_bytes
        self._kept: dict[int, dict[str, np.ndarray]] = {}

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        if index in self._kept:
            return self._kept[index]
        stored = self._read(index)
        size = sum(np.asarray(value).nbytes for value in stored.values())
        if size <= self._room:
            self._room -= size
            self._kept[index] = stored
        return stored

    def __getstate__(self) -> dict[str, Any]:
        kept = sum(np.asarray(value).nbytes for stored in self._kept.values() for value in stored.values())
        return {**self.__dict__, "_kept": {}, "_room": self._room + kept}
