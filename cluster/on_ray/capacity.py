"""Whether a cluster has room for a training, said before it starts; and what the training will need there."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from data.errors import ConfigError
from flows.placement import Placement
from flows.run import Interrupted, Run

if TYPE_CHECKING:
    from cluster.on_ray.storage import Offer
    from flows.steps.announcement import Site
    from flows.steps.calibration import Measured
    from flows.steps.training import Training

PATIENCE = 60.0
"""Seconds that the calibration waits for a free place; the training itself waits as long as it takes."""


@dataclass(frozen=True)
class Node:
    """One machine of a cluster, or one that it could add."""

    id: str
    name: str
    cpus: float
    gpus: float

    def room(self, placement: Placement) -> int:
        """Workers that fit when nobody else is there."""
        room = int(self.cpus / placement.cpus_per_worker + 1e-6)
        if placement.gpus_per_worker > 0:
            room = min(room, int(self.gpus / placement.gpus_per_worker + 1e-6))
        return room

    def __str__(self) -> str:
        return f"{self.name}: {_resources(self.cpus, self.gpus)}"


@dataclass(frozen=True)
class Cluster:
    """What there is, and what an autoscaler may add."""

    nodes: tuple[Node, ...]
    addable: tuple[Node, ...] = ()
    """One for each node that may come on top."""

    def __str__(self) -> str:
        cpus, gpus = sum(node.cpus for node in self.nodes), sum(node.gpus for node in self.nodes)
        count = len(self.nodes)
        return f"{count} {'node' if count == 1 else 'nodes'} with {_resources(cpus, gpus)}"


def announce_on_ray(training: "Training", placement: Placement, offer: "Offer", asked: Sequence[str] = ()) -> None:
    """Say what a training will use on the connected cluster; `asked` gains a signal's name when it is to end.

    Raises:
        ConfigError: the cluster has no room for it, or too little memory, or nodes that do not see the run's folder;
            says what to change.
        Interrupted: an end was asked for meanwhile.
    """
    from flows.steps.announcement import announce

    site = check(training.run, placement)
    announce(training, site, lambda: _measured(training, placement, offer, asked))


def check(run: Run, placement: Placement) -> "Site":
    """Where the trainings of a run would take place on the connected cluster.

    Raises:
        ConfigError: it has no room for them, or nodes that do not see the run's folder; says what to change.
    """
    from cluster.on_ray.storage import check_view

    site = site_on(present(), placement)
    check_view(run, placement)
    return site


def present() -> Cluster:
    """The cluster that this process is connected to."""
    import ray
    from ray._private.state import state

    alive = [node for node in ray.nodes() if node["Alive"]]
    nodes = tuple(
        Node(
            node["NodeID"],
            f"{node['NodeManagerHostname']} ({node['NodeManagerAddress']})",
            node["Resources"].get("CPU", 0.0),
            node["Resources"].get("GPU", 0.0),
        )
        for node in alive
    )
    return Cluster(nodes, _addable(state.get_cluster_config()))


def _addable(config: Any) -> tuple[Node, ...]:
    """What the autoscaler may add, by its own configuration; none where there is no autoscaler."""
    found: list[Node] = []
    for group in [] if config is None else config.node_group_configs:
        resources = dict(group.resources)
        node = Node("", group.name, float(resources.get("CPU", 0)), float(resources.get("GPU", 0)))
        # -1 says "as many as you like"; nobody trains on more than this at once.
        found += [node] * (group.max_count if group.max_count >= 0 else 1000)
    return tuple(found)


def site_on(cluster: Cluster, placement: Placement) -> "Site":
    """Where the training takes place, in words.

    Raises:
        ConfigError: fewer workers fit than it needs at least.
    """
    from flows.steps.announcement import Site

    room = sum(node.room(placement) for node in cluster.nodes)
    later = max(room, sum(node.room(placement) for node in cluster.addable))
    fewest = placement.workers if placement.min_workers is None else placement.min_workers
    if later < fewest:
        raise ConfigError(_no_room(cluster, placement, room, fewest))
    each = _resources(placement.cpus_per_worker, placement.gpus_per_worker)
    count = "1 worker" if placement.workers == 1 else f"{placement.workers} workers"
    words = f"{count} ({each} each{'' if placement.workers == 1 else f', {placement.strategy}'}) on {cluster}"
    if room < placement.workers:
        words += "; nodes will be added" if later >= placement.workers else f"; begins with {later}"
    most = max(node.room(placement) for node in (*cluster.nodes, *cluster.addable))
    gpu = placement.gpus_per_worker
    return Site(
        words,
        placement.workers,
        together=min(placement.workers, most),
        on_one_gpu=min(placement.workers, int(1 / gpu + 1e-6)) if 0 < gpu < 1 else 1,
        sharded=placement.strategy == "fsdp",
    )


def _no_room(cluster: Cluster, placement: Placement, room: int, fewest: int) -> str:
    each = _resources(placement.cpus_per_worker, placement.gpus_per_worker)
    many = "1 worker" if fewest == 1 else f"{fewest} workers"
    least = " at least" if placement.min_workers is not None else ""
    shown = ", ".join(str(node) for node in cluster.nodes[:8]) + (", …" if len(cluster.nodes) > 8 else "")
    text = f"the training needs{least} {many} of {each}, and the cluster has room for {room} ({shown})."
    if placement.gpus_per_worker > 0 and not any(node.gpus for node in cluster.nodes):
        return f"{text} None of its nodes has a GPU: leave out --gpus-per-worker, or take another cluster."
    if room > 0:
        return f"{text} Take --workers {room}, smaller workers (--cpus-per-worker), or add nodes."
    largest = max((node.cpus for node in cluster.nodes), default=0.0)
    return f"{text} The largest node has {_number(largest)} cores: take a smaller --cpus-per-worker, or other nodes."


def _measured(training: "Training", placement: Placement, offer: "Offer", asked: Sequence[str]) -> "Measured":
    """What a worker's place measures."""
    import ray

    gpu = placement.gpus_per_worker
    task: Any = ray.remote(_measure).options(
        num_cpus=placement.cpus_per_worker, max_retries=0, **({"num_gpus": gpu} if gpu else {})
    )
    waiting = task.remote(offer, [ray.put(training)], placement.workers, "gpu" if gpu else "cpu")
    left = PATIENCE / 0.25
    while not ray.wait([waiting], timeout=0.25)[0]:
        left -= 1
        if asked or not left:
            ray.cancel(waiting, force=True)
        if asked:
            raise Interrupted(f"stopped by {asked[0]} before the first step.")
        if not left:
            raise TimeoutError(f"no answer within {PATIENCE:.0f} s; is the cluster busy?")
    try:
        found: Measured = ray.get(waiting)
    except ray.exceptions.RayTaskError as error:
        raise error.cause from None
    return found


def _measure(offer: "Offer", place: list[Any], workers: int, accelerator: str) -> "Measured":
    import os
    import warnings

    import ray
    import torch

    from cluster.on_ray.storage import reach
    from flows.steps.calibration import measure

    warnings.filterwarnings("ignore", ".*srun.*")
    reach(offer)
    training: Training = ray.get(place[0])
    torch.set_num_threads(training.run.config.threads or int(os.environ.get("OMP_NUM_THREADS", "1")))
    return measure(training, workers, accelerator)


def _resources(cpus: float, gpus: float) -> str:
    parts = [f"{_number(cpus)} {'core' if cpus == 1 else 'cores'}"]
    if gpus:
        parts.append(f"{_number(gpus)} {'GPU' if gpus == 1 else 'GPUs'}")
    return " and ".join(parts)


def _number(value: float) -> str:
    return f"{value:g}"
