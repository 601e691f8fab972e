"""What each verb does. They all come down to steps of a run, done here or as a whole workflow."""

import argparse
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any

from cluster import placing
from configs import load
from data.errors import ConfigError, PenstockError
from flows import workflow
from flows.domain import TRAIN, Domain, load_domain
from flows.placement import Placement, write_placement
from flows.run import DONE, SWEEP, Run, all_runs, create, find, user_message
from flows.tracking import requested_mode

NEW_RUN_ONLY = ("preset", "data", "config", "seed", "name", "wandb")


def runs_dir(arguments: argparse.Namespace) -> Path:
    """--runs-dir, else PENSTOCK_RUNS, else ./runs."""
    chosen = arguments.runs_dir or os.environ.get("PENSTOCK_RUNS") or "runs"
    return Path(chosen).resolve()


# ----------------------------------------------------------------------------------------------------- whole workflows


def do_run(arguments: argparse.Namespace) -> None:
    run = _new_run(arguments, arguments.domain)
    if run is not None:
        with _withdrawn_on_a_mistake(run), placing.on_its_cluster(run):
            workflow.drive(run)
        _say_done(run)


def do_resume(arguments: argparse.Namespace) -> int | None:
    _refuse_overrides(arguments, "resume goes on with the run's own configuration")
    sweep = _sweep_to_resume(arguments)
    if sweep is not None:
        from cluster.sweeps.command import resume

        return resume(sweep, arguments)
    run = _to_resume(arguments)
    if run.state() == DONE:
        print(f"{run.name} is finished; nothing is missing.")
        return None
    placing.move(run, arguments)
    kept = run.finished()
    print(f"resuming {run.name}" + (f"; kept: {', '.join(kept)}" if kept else ""), flush=True)
    with placing.on_its_cluster(run):
        workflow.drive(run, wait=not arguments.no_wait)
    _say_done(run)
    return None


def _to_resume(arguments: argparse.Namespace) -> Run:
    if not arguments.run:
        return _newest_unfinished(runs_dir(arguments))
    if "://" not in arguments.run:
        return find(arguments.run, runs_dir(arguments))
    from cluster.keeping import brought_back

    return brought_back(arguments.run, runs_dir(arguments))


def _sweep_to_resume(arguments: argparse.Namespace) -> Path | None:
    """The sweep that is named; where nothing is, the newest unfinished one if no unfinished run is younger."""
    from cluster.sweeps.results import counts, sweeps_in

    if arguments.run:
        named = [
            path for path in (runs_dir(arguments) / arguments.run, Path(arguments.run)) if (path / SWEEP).is_file()
        ]
        return named[0].resolve() if named else None
    open_ones = [path for path in sweeps_in(runs_dir(arguments)) if (c := counts(path))[1] < c[2] or not c[2]]
    runs = [run.created for run in all_runs(runs_dir(arguments)) if run.state() != DONE]
    if not open_ones or (runs and max(runs) > (open_ones[-1] / SWEEP).stat().st_mtime):
        return None
    return open_ones[-1]


def _newest_unfinished(folder: Path) -> Run:
    unfinished = [run for run in all_runs(folder) if run.state() != DONE]
    if not unfinished:
        raise PenstockError(f"no unfinished run in {folder}. `penstock runs list` shows them all.")
    return unfinished[-1]


def _say_done(run: Run) -> None:
    print(f"done: {run.path}")
    for name in ("report.html", "exports", "evaluation.json"):
        if (run.path / name).exists():
            print(f"  {name:<16} {run.path / name}")


# ----------------------------------------------------------------------------------------------------------- new runs


def _configured(arguments: argparse.Namespace, domain: Domain) -> tuple[Any, str]:
    """The resolved configuration of a new run, and its preset's name."""
    preset = arguments.preset or load.default_preset(domain.name)
    overrides = domain.expanded(arguments.overrides)
    layers = load.preset_layers(domain.name, preset)
    if arguments.config is not None:
        layers.append(load.file_layer(arguments.config))
    if arguments.data is not None:
        overrides["data"] = str(Path(arguments.data).resolve())
    if arguments.seed is not None:
        overrides["seed"] = arguments.seed
    mode = requested_mode(arguments.wandb)
    if mode is not None:
        overrides["wandb"] = mode
    layers.append(load.override_layer(overrides | _shorthands(arguments)))
    return load.resolve(domain.config, layers), preset


def _new_run(arguments: argparse.Namespace, name: str) -> Run | None:
    """A new run directory; None where only the configuration was to be printed."""
    domain = load_domain(name)
    config, preset = _configured(arguments, domain)
    if arguments.print_config:
        print(load.to_yaml(config), end="")
        return None
    if config.data is not None and not Path(config.data).exists():
        raise PenstockError(f"--data: there is no file or folder {config.data}.")
    placement = placing.asked(arguments, Placement())
    run = create(runs_dir(arguments), domain, config, preset, arguments.name)
    if placement != Placement():
        write_placement(run.path, placement)
    print(f"run {run.name} ({name}, preset {preset}) in {run.path}", flush=True)
    return run


