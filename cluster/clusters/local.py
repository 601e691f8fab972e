"""The cluster that `penstock cluster up` keeps on this machine: where it is noted, how others find it.

Imports nothing of Ray: every command that may run on a cluster looks here first.
"""

import json
import os
import platform
import secrets
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

from flows.lock import Holder, holder

MARK = "PENSTOCK_CLUSTER"
"""Environment variable of every process of such a cluster; its value is the cluster's name."""
LOG = "cluster.log"
THIS_MACHINE_ONLY = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}
"""Ray's own switch, named after the systems where it is the default: every port at 127.0.0.1, and no other address."""


@dataclass(frozen=True)
class LocalCluster:
    """A cluster on this machine."""

    name: str
    address: str
    """HOST:PORT, for `ray.init`; empty until all nodes are there."""
    dashboard: str
    """URL, for jobs and for a browser."""
    nodes: int
    cpus: int
    """Logical cores of each node."""
    gpus: int
    token_file: str | None
    """Holds the token that the cluster asks for; None where it lets everybody in."""
    runs: str
    """Where the runs of its jobs live, unless they say otherwise."""
    temporary: str
    """Ray's folder of logs and sockets."""
    started: float
    """Seconds since 1970."""

    def environment(self) -> dict[str, str]:
        """What a process needs to be let in."""
        if self.token_file is None:
            return {"RAY_AUTH_MODE": "disabled", **THIS_MACHINE_ONLY}
        return {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": self.token_file, **THIS_MACHINE_ONLY}


def state_folder() -> Path:
    """Where the cluster of this user on this machine is noted: the token (for the user's eyes only) and its address."""
    home = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    return Path(home) / "penstock" / f"cluster-{platform.node()}"


def find() -> LocalCluster | None:
    """The cluster that is up on this machine; None where there is none (or it has died)."""
    there = read() if keeper() is not None else None
    return there if there is not None and there.address else None


def admitted(address: str | None) -> str | None:
    """The address of the cluster to join: the one given, else RAY_ADDRESS, else the cluster of this machine (None where
    there is none). Where it is the cluster of this machine, this process gets what it needs to be let in.

    To be called before `ray.init`.
    """
    there = find()
    address = address or os.environ.get("RAY_ADDRESS") or (there.address if there is not None else None)
    if there is not None and address == there.address:
        os.environ.update(there.environment())
        constants = sys.modules.get("ray._private.ray_constants")
        if constants is not None:  # imported before, it has looked at the environment already
            constants.ENABLE_RAY_CLUSTER = False  # type: ignore[attr-defined]
    return address


def keeper() -> Holder | None:
    """The process that keeps the cluster."""
    return holder(state_folder() / "lock")


def read() -> LocalCluster | None:
    """The cluster as it was noted last, alive or not."""
    try:
        return LocalCluster(**json.loads((state_folder() / "cluster.json").read_text()))
    except (OSError, ValueError, TypeError):
        return None


def record(cluster: LocalCluster) -> None:
    """Note a cluster for those who look for it."""
    from flows.run import write_json

    write_json(state_folder() / "cluster.json", asdict(cluster))


def new_token(folder: Path) -> Path:
    """A file, readable by its owner only, with a new random token."""
    file = folder / "token"
    file.unlink(missing_ok=True)
    descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as opened:
        opened.write(secrets.token_hex(32))
    return file


def processes(name: str) -> list[int]:
    """The processes, of this user, that belong to the cluster of that name: Ray's own, its workers and its jobs."""
    mark = f"{MARK}={name}".encode()
    found = []
    for entry in Path("/proc").glob("[0-9]*") if sys.platform == "linux" else ():
        try:
            environment = (entry / "environ").read_bytes()
        except OSError:
            continue
        if mark in environment.split(b"\0") and int(entry.name) != os.getpid():
            found.append(int(entry.name))
    return found


def shown(cluster: LocalCluster) -> dict[str, str]:
    """Name → value, for `cluster status`."""
    gpus = f", {cluster.gpus} GPUs on the first" if cluster.gpus else ""
    return {
        "address": cluster.address,
        "dashboard": cluster.dashboard,
        "nodes": f"{cluster.nodes} with {cluster.cpus} logical cores each{gpus}",
        "token": cluster.token_file or "none: whoever reaches the ports can run programs as you",
        "runs of jobs": cluster.runs,
    }
