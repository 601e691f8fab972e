"""`penstock cluster up | status | down`: a Ray cluster of several nodes on this machine."""

import argparse
import ipaddress
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from cluster.clusters import local
from cluster.clusters.keeper import ORDERS
from cluster.clusters.local import LocalCluster
from cluster.on_ray.connection import QUIET, ray
from configs.load import COMMAND_LINE
from data.errors import ConfigError, PenstockError
from flows.provenance import hardware, usable_cores

UP_SECONDS = 120.0
DOWN_SECONDS = 30.0
JOB_SECONDS = 60.0
"""How long the jobs of a cluster that goes down have to save what they are at."""
PORT = 8265


def cluster(arguments: argparse.Namespace) -> int:
    """Do what was asked; the exit code."""
    if arguments.overrides:
        raise ConfigError(f"{COMMAND_LINE}: --{next(iter(arguments.overrides))} is not understood: it is no setting.")
    return {"up": _up, "down": _down, "status": _status}[arguments.what](arguments)


# ------------------------------------------------------------------------------------------------------------------ up


def _up(arguments: argparse.Namespace) -> int:
    ray()
    there = local.find()
    if there is not None:
        if there.nodes != arguments.nodes:
            raise PenstockError(
                f"a cluster of {there.nodes} nodes is up already ({there.address}); "
                "`penstock cluster down` first for another one."
            )
        _print(there, "up already")
        return 0
    if local.keeper() is not None:
        raise PenstockError("a cluster is just coming up; `penstock cluster down` ends it.")
    if arguments.nodes < 1 or (arguments.cpus is not None and arguments.cpus < 1):
        raise ConfigError(f"{COMMAND_LINE}: --nodes and --cpus must be at least 1.")
    orders = _orders(arguments)
    for line in _warnings(orders):
        print(f"warning: {line}", file=sys.stderr, flush=True)
    _print(_started(orders), "up")
    print("use it:     penstock run DOMAIN --on ray --workers 2     penstock submit -- run DOMAIN")
    print("take down:  penstock cluster down")
    return 0


def _orders(arguments: argparse.Namespace) -> dict[str, Any]:
    from cluster.verbs import runs_dir

    folder = local.state_folder()
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    _clean(local.read())
    host = _checked_host(arguments.host)
    return {
        "name": f"{os.getpid()}-{time.time_ns()}",
        "nodes": arguments.nodes,
        "cpus": arguments.cpus or max(1, usable_cores() // arguments.nodes),
        "gpus": len(hardware()["gpus"]),
        "host": host,
        "port": _free_port(host, PORT),
        "token_file": None if arguments.no_token else str(local.new_token(folder)),
        "runs": str(runs_dir(arguments)),
        "temporary": tempfile.mkdtemp(prefix="pencl-"),  # short: a socket's path has room for 107 letters
    }


def _checked_host(host: str) -> str:
    try:
        return str(ipaddress.ip_address("127.0.0.1" if host == "localhost" else host))
    except ValueError:
        raise ConfigError(f"{COMMAND_LINE}: --host expects an IP address such as 127.0.0.1, got '{host}'.") from None


def _free_port(host: str, wanted: int) -> int:
    """The first free port from `wanted` on."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    for port in range(wanted, wanted + 100):
        with socket.socket(family) as probe, suppress(OSError):
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((host, port))
            return port
    raise PenstockError(f"no port from {wanted} to {wanted + 99} is free on {host} for the dashboard.")


def _warnings(orders: dict[str, Any]) -> list[str]:
    """What the user should know of who can get in."""
    found = []
    if not ipaddress.ip_address(orders["host"]).is_loopback:
        door = "anybody who reaches it" if orders["token_file"] is None else "anybody who reaches it and has the token"
        found.append(
            f"the dashboard listens on {orders['host']}:{orders['port']}, beyond this machine: {door} can run any "
            "program as you and read your files, and the connection is not encrypted. Safer: the default host, and "
            f"`ssh -L {orders['port']}:127.0.0.1:{orders['port']}` from elsewhere."
        )
    if orders["token_file"] is None:
        found.append(
            "--no-token: every user and every web page open on this machine that reaches the ports can run any "
            "program as you. Leave the token on unless this machine is yours alone."
        )
    return found


def _started(orders: dict[str, Any]) -> LocalCluster:
    """Start the keeper, and wait until all nodes are there."""
    log = local.state_folder() / local.LOG
    names = ("name", "nodes", "cpus", "gpus", "token_file", "runs", "temporary")
    noted = {name: orders[name] for name in names}
    local.record(LocalCluster(address="", dashboard="", started=time.time(), **noted))
    with log.open("w") as output:
        process = subprocess.Popen(
            [sys.executable, "-c", _KEEP, str(Path(__file__).resolve().parents[2])],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env=_environment(orders),
            cwd="/",
            start_new_session=True,
        )
    print(f"starting {orders['nodes']} node{'s' * (orders['nodes'] > 1)} of {orders['cpus']} logical cores", flush=True)
    end = time.monotonic() + UP_SECONDS
    try:
        while time.monotonic() < end and process.poll() is None:
            found = local.find()
            if found is not None and found.name == orders["name"]:
                return found
            time.sleep(0.2)
    except KeyboardInterrupt:
        process.terminate()
        process.wait()
        _clean(local.read())
        raise
    process.terminate()
    process.wait()
    _clean(local.read())
    tail = " | ".join(log.read_text(errors="replace").strip().splitlines()[-3:])
    raise PenstockError(
        f"the cluster did not come up within {UP_SECONDS:.0f} s: {tail or 'no word of why'}. Log: {log}"
    )


# Our own folder comes on the path of the keeper alone: the jobs of the cluster bring their own code.
_KEEP = "import sys; sys.path.insert(0, sys.argv[1]); from cluster.clusters.keeper import main; sys.exit(main())"


def _environment(orders: dict[str, Any]) -> dict[str, str]:
    """Of the keeper, and by that of all processes of the cluster and of the commands of its jobs."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "PENSTOCK_"))}
    return {
        **kept,
        **QUIET,
        **local.THIS_MACHINE_ONLY,
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)]),
        "RAY_AUTH_MODE": "disabled" if orders["token_file"] is None else "token",
        **({} if orders["token_file"] is None else {"RAY_AUTH_TOKEN_PATH": orders["token_file"]}),
        "RAY_TMPDIR": orders["temporary"],
        "PENSTOCK_RUNS": orders["runs"],
        local.MARK: orders["name"],
        ORDERS: json.dumps(orders),
    }


