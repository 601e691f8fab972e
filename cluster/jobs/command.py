"""`penstock submit` and `penstock jobs`: any command as a job of a Ray cluster."""

import argparse
import os
import re
import secrets
import shlex
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cluster.jobs.client import COMMAND, Job, Jobs, dashboard
from cluster.jobs.entry import STOP_SECONDS
from cluster.jobs.packing import checkout, packed
from configs.load import COMMAND_LINE, nearest
from data.errors import ConfigError, PenstockError
from flows.provenance import COMMIT, code_version
from flows.stopping import like_ctrl_c

SIZE_MIB = 100.0
NOT_AS_JOB = ("submit", "jobs", "cluster")
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


def submit(arguments: argparse.Namespace) -> int:
    """Submit a command as a job; its exit code, or 0 where it is not waited for."""
    words = _checked_command(arguments)
    if arguments.job_name is not None and not NAME.fullmatch(arguments.job_name):
        raise ConfigError(f"{COMMAND_LINE}: --job-name expects letters, digits and ._-, got '{arguments.job_name}'.")
    variables = _environment(arguments)
    with like_ctrl_c():
        return _submit(arguments, words, variables)


def _submit(arguments: argparse.Namespace, words: list[str], variables: dict[str, str]) -> int:
    jobs = Jobs.at(*dashboard(arguments.address, arguments.token_file))
    most = SIZE_MIB if arguments.max_size is None else arguments.max_size
    with packed(arguments.working_dir, _runs_here(arguments), most) as folder:
        environment: dict[str, Any] = {"working_dir": str(folder), "env_vars": variables}
        if arguments.pip:
            environment["pip"] = arguments.pip
        name = jobs.submit(
            entrypoint=f"exec $(command -v python || command -v python3) -m cluster.jobs.entry {shlex.join(words)}",
            submission_id=arguments.job_name or _new_name(words),
            runtime_env=environment,
            metadata={COMMAND: shlex.join(words)},
            entrypoint_num_cpus=arguments.cpus,
            entrypoint_num_gpus=arguments.gpus,
        )
    print(f"job {name} at {jobs.url}: penstock {shlex.join(words)}", flush=True)
    if arguments.no_wait:
        print(_how_to_go_on(name, arguments))
        return 0
    return _follow(jobs, name, arguments)


def jobs(arguments: argparse.Namespace) -> int:
    """List, show, follow or stop jobs; the exit code."""
    if arguments.overrides:
        raise ConfigError(f"{COMMAND_LINE}: --{next(iter(arguments.overrides))} is not understood: it is no setting.")
    found = Jobs.at(*dashboard(arguments.address, arguments.token_file))
    if arguments.what == "list":
        if arguments.job is not None:
            raise ConfigError(
                f"{COMMAND_LINE}: `jobs list` lists all; for one: `penstock jobs status {arguments.job}`."
            )
        print(_table(found.all()))
        return 0
    name = arguments.job or _newest(found)
    found.get(name)  # raises where there is no such job
    if arguments.what == "logs":
        if arguments.follow:
            return _follow(found, name, arguments)
        print(found.log(name), end="")
        return 0
    return _stop(found, name) if arguments.what == "stop" else _show(found.get(name))


# -------------------------------------------------------------------------------------------------------------- submit


def _checked_command(arguments: argparse.Namespace) -> list[str]:
    """The words of the command, without `penstock`.

    Raises:
        ConfigError: there are none, or no such verb, or one that is no job.
    """
    from cluster.cli import VERBS

    words = list(arguments.command)
    words = words[1:] if words[:1] == ["--"] else words
    words = words[1:] if words[:1] == ["penstock"] else words
    if arguments.overrides:
        key = next(iter(arguments.overrides))
        raise ConfigError(
            f"{COMMAND_LINE}: --{key} is no option of submit. What belongs to the command comes after `--`: "
            "penstock submit -- run DOMAIN --preset demo."
        )
    if not words:
        raise ConfigError(f"{COMMAND_LINE}: submit what? A command comes after `--`: penstock submit -- run DOMAIN.")
    if words[0] not in VERBS or words[0] in NOT_AS_JOB:
        able = [verb for verb in VERBS if verb not in NOT_AS_JOB]
        raise ConfigError(
            f"{COMMAND_LINE}: '{words[0]}' cannot be a job.{nearest(words[0], able)} Verbs: {', '.join(able)}."
        )
    return words


