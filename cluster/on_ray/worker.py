"""What each process of a distributed training does: its part of `fit`, and telling the driver how it goes."""

import os
import sys
import threading
import time
import traceback
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from typing import TYPE_CHECKING, Any

import torch
from lightning.pytorch.callbacks import Callback
from ray.train.v2._internal.execution.callback import WorkerCallback

from cluster.on_ray.bulletin import Desk, Lines, Moved, Wish, WorkerFailed
from cluster.on_ray.group import RayGroup
from cluster.on_ray.storage import Offer, joined, reach
from flows.lock import Holder, held
from flows.run import Interrupted, user_message
from flows.steps.training import Training, fit

if TYPE_CHECKING:
    from lightning import LightningModule, Trainer

TELL = 0.05
"""Seconds between two notes on the steps done: what was lost is said as exactly, and a note costs under a
millisecond."""


def work(config: dict[str, Any]) -> dict[str, Any]:
    """One worker's training. The value returned: `stopped`, by whom, where it ended before its last step."""
    import ray

    offer: Offer = config["offer"]
    reach(offer)  # first: what describes the training names files that must be there
    training: Training = ray.get(config["training"])
    torch.set_num_threads(training.run.config.threads or int(os.environ.get("OMP_NUM_THREADS", "1")))
    warnings.filterwarnings("ignore", ".*srun.*")  # Lightning's advice in a Slurm allocation; Ray starts the processes
    rank = ray.train.get_context().get_world_rank()
    desk = Desk(config["bulletin"], rank)
    watch = Watch(desk)
    group = WatchedGroup(config["strategy"], desk, [watch])
    try:
        with (
            _output_to(desk) if rank == 0 else nullcontext(),
            _alone(training) if rank == 0 else nullcontext(),
            joined(offer, training, group),
        ):
            fit(training, group)
        return {}
    except Interrupted as stopped:
        return _ended_early(desk, stopped)
    except Exception as error:
        mine = user_message(error)
        facts = {"type": type(error).__name__, "text": mine or str(error), "mine": mine is not None}
        desk.hand_in("failed", rank=rank, step=watch.step, traceback=traceback.format_exc(), **facts)
        raise WorkerFailed(f"{facts['type']}: {facts['text']}") from None
    finally:
        group.close()
        desk.hand_in("left", rank=rank)


def _ended_early(desk: Desk, stopped: Interrupted) -> dict[str, Any]:
    wish = desk.wish()
    # The others wait until the first has closed its files: the end of one is the end of all.
    with suppress(Exception):
        torch.distributed.barrier()
    if wish is not None and wish.move:
        raise Moved(str(stopped)) from None
    return {"stopped": str(stopped)}


class WatchedGroup(RayGroup):
    """A worker's group, watched by callbacks."""

    def __init__(self, strategy: str, desk: Desk, watching: Sequence[Callback]) -> None:
        super().__init__(strategy, desk)
        self._watching = watching

    def callbacks(self) -> Sequence[Callback]:
        return [*super().callbacks(), *self._watching]


class Watch(Callback):
    """Knows the step that was done last; the first worker tells it, and what is saved."""

    def __init__(self, desk: Desk) -> None:
        self.step = 0
        self._desk, self._told = desk, 0.0

    def on_train_start(self, trainer: "Trainer", pl_module: "LightningModule") -> None:
        self.step = trainer.global_step
        if self._desk.rank == 0:
            self._desk.put("began", step=self.step, workers=trainer.world_size)

    def on_train_batch_end(
        self, trainer: "Trainer", pl_module: "LightningModule", outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self.step = trainer.global_step
        now = time.monotonic()
        if self._desk.rank == 0 and now - self._told >= TELL:
            self._told = now
            self._desk.put("at", step=self.step)

    def on_save_checkpoint(self, trainer: "Trainer", pl_module: "LightningModule", checkpoint: dict[str, Any]) -> None:
        if self._desk.rank == 0:
            self._desk.put("saved", step=trainer.global_step)


@contextmanager
def _alone(training: Training) -> Iterator[None]:
    """The one process that writes this training: a leftover of a driver that was killed is waited for."""

    def say(other: Holder) -> None:
        print(f"waiting for {other}, which still writes this training", flush=True)

    with held(training.run.checkpoints(training.place) / "lock", f"train {training.place}", say):
        yield


@contextmanager
def _output_to(desk: Desk) -> Iterator[None]:
    """What is printed here is shown by the driver."""
    before = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = Lines(desk, sys.stdout, "said"), Lines(desk, sys.stderr, "warned")
    try:
        yield
    finally:
        sys.stdout, sys.stderr = before


class SaveOnSigterm(WorkerCallback):
    """SIGTERM at a worker's process is the notice that it will be killed: the training is saved, and goes on without.

    Ray calls this in the worker's main thread, the only one that may handle signals; training runs in another.
    """

    def __init__(self, bulletin: Any) -> None:
        self._bulletin = bulletin

    def after_init_train_context(self) -> None:
        import signal

        self._asked = False
        signal.signal(signal.SIGTERM, self._ask)

    def _ask(self, *ignored: Any) -> None:
        if self._asked:
            os._exit(143)
        self._asked = True
        # In a thread: the signal may have come in the middle of a call of Ray's.
        threading.Thread(target=self._tell, daemon=True).start()

    def _tell(self) -> None:
        import ray

        try:
            name = f"SIGTERM at a worker (process {os.getpid()} on {os.uname().nodename})"
            ray.get(self._bulletin.want.remote(Wish(name, move=True)), timeout=2)
        except Exception:
            os._exit(143)  # nobody is there to go on with the training
