"""Where the nodes of a cluster find a run: in a folder that all see, or in a storage that it is copied to."""

import secrets
from pathlib import Path
from typing import Any

from cluster.on_ray.capacity import Node, present
from data.errors import ConfigError
from flows.placement import Placement
from flows.run import Run

SECONDS = 60.0
"""In which a node must say whether it sees a folder."""


def check_view(run: Run, placement: Placement) -> None:
    """Every node of the connected cluster that may get a worker sees the run's folder, or a storage is there for it.

    Raises:
        ConfigError: some do not; names them.
    """
    if placement.storage is not None:
        return
    blind = nodes_without(run.path, [node for node in present().nodes if node.room(placement)])
    if blind:
        names = ", ".join(node.name for node in blind[:8]) + (", …" if len(blind) > 8 else "")
        raise ConfigError(
            f"the run's folder {run.path} is not there on {names}, where workers would look for it. Put runs into a "
            "folder that all nodes share (--runs-dir /a/shared/folder), or give a place to copy them to "
            "(--storage s3://bucket/runs, or any other URI that fsspec or pyarrow reads)."
        )


def nodes_without(folder: Path, nodes: list[Node]) -> list[Node]:
    """Those of `nodes` that do not see what this process writes into `folder`; each is asked by a task on it."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    here = ray.get_runtime_context().get_node_id()
    others = [node for node in nodes if node.id != here]
    if not others:
        return []
    token = folder / f".seen-{secrets.token_hex(8)}"
    token.touch()
    try:
        asked: dict[Any, Node] = {}
        for node in others:
            place = NodeAffinitySchedulingStrategy(node.id, soft=False)
            task: Any = ray.remote(_sees).options(num_cpus=0, scheduling_strategy=place, max_retries=0)
            asked[task.remote(str(token))] = node
        answered, silent = ray.wait(list(asked), num_returns=len(asked), timeout=SECONDS)
        for one in silent:
            ray.cancel(one, force=True)
        return [asked[one] for one in answered if not _answer(one)]
    finally:
        token.unlink()


def _answer(one: Any) -> bool:
    import ray

    try:
        return bool(ray.get(one))
    except ray.exceptions.RayError:
        return True  # the node is gone: Ray Train finds others


def _sees(token: str) -> bool:
    # Listed first: a network file system may remember for a while that a name was not there.
    return Path(token).parent.is_dir() and Path(token).name in {entry.name for entry in Path(token).parent.iterdir()}