@contextmanager
def _withdrawn_on_a_mistake(run: Run) -> Iterator[None]:
    """A new run that ends by a mistake of the user before any of its steps is finished leaves no directory behind."""
    try:
        yield
    except Exception as error:
        if user_message(error) is not None and not run.finished() and run.holder() is None:
            shutil.rmtree(run.path)
        raise


def _shorthands(arguments: argparse.Namespace) -> dict[str, str]:
    found = {}
    if getattr(arguments, "count", None) is not None:
        found["sample.count"] = str(arguments.count)
    if getattr(arguments, "format", None) is not None and arguments.verb == "export":
        found["export.formats"] = ",".join(arguments.format)
    if getattr(arguments, "leak_test", False):
        found["evaluate.leak_test"] = "true"
    return found


# --------------------------------------------------------------------------------------------------------- single steps


def do_prepare(arguments: argparse.Namespace) -> None:
    run = _new_run(arguments, arguments.domain)
    if run is not None:
        with _withdrawn_on_a_mistake(run):
            _do_steps(run, "prepare")


def do_train(arguments: argparse.Namespace) -> None:
    name, _, stage = arguments.target.partition(".")
    stages = load_domain(name).stages()
    if stage and stage not in stages:
        raise ConfigError(f"{name} has no stage '{stage}'.{load.nearest(stage, stages)} Stages: {', '.join(stages)}.")
    chosen = [stage] if stage else stages
    run = _existing(arguments, arguments.run, chosen) if arguments.run else _new_run(arguments, name)
    if run is None:
        return
    if run.domain_name != name:
        raise PenstockError(f"{run.name} is a run of {run.domain_name}, not of {name}.")
    trained = [part for part in chosen if TRAIN + part in run.finished()]
    if trained and arguments.overrides:
        raise PenstockError(f"{trained[0]} is trained already in {run.name}. Start a new run with the new settings.")
    run.configure(arguments.overrides if arguments.run else {})
    with nullcontext() if arguments.run else _withdrawn_on_a_mistake(run):
        for part in chosen:
            if stage or TRAIN + part not in run.left_out():
                _do_steps(run, TRAIN + part)


def do_sample(arguments: argparse.Namespace) -> None:
    _on_run(arguments, arguments.target)


def do_evaluate(arguments: argparse.Namespace) -> None:
    _on_run(arguments, arguments.target)


def do_report(arguments: argparse.Namespace) -> None:
    _on_run(arguments, arguments.target)


def do_export(arguments: argparse.Namespace) -> None:
    targets = list(arguments.target)
    if targets[:1] == ["model"]:
        _export_models(arguments, targets[1] if len(targets) > 1 else None)
    elif len(targets) > 1:
        raise PenstockError(
            f"export takes one RUN, got {' '.join(targets)}. For the networks: penstock export model RUN."
        )
    else:
        _on_run(arguments, targets[0] if targets else None)


def _on_run(arguments: argparse.Namespace, target: str | None) -> None:
    """Do the verb's step on a run, or on a new one where a domain is named."""
    step = arguments.verb
    if target in load.domain_names() and not (runs_dir(arguments) / str(target)).exists():
        new = _new_run(arguments, str(target))
        if new is not None:
            with _withdrawn_on_a_mistake(new):
                _do_steps(new, step)
        return
    run = _existing(arguments, target, [step])
    changes = arguments.overrides | _shorthands(arguments)
    run.configure(changes)
    _do_steps(run, step, again=arguments.again or bool(changes))


def _existing(arguments: argparse.Namespace, target: str | None, sections: list[str]) -> Run:
    """The run that is named, or the newest; only the settings of `sections` may change in it."""
    if target is None:
        runs = all_runs(runs_dir(arguments))
        if not runs:
            raise PenstockError(f"there is no run in {runs_dir(arguments)}. `penstock run DOMAIN` starts one.")
        run = runs[-1]
        print(f"newest run: {run.name}", flush=True)
    else:
        run = find(target, runs_dir(arguments))
    fixed = [name for name in NEW_RUN_ONLY if getattr(arguments, name, None) is not None]
    if fixed:
        raise PenstockError(f"--{fixed[0]} belongs to a new run; {run.name} has its configuration already.")
    arguments.overrides = run.domain.expanded(arguments.overrides)
    placing.move(run, arguments)
    outside = [key for key in arguments.overrides if key.split(".")[0] not in sections]
    if outside:
        raise PenstockError(
            f"--{outside[0]}: in the existing run {run.name} this verb can change settings of "
            f"{', '.join(sections)} only. Start a new run for another configuration."
        )
    return run


def _do_steps(run: Run, step: str, again: bool = False) -> None:
    """Do one step here, and before it what it needs and is missing."""
    with placing.on_its_cluster(run):
        _do_steps_in_place(run, step, again)


