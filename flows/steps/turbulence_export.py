"""Rollouts and statistics as files for other programs."""

from configs.turbulence import TurbulenceConfig
from data.export.field import FORMATS, write_field
from data.turbulence.statistics_file import write_tables
from data.turbulence.well import WellFile
from flows.progress import Progress
from flows.run import Run
from flows.steps.turbulence_evaluation import SIMULATION, read_statistics
from flows.steps.turbulence_rollout import REFERENCE, rollout_file
from flows.steps.turbulence_solvers import solved


def export(run: Run) -> None:
    """Write every rollout into exports/ in the formats asked for, and the tables of its statistics."""
    config: TurbulenceConfig = run.config
    names = [REFERENCE, *config.networks, *solved(run)]
    progress = Progress("export", len(names), "rollouts")
    for done, name in enumerate(names, start=1):
        file = WellFile(rollout_file(run, name))
        last = range(max(0, file.lengths[0] - config.export.frames), file.lengths[0])
        for format in config.export.formats:
            if format == "well":
                write_field(file, run.exports / f"{name}.hdf5")
            elif format in FORMATS:
                write_field(file, run.exports / f"{name}{FORMATS[format]}", trajectory=0, frames=last)
        progress.update(done)
    if "csv" in config.export.formats:
        for name in (SIMULATION, *config.networks, *solved(run)):
            if (run.path / "evaluation" / f"{name}.h5").exists():
                write_tables(read_statistics(run, name), run.exports / "statistics" / name)
    print(f"{', '.join(config.export.formats)}: {run.exports}", flush=True)
