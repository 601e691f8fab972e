"""What all simulations of turbulence are to the rest of the house, and the driver that runs them for days.

A run can be killed at any moment: its state lies in one file that is replaced as a whole, and what follows from it is
the same to the bit as if nothing had happened.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Protocol

import safetensors
import safetensors.torch
from jaxtyping import Float
from torch import Tensor

from data.atomic import remove_stale, written_file
from data.errors import CheckpointError, PenstockError
from data.grid import Grid

STATE = "state."
STATISTICS = "statistics."


class Simulation(Protocol):
    """A flow that can be advanced in time.

    Two simulations built alike, started alike and advanced to the same times are equal to the bit.
    """

    @property
    def grid(self) -> Grid:
        """The collocation grid."""

    @property
    def components(self) -> tuple[str, ...]:
        """Names of a frame's components, in order."""

    @property
    def time(self) -> float: ...

    @property
    def parameters(self) -> Mapping[str, float]:
        """What tells this flow from others of its kind, viscosity first (The Well's simulation parameters)."""

    def advance(self, until: float) -> None:
        """Go on to exactly the time `until`.

        Raises:
            BlownUp: the state is no longer finite.
        """

    def fields(self, grid: Grid | None = None) -> Float[Tensor, "*grid component"]:
        """The physical fields on the collocation grid, or filtered spectrally to a coarser one."""

    def start_from(self, frame: Float[Tensor, "*grid component"], grid: Grid) -> None:
        """Take the state from fields on another grid, made divergence-free; the time becomes 0."""

    def state(self) -> dict[str, Tensor]:
        """All that the future depends on, the time included (float64)."""

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Go back to a state that `state` gave; the next steps are the same to the bit."""

    def energy(self) -> float:
        """Mean kinetic energy per unit mass."""


class RunningStatistics(Protocol):
    """Sums over time that a run keeps beside its state: fed with every frame at full resolution."""

    def add(self, frame: Float[Tensor, "*grid component"], time: float) -> None: ...

    def state(self) -> dict[str, Tensor]: ...

    def restore(self, state: Mapping[str, Tensor]) -> None: ...


class BlownUp(PenstockError):
    """A simulation whose numbers are no longer finite: which, when, with what step, and what to change."""

    def __init__(self, flow: str, time: float, step: float, advice: str) -> None:
        super().__init__(flow, time, step, advice)
        self.flow, self.time, self.step, self.advice = flow, time, step, advice

    def __str__(self) -> str:
        return (
            f"{self.flow}: expected finite numbers, got none at time {self.time:g} (time step {self.step:g}). "
            f"{self.advice}"
        )


def steps_between(time: float, until: float, step: float) -> tuple[int, float]:
    """Number and length of equal steps, none longer than `step`, that lead from `time` to exactly `until`.

    Where `step` fits up to rounding, it is taken as it is: the steps are then the same however the way is cut.
    """
    if until <= time:
        return 0, step
    number = max(1, math.ceil((until - time) / step * (1 - 1e-9)))
    length = (until - time) / number
    return number, step if math.isclose(length, step, rel_tol=1e-9) else length


def run(
    simulation: Simulation,
    times: Sequence[float],
    receive: Callable[[int, float, Tensor], None],
    *,
    grid: Grid | None = None,
    checkpoint: Path | None = None,
    every: int = 1,
    passed: int = 0,
    progress: Callable[[int, int], None] | None = None,
    statistics: RunningStatistics | None = None,
) -> None:
    """Advance `simulation` through `times` (increasing) and hand out the frame number, time and frame at each.

    The first `passed` times are only passed through, as marks on the way to a developed flow. With `checkpoint`, the
    state is written there after every `every` times and at the end, and a run that finds a state there goes on from it.
    Frames after the last state come again then, the same to the bit: `receive` must bear that. `progress` hears (times
    done, times in all), `statistics` of every frame at full resolution.

    Raises:
        BlownUp: with the state at the last good frame kept in `checkpoint`.
        CheckpointError: the state at `checkpoint` belongs to another run.
    """
    done = restore(simulation, times, checkpoint, statistics) if checkpoint is not None else 0
    if progress is not None:
        progress(done, len(times))
    good = simulation.state()
    for k in range(done, len(times)):
        try:
            simulation.advance(times[k])
        except BlownUp as error:
            if checkpoint is None:
                raise
            _write(checkpoint, good, k, times, statistics)
            advice = f"{error.advice} The last good state, at time {_time(good):g}, is kept in {checkpoint}."
            raise BlownUp(error.flow, error.time, error.step, advice) from error
        if k >= passed:
            receive(k - passed, times[k], simulation.fields(grid))
            if statistics is not None:
                statistics.add(simulation.fields(), times[k])
        good = simulation.state()
        if checkpoint is not None and ((k + 1) % every == 0 or k + 1 == len(times)):
            _write(checkpoint, good, k + 1, times, statistics)
        if progress is not None:
            progress(k + 1, len(times))


def times_done(checkpoint: Path) -> int:
    """How many times had been reached when the state at `checkpoint` was written; 0 where there is none.

    Raises:
        CheckpointError: the file cannot be read.
    """
    return int(_read(checkpoint, values=False)[1]["done"]) if checkpoint.exists() else 0


def restore(
    simulation: Simulation, times: Sequence[float], checkpoint: Path, statistics: RunningStatistics | None = None
) -> int:
    """Take the state at `checkpoint`, where there is one; gives the number of times that were reached before.

    Raises:
        CheckpointError: unreadable, or of a run with other times or another kind of state.
    """
    remove_stale(checkpoint)
    if not checkpoint.exists():
        return 0
    stored, written = _read(checkpoint)
    done = int(written["done"])
    if done > len(times) or written["times"] != _listed(times[:done]):
        raise CheckpointError(
            f"{checkpoint}: expected the state of a run with the same frame times, got one that reached {done} "
            "others. Delete it to start this run anew, or choose another folder."
        )
    try:
        simulation.restore(_part(stored, STATE))
        if statistics is not None:
            statistics.restore(_part(stored, STATISTICS))
    except (KeyError, RuntimeError) as error:
        raise CheckpointError(
            f"{checkpoint}: expected the state of this simulation, got one of another kind or size ({error}). "
            "Delete it to start this run anew, or choose another folder."
        ) from error
    return done


def _write(
    checkpoint: Path,
    state: Mapping[str, Tensor],
    done: int,
    times: Sequence[float],
    statistics: RunningStatistics | None,
) -> None:
    tensors = {STATE + name: value for name, value in state.items()}
    if statistics is not None:
        tensors |= {STATISTICS + name: value for name, value in statistics.state().items()}
    plain = {name: value.detach().cpu().contiguous().clone() for name, value in tensors.items()}
    with written_file(checkpoint) as temporary:
        safetensors.torch.save_file(
            plain, temporary, metadata={"done": str(done), "times": _listed(times[:done]), "format": "pt"}
        )


def _read(checkpoint: Path, *, values: bool = True) -> tuple[dict[str, Tensor], dict[str, str]]:
    try:
        with safetensors.safe_open(checkpoint, framework="pt") as file:
            written = file.metadata() or {}
            stored = {name: file.get_tensor(name) for name in (file.keys() if values else ())}
        return stored, {key: written[key] for key in ("done", "times")}
    except (OSError, safetensors.SafetensorError, KeyError) as error:
        raise CheckpointError(
            f"{checkpoint}: expected the state of a simulation, got a file that cannot be read as one ({error}). "
            "Delete it to start this run anew."
        ) from error


def _listed(times: Sequence[float]) -> str:
    return f"{len(times)} {times[0].hex()} {times[-1].hex()}" if times else "none"


def _part(stored: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in stored.items() if name.startswith(prefix)}


def _time(state: Mapping[str, Tensor]) -> float:
    return float(state["time"])
