"""Ray clusters of several nodes on this machine, and proof that nothing of them stays."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from cluster.on_ray.connection import ray

STORE = 100 * 2**20
"""Bytes of each node's object store."""


@contextmanager
def simulated(cpus: tuple[int, ...] = (2, 2), **head: Any) -> Iterator[Any]:
    """A `ray.cluster_utils.Cluster` with one node for each number of logical cores; not connected to.

    Its nodes: `cluster.head_node`, `cluster.add_node(num_cpus=1)`, `cluster.remove_node(node, allow_graceful=False)`.
    """
    ray()
    from ray.cluster_utils import Cluster

    folder = tempfile.mkdtemp(prefix="pt-")
    options = {"include_dashboard": False, "object_store_memory": STORE}
    cluster = Cluster()
    try:
        cluster.add_node(num_cpus=cpus[0], temp_dir=folder, **options, **head)
        for count in cpus[1:]:
            cluster.add_node(num_cpus=count, object_store_memory=STORE)
        yield cluster
    finally:
        ray().shutdown()
        cluster.shutdown()
        shutil.rmtree(folder, ignore_errors=True)


def ray_processes() -> set[int]:
    """Processes of this user that belong to some Ray cluster."""
    found = set()
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        try:
            words = (entry / "cmdline").read_bytes().decode(errors="replace")
        except OSError:
            continue
        if "raylet" in words or "gcs_server" in words or words.startswith("ray::") or "ray/dashboard" in words:
            found.add(int(entry.name))
    return found
