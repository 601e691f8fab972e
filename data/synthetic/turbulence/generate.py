"""Data sets of simulated turbulence in The Well's folder layout: independent runs, each of which can be resumed."""

import json
import math
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Literal, NamedTuple, TypeAlias

import numpy as np
import torch
from torch import Tensor

from data.atomic import written_file
from data.errors import ConfigError, PenstockError
from data.grid import Grid, between_walls, fourier
from data.preparing import Progress, Show
from data.synthetic.turbulence.channel import ChannelConfig
from data.synthetic.turbulence.isotropic import IsotropicConfig
from data.synthetic.turbulence.kolmogorov import KolmogorovConfig
from data.synthetic.turbulence.running import ChannelMeans
from data.synthetic.turbulence.simulation import Simulation, run, times_done
from data.turbulence.well import WellWriter
from data.turbulence.well_folder import STATS, write_stats
from data.worker_pool import worked

Flow = Literal["kolmogorov", "channel", "isotropic"]
Simulated: TypeAlias = KolmogorovConfig | ChannelConfig | IsotropicConfig

HELD_OUT = 1 / 8
"""Share of the runs, or of the frames of a single one, for validation, and as much for the test."""
FEWEST = 2
"""Frames that each part of a single run must have."""
MADE_BY = "generation.json"
"""What a folder was made from, so that nobody adds other runs to it."""
STATES = ".states"
STATE_EVERY = 8
"""Times between two states of a run on disk: writing one costs little beside computing as many frames."""


@dataclass(frozen=True, kw_only=True)
class SyntheticTurbulenceConfig:
    """Which flow is simulated and what is stored of it."""

    flow: Flow = "kolmogorov"
    kolmogorov: KolmogorovConfig = field(default_factory=KolmogorovConfig)
    channel: ChannelConfig = field(default_factory=ChannelConfig)
    isotropic: IsotropicConfig = field(default_factory=IsotropicConfig)
    runs: int = 16
    """Independent runs: an eighth each (at least one) for validation and test. One run is cut along time."""
    frames: int = 48
    """Stored of each run."""
    spacing: float = 0.25
    """Time between frames, in the flow's units."""
    spin_up: float = 20.0
    """Time before the first stored frame, in which the flow forgets its start."""
    coarse_spin_up: float = 0.0
    """Time before that on a coarser grid, where the large eddies develop at a fraction of the cost."""
    coarse_points: tuple[int, ...] = ()
    """Points of that coarser grid along each axis."""
    stored_points: tuple[int, ...] = (64, 64)
    """Of the stored frames along each axis: filtered sharply, but between walls read off at Chebyshev points."""
    seed: int = 0

    def __post_init__(self) -> None:
        if self.runs < 1 or self.frames < FEWEST or self.spacing <= 0 or self.spin_up < 0:
            raise ConfigError(
                f"synthetic: expected runs from 1, frames from {FEWEST}, spacing above 0 and spin_up from 0, got "
                f"runs={self.runs}, frames={self.frames}, spacing={self.spacing:g} and spin_up={self.spin_up:g}."
            )
        simulated = _points(self)
        if not _within(self.stored_points, simulated):
            raise ConfigError(
                f"synthetic.stored_points: expected from 4 to {simulated} points, one number for each axis of the flow "
                f"{self.flow}, got {self.stored_points}."
            )
        coarse = self.coarse_points
        usable = _within(coarse, simulated) and (self.flow == "channel" or len(set(coarse)) == 1)
        if self.coarse_spin_up < 0 or (self.coarse_spin_up > 0 and not usable):
            raise ConfigError(
                f"synthetic: expected coarse_spin_up from 0 and, above 0, coarse_points of the flow {self.flow} up "
                f"to {simulated} (in a box equal ones), got coarse_spin_up={self.coarse_spin_up:g} and {coarse}."
            )
        parts(self)

    @property
    def simulated(self) -> Simulated:
        """The configuration of the chosen flow."""
        found: Simulated = getattr(self, self.flow)
        return found

    @property
    def coarse(self) -> Simulated:
        """The configuration of the chosen flow on the coarser grid."""
        if self.flow == "channel":
            nx, ny, nz = self.coarse_points
            return replace(self.channel, points=(nx, ny, nz))
        return replace(self.kolmogorov if self.flow == "kolmogorov" else self.isotropic, points=self.coarse_points[0])


