"""Where the work of a run is done: on this machine, or on a cluster, by how many processes."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from configs import load
from data.atomic import written_file

FILE = "placement.yaml"


@dataclass(frozen=True, kw_only=True)
class Placement:
    """What a run asks of the machines; kept beside its configuration, of whose results it is no part."""

    on: Literal["local", "ray"] = "local"
    """`local`: this process. `ray`: training processes and tasks of a Ray cluster."""
    address: str | None = None
    """Of the Ray cluster; null takes RAY_ADDRESS, and where that is not set a cluster on this machine for as long as
    the command runs."""
    workers: int = 1
    """Training processes; the batch size is that of all together."""
    min_workers: int | None = None
    """With how few of them a training goes on after a loss; null waits until all are there again."""
    cpus_per_worker: float = 1.0
    gpus_per_worker: float = 0.0
    strategy: Literal["ddp", "fsdp"] = "ddp"
    """`ddp`: every process holds the whole network. `fsdp`: weights and optimizer state are shared out."""
    max_failures: int = 3
    """How often a training begins again after a process died by itself; a node that was taken away does not count."""
    storage: str | None = None
    """Folder or URI (s3://, gs://, any that fsspec reads) to which the run is copied as it grows, and from which
    machines without a view of the run's folder take it; null where all see that folder."""

    def __post_init__(self) -> None:
        if self.workers < 1:
            raise ValueError(f"workers must be at least 1, got {self.workers}.")
        if self.min_workers is not None and not 1 <= self.min_workers <= self.workers:
            raise ValueError(f"min_workers must lie between 1 and workers ({self.workers}), got {self.min_workers}.")
        if self.cpus_per_worker <= 0 or self.gpus_per_worker < 0:
            raise ValueError(
                "cpus_per_worker must be positive and gpus_per_worker not negative, got "
                f"{self.cpus_per_worker} and {self.gpus_per_worker}."
            )
        if self.max_failures < 0:
            raise ValueError(f"max_failures must not be negative, got {self.max_failures}.")
        if self.on == "local" and (self.workers > 1 or self.strategy != "ddp"):
            raise ValueError("several workers, and fsdp, need a cluster: add --on ray.")


def read_placement(run_folder: Path) -> Placement:
    """The placement of a run; a run without one is local."""
    file = run_folder / FILE
    return load.read_saved(Placement, file) if file.exists() else Placement()


def write_placement(run_folder: Path, placement: Placement) -> None:
    """Keep the placement for whoever resumes the run."""
    with written_file(run_folder / FILE) as temporary:
        temporary.write_text(load.to_yaml(placement))
