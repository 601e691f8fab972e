"""One training by several processes of a Ray cluster (Ray Train, Lightning's strategies), as its driver sees it."""

import os
import shutil
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from cluster.on_ray.bulletin import PATIENCE, Attempt, Bulletin, Wish
from cluster.on_ray.capacity import announce_on_ray
from cluster.on_ray.faults import Chronicle, is_consequence, what_failed
from cluster.on_ray.storage import Offer, offered
from data.errors import PenstockError
from flows.placement import Placement
from flows.run import Interrupted
from flows.steps.training import Training
from flows.stopping import SIGNALS, Asked, handled
from flows.tracking import read_metrics

CHECKS = {
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5",  # how soon a dead worker is noticed
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",  # the board watches; Ray's watcher is another process
    "RAY_CHDIR_TO_TRIAL_DIR": "0",  # relative paths stay what they are
    "RAY_TRAIN_ENABLE_STATE_ACTOR_RECONCILIATION": "0",
}
"""Environment for Ray Train."""

RESIZE = "PENSTOCK_RESIZE_SECONDS"
"""Environment variable: how often an elastic training looks for more workers (default 60)."""

START = {True: "20", False: "60"}
"""Elastic or not → seconds that a group of workers waits for its places before it is thought over again."""


GOODBYE = 15.0
"""Seconds that a controller gets to end its workers."""


WISHES: list[str] = []
"""Who asks for an end of the trainings in other threads than the main one, where no signal comes (a sweep does)."""


class TrainingFailed(Exception):
    """A worker raised what is no mistake of the user; its traceback was printed."""


def train_on_ray(training: Training, placement: Placement) -> None:
    """Run `fit` in every worker of a Ray Train group, through failures, until it has finished.

    Raises:
        Interrupted: SIGTERM or Ctrl-C came; a checkpoint was written, if a step was done.
        PenstockError: a mistake of the user, said by a worker; or more failures than the placement allows.
        TrainingFailed: a worker raised anything else, at the same step as before.
    """
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    for name, value in CHECKS.items():
        os.environ.setdefault(name, value)
    os.environ.setdefault("RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S", START[placement.min_workers is not None])
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    bulletin: Any = ray.remote(num_cpus=0)(Bulletin).options(scheduling_strategy=here, max_concurrency=1000).remote()
    folder = training.run.path / "ray"
    try:
        with _signals() as asked, offered(training.run, training.place, placement) as offer:
            announce_on_ray(training, placement, offer, asked)
            _Driver(training, placement, bulletin, offer).follow(asked)
    finally:
        ray.kill(bulletin)
        shutil.rmtree(folder, ignore_errors=True)  # Ray's own bookkeeping: our checkpoints are elsewhere