class Part(NamedTuple):
    """A stretch of a run that becomes a file of its own."""

    split: str
    """train, valid or test"""
    first: int
    stop: int
    """Frames `first` to `stop - 1`."""


def parts(config: SyntheticTurbulenceConfig) -> list[list[Part]]:
    """What becomes of each run: runs as wholes, or with fewer than three of them the last one cut along time.

    Raises:
        ConfigError: too few frames to cut.
    """
    runs, frames = config.runs, config.frames
    if runs >= 3:
        held = max(1, round(runs * HELD_OUT))
        splits = ["train"] * (runs - 2 * held) + ["valid"] * held + ["test"] * held
        return [[Part(split, 0, frames)] for split in splits]
    held = round(frames * HELD_OUT) if runs == 1 else frames // 2
    if held < FEWEST:
        raise ConfigError(
            f"synthetic: expected at least {math.ceil(FEWEST / HELD_OUT) if runs == 1 else 2 * FEWEST} frames of "
            f"{runs} run{'s' * (runs > 1)}, which are cut into training, validation and test along time, got {frames}."
        )
    if runs == 1:
        first, second = frames - 2 * held, frames - held
        return [[Part("train", 0, first), Part("valid", first, second), Part("test", second, frames)]]
    return [[Part("train", 0, frames)], [Part("valid", 0, held), Part("test", held, frames)]]


def generate(
    config: SyntheticTurbulenceConfig,
    folder: Path,
    progress: Show | None = None,
    processes: int = 0,
    device: str = "cpu",
) -> Path:
    """Simulate and store: gives `folder`, with files `data/{train,valid,test}/NAME_runNNN.hdf5` and `stats.yaml`.

    What a killed call had done is found and gone on with. Several runs are spread over `processes` (0: one per core).
    The data depend on the configuration alone, not on the number of processes; those of a GPU, and of a single run,
    which takes all threads, may differ by rounding. `progress` counts frames, those of the spin-up included.

    Raises:
        ConfigError: the folder holds data of another configuration.
        BlownUp: a simulation did; its last good state is kept.
    """
    _claim(config, folder)
    per_run = len(_coarse_times(config)) + len(_times(config)[0])
    total = config.runs * per_run
    waiting = [k for k in range(config.runs) if not _finished(config, folder, k)]
    done = {k: _done(config, folder, k) if k in waiting else per_run for k in range(config.runs)}
    found = sum(done.values())
    tell = progress or (lambda _: None)
    tell(Progress(found, total, 0, found, ""))
    here = device != "cpu" or processes == 1 or len(waiting) <= 1

    def show(index: int, times: int) -> None:
        done[index] = times
        tell(Progress(sum(done.values()), total, 0, found, _name(config, index)))

    # What is sent to other processes cannot report from there: they count run by run.
    make = partial(_make, config, folder, device, show if here else None)
    for index, _ in worked(waiting, make, 1 if here else processes, crashed=_crashed, preload=__name__):
        show(index, per_run)
    if not (folder / STATS).exists():
        write_stats(folder)
    shutil.rmtree(folder / STATES, ignore_errors=True)
    return folder


def stored_grid(config: SyntheticTurbulenceConfig) -> Grid:
    """The grid of the stored frames."""
    if config.flow == "channel":
        nx, ny, nz = config.stored_points
        channel = config.channel
        return Grid((fourier("x", nx, channel.length_x), between_walls("y", ny), fourier("z", nz, channel.length_z)))
    return Grid(tuple(fourier(name, n, 2 * math.pi) for name, n in zip("xyz", config.stored_points, strict=False)))


