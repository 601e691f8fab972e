"""The manifolds that every law of geometry and transport is held against."""

from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from modules.geometry import quaternion
from modules.geometry.manifold import FRAMES, SO3, Euclidean, Manifold


@dataclass(frozen=True)
class Space:
    """A manifold, with points and tangents to try it on; events [4 residues, axis], float64."""

    on: Manifold
    rotations: bool
    translations: bool

    def points(self, seed: int, batch: int = 6) -> Tensor:
        generator = torch.Generator().manual_seed(seed)
        normal = torch.randn(batch, 4, 7, generator=generator, dtype=torch.float64)
        return self.pick(torch.cat([quaternion.normalise(normal[..., :4]), normal[..., 4:]], dim=-1), 4)

    def tangents(self, seed: int, batch: int = 6) -> Tensor:
        """Rotation vectors shorter than pi, so that each is the shortest way to where it leads."""
        generator = torch.Generator().manual_seed(seed)
        normal = torch.randn(batch, 4, 6, generator=generator, dtype=torch.float64)
        turn = normal[..., :3] / (1.0 + normal[..., :3].norm(dim=-1, keepdim=True)) * 3.1
        return self.pick(torch.cat([turn, normal[..., 3:]], dim=-1), 3)

    def pick(self, x: Tensor, rotation: int) -> Tensor:
        return x[..., 0 if self.rotations else rotation : None if self.translations else rotation]

    def assert_same_points(self, x: Tensor, y: Tensor, **tolerance: float) -> None:
        """Equal as points: q and -q are one rotation."""
        if self.rotations:
            dot = (x[..., :4] * y[..., :4]).sum(-1, keepdim=True)
            y = torch.cat([torch.where(dot < 0, -1.0, 1.0) * y[..., :4], y[..., 4:]], dim=-1)
        torch.testing.assert_close(x, y, **tolerance)


SPACES = {
    "R3": Space(Euclidean(), rotations=False, translations=True),
    "SO3": Space(SO3(), rotations=True, translations=False),
    "frames": Space(FRAMES, rotations=True, translations=True),
}


@pytest.fixture(params=list(SPACES))
def space(request: pytest.FixtureRequest) -> Space:
    return SPACES[request.param]
