"""The published normalisation file: read without running it, against what PyTorch itself wrote."""

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch

from data.errors import CheckpointError
from data.turbulence.published_statistics import read_statistics


def written(path: Path, **change: object) -> Path:
    values = torch.arange(12, dtype=torch.float32).reshape(4, 3) + 0.1
    statistics: dict[str, object] = dict(zip(("x_mean", "x_std", "y_mean", "y_std"), values, strict=True))
    statistics |= {"delta_energy_max": torch.ones(3), **change}
    path.write_bytes(pickle.dumps({name: value for name, value in statistics.items() if value is not None}))
    return path


def test_the_numbers_are_those_that_were_saved(tmp_path: Path) -> None:
    found = read_statistics(written(tmp_path / "norm.pkl", y_std=torch.tensor([1.5, 2.5, 3.5], dtype=torch.float64)))
    # Rows of one tensor: they share a storage and begin in its middle.
    np.testing.assert_array_equal(found.mean, np.float32([0.1, 1.1, 2.1]))
    np.testing.assert_array_equal(found.std, (torch.arange(3, 6) + 0.1).numpy())
    np.testing.assert_array_equal(found.target_mean, (torch.arange(6, 9) + 0.1).numpy())
    np.testing.assert_array_equal(found.target_std, [1.5, 2.5, 3.5])


def test_what_is_no_such_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "norm.pkl"
    with pytest.raises(CheckpointError, match="x_mean, x_std, y_mean, y_std"):
        read_statistics(written(path, y_mean=None))
    with pytest.raises(CheckpointError, match="one finite number"):
        read_statistics(written(path, y_mean=torch.ones(2)))
    with pytest.raises(CheckpointError, match="one finite number"):
        read_statistics(written(path, y_mean=torch.full((3,), torch.nan)))
    with pytest.raises(CheckpointError, match="one finite number"):
        read_statistics(written(path, y_mean=3.0))
    with pytest.raises(CheckpointError, match="LongStorage"):
        read_statistics(written(path, y_mean=torch.ones(3, dtype=torch.int64)))
    with pytest.raises(CheckpointError):
        read_statistics(path.with_name("absent.pkl"))
    path.write_bytes(written(path).read_bytes()[:-200])
    with pytest.raises(CheckpointError):
        read_statistics(path)


def test_nothing_in_the_file_is_run(tmp_path: Path) -> None:
    class Hostile:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return (Path.touch, (tmp_path / "touched",))  # type: ignore[return-value]

    with pytest.raises(CheckpointError):
        read_statistics(written(tmp_path / "norm.pkl", extra=Hostile()))
    assert not (tmp_path / "touched").exists()
