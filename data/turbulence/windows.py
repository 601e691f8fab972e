"""Windows over time of the fields in a folder of The Well's layout: what is trained and judged on."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from data.batch import FieldBatch
from data.errors import ConfigError
from data.turbulence.symmetries import Symmetries, symmetries_of
from data.turbulence.well_folder import WellFolder

PARTS = {"train": "train", "validation": "valid", "test": "test"}
"""The Well's name of each split."""


@dataclass(frozen=True)
class Window:
    """One window of a folder: `history` + `horizon` frames of one trajectory, every `stride`-th one."""

    id: str
    index: int
    seed: int
    frames: Float[np.ndarray, "time *grid component"]
    """In the units of the file."""


class FieldWindows:
    """All windows of a folder, those of the training part first, then validation and test.

    A window is `history` frames to see and `horizon` frames to say, `stride` frames of the file apart, all of one
    trajectory. There is one from every frame on. Windows of the training part are moved at random, by the seed of the
    sample, among the symmetries of the flow.

    Args:
        folder: the fields.
        history, horizon: frames to see, and to say.
        stride: frames of the file from one frame of a window to the next.
        augment: `symmetries` moves training windows by shifts and reflections that keep the flow's equations (see
            `symmetries_of`), `shifts` by shifts alone, `none` not at all. Flows of which no symmetry is known stay.

    Raises:
        ConfigError: no frames to see or to say, or no training trajectory as long as a window.
    """

    def __init__(
        self,
        folder: WellFolder,
        history: int,
        horizon: int,
        stride: int = 1,
        augment: Literal["symmetries", "shifts", "none"] = "symmetries",
    ) -> None:
        if min(history, horizon, stride) < 1:
            raise ConfigError(
                f"expected history, horizon and stride of at least 1, got {history=} {horizon=} {stride=}."
            )
        self.folder, self.history, self.horizon, self.stride = folder, history, horizon, stride
        self.span = (history + horizon - 1) * stride + 1
        """Frames of the file from the first to the last one of a window."""
        self._places: list[tuple[str, int, int, int]] = []
        self.splits: dict[str, list[int]] = {}
        for split, part in PARTS.items():
            first = len(self._places)
            for number, file in enumerate(folder.files(part)):
                for trajectory, length in enumerate(file.lengths):
                    starts = range(max(0, length - self.span + 1))
                    self._places += [(part, number, trajectory, start) for start in starts]
            self.splits[split] = list(range(first, len(self._places)))
        if not self.splits["train"]:
            longest = max(max(file.lengths) for file in folder.files("train"))
            raise ConfigError(
                f"a window of {history} + {horizon} frames with stride {stride} spans {self.span} frames, but the "
                f"longest training trajectory has {longest}. Take a shorter history or horizon."
            )
        self.ids: Sequence[str] = [
            f"{part}/{folder.files(part)[number].path.stem}/{trajectory}/{start}"
            for part, number, trajectory, start in self._places
        ]
        self.spacing = folder.spacing * stride
        """Time between two frames of a window."""
        self._symmetries = self._moved(augment)

    def _moved(self, augment: str) -> Symmetries | None:
        if augment == "none":
            return None
        folder, moments = self.folder, self.folder.statistics
        forcing = folder.parameters.get("forcing_wavenumber")
        found = symmetries_of(folder.grid, folder.components, moments.mean, moments.std, forcing)
        if found is None or augment == "symmetries":
            return found
        return Symmetries(found.grid, found.components, (False,) * len(found.reflected), found.forcing)

    def __len__(self) -> int:
        return len(self._places)

    def load(self, index: int, seed: int) -> Window:
        """One window; only its own frames are read."""
        part, number, trajectory, start = self._places[index]
        frames = self.folder.files(part)[number].read(trajectory, slice(start, start + self.span, self.stride))
        if self._symmetries is not None and part == "train":
            frames = self._symmetries.apply(self._symmetries.draw(seed), frames)
        return Window(self.ids[index], index, seed, frames)

    def collate(self, samples: list[Any]) -> FieldBatch:
        """The windows as one batch."""
        frames: Tensor = torch.from_numpy(np.stack([sample.frames for sample in samples]))
        return FieldBatch(
            ids=tuple(sample.id for sample in samples),
            seeds=torch.tensor([sample.seed for sample in samples], dtype=torch.int64),
            past=frames[:, : self.history],
            future=frames[:, self.history :],
            grid=self.folder.grid,
        )