def run_seed(seed: int, index: int) -> int:
    """The seed of one run: runs of one data set, and of data sets of neighbouring seeds, have nothing in common."""
    return int(np.random.SeedSequence([seed, index]).generate_state(1, np.uint32)[0])


def _make(
    config: SyntheticTurbulenceConfig,
    folder: Path,
    device: str,
    show: Callable[[int, int], None] | None,
    index: int,
) -> None:
    """Simulate one run into its files."""
    times, passed = _times(config)
    checkpoint, before = _state(folder, index), len(_coarse_times(config))
    with _threads(1 if config.runs > 1 else None), ExitStack() as stack:
        seed = run_seed(config.seed, index)
        simulation = config.simulated.build(seed, device)
        # A kill may have come between the last frame and the last file: a file that is there is complete.
        stretches = [part for part in parts(config)[index] if not _path(config, folder, index, part).exists()]
        writers = [stack.enter_context(_writer(config, folder, index, part, simulation)) for part in stretches]
        _bring_together(stretches, writers, checkpoint, passed)
        if config.coarse_spin_up > 0 and not checkpoint.exists():
            _develop(simulation, config, seed, device, _coarse_state(folder, index), _offset(show, index, 0))

        def receive(frame: int, time: float, values: Tensor) -> None:
            for part, writer in zip(stretches, writers, strict=True):
                if part.first <= frame < part.stop:
                    writer.append(0, time - config.spin_up, values)

        means = ChannelMeans(simulation.grid, config.channel.nu) if config.flow == "channel" else None
        run(
            simulation,
            times,
            receive,
            grid=stored_grid(config),
            checkpoint=checkpoint,
            every=STATE_EVERY,
            passed=passed,
            progress=_offset(show, index, before),
            statistics=means,
        )
        if means is not None:
            for writer in writers:
                writer.statistics.update(means.finished())
    for state in (checkpoint, _coarse_state(folder, index)):
        state.unlink(missing_ok=True)


def _bring_together(stretches: Sequence[Part], writers: Sequence[WellWriter], checkpoint: Path, passed: int) -> None:
    """Cut off the frames that come again after the state. A state ahead of its frames is of no use: it goes."""
    pairs = list(zip(stretches, writers, strict=True))

    def wanted(part: Part) -> int:
        frames = times_done(checkpoint) - passed
        return min(max(0, frames - part.first), part.stop - part.first)

    if any(writer.frames() < wanted(part) for part, writer in pairs):
        checkpoint.unlink()
    for part, writer in pairs:
        writer.truncate(0, wanted(part))


def _develop(
    simulation: Simulation,
    config: SyntheticTurbulenceConfig,
    seed: int,
    device: str,
    checkpoint: Path,
    progress: Callable[[int, int], None] | None,
) -> None:
    """Start `simulation` from large eddies that have developed on the coarser grid."""
    coarse = config.coarse.build(seed, device)
    times = _coarse_times(config)
    run(
        coarse,
        times,
        lambda *_: None,
        checkpoint=checkpoint,
        every=STATE_EVERY,
        passed=len(times),
        progress=progress,
    )
    simulation.start_from(coarse.fields(), coarse.grid)


def _offset(show: Callable[[int, int], None] | None, index: int, before: int) -> Callable[[int, int], None] | None:
    """What a run, which knows only its own times, tells of its progress."""
    return None if show is None else lambda reached, _: show(index, before + reached)


