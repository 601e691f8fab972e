"""`penstock sweep DOMAIN.STAGE --space FILE`, and going on with a sweep."""

import argparse
from dataclasses import replace
from pathlib import Path

from cluster import placing
from cluster.sweeps.results import Board, Sweep, export_best, read_sweep, table
from cluster.sweeps.space import PBT, Space, check_space, first_trials, read_space
from configs import load
from data.errors import ConfigError, PenstockError
from flows.domain import Domain, load_domain
from flows.placement import Placement
from flows.run import command_line, new_folder


def sweep(arguments: argparse.Namespace) -> int:
    """A new sweep, from the space file to its report. The exit code."""
    from cluster.verbs import _configured, runs_dir

    domain, stage = _target(arguments.target)
    space = read_space(arguments.space)
    if arguments.samples is not None:
        space = replace(space, plan=replace(space.plan, samples=_positive("--samples", arguments.samples)))
    arguments.preset = arguments.preset or space.plan.preset
    base, preset = _configured(arguments, domain)
    if base.data is not None and not Path(base.data).exists():
        raise PenstockError(f"--data: there is no file or folder {base.data}.")
    check_space(space, domain, stage, base)
    first_trials(space, domain, base, space.plan.samples)
    if arguments.print_config:
        print(load.to_yaml(base), end="")
        return 0
    placement = placing.asked(arguments, Placement())
    _check_placement(space, placement, arguments)
    folder = new_folder(runs_dir(arguments), arguments.name, f"sweep-{domain.name}-{stage}").resolve()
    made = Sweep(
        folder=folder,
        target=arguments.target,
        preset=preset,
        command=command_line(),
        samples=space.plan.samples,
        concurrent=arguments.concurrent and _positive("--concurrent", arguments.concurrent),
        memory_per_trial=arguments.memory_per_trial,
        placement=placement,
        space_file=str(arguments.space),
        described=load.read_yaml(arguments.space) | {"samples": space.plan.samples},
    )
    made.write(base)
    print(f"sweep {made.name} ({arguments.target}, preset {preset}) in {made.folder}", flush=True)
    return _finish(made)


def resume(folder: Path, arguments: argparse.Namespace) -> int:
    """Go on with a sweep: trials at their end are kept, the others go on from their checkpoints."""
    found = read_sweep(folder)
    placement = placing.asked(arguments, found.placement)
    board = Board(found)
    if board.trials and not board.unfinished() and len(board.trials) >= (found.samples or 0):
        print(f"{found.name} is finished; nothing is missing.")
    else:
        kept = len(board.trials) - len(board.unfinished())
        print(f"resuming sweep {found.name}; kept: {kept} of {max(len(board.trials), found.samples or 0)} trials")
    return _finish(replace(found, placement=placement))


def _finish(made: Sweep) -> int:
    from cluster.sweeps.engine import all_failed, go_on  # late: Ray
    from cluster.sweeps.report import write_report

    try:
        board = go_on(made)
    finally:
        if (made.folder / "trials.json").is_file():
            report = write_report(made.folder)
    exported = export_best(board)
    print(table(board))
    failed = all_failed(board)
    if failed is not None:
        raise failed
    print(f"done: {made.folder}")
    for path in (report, exported):
        if path is not None:
            print(f"  {path.name:<16} {path}")
    return 0


def _target(text: str) -> tuple[Domain, str]:
    name, _, stage = text.partition(".")
    domain = load_domain(name)
    stages = domain.stages()
    if stage not in stages:
        said = f"{name} has no stage '{stage}'" if stage else f"'{text}' names no stage"
        raise ConfigError(f"{said}.{load.nearest(stage, stages)} Give DOMAIN.STAGE; stages: {', '.join(stages)}.")
    return domain, stage


def _positive(option: str, value: int) -> int:
    if value < 1:
        raise ConfigError(f"command line: {option} must be at least 1, got {value}.")
    return value


def _check_placement(space: Space, placement: Placement, arguments: argparse.Namespace) -> None:
    if isinstance(space.plan.scheduler, PBT) and placement.workers > 1:
        raise ConfigError("population-based training takes trials of one worker each: leave out --workers.")
    if arguments.memory_per_trial is not None and arguments.memory_per_trial <= 0:
        raise ConfigError(f"command line: --memory-per-trial expects GiB above 0, got {arguments.memory_per_trial}.")
    if arguments.memory_per_trial is not None and placement.workers > 1:
        raise ConfigError("--memory-per-trial limits trials of one worker: leave out --workers, or the limit.")
