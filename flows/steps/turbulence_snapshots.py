"""Which frames of the rollouts of a run are shown, read one by one."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from data.errors import PenstockError
from data.turbulence.well import WellFile
from flows.report import Figure
from flows.run import Run
from flows.steps.turbulence_evaluation import SIMULATION
from flows.steps.turbulence_pictures import View, film, limit_of, raster, side_by_side, view_of
from flows.steps.turbulence_rollout import REFERENCE, rollout_file

COLUMNS = 5
"""Times at which the rollouts are shown side by side."""
FILM_FRAMES = 80


@dataclass(frozen=True)
class Rollouts:
    """The files of a run's rollouts: frame 0 of each trajectory is the one that it began with."""

    files: Mapping[str, WellFile]
    """The simulation's first, then those of the models that have one."""

    @classmethod
    def of(cls, run: Run, simulation: str, models: Sequence[str]) -> "Rollouts":
        """Those that can be read; a file that is damaged does not keep a report from being written.

        Args:
            simulation: what the simulation is called among the models.
        """
        found = {}
        for name, stem in [(simulation, REFERENCE), *((model, model) for model in models)]:
            try:
                found[name] = WellFile(rollout_file(run, stem))
            except (PenstockError, OSError):
                continue
        return cls(found)

    @property
    def last(self) -> int:
        """The last frame of the longest first trajectory."""
        return max((file.lengths[0] - 1 for file in self.files.values()), default=0)

    def picture(self, name: str, view: View, frame: int) -> np.ndarray | None:
        """The first trajectory's frame in this view; None where it has ended before."""
        file = self.files[name]
        if frame >= file.lengths[0]:
            return None
        return raster(view, view.plane(file.read(0, [frame])[0]))


def picture_figures(
    rollouts: Rollouts, wall_unit: float | None, spacing: float, words: Callable[[str], str]
) -> list[Figure]:
    """Snapshots of all rollouts side by side, and the film of their beginning.

    Args:
        wall_unit: the viscous length, where it is known.
        words: what a name is called in the pictures.
    """
    some = next(iter(rollouts.files.values()), None)
    view = None if some is None else view_of(some.grid, some.components, wall_unit)
    if view is None or rollouts.last < 1:
        return []
    shown = {name: file for name, file in rollouts.files.items() if some is not None and file.grid.same(some.grid)}
    early = range(min(rollouts.last, FILM_FRAMES) + 1)
    panels = {words(name): [rollouts.picture(name, view, k) for k in early] for name in shown}
    first = next(iter(panels.values()))
    limit = limit_of([picture for picture in first if picture is not None])
    steps = snapshot_steps(rollouts.last)
    rows = {words(name): [rollouts.picture(name, view, k) for k in steps] for name in shown}
    heads = [f"t = {k * spacing:.4g} ({k} step{'s' if k > 1 else ''})" for k in steps]
    captions = [f"step {k}, t = {k * spacing:.3g}" for k in early]
    return [
        Figure(
            image=film(panels, captions, limit, view.words),
            caption=f"The first {early[-1]} steps, moving",
            alt=f"{view.words} of every rollout, moving",
            wide=True,
        ),
        Figure(
            image=side_by_side(rows, heads, limit, view.words),
            caption="From the beginning to the end",
            alt=f"{view.words} of every rollout at some times",
            wide=True,
        ),
    ]


def pictures(run: Run, spacing: float, words: Callable[[str], str]) -> str:
    """The figures of a run's networks below each other, SVG."""
    found = picture_figures(Rollouts.of(run, SIMULATION, run.config.networks), None, spacing, words)
    return "".join(one.image for one in found if isinstance(one.image, str)) or "nothing to be seen of such fields"


def snapshot_steps(last: int) -> list[int]:
    """Steps from the first to the last, each several times the one before."""
    return sorted({round(last ** (k / (COLUMNS - 1))) for k in range(COLUMNS)})
