"""Small fields and files in The Well's layout, and the layout's rules stated a second time."""

from pathlib import Path
from typing import Any

import h5py
import numpy as np

from data.grid import Grid, between_walls, fourier
from data.turbulence.well import WellWriter

CHANNEL = Grid((fourier("x", 6, 4 * np.pi), between_walls("y", 5), fourier("z", 4, 2.0)))
PLANE = Grid((fourier("x", 8, 2 * np.pi), fourier("y", 8, 2 * np.pi)))
VELOCITY = ("velocity_x", "velocity_y", "velocity_z")


def frames(count: int, grid: Grid = CHANNEL, components: int = 3, seed: int = 0) -> np.ndarray:
    """Random frames, float32."""
    return np.random.default_rng(seed).normal(size=(count, *grid.shape, components)).astype(np.float32)


def written(
    path: Path,
    values: np.ndarray,
    grid: Grid = CHANNEL,
    components: tuple[str, ...] = VELOCITY,
    spacing: float = 0.5,
    **more: Any,
) -> Path:
    """A file of [trajectory, time, *grid, component]."""
    settings = {"name": "toy", "parameters": {"nu": 0.01}, **more}
    with WellWriter(path, grid=grid, components=components, trajectories=len(values), **settings) as writer:
        for trajectory, row in enumerate(values):
            for k, frame in enumerate(row):
                writer.append(trajectory, spacing * k, frame)
    return path


def folder(path: Path, grid: Grid = CHANNEL, components: tuple[str, ...] = VELOCITY, **more: Any) -> Path:
    """A folder of 2 training files, 1 for validation, 1 for testing."""
    for number, (split, trajectories) in enumerate((("train", 2), ("train", 1), ("valid", 1), ("test", 1))):
        values = np.stack([frames(7, grid, len(components), seed=10 * number + k) for k in range(trajectories)])
        written(path / "data" / split / f"{split}_{number}.hdf5", values, grid, components, **more)
    return path


def follows_the_well(path: Path) -> None:
    """The rules of The Well's specification page and format checker, for plain h5py, one assertion each."""
    with h5py.File(path) as file:
        root = file.attrs
        assert isinstance(root["dataset_name"], str)
        assert root["grid_type"] in ("cartesian", "spherical")
        space, runs = root["n_spatial_dims"], root["n_trajectories"]
        assert isinstance(space, int | np.integer)
        assert isinstance(runs, int | np.integer)
        assert runs >= 1
        for name in root["simulation_parameters"]:
            assert isinstance(name, str)
            assert name in root
            assert name in file["scalars"]
        dimensions = file["dimensions"]
        axes = dimensions.attrs["spatial_dims"]
        assert isinstance(axes, np.ndarray)
        assert len(axes) == space
        assert all(isinstance(axis, str) for axis in axes)
        steps = dimensions["time"].shape[-1]
        assert dimensions["time"].attrs["time_varying"]

        def flags(holder: Any) -> tuple[int, ...]:
            sample, time = holder.attrs["sample_varying"], holder.attrs["time_varying"]
            assert isinstance(sample, np.bool_)
            assert isinstance(time, np.bool_)
            return ((int(runs),) if sample else ()) + ((steps,) if time else ())

        assert dimensions["time"].shape == flags(dimensions["time"])
        for axis in axes:
            assert dimensions[axis].shape[:-1] == flags(dimensions[axis]) == ()
            assert dimensions[axis].dtype == np.float32
        lengths = [dimensions[axis].shape[-1] for axis in axes]
        for order in range(3):
            group = file[f"t{order}_fields"]
            for name in group.attrs["field_names"]:
                dataset = group[name]
                varies = dataset.attrs["dim_varying"]
                assert len(varies) == space
                assert dataset.dtype == np.float32
                inner = [n for n, v in zip(lengths, varies, strict=True) if v] + [space] * order
                assert dataset.shape == (*flags(dataset), *inner)
        for name in file["scalars"].attrs["field_names"]:
            assert file["scalars"][name].shape == flags(file["scalars"][name])
        covered = set()
        for name, group in file["boundary_conditions"].items():
            (axis,) = group.attrs["associated_dims"]
            covered.add(axis)
            assert group.attrs["bc_type"] in ("WALL", "OPEN", "PERIODIC")
            assert group.attrs["bc_type"].lower() in name
            assert axis in name
            assert isinstance(group.attrs["associated_fields"], np.ndarray)
            assert group["mask"].dtype == bool
            assert group["mask"].shape == (*flags(group), lengths[list(axes).index(axis)])
            assert group["mask"][0]
            assert group["mask"][-1]
        assert covered == set(axes)
