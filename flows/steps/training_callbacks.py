"""What watches a training: its log, its progress, and the wish that it end."""

import signal
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from lightning.pytorch.callbacks import Callback, Checkpoint
from lightning.pytorch.loggers.logger import Logger
from lightning.pytorch.plugins import DoublePrecision
from torch import Tensor

from data.batch import Batch
from data.best_weights import BestWeights
from data.checkpoint import RollingCheckpoint
from flows.executor import Group
from flows.progress import Progress
from flows.run import Interrupted
from flows.stopping import SIGNALS, Asked
from flows.tracking import Metrics, Tracker

if TYPE_CHECKING:
    from lightning import LightningModule, Trainer


class TidyLogger(Logger):
    """Lightning's metrics as rows of metrics.csv and points in W&B, written by the first process of the group."""

    def __init__(self, stage: str, group: Group, metrics: Metrics | None, tracker: Tracker | None) -> None:
        super().__init__()
        self._stage, self._group, self._metrics, self._tracker = stage, group, metrics, tracker

    @property
    def name(self) -> str:
        return self._stage

    @property
    def version(self) -> str:
        return ""

    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        """Nothing: the run's config.yaml has them all."""

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        values = {name: float(value) for name, value in metrics.items() if name != "epoch"}
        # Lightning counts the steps before the one just done; a row at step n is after n optimizer steps.
        done = (step or 0) + 1
        if not values:
            return
        values = self._group.mean(values)
        if self._metrics is not None:
            self._metrics.log(values, done, int(metrics.get("epoch", 0)))
        if self._tracker is not None:
            self._tracker.log({**values, "epoch": metrics.get("epoch", 0)}, done)


class FinalWeights(Callback):
    """What is exported: the network at the end, averaged where that is asked for, or the best one.

    Comes after the weight average, which takes its place when the training ends. Where
    processes share the network out, they put it together here, while they are still connected.
    """

    def __init__(self, group: Group, best: BestWeights | None) -> None:
        self._group, self._best = group, best
        self.weights: Mapping[str, Tensor] = {}
        """Empty where there was no step to do, and in all processes but the first where weights are shared out."""

    def on_train_end(self, trainer: "Trainer", pl_module: "LightningModule") -> None:
        model: Any = pl_module.model
        chosen = self._best.weights if self._best is not None and self._best.weights else model.state_dict()
        self.weights = self._group.whole(chosen)


class DoubleBatches(DoublePrecision):
    """Lightning's float64, for batches that know themselves how to become it."""

    def convert_input(self, data: Batch) -> Batch:
        return data.double()


class ShowProgress(Callback):
    """Lines of progress with the newest training loss."""

    def __init__(self, stage: str, steps: int) -> None:
        self.stage, self.steps = stage, steps
        self._progress: Progress | None = None

    def on_train_start(self, trainer: "Trainer", pl_module: "LightningModule") -> None:
        self._progress = Progress(f"train {self.stage}", self.steps, "steps", start=trainer.global_step)

    def on_train_batch_end(
        self, trainer: "Trainer", pl_module: "LightningModule", outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if self._progress is not None:
            loss = outputs.get("loss") if isinstance(outputs, Mapping) else outputs
            shown = {"loss": float(loss.detach())} if isinstance(loss, torch.Tensor) else {}
            self._progress.update(trainer.global_step, **shown)


class StopWhenAsked(Checkpoint):
    """On SIGTERM or Ctrl-C: a checkpoint after the optimizer step under way, then an orderly end.

    A `Checkpoint` in Lightning's sense, so that it runs after the callbacks whose state the checkpoint holds. It also
    saves by time (`every_seconds`): processes that train together agree on both at once.
    """

    def __init__(self, rolling: RollingCheckpoint, group: Group, every_seconds: float | None = None) -> None:
        self._rolling, self._group, self._every_seconds = rolling, group, every_seconds
        self._asked = Asked()
        self._before: dict[int, Any] = {}

    def setup(self, trainer: "Trainer", pl_module: "LightningModule", stage: str) -> None:
        try:
            self._before = {number: signal.signal(number, self._asked) for number in SIGNALS}
        except ValueError:
            self._before = {}  # not in the main thread: whoever runs us there handles signals

    def on_train_start(self, trainer: "Trainer", pl_module: "LightningModule") -> None:
        # Lightning has put its own handler before ours by now. A SIGTERM that reaches it between our look at the end
        # of a batch and its own ends the process at once, with exit code 0 and without a checkpoint.
        for number in self._before:
            signal.signal(number, self._asked)

    def teardown(self, trainer: "Trainer", pl_module: "LightningModule", stage: str) -> None:
        self._restore()

    def on_exception(self, trainer: "Trainer", pl_module: "LightningModule", exception: BaseException) -> None:
        self._restore()

    def _restore(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}

    def on_train_batch_end(
        self, trainer: "Trainer", pl_module: "LightningModule", outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        due = self._every_seconds is not None and self._rolling.seconds_since >= self._every_seconds
        asked, due = self._group.after_step(self._asked.by, due)
        if asked or due:
            self._rolling.save(trainer)
        if asked:
            # Lightning logs the step after this hook, which now never returns to it.
            trainer._logger_connector.on_batch_end()
            trainer._logger_connector.update_train_step_metrics()
            raise Interrupted(f"stopped by {asked} after step {trainer.global_step}; a checkpoint is written.")
