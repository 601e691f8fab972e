"""Data sets of simulated turbulence in The Well's folder layout: independent runs, each of which can be resumed."""

import json
import math
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Literal, NamedTuple

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
        if len(self.stored_points) != len(simulated) or any(
            not 4 <= stored <= points for stored, points in zip(self.stored_points, simulated, strict=False)
        ):
            raise ConfigError(
                f"synthetic.stored_points: expected from 4 to {simulated} points, one number for each axis of the flow "
                f"{self.flow}, got {self.stored_points}."
            )
        parts(self)

    @property
    def simulated(self) -> KolmogorovConfig | ChannelConfig | IsotropicConfig:
        """The configuration of the chosen flow."""
        found: KolmogorovConfig | ChannelConfig | IsotropicConfig = getattr(self, self.flow)
        return found


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
    per_run = len(_times(config)[0])
    total = config.runs * per_run
    waiting = [k for k in range(config.runs) if not _finished(config, folder, k)]
    done = {k: times_done(_state(folder, k)) if k in waiting else per_run for k in range(config.runs)}
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
    checkpoint = _state(folder, index)
    with _threads(1 if config.runs > 1 else None), ExitStack() as stack:
        simulation = config.simulated.build(run_seed(config.seed, index), device)
        means = ChannelMeans(simulation.grid, config.channel.nu) if config.flow == "channel" else None
        # A kill may have come between the last frame and the last file: a file that is there is complete.
        stretches = [part for part in parts(config)[index] if not _path(config, folder, index, part).exists()]
        writers = [_writer(config, folder, index, part, simulation) for part in stretches]
        for writer in writers:
            stack.enter_context(writer)
        frames = max(0, times_done(checkpoint) - passed)
        for part, writer in zip(stretches, writers, strict=True):
            wanted = min(max(0, frames - part.first), part.stop - part.first)
            if writer.frames() < wanted:  # the disk lost frames that the state had seen written: from the beginning
                checkpoint.unlink()
                frames = 0
        for part, writer in zip(stretches, writers, strict=True):
            writer.truncate(0, min(max(0, frames - part.first), part.stop - part.first))

        def receive(frame: int, time: float, values: Tensor) -> None:
            for part, writer in zip(stretches, writers, strict=True):
                if part.first <= frame < part.stop:
                    writer.append(0, time - config.spin_up, values)

        run(
            simulation,
            times,
            receive,
            grid=stored_grid(config),
            checkpoint=checkpoint,
            every=STATE_EVERY,
            passed=passed,
            progress=None if show is None else lambda reached, _: show(index, reached),
            statistics=means,
        )
        if means is not None:
            for writer in writers:
                writer.statistics.update(means.finished())
    checkpoint.unlink(missing_ok=True)


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
        "spin_up": config.spin_up,
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
    marks = math.ceil(config.spin_up / config.spacing * (1 - 1e-9))
    frames = [config.spin_up + config.spacing * k for k in range(config.frames)]
    return [config.spin_up * k / marks for k in range(marks)] + frames, marks


def _points(config: SyntheticTurbulenceConfig) -> tuple[int, ...]:
    """Points of the simulation along each axis."""
    if config.flow == "channel":
        return config.channel.points
    return (config.kolmogorov.points,) * 2 if config.flow == "kolmogorov" else (config.isotropic.points,) * 3


def _name(config: SyntheticTurbulenceConfig, index: int) -> str:
    return f"{config.flow}_run{index:03d}"


def _path(config: SyntheticTurbulenceConfig, folder: Path, index: int, part: Part) -> Path:
    return folder / "data" / part.split / f"{_name(config, index)}.hdf5"


def _state(folder: Path, index: int) -> Path:
    return folder / STATES / f"run{index:03d}.safetensors"


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
