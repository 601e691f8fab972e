"""Joining a Ray cluster, or starting one on this machine for as long as a command runs."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from cluster.clusters.local import admitted
from data.extras import require
from flows.placement import Placement

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
    return require("ray", "ray")


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
    """Connected to the cluster at `address` (else RAY_ADDRESS, else the one of `penstock cluster up`) while the block
    runs; where there is none, a cluster of its own, which is gone afterwards, files included."""
    package = ray()
    if package.is_initialized():
        yield
        return
    address = admitted(address)
    folder = None if address else tempfile.mkdtemp(prefix="pen-")  # short: a socket's path has room for 107 letters
    options: dict[str, Any] = {"address": address} if address else {"address": "local", "_temp_dir": folder}
    if not address:
        options |= {"include_dashboard": False}
    try:
        package.init(log_to_driver=False, logging_level="ERROR", **options)
        yield
    finally:
        package.shutdown()
        if folder is not None:
            shutil.rmtree(folder, ignore_errors=True)
