"""Where a command does its work: what the user asked for, and a cluster to do it on."""

import argparse
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields, replace

from data.errors import ConfigError
from flows.domain import TRAIN
from flows.executor import plug
from flows.placement import Placement, read_placement, write_placement
from flows.run import DONE, Run

plug("ray", "cluster.on_ray.executor:OnRay")


def asked(arguments: argparse.Namespace, before: Placement) -> Placement:
    """The placement that the options of a command make of an earlier one.

    Raises:
        ConfigError: options that do not go together.
    """
    names = [field.name for field in fields(Placement)]
    given = {name: value for name in names if (value := getattr(arguments, name, None)) is not None}
    try:
        return replace(before, **given)
    except ValueError as error:
        raise ConfigError(f"command line: {error}") from None


def move(run: Run, arguments: argparse.Namespace) -> None:
    """Give an existing run another placement where the command asks for one."""
    before = read_placement(run.path)
    placement = asked(arguments, before)
    if placement != before:
        write_placement(run.path, placement)


@contextmanager
def on_its_cluster(run: Run) -> Iterator[None]:
    """While the block runs, all steps of the run (in this process or its children) find one and the same cluster, and
    what they write is copied to the run's storage, where it has one."""
    from cluster.keeping import kept

    placement = read_placement(run.path)
    if placement.on == "local":
        with kept(run, placement):
            yield
        return
    from cluster.on_ray.capacity import check
    from cluster.on_ray.connection import cluster_for

    with kept(run, placement), cluster_for(placement):
        if any(step.startswith(TRAIN) and record.state != DONE for step, record in run.steps().items()):
            check(run, placement)  # now, and not after hours of preparing data
        yield