def _writer(
    config: SyntheticTurbulenceConfig, folder: Path, index: int, part: Part, simulation: Simulation
) -> WellWriter:
    path = _path(config, folder, index, part)
    if WellWriter.unfinished(path):
        return WellWriter.resumed(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    chosen = config.simulated
    attributes = {
        "description": f"{config.flow} flow, simulated spectrally; frames filtered to {config.stored_points} points",
        "simulation": json.dumps(asdict(chosen), sort_keys=True),
        "simulation_grid": list(simulation.grid.shape),
        "spin_up": config.coarse_spin_up + config.spin_up,
        "seed": config.seed,
        "run": index,
        "units": "half height and nominal friction velocity" if config.flow == "channel" else "non-dimensional",
    }
    return WellWriter(
        path,
        name=config.flow,
        grid=stored_grid(config),
        components=simulation.components,
        parameters=simulation.parameters,
        attributes=attributes,
    )


def _times(config: SyntheticTurbulenceConfig) -> tuple[list[float], int]:
    """The times of the marks of the spin-up and of the frames, and how many of them are marks."""
    marks = _marks(config.spin_up, config.spacing)
    frames = [config.spin_up + config.spacing * k for k in range(config.frames)]
    return [config.spin_up * k / marks for k in range(marks)] + frames, marks


def _coarse_times(config: SyntheticTurbulenceConfig) -> list[float]:
    """The times of the marks on the coarser grid, the last one its end."""
    marks = _marks(config.coarse_spin_up, config.spacing)
    return [config.coarse_spin_up * (k + 1) / marks for k in range(marks)]


def _marks(time: float, spacing: float) -> int:
    """Into how many pieces, none longer than the frames' spacing, a spin-up is cut: a kill costs no more."""
    return math.ceil(time / spacing * (1 - 1e-9))


def _done(config: SyntheticTurbulenceConfig, folder: Path, index: int) -> int:
    """How many times of an unfinished run, on both grids, were reached."""
    if _state(folder, index).exists():
        return len(_coarse_times(config)) + times_done(_state(folder, index))
    return times_done(_coarse_state(folder, index))


def _points(config: SyntheticTurbulenceConfig) -> tuple[int, ...]:
    """Points of the simulation along each axis."""
    if config.flow == "channel":
        return config.channel.points
    return (config.kolmogorov.points,) * 2 if config.flow == "kolmogorov" else (config.isotropic.points,) * 3


def _within(points: Sequence[int], most: Sequence[int]) -> bool:
    return len(points) == len(most) and all(4 <= own <= limit for own, limit in zip(points, most, strict=True))


def _name(config: SyntheticTurbulenceConfig, index: int) -> str:
    return f"{config.flow}_run{index:03d}"


def _path(config: SyntheticTurbulenceConfig, folder: Path, index: int, part: Part) -> Path:
    return folder / "data" / part.split / f"{_name(config, index)}.hdf5"


def _state(folder: Path, index: int) -> Path:
    return folder / STATES / f"run{index:03d}.safetensors"


def _coarse_state(folder: Path, index: int) -> Path:
    return folder / STATES / f"run{index:03d}_coarse.safetensors"


def _finished(config: SyntheticTurbulenceConfig, folder: Path, index: int) -> bool:
    return all(_path(config, folder, index, part).exists() for part in parts(config)[index])


def _claim(config: SyntheticTurbulenceConfig, folder: Path) -> None:
    """Note in the folder what it is made from; refuse one that was made from something else."""
    unused: Sequence[str] = [flow for flow in ("kolmogorov", "channel", "isotropic") if flow != config.flow]
    values = {key: value for key, value in asdict(config).items() if key not in unused}
    text = json.dumps(values, sort_keys=True, indent=2) + "\n"
    note = folder / MADE_BY
    if note.exists():
        if note.read_text() != text:
            raise ConfigError(
                f"{folder}: expected an empty folder or one that was begun with the same configuration, got data of "
                f"another one (see {MADE_BY} in it). Choose another folder, or delete this one."
            )
        return
    with written_file(note) as temporary:
        temporary.write_text(text)


def _crashed(index: int, reason: str) -> None:
    raise PenstockError(
        f"run {index} of the simulation was not finished: {reason} What was done is kept: run the same command again, "
        "with fewer processes if memory was short."
    )


@contextmanager
def _threads(number: int | None) -> Iterator[None]:
    """So many threads for tensor operations inside: sums come out the same whatever machine they run on."""
    before = torch.get_num_threads()
    if number is not None:
        torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)
