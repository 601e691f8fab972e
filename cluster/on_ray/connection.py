"""Joining a Ray cluster, or starting one on this machine for as long as a command runs."""

import functools
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from cluster.clusters.local import THIS_MACHINE_ONLY, admitted
from data.errors import PenstockError
from data.extras import require
from flows.lock import held, holder
from flows.placement import Placement

REACH = 5.0
"""Seconds in which a cluster's head must answer."""

OWN = "pen-"
"""What the folders of clusters begin with that last as long as one command: short, for a socket's path has room for
107 letters."""

SOCKET_ROOM = 30
"""Letters of the folder for temporary files that still leave room for Ray's sockets."""

QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",  # no telemetry
    "RAY_TRAIN_V2_ENABLED": "1",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_TRAIN_ENABLE_PRINT_PATCH": "0",
}
"""Environment of every process that uses Ray."""


def ray() -> Any:
    """The package, quiet and without telemetry. Raises PenstockError, naming the extra, where it is not installed."""
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    package = require("ray", "ray")
    worker = sys.modules.get("ray._private.worker")
    if worker is not None:
        # Ray prints a paragraph on every process that dies, also with log_to_driver off; ours say what it means.
        worker.print_to_stdstream = lambda *_, **__: None  # type: ignore[attr-defined]
    return package


@contextmanager
def cluster_for(placement: Placement) -> Iterator[None]:
    """Connected to the cluster that the placement names, which child processes then find by RAY_ADDRESS."""
    with connected(placement.address):
        before = os.environ.get("RAY_ADDRESS")
        os.environ["RAY_ADDRESS"] = ray().get_runtime_context().gcs_address
        try:
            yield
        finally:
            os.environ.pop("RAY_ADDRESS")
            if before is not None:
                os.environ["RAY_ADDRESS"] = before


@contextmanager
def connected(address: str | None) -> Iterator[None]:
    """Connected to a cluster while the block runs.

    The first that there is: the one at `address`, at RAY_ADDRESS, the one of `penstock cluster up`, else a cluster of
    its own on this machine, which is gone afterwards, files included.

    Raises:
        PenstockError: the cluster does not answer, does not let us in, or has another version.
    """
    if "ray" in sys.modules and ray().is_initialized():
        yield
        return
    address = admitted(address)
    if address is None or address == "local":
        if "ray" not in sys.modules:
            os.environ.update(THIS_MACHINE_ONLY)  # read when Ray is imported, here and in the processes that it starts
        with _own_cluster(ray()):
            yield
        return
    package = ray()
    _check_address(address)
    try:
        _join(package, address)
        yield
    finally:
        package.shutdown()


def _join(package: Any, address: str) -> None:
    options: dict[str, Any] = {}
    # A job's processes have the job's own environment.
    passed_on = {} if "RAY_JOB_CONFIG_JSON_ENV_VAR" in os.environ else _passed_on()
    if passed_on:
        options["runtime_env"] = {"env_vars": passed_on}
    try:
        package.init(address=address, log_to_driver=False, logging_level="CRITICAL", **options)
    except Exception as error:
        raise _cannot_join(address, error) from error


def _passed_on() -> dict[str, str]:
    """What the processes of a cluster, which were started by others, need of this one's environment; no secrets."""
    found = {
        name: value
        for name, value in os.environ.items()
        if name.startswith(("PENSTOCK_", "WANDB_")) and not name.endswith("_KEY")
    }
    paths = [str(Path(path).resolve()) for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path]
    return found | ({"PYTHONPATH": os.pathsep.join(paths)} if paths else {})