def _environment(arguments: argparse.Namespace) -> dict[str, str]:
    """Environment variables of the job: NAME=VALUE as given, NAME alone as it is here."""
    found = {"RAY_JOB_STOP_WAIT_TIME_S": str(STOP_SECONDS)}
    code = code_version()
    if arguments.working_dir is None and "commit" in code:
        found[COMMIT] = code["commit"] + ("+" if code["dirty"] else "")
    if arguments.runs_dir is not None:
        if not arguments.runs_dir.is_absolute():
            raise ConfigError(
                f"{COMMAND_LINE}: --runs-dir of a job is a folder of the cluster's machines: give it from the root on "
                f"(/shared/runs), got '{arguments.runs_dir}'."
            )
        found["PENSTOCK_RUNS"] = str(arguments.runs_dir)
    for word in arguments.env or []:
        name, equals, value = word.partition("=")
        if not re.fullmatch(r"[A-Za-z_]\w*", name):
            raise ConfigError(f"{COMMAND_LINE}: --env expects NAME=VALUE, or NAME for its value here, got '{word}'.")
        if not equals and name not in os.environ:
            raise ConfigError(f"{COMMAND_LINE}: --env {name}: there is no such variable here; give {name}=VALUE.")
        found[name] = value if equals else os.environ[name]
    return found


def _runs_here(arguments: argparse.Namespace) -> Path:
    """The folder of runs of this machine, which stays here even where it lies in the checkout."""
    return Path(os.environ.get("PENSTOCK_RUNS") or (arguments.working_dir or checkout()) / "runs").resolve()


def _new_name(words: Sequence[str]) -> str:
    what = "-".join(re.sub(r"[^A-Za-z0-9]+", "-", word) for word in words[:2] if not word.startswith("-"))
    return f"{what}-{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(2)}"


def _how_to_go_on(name: str, arguments: argparse.Namespace) -> str:
    where = f" --address {arguments.address}" if arguments.address else ""
    where += f" --token-file {arguments.token_file}" if arguments.token_file else ""
    return f"follow it: penstock jobs logs {name} --follow{where}\nstop it:   penstock jobs stop {name}{where}"


# ------------------------------------------------------------------------------------------------------------- looking


def _follow(jobs: Jobs, name: str, arguments: argparse.Namespace) -> int:
    """Print what the job prints, until it ends; its exit code."""
    try:
        for text in jobs.followed(name):
            print(text, end="", flush=True)
    except KeyboardInterrupt:
        print(f"\nthe job goes on without us.\n{_how_to_go_on(name, arguments)}", file=sys.stderr)
        return 130
    job = jobs.get(name)
    print(f"job {name}: {_outcome(job)}", flush=True)
    return job.code


def _outcome(job: Job) -> str:
    took = f" after {job.ended_at - job.started:.0f} s" if job.started and job.ended_at else ""
    if job.status == "FAILED" and job.exit_code is None:
        return f"could not run: {job.message.strip()}"
    code = f" (exit code {job.code})" if job.status == "FAILED" else ""
    return f"{job.status.lower()}{code}{took}"


def _table(found: Sequence[Job]) -> str:
    if not found:
        return "no job was submitted to this cluster yet. `penstock submit -- run DOMAIN` submits one."
    rows = [("job", "state", "started", "seconds", "command")]
    for job in found:
        begun = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(job.started)) if job.started else "-"
        seconds = f"{(job.ended_at or time.time()) - job.started:.0f}" if job.started else "-"
        rows.append((job.name, job.status.lower(), begun, seconds, job.command))
    widths = [max(len(row[i]) for row in rows) for i in range(4)]
    return "\n".join("  ".join([*(row[i].ljust(widths[i]) for i in range(4)), row[4]]) for row in rows)


def _show(job: Job) -> int:
    print(f"{job.name}: {_outcome(job)}")
    print(f"  command  penstock {job.command}")
    if job.started:
        print(f"  started  {time.strftime('%Y-%m-%d %H:%M:%S', time.localtime(job.started))}")
    if not job.ended and job.message:
        print(f"  {job.message}")
    return 0


def _newest(found: Jobs) -> str:
    every = found.all()
    if not every:
        raise PenstockError("no job was submitted to this cluster yet. `penstock submit -- run DOMAIN` submits one.")
    print(f"newest job: {every[-1].name}", flush=True)
    return every[-1].name


def _stop(found: Jobs, name: str) -> int:
    job = found.get(name)
    if job.ended:
        print(f"{name} has ended already: {_outcome(job)}")
        return 0
    begun = time.monotonic()
    found.stop(name)
    print(f"asked {name} to end; it saves what it is at first", flush=True)
    while not job.ended:
        if time.monotonic() > begun + STOP_SECONDS + 30:
            raise PenstockError(
                f"{name} has not ended after {STOP_SECONDS + 30} s: look at `penstock jobs logs {name}`."
            )
        time.sleep(0.2)
        job = found.get(name)
    print(f"{name}: {job.status.lower()} after {time.monotonic() - begun:.0f} s")
    run = re.findall(r"^(?:run|resuming) ([^\s;]+)", found.log(name), re.MULTILINE)
    if run and job.status == "STOPPED":
        print(f"go on with it: penstock submit -- resume {run[-1]}")
    return 0
