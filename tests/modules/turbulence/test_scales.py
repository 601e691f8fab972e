"""Measured scales: against numpy over all frames at once."""

import numpy as np
import pytest
import torch

from data.errors import PenstockError
from data.grid import Grid, between_walls, fourier
from modules.turbulence.fields import fluctuation_energy
from modules.turbulence.scales import measured
from tests.modules.turbulence.field_makers import GRIDS, field


@pytest.mark.parametrize("name", GRIDS)
def test_one_pass_gives_what_all_frames_together_give(name: str) -> None:
    grid = GRIDS[name]
    # Trajectories of unequal length, far from zero: sums of squares in one pass would lose digits.
    trajectories = [100 + field(grid, batch=length, seed=length).float() for length in (4, 1, 7)]
    found = measured(trajectories, grid)

    frames = torch.cat(trajectories).double().numpy()
    changes = np.concatenate([np.diff(t.double().numpy(), axis=0) for t in trajectories])
    points = tuple(range(frames.ndim - 1))
    np.testing.assert_allclose(found.mean, frames.mean(axis=points), rtol=1e-12)
    np.testing.assert_allclose(found.std, frames.std(axis=points), rtol=1e-10)
    np.testing.assert_allclose(found.mean_delta, changes.mean(axis=points), rtol=1e-8, atol=1e-12)
    np.testing.assert_allclose(found.std_delta, changes.std(axis=points), rtol=1e-10)
    along = points if grid.walls is None else tuple(p for p in points if p != grid.walls + 1)
    expected = frames.std(axis=along).reshape(-1, frames.shape[-1])
    np.testing.assert_allclose(found.fluctuation, expected, rtol=1e-10)
    energies = fluctuation_energy(torch.as_tensor(frames), grid)
    np.testing.assert_allclose(found.energy_band, [energies.min(), energies.max()], rtol=1e-12)


def test_one_frame_is_not_enough() -> None:
    grid = Grid((fourier("x", 4, 1.0), between_walls("y", 5)))
    with pytest.raises(PenstockError, match="two frames"):
        measured([field(grid, batch=1), field(grid, batch=1)], grid)
