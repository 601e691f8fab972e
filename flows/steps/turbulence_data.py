"""The prepared fields of a run, and the frames from which its rollouts begin."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from configs.turbulence import TurbulenceConfig
from data.errors import PenstockError
from data.grid import Grid
from data.turbulence.well import WellFile
from data.turbulence.well_folder import WellFolder
from data.turbulence.windows import PARTS
from flows.run import Run


@dataclass(frozen=True)
class Fields:
    """What networks and solvers of a run step: the frames of the prepared folder, every `stride`-th one."""

    folder: WellFolder
    stride: int

    @property
    def name(self) -> str:
        return self.folder.name

    @property
    def grid(self) -> Grid:
        return self.folder.grid

    @property
    def components(self) -> tuple[str, ...]:
        return self.folder.components

    @property
    def parameters(self) -> dict[str, float]:
        return self.folder.parameters

    @property
    def spacing(self) -> float:
        """Time from one step to the next."""
        return self.folder.spacing * self.stride

    @property
    def nu(self) -> float | None:
        """Kinematic viscosity, where the file tells it."""
        return self.parameters.get("nu")

    def trajectories(self, *splits: str) -> Iterator[tuple[WellFile, int]]:
        """Files and numbers of the trajectories of some parts, all of them if none is named."""
        for split in splits or PARTS.values():
            for file in self.folder.files(split):
                for trajectory in range(file.trajectories):
                    yield file, trajectory


@dataclass(frozen=True)
class Start:
    """A frame of the test part from which a rollout begins."""

    file: WellFile
    trajectory: int
    position: int
    """Of the newest frame that is given."""
    stride: int
    length: int
    """Frames that are given."""
    truths: int
    """Steps for which the file has the truth."""

    @property
    def history(self) -> Float[np.ndarray, "history *grid component"]:
        """The frames that are given, the newest one last."""
        return np.stack([self.frame(k) for k in range(1 - self.length, 1)])

    def frame(self, step: int) -> Float[np.ndarray, "*grid component"]:
        """The frame so many steps after the newest one that is given."""
        return self.file.read(self.trajectory, [self.position + step * self.stride])[0]


def fields_of(run: Run) -> Fields:
    """The prepared fields of a run."""
    return Fields(WellFolder(run.data_file.parent), run.config.stride)


def starts_of(run: Run, history: int) -> list[Start]:
    """Where the run's rollouts begin: the same frames for every network, whatever its history.

    They lie evenly over the frames of the test part that have `evaluate.horizon` steps of truth after them.

    Raises:
        PenstockError: the test part has no such frame.
    """
    config: TurbulenceConfig = run.config
    fields = fields_of(run)
    networks = [getattr(config, name).stepper.history for name in config.networks]
    before = (max([history, *networks]) - 1) * fields.stride
    places = [
        Start(
            file,
            trajectory,
            position,
            fields.stride,
            history,
            (file.lengths[trajectory] - 1 - position) // fields.stride,
        )
        for file, trajectory in fields.trajectories("test")
        for position in range(before, file.lengths[trajectory] - config.evaluate.horizon * fields.stride)
    ]
    if not places:
        raise PenstockError(
            f"expected a frame of the test part with {before} frames before it and "
            f"{config.evaluate.horizon * fields.stride} after it, there is none. Lower evaluate.horizon, or give more "
            "data."
        )
    count = min(config.sample.count, len(places))
    return [places[k * len(places) // count] for k in range(count)]