class _Driver:
    """Ray's trainer in a thread, while this one shows what the workers say and passes on what the user wants."""

    def __init__(self, training: Training, placement: Placement, bulletin: Any, offer: Offer) -> None:
        self._training, self._placement, self._bulletin, self._offer = training, placement, bulletin, offer
        self._chronicle = Chronicle(training.run.path, training.place, _say, _seen(training))
        self._controller: Any = None
        self._result: Any = None
        self._error: BaseException | None = None

    def follow(self, asked: list[str]) -> None:
        """Until the training has ended; `asked` gains the names of the signals that came."""
        import ray

        thread = threading.Thread(target=self._fit, name="ray-train", daemon=True)
        thread.start()
        waiting = None
        passed_on = False
        try:
            while thread.is_alive():
                waiting = self._bulletin.news.remote(PATIENCE) if waiting is None else waiting
                if ray.wait([waiting], timeout=0.5)[0]:
                    self._take(ray.get(waiting))
                    waiting = None
                if asked and not passed_on:
                    passed_on = True
                    ray.get(self._bulletin.want.remote(Wish(asked[0])))
                    if not self._chronicle.working:
                        break  # nothing has been done since the last checkpoint
            else:
                thread.join()
        finally:
            self._end(thread)
        if waiting is not None:
            self._take(ray.get(waiting))
        self._take(ray.get(self._bulletin.news.remote(0.01)))
        self._conclude(asked)

    def _take(self, notes: list[Any]) -> None:
        for note in notes:
            if note.kind == "controller":
                self._controller = note.facts["handle"]
            else:
                self._chronicle.take(note)

    def _fit(self) -> None:
        import ray

        try:
            self._result = _trainer(self._training, self._placement, self._bulletin, self._offer).fit()
        except BaseException as error:
            self._error = error
        with suppress(Exception):
            ray.get(self._bulletin.put.remote("over"))

    def _end(self, thread: threading.Thread) -> None:
        """No worker outlives this, whatever the reason."""
        import ray

        if not thread.is_alive():
            return
        if self._controller is None:
            with suppress(Exception):
                self._take(ray.get(self._bulletin.news.remote(1.0), timeout=PATIENCE))
        if self._controller is None:
            return
        with suppress(Exception):
            ray.get(self._controller.abort.remote(), timeout=GOODBYE)
        with suppress(Exception):
            ray.kill(self._controller)
        thread.join(GOODBYE)

    def _conclude(self, asked: list[str]) -> None:
        """Return where the training is done, else raise why it is not."""
        import ray

        ended = getattr(self._result, "return_value", None) or {}
        if self._result is not None and "stopped" not in ended:
            return
        attempt: Attempt = ray.get(self._bulletin.attempt.remote())
        for failure in attempt.failures.values():
            if failure["mine"]:
                raise PenstockError(str(failure["text"]))
        if asked:
            self._chronicle.record("stopped", by=asked[0])
            raise Interrupted(ended.get("stopped", f"stopped by {asked[0]}; it goes on from the last checkpoint."))
        errors = getattr(self._error, "worker_failures", None)
        if errors is None:
            raise self._error or TrainingFailed("the training ended without a word.")
        causes = "; ".join(what_failed(errors, attempt))
        if attempt.failures and len(attempt.failures) == len(errors):
            first = min(attempt.failures.values(), key=is_consequence)
            print(first["traceback"], file=sys.stderr, flush=True)
            raise TrainingFailed(causes)
        allowed = self._placement.max_failures
        raise PenstockError(
            f"{causes}{f', after {allowed} restarts' if allowed else ''}. `penstock resume {self._training.run.name}` "
            "goes on from the last checkpoint; --max-failures N allows more."
        )


def _trainer(training: Training, placement: Placement, bulletin: Any, offer: Offer) -> Any:
    import ray
    from ray.train.torch import TorchConfig
    from ray.train.v2.api.config import FailureConfig, RunConfig, ScalingConfig

    from cluster.on_ray.controller import Foreman, Trainer
    from cluster.on_ray.worker import SaveOnSigterm, work

    gpu = placement.gpus_per_worker > 0
    hooks: list[Any] = [Foreman(bulletin), SaveOnSigterm(bulletin)]
    fewest = placement.min_workers
    return Trainer(
        work,
        bulletin=bulletin,
        train_loop_config={
            "training": ray.put(training),
            "strategy": placement.strategy,
            "bulletin": bulletin,
            "offer": offer,
        },
        scaling_config=ScalingConfig(
            num_workers=placement.workers if fewest is None else (fewest, placement.workers),
            use_gpu=gpu,
            resources_per_worker={"CPU": placement.cpus_per_worker}
            | ({"GPU": placement.gpus_per_worker} if gpu else {}),
            elastic_resize_monitor_interval_s=float(os.environ.get(RESIZE, "60")),
        ),
        torch_config=TorchConfig(backend="nccl" if gpu else "gloo"),
        run_config=RunConfig(
            name=training.place,
            storage_path=str(training.run.path / "ray"),
            failure_config=FailureConfig(max_failures=placement.max_failures),
            callbacks=hooks,
        ),
    )


def _seen(training: Training) -> tuple[int, float]:
    """The step that an earlier driver came to at least, by its metrics, and when it wrote that."""
    file = training.run.metrics_file
    steps = [row.step for row in read_metrics(file) if row.stage == training.place]
    return (max(steps), file.stat().st_mtime) if steps else (0, 0.0)


def _say(line: str) -> None:
    print(line, flush=True)


@contextmanager
def _signals() -> Iterator[list[str]]:
    """The names of the signals that asked for an end; the second one of them ends at once."""
    if threading.current_thread() is not threading.main_thread():
        yield WISHES  # signals do not come here; whoever runs us in a thread asks so
        return
    asked: list[str] = []
    with handled(Asked(asked.append), *SIGNALS):
        yield asked
