"""Ray Train as a training of ours needs it: which failures are tried again, on how many workers, told to the board.

Ray's controller of a training is an actor beside the driver; what is defined here works inside it. Its classes for
decisions are not in Ray's public interface (seen with 2.60): all that rests on them is in this file.
"""

import socket
import time
from contextlib import suppress
from typing import Any

import ray
from ray.train.v2._internal.execution.callback import ControllerCallback, WorkerGroupCallback
from ray.train.v2._internal.execution.controller.state import ResizingState
from ray.train.v2._internal.execution.failure_handling import FailureDecision
from ray.train.v2._internal.execution.failure_handling.default import DefaultFailurePolicy
from ray.train.v2._internal.execution.scaling_policy import NoopDecision, create_scaling_policy
from ray.train.v2._internal.execution.scaling_policy.elastic import ElasticScalingPolicy
from ray.train.v2.torch.torch_trainer import TorchTrainer

from cluster.on_ray.bulletin import Attempt, Moved, Wish, draining_nodes
from cluster.on_ray.faults import is_consequence, what_failed

ANSWER = 10.0
"""Seconds for a question to the board."""

SAVING = 120.0
"""Seconds that a training gets to save itself before its workers are shared out anew."""


PING = 2.0
"""Seconds in which a worker that lives answers."""

REMIND = 30.0
"""Seconds between two words on machines that are waited for."""

CREW: list[Any] = []
"""The actors of the workers of this controller, by rank."""


class Trainer(TorchTrainer):
    """Ray's trainer with our judgement of failures, which it has no argument for."""

    def __init__(self, *arguments: Any, bulletin: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self._bulletin = bulletin

    def _initialize_and_run_controller(self, **named: Any) -> Any:
        named["failure_policy"] = Judge(self.run_config.failure_config, self._bulletin)
        scaling: Any = self.scaling_config
        named["scaling_policy"] = (
            Elastic(scaling, self._bulletin) if scaling.elasticity_enabled else create_scaling_policy(scaling)
        )
        return super()._initialize_and_run_controller(**named)


class Judge(DefaultFailurePolicy):
    """Tries again what may go better the next time.

    Not tried again: mistakes of the user, and what was raised at the same step before. A training that was saved in
    order to move is begun again without counting as a failure.
    """

    def __init__(self, failure_config: Any, bulletin: Any) -> None:
        super().__init__(failure_config)
        self._bulletin = bulletin
        self._raised: set[tuple[str, str, int]] = set()

    def make_decision(self, training_failed_error: Any) -> Any:
        attempt = _attempt(self._bulletin)
        errors = getattr(training_failed_error, "worker_failures", {})
        moved = any(isinstance(error, Moved) for error in errors.values())
        decision = self._decided(training_failed_error, attempt, moved)
        again = decision == FailureDecision.RETRY
        if errors:
            silent = () if moved or set(errors) - set(attempt.failures) else _silent(attempt)
            causes = [attempt.wish.text] if moved and attempt.wish else what_failed(errors, attempt, silent)
            details = [str(error)[-2000:] for error in errors.values() if not isinstance(error, Moved)]
            self._tell("fell", causes=causes, again=again, planned=moved, details=details)
        elif again:
            self._tell("waiting", text=str(training_failed_error).splitlines()[-1])
        return decision

    def _tell(self, kind: str, **facts: Any) -> None:
        with suppress(Exception):
            ray.get(self._bulletin.put.remote(kind, **facts), timeout=ANSWER)

    def _decided(self, error: Any, attempt: Attempt, moved: bool) -> Any:
        if attempt.wish is not None and not attempt.wish.move:
            return FailureDecision.RAISE  # it was to end anyway
        if moved:
            return FailureDecision.RETRY
        if any(failure["mine"] for failure in attempt.failures.values()):
            return FailureDecision.RAISE
        raised = {
            (str(failure["type"]), str(failure["text"]), int(failure["step"]))
            for failure in attempt.failures.values()
            if not is_consequence(failure)
        }
        if raised & self._raised:
            return FailureDecision.RAISE
        self._raised |= raised
        return super().make_decision(error)


class Elastic(ElasticScalingPolicy):
    """Ray's policy, which would also count on nodes that are gone or about to go, and waits without a word."""

    def __init__(self, scaling_config: Any, bulletin: Any) -> None:
        super().__init__(scaling_config)
        self._bulletin, self._said = bulletin, time.monotonic()

    def _count_possible_workers(self, reserved_resources: Any) -> int:
        going = draining_nodes() | _unreachable()
        staying = {node: amount for node, amount in reserved_resources.items() if node not in going}
        return int(super()._count_possible_workers(staying))

    def make_decision_for_non_running_worker_group(self) -> Any:
        decision = super().make_decision_for_non_running_worker_group()
        if not isinstance(decision, NoopDecision):
            self._said = time.monotonic()
        elif time.monotonic() - self._said > REMIND:
            self._said = time.monotonic()
            text = f"the cluster has no room for {self.scaling_config.min_workers} workers"
            self._bulletin.put.remote("waiting", text=text)
        return decision


class Foreman(ControllerCallback, WorkerGroupCallback):
    """Tells the board who works, and lets a training save itself before it is shared out anew."""

    def __init__(self, bulletin: Any) -> None:
        self._bulletin = bulletin

    def after_controller_start(self, train_run_context: Any) -> None:
        self._bulletin.put.remote("controller", handle=ray.get_runtime_context().current_actor)

    def after_worker_group_start(self, worker_group: Any) -> None:
        crew = worker_group.get_workers()
        CREW[:] = [worker.actor for worker in crew]
        workers = [
            {"pid": worker.metadata.pid, "host": worker.metadata.hostname, "node": worker.metadata.node_id}
            for worker in crew
        ]
        self._bulletin.put.remote("opened", workers=workers)

    def after_controller_state_update(self, previous_state: Any, current_state: Any) -> None:
        """A group that works is to be replaced by a larger or smaller one: it saves what it has, and ends."""
        attempt = _attempt(self._bulletin) if isinstance(current_state, ResizingState) else None
        if attempt is None or not attempt.running:
            return
        change = f"a change from {len(attempt.workers)} to {current_state.scaling_decision.num_workers} workers"
        ray.get(self._bulletin.want.remote(Wish(change, move=True)))
        ray.get(self._bulletin.gone.remote(SAVING))
        ray.get(self._bulletin.put.remote("fell", causes=[change], again=True, planned=True, details=[]))


def _unreachable() -> set[str]:
    """Ids of the nodes that refuse a connection: Ray itself notices their death only after several missed beats."""
    found = set()
    for node in ray.nodes():
        try:
            socket.create_connection((node["NodeManagerAddress"], node["NodeManagerPort"]), timeout=PING).close()
        except OSError:
            found.add(str(node["NodeID"]))
    return found


def _silent(attempt: Attempt) -> list[int]:
    """The ranks whose processes no longer answer."""
    asked = {actor.get_metadata.remote(): rank for rank, actor in enumerate(CREW) if rank not in attempt.left}
    answered, _ = ray.wait(list(asked), num_returns=len(asked), timeout=PING) if asked else ([], [])
    alive = set()
    for answer in answered:
        with suppress(Exception):
            ray.get(answer)
            alive.add(asked[answer])
    return sorted(set(asked.values()) - alive)


def _attempt(bulletin: Any) -> Attempt:
    try:
        found: Attempt = ray.get(bulletin.attempt.remote(), timeout=ANSWER)
        return found
    except Exception:
        return Attempt(None, (), {}, frozenset(), False, None)
