from dataclasses import dataclass

import numpy as np
import torch

from data.batch import Batch
from data.schema import Array, FileKind
from data.store import Reader, Writer

POINTS = FileKind("toy.points", 1, "points in the plane", {"point": Array("xy=2", "float32", "1", "a point")})


@dataclass(frozen=True)
class PointBatch(Batch):
    points: torch.Tensor


def write_circle(path, count):
    with Writer(path, POINTS, {}) as writer:
        for k, angle in enumerate(np.linspace(0, 2 * np.pi, count, endpoint=False)):
            writer.add(f"point-{k:04d}", {"point": np.array([np.cos(angle), np.sin(angle)], np.float32)})
    return path


class Points(Reader):
    def load(self, index, seed):
        return self.ids[index], seed, torch.from_numpy(self.read(index)["point"])

    def collate(self, samples):
        ids, seeds, points = zip(*samples, strict=True)
        return PointBatch(ids, torch.tensor(seeds), torch.stack(points))