# ------------------------------------------------------------------------------------------------------------- looking


def _print(there: LocalCluster, state: str) -> None:
    print(f"cluster:      {state}")
    for name, value in local.shown(there).items():
        print(f"{name + ':':<13} {value}")


def _status(arguments: argparse.Namespace) -> int:
    there = local.find()
    if there is None:
        print("no cluster is up on this machine. `penstock cluster up --nodes 3` starts one.")
        return 1
    _print(there, f"up for {_minutes(time.time() - there.started)}")
    from cluster.jobs.client import Jobs

    jobs = Jobs.at(there.dashboard, Path(there.token_file) if there.token_file else None)
    running = [job.name for job in jobs.all() if not job.ended]
    print(f"{'alive:':<13} {jobs.alive_nodes()} nodes")
    print(f"{'running:':<13} {', '.join(running) or 'no job'}")
    return 0


def _minutes(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"


# ---------------------------------------------------------------------------------------------------------------- down


def _down(arguments: argparse.Namespace) -> int:
    there, keeper = local.read(), local.keeper()
    if keeper is None:
        gone = _clean(there)
        print("no cluster is up on this machine." + (" What a dead one had left is removed." if gone else ""))
        return 0
    if there is not None and there.address:
        _stop_jobs(there)
    with suppress(ProcessLookupError):
        os.kill(keeper.pid, signal.SIGTERM)
    end = time.monotonic() + DOWN_SECONDS
    while time.monotonic() < end and local.keeper() is not None:
        time.sleep(0.1)
    _clean(there)
    print("the cluster is down")
    return 0


def _stop_jobs(there: LocalCluster) -> None:
    """Let running jobs save what they are at."""
    from cluster.jobs.client import Jobs

    try:
        jobs = Jobs.at(there.dashboard, Path(there.token_file) if there.token_file else None)
        running = [job.name for job in jobs.all() if not job.ended]
        for name in running:
            print(f"stopping {name}", flush=True)
            jobs.stop(name)
        end = time.monotonic() + JOB_SECONDS
        while time.monotonic() < end and any(not jobs.get(name).ended for name in running):
            time.sleep(0.2)
    except PenstockError as error:
        print(f"jobs could not be stopped first: {error}", file=sys.stderr)


def _clean(there: LocalCluster | None) -> bool:
    """End what a cluster has left and remove its files; True if there was anything."""
    folder = local.state_folder()
    found = False
    if there is not None:
        found = _end_processes(there.name) or Path(there.temporary).exists()
        shutil.rmtree(there.temporary, ignore_errors=True)
    for name in ("cluster.json", "token"):
        (folder / name).unlink(missing_ok=True)
    return found


def _end_processes(name: str) -> bool:
    """SIGTERM, and 5 s later SIGKILL, for every process of a cluster; True if there was one."""
    found = local.processes(name)
    for pid in found:
        with suppress(ProcessLookupError, PermissionError):
            os.kill(pid, signal.SIGTERM)
    end = time.monotonic() + 5
    while time.monotonic() < end and local.processes(name):
        time.sleep(0.1)
    for pid in local.processes(name):
        with suppress(ProcessLookupError, PermissionError):
            os.kill(pid, signal.SIGKILL)
    while time.monotonic() < end + 5 and local.processes(name):
        time.sleep(0.1)
    return bool(found)
