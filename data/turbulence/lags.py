"""Products of the velocity fluctuations with those of earlier frames, at fixed points, for correlation in time.

Fluctuations are those about the mean over the averaged axes in each frame. About the mean over time they would need it
beforehand, and taking its square off afterwards leaves errors that grow with the mean flow.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from data.turbulence.frame_statistics import Layout

PROBES = 1024
"""Points of a level that are followed: every n-th one."""


@dataclass
class _Past:
    frames: Float[np.ndarray, "level component lag probe"]
    count: int


class LagProducts:
    """Keeps the last `lags` frames of each trajectory at the probes, and no more."""

    def __init__(self, layout: Layout, lags: int) -> None:
        self._layout = layout
        self._lags = lags
        others = int(np.prod([len(layout.grid.axes[k]) for k in layout.averaged]))
        self._probes = [np.arange(0, len(level) * others, -(-len(level) * others // PROBES)) for level in layout.levels]
        self._past: dict[int, _Past] = {}

    def add(self, trajectory: int, velocity: Float[np.ndarray, "*grid axis"]) -> dict[str, np.ndarray]:
        """Mean products for every lag from 0 to `lags`; and 1 where the trajectory is long enough, else 0."""
        u = self._layout.canonical(velocity)
        u = u - u.mean(axis=tuple(range(1, u.ndim - 1)), keepdims=True)
        components = u.shape[-1]
        levels = zip(self._layout.levels, self._probes, strict=True)
        now = [u[list(level)].reshape(-1, components)[probes] for level, probes in levels]
        widest = max(map(len, now))
        # Levels with fewer probes (the centre, which has no mirror image) are padded with zeros, which add nothing.
        frame = np.stack([np.pad(values.T, ((0, 0), (0, widest - len(values)))) for values in now])
        past = self._past.get(trajectory)
        if past is None:
            past = self._past[trajectory] = _Past(np.zeros((*frame.shape[:2], self._lags + 1, widest)), 0)
        slot = past.count % (self._lags + 1)
        past.frames[:, :, slot] = frame
        past.count += 1
        order = (slot - np.arange(self._lags + 1)) % (self._lags + 1)
        used = np.array([len(values) for values in now])
        products = (past.frames @ frame[..., None])[..., 0] / used[:, None, None]
        return {
            "lag_product": products[:, :, order],
            "lag_pairs": (np.arange(self._lags + 1) < past.count).astype(np.float64),
        }
