"""Running means of a channel at full resolution, kept beside frames that are stored filtered."""

import math
from collections.abc import Mapping

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from data.grid import Grid

PAIRS = ((0, 0), (1, 1), (2, 2), (0, 1))


class ChannelMeans:
    """Profiles of the mean velocity and its covariances (uu, vv, ww, uv), averaged over x, z and the frames.

    `RunningStatistics` of `data.synthetic.turbulence.simulation`: its memory does not grow, and it survives a kill.
    """

    def __init__(self, grid: Grid, nu: float) -> None:
        self._wall, self._nu = grid.axes[1], nu
        self._sums = torch.zeros(3 + len(PAIRS), len(self._wall), dtype=torch.float64)
        self._frames = torch.zeros((), dtype=torch.int64)

    def add(self, frame: Float[Tensor, "x y z 3"], time: float) -> None:
        """Count a frame."""
        planes = frame.double().permute(3, 1, 0, 2).flatten(2)
        means = [*planes.mean(2), *((planes[i] * planes[j]).mean(1) for i, j in PAIRS)]
        self._sums += torch.stack(means).cpu()
        self._frames += 1

    def state(self) -> dict[str, Tensor]:
        return {"sums": self._sums.clone(), "frames": self._frames.clone()}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Raises: RuntimeError: of another number of points."""
        self._sums = torch.empty_like(self._sums).copy_(state["sums"])
        self._frames = state["frames"].clone()

    def finished(self) -> dict[str, np.ndarray]:
        """The group `dns_statistics` of a file: `y` from the wall to the centre, `profiles` (rows U, uu, vv, ww, uv)
        over both halves, `u_tau_mean` from the slope of U at both walls, and the number of `frames`."""
        means = (self._sums / self._frames).numpy()
        covariances = [means[3 + k] - means[i] * means[j] for k, (i, j) in enumerate(PAIRS)]
        half = (len(self._wall) + 1) // 2
        signs = np.array([1, 1, 1, 1, -1])[:, None]  # v changes its sign in the mirror
        rows = np.stack([means[0], *covariances])
        slope = self._wall.derivative @ means[0]
        return {
            "y": self._wall.points[:half] - self._wall.points[0],
            "profiles": (rows + signs * rows[:, ::-1])[:, :half] / 2,
            "u_tau_mean": np.array(math.sqrt(self._nu * abs(slope[0] - slope[-1]) / 2)),
            "frames": self._frames.numpy(),
        }