def _check_address(address: str) -> None:
    """Whether anybody answers at HOST:PORT, before Ray tries for a minute."""
    host, _, port = address.rpartition(":")
    if address == "auto":
        return
    if "://" in address or not host or not port.isdigit():
        raise PenstockError(
            f"--address {address}: expected HOST:PORT of the cluster's head, as in 10.0.0.5:6379. From a machine that "
            "is no part of the cluster: `penstock submit --address http://HEAD:8265 -- ...`."
        )
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=REACH).close()
    except OSError as error:
        raise PenstockError(
            f"no Ray cluster answers at {address} ({error}). Is it up, and is this the port of its head (6379 unless "
            "told otherwise)? Without --address and RAY_ADDRESS a cluster on this machine is used."
        ) from None


def _cannot_join(address: str, error: Exception) -> PenstockError:
    """Ray's refusal in words."""
    text = str(error)
    lower = text.lower()
    if type(error).__name__ == "AuthenticationError" or "token" in lower or "unauthenticated" in lower:
        return PenstockError(
            f"the cluster at {address} asks for a token, and "
            + ("the one given is not its own" if os.environ.get("RAY_AUTH_MODE") == "token" else "none was given")
            + ". Set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN_PATH to a file that holds the token."
        )
    if "version" in lower and "mismatch" in lower:
        lines = " ".join(line.strip() for line in text.splitlines() if line.strip())
        return PenstockError(
            f"this Python and the cluster at {address} differ: {lines} Use the environment that the cluster runs in."
        )
    if "node_ip_address.json" in text or "no node" in lower or "could not find any running ray instance" in lower:
        return PenstockError(
            f"this machine is no node of the cluster at {address}. Run the command on one, or send it there: "
            "`penstock submit --address http://HEAD:8265 -- ...`."
        )
    first = next((line.strip() for line in text.splitlines() if line.strip()), type(error).__name__)
    return PenstockError(f"cannot join the Ray cluster at {address}: {first[:400]}")


@contextmanager
def _own_cluster(package: Any) -> Iterator[None]:
    root = Path(tempfile.gettempdir())
    root = root if len(str(root)) <= SOCKET_ROOM else Path("/tmp")
    _sweep(root)
    folder = Path(tempfile.mkdtemp(prefix=OWN, dir=root))
    with held(folder / "owner", "a Ray cluster"), reaped(folder):
        try:
            with _sessions_of_their_own():
                package.init(
                    address="local",
                    _temp_dir=str(folder),
                    include_dashboard=False,
                    log_to_driver=False,
                    logging_level="CRITICAL",
                )
            yield
        finally:
            package.shutdown()


@contextmanager
def reaped(folder: Path) -> Iterator[None]:
    """When the block ends, or this process in any way, nothing is left of the cluster in `folder`, nor the folder."""
    command = [sys.executable, str(Path(__file__).with_name("reaper.py")), str(folder)]
    # In the root folder, so that it holds none that somebody may want to remove.
    reaper = subprocess.Popen(command, stdin=subprocess.PIPE, start_new_session=True, cwd="/")
    try:
        yield
    finally:
        reaper.communicate()


@contextmanager
def _sessions_of_their_own() -> Iterator[None]:
    """The cluster's processes are out of reach of a signal to the command's process group (`timeout` sends one): the
    cluster must be there while a training is saved. They die with the command all the same (PR_SET_PDEATHSIG)."""
    services = sys.modules.get("ray._private.services")
    started = getattr(services, "ConsolePopen", None)
    if started is None:
        yield
        return
    services.ConsolePopen = functools.partial(started, start_new_session=True)  # type: ignore[union-attr]
    try:
        yield
    finally:
        services.ConsolePopen = started  # type: ignore[union-attr]


def _sweep(root: Path) -> None:
    """Remove what clusters left here whose command was killed: the lock on a folder dies with its command."""
    for folder in root.glob(f"{OWN}*"):
        try:
            mine = folder.stat().st_uid == os.getuid()
            owned = (folder / "owner").exists()
            fresh = time.time() - folder.stat().st_mtime < 60
        except OSError:
            continue
        if mine and (holder(folder / "owner") is None if owned else not fresh):
            shutil.rmtree(folder, ignore_errors=True)
