"""Where the nodes of a cluster find a run: in a folder that all see, or in a storage that it is copied to."""

import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cluster import keeping
from cluster.on_ray.capacity import Node, present
from data.errors import ConfigError, PenstockError
from data.remote import Mirror, Storage
from flows.executor import Group
from flows.lock import held
from flows.placement import Placement
from flows.run import Run

if TYPE_CHECKING:
    from flows.steps.training import Training

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


@dataclass(frozen=True)
class Offer:
    """Where the workers of one training find its run: its folder, or else its copy. All plain values."""

    folder: str
    runs_dir: str
    place: str
    """Of the training: names its checkpoints and its model."""
    token: str
    """A file in the folder, by which a worker knows the driver's own."""
    storage: str | None

    @property
    def shared(self) -> bool:
        """Whether this process sees the driver's own folder, and not one of the same name."""
        return self.storage is None or _sees(self.token)

    @property
    def copy(self) -> str:
        """The folder of the run's copy in the storage."""
        return str(Path(self.folder).relative_to(self.runs_dir))

    def own(self, key: str) -> bool:
        """Whether a file is one that the training writes."""
        parts = Path(key).relative_to(self.copy).parts if Path(key).is_relative_to(self.copy) else ()
        return parts[:2] in (("checkpoints", self.place), ("models", self.place)) or parts == ("metrics.csv",)


@contextmanager
def offered(run: Run, place: str, placement: Placement) -> Iterator[Offer]:
    """The run for workers to find while the block runs; what a worker elsewhere made of it is here at the end."""
    token = run.path / f".seen-{secrets.token_hex(8)}"
    offer = Offer(str(run.path), str(run.runs_dir), place, str(token), placement.storage)
    if placement.storage is None:
        yield offer
        return
    storage = keeping.reachable(placement.storage)
    token.touch()
    try:
        _bring_back(offer, storage)  # of an attempt whose driver was killed
        keeping.send(run, storage)
        yield offer
    finally:
        token.unlink()
        _bring_back(offer, storage)


def _bring_back(offer: Offer, storage: Storage) -> None:
    """What workers elsewhere have written last; nothing where they write into our own folder."""
    writer = storage.read(f"{offer.copy}/.writer-{offer.place}")
    if writer == b"elsewhere":
        keeping.fetch(storage, offer.copy, Path(offer.runs_dir), offer.own)


def reach(offer: Offer) -> None:
    """Make the run's folder of its copy, in a worker that does not see it: to be done before anything is unpickled."""
    if offer.shared or offer.storage is None:
        return
    storage, runs_dir = Storage(offer.storage), Path(offer.runs_dir)
    runs_dir.mkdir(parents=True, exist_ok=True)
    with held(runs_dir / f".fetching-{Path(offer.folder).name}", "fetch", lambda other: None):
        keeping.fetch(storage, offer.copy, runs_dir, lambda key: "/checkpoints/" not in key)


@contextmanager
def joined(offer: Offer, training: "Training", group: Group) -> Iterator[None]:
    """The run as this worker's training needs it: the checkpoint that all go on from is here; what the first worker
    writes elsewhere than in the driver's folder goes into the storage, at the end completely.

    Raises:
        PenstockError: the results of a worker elsewhere could not be copied to their end.
    """
    if offer.storage is None:
        yield
        return
    storage, run = Storage(offer.storage), training.run
    first, shared = group.rank == 0, offer.shared
    start = group.agreed(_offer_start(offer, storage, run, shared) if first else None)
    if start is not None and not shared and not first:
        _fetch_checkpoint(offer, storage, run, start)
    if not first or shared:
        if first:
            storage.write(f"{offer.copy}/.writer-{offer.place}", b"here")
        yield
        return
    storage.write(f"{offer.copy}/.writer-{offer.place}", b"elsewhere")
    mirror = Mirror(storage, offer.copy, lambda: _own_files(offer, run), 2.0, writer="worker")
    try:
        yield
    finally:
        problem = mirror.close()
    if problem is not None:
        raise PenstockError(
            f"the training is done, but its results could not be copied to {offer.storage}: {problem}. They are in "
            f"{offer.folder} on {_here()}."
        )


def _here() -> str:
    import platform

    return platform.node()


def _own_files(offer: Offer, run: Run) -> dict[str, Path]:
    files = keeping.files_of(run.path, run.runs_dir)
    return {key: file for key, file in files.items() if offer.own(key)}


def _offer_start(offer: Offer, storage: Storage, run: Run, shared: bool) -> str | None:
    """The newest whole checkpoint, found by the first worker; it is in the storage, for the others to take."""
    from data.checkpoint import newest_valid

    folder = run.checkpoints(offer.place)
    if not shared:
        # What an earlier attempt left here may be newer than its copy, or of another time: the copy counts.
        for left in folder.glob("*.ckpt*"):
            left.unlink()
        keeping.fetch(storage, offer.copy, run.runs_dir, lambda key: f"/checkpoints/{offer.place}/" in key)
    else:
        keeping.send(run, storage)
    start = newest_valid(folder)
    return None if start is None else start.name


def _fetch_checkpoint(offer: Offer, storage: Storage, run: Run, name: str) -> None:
    from data.checkpoint import find_problem

    file = run.checkpoints(offer.place) / name
    with held(Path(offer.runs_dir) / f".fetching-{run.name}", "fetch", lambda other: None):
        if find_problem(file) is not None:
            for suffix in ("", ".sha256"):
                storage.get(f"{offer.copy}/checkpoints/{offer.place}/{name}{suffix}", Path(f"{file}{suffix}"))