def _do_steps_in_place(run: Run, step: str, again: bool) -> None:
    if step not in run.domain.steps:
        raise PenstockError(f"{run.domain_name} has no step '{step}'; its steps: {', '.join(run.domain.steps)}.")
    missing = run.missing(step)
    if missing:
        print(f"{step} needs {', '.join(missing)} first", flush=True)
    for name in missing:
        run.execute(name, workflow.waiting_message)
    run.execute(step, workflow.waiting_message, again=again)
    records = run.steps()
    later = [name for name in run.domain.after(step) if name in records]
    stale = [name for name in later if records[name].attempts and name not in run.finished()]
    if stale:
        print(f"out of date now: {', '.join(stale)}. `penstock resume {run.name}` renews them.")
    print(f"done: {run.path}")


def _export_models(arguments: argparse.Namespace, target: str | None) -> None:
    from data.model_folder import read_model

    run = _existing(arguments, target, [])
    folder = (arguments.to or run.exports / "models").resolve()
    steps, finished = run.steps(), run.finished()
    # A model without a training of its own (a closed-form one) is there as soon as its folder is.
    stages = [s for s in run.domain.models if TRAIN + s in steps or run.model(s).is_dir()]
    trained = [s for s in stages if TRAIN + s in finished or (TRAIN + s not in steps and run.model(s).is_dir())]
    if not trained:
        raise PenstockError(f"nothing is trained in {run.name} yet: `penstock resume {run.name}`.")
    for stage in stages:
        if stage not in trained:
            print(f"{stage}: not trained in {run.name} yet")
            continue
        read_model(run.model(stage))
        if (folder / stage).exists():
            shutil.rmtree(folder / stage)
        shutil.copytree(run.model(stage), folder / stage)
        print(f"{stage}: {folder / stage}")


# -------------------------------------------------------------------------------------------------------------- imports


def do_import(arguments: argparse.Namespace) -> None:
    from flows.steps.importing import import_run

    _refuse_overrides(arguments, "an import takes its configuration from the weights")
    domain = _importing_domain(arguments)
    for path in (arguments.file, arguments.data):
        if path is not None and not path.exists():
            raise PenstockError(f"there is no file or folder {path}.")
    run = import_run(runs_dir(arguments), domain, arguments.format, arguments.file, arguments.name, data=arguments.data)
    print(f"imported as run {run.name}: {run.path}")
    print(f"draw from it with: penstock sample {run.name}")


def _importing_domain(arguments: argparse.Namespace) -> Domain:
    names = [load.check_domain(arguments.domain)] if arguments.domain else load.domain_names()
    domains = [load_domain(name) for name in names]
    able = [domain for domain in domains if arguments.format in domain.importers]
    if not able:
        known: Mapping[str, str] = {key: domain.name for domain in domains for key in domain.importers}
        listed = ", ".join(f"{key} ({name})" for key, name in known.items()) or "none"
        raise PenstockError(
            f"no importer for '{arguments.format}'.{load.nearest(arguments.format, known)} Known: {listed}."
        )
    if len(able) > 1:
        raise PenstockError(f"several domains read {arguments.format}: say which by --domain {able[0].name}.")
    return able[0]


def _refuse_overrides(arguments: argparse.Namespace, why: str) -> None:
    if arguments.overrides:
        raise ConfigError(f"{load.COMMAND_LINE}: --{next(iter(arguments.overrides))} is not understood: {why}.")


# ------------------------------------------------------------------------------------------- sweeps, jobs, clusters


def do_sweep(arguments: argparse.Namespace) -> int:
    from cluster.sweeps.command import sweep

    return sweep(arguments)


def do_submit(arguments: argparse.Namespace) -> int:
    from cluster.jobs.command import submit

    return submit(arguments)


def do_jobs(arguments: argparse.Namespace) -> int:
    from cluster.jobs.command import jobs

    return jobs(arguments)


def do_cluster(arguments: argparse.Namespace) -> int:
    from cluster.clusters.command import cluster

    return cluster(arguments)


# ----------------------------------------------------------------------------------------------------------- looking


def do_runs(arguments: argparse.Namespace) -> None:
    from cluster.listing import runs_table, show_run

    _refuse_overrides(arguments, "`runs` only shows")
    folder = runs_dir(arguments)
    if arguments.what == "list":
        print(runs_table(folder))
    else:
        print(show_run(_existing(argparse.Namespace(runs_dir=folder, overrides={}), arguments.run, [])))


def do_doctor(arguments: argparse.Namespace) -> None:
    from cluster.doctor import examine, table

    _refuse_overrides(arguments, "`doctor` takes no settings")
    print(table([asdict(finding) for finding in examine(runs_dir(arguments))]))


def do_version(arguments: argparse.Namespace) -> None:
    from flows.provenance import code_version

    code = code_version()
    commit = f" (commit {code['commit'][:10]}{', changed' if code['dirty'] else ''})" if "commit" in code else ""
    print(f"penstock {code['version']}{commit}")
