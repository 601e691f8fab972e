"""The process that keeps a cluster on this machine: it starts Ray's processes, and takes them down when it ends.

Started by `penstock cluster up`, with its orders as JSON in the environment.
"""

import json
import os
import signal
import time
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import Any

from cluster.clusters.local import read, record, state_folder
from cluster.on_ray.connection import ray, reaped
from flows.lock import held

ORDERS = "PENSTOCK_CLUSTER_ORDERS"
STORE = 2 * 2**30
"""Most bytes of shared memory that each node's object store takes."""


class Ended(Exception):
    """Asked to take the cluster down."""


def main() -> int:
    """Keep the cluster until SIGTERM, or until one of its nodes dies. Exit code 0 for the first."""
    orders: dict[str, Any] = json.loads(os.environ.pop(ORDERS))
    signal.signal(signal.SIGTERM, _end)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C in the terminal of `cluster up` is not meant for us
    with held(state_folder() / "lock", "cluster"), reaped(Path(orders["temporary"])):
        try:
            return _keep(orders)
        except Ended:
            return 0


def _end(number: int, frame: FrameType | None) -> None:
    raise Ended


def _keep(orders: dict[str, Any]) -> int:
    ray()
    from ray.cluster_utils import Cluster

    noted = read()
    assert noted is not None, "`cluster up` notes the cluster before it starts us"
    cluster: Any = Cluster()
    try:
        _add_nodes(cluster, orders)
        record(replace(noted, address=cluster.address, dashboard=f"http://{cluster.webui_url}", started=time.time()))
        while cluster.remaining_processes_alive():
            time.sleep(1)
        print("a process of Ray has ended by itself; taking the rest down", flush=True)
        return 1
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        cluster.shutdown()


def _add_nodes(cluster: Any, orders: dict[str, Any]) -> None:
    store = int(min(STORE, _shared_memory() * 0.3 / orders["nodes"]))
    common = {
        "num_cpus": orders["cpus"],
        "object_store_memory": store,
        "dashboard_agent_listen_port": None,
        "node_ip_address": "127.0.0.1",  # everything but the dashboard: for this machine only
    }
    # One folder for each node: in a shared one, a node that gets a job's files deletes those that another works with.
    folders = [Path(orders["temporary"]) / name for name in ("ray", *map(str, range(1, orders["nodes"])))]
    for folder in folders:
        folder.mkdir()
    cluster.add_node(
        **common,
        temp_dir=str(folders[0]),
        num_gpus=orders["gpus"],
        include_dashboard=True,
        dashboard_host=orders["host"],
        dashboard_port=orders["port"],
    )
    for folder in folders[1:]:
        cluster.add_node(**common, temp_dir=str(folder))


def _shared_memory() -> float:
    """Free bytes for object stores."""
    folder = Path("/dev/shm") if Path("/dev/shm").is_dir() else Path("/tmp")
    usage = os.statvfs(folder)
    return min(usage.f_bavail * usage.f_frsize, os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
