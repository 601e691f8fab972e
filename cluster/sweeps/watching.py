"""What a trial's training tells the sweep, and how it obeys: Lightning callbacks, so imported late."""

import math
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lightning.pytorch.callbacks import Checkpoint
from lightning.pytorch.loggers.logger import Logger
from torch.optim import Optimizer

from cluster.sweeps.results import NO_METRIC, OUTCOME
from cluster.sweeps.trial import NotANumber
from data.checkpoint import RollingCheckpoint
from data.errors import PenstockError
from flows.run import Interrupted, write_json

if TYPE_CHECKING:
    from lightning import LightningModule, Trainer


class Reports(Logger):
    """Hands the metric to Tune as metrics.csv gets it, and ends a training whose metric is no longer a number."""

    def __init__(self, trainer: "Trainer", metric: str, trial: str, population: bool) -> None:
        super().__init__()
        self._trainer, self._metric, self._trial, self._population = trainer, metric, trial, population
        self._seen, self._without = False, 0

    @property
    def name(self) -> str:
        return "sweep"

    @property
    def version(self) -> str:
        return ""

    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        """Nothing."""

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        if self._metric not in metrics:
            self._look_for_it(metrics)
            return
        self._seen = True
        value, done = float(metrics[self._metric]), (step or 0) + 1
        if not math.isfinite(value):
            raise NotANumber(f"{self._metric} was {value} after step {done}")
        # Nothing is decided by the last value any more: a training that is through shall write its model.
        if done < self._trainer.max_steps:
            self._report({"step": done, "value": value}, done)

    def _look_for_it(self, metrics: Mapping[str, float]) -> None:
        """A metric that its like come without, twice, is a mistake in the space file: no use in training on."""
        like = [name for name in metrics if name.partition("/")[0] == self._metric.partition("/")[0]]
        self._without += bool(like)
        if self._without > 1 and not self._seen:
            raise PenstockError(f"{NO_METRIC} '{self._metric}'; it has {', '.join(like)}")

    def _report(self, said: dict[str, Any], step: int) -> None:
        from ray import tune

        try:
            if not self._population:
                tune.report(said)
                return
            # Tune carries who and when from trial to trial; the weights stay where the trial keeps them anyway.
            with tempfile.TemporaryDirectory(prefix="pen-") as folder:
                write_json(Path(folder) / OUTCOME, {"from": self._trial, "step": step})
                tune.report(said, checkpoint=tune.Checkpoint.from_directory(folder))
        except SystemExit:  # Tune's way of ending a trial
            raise Interrupted(f"ended by the scheduler after step {step}") from None


class Watch(Checkpoint):
    """Puts `Reports` beside the loggers, ends the training when the sweep is asked to stop, and lets changed settings
    of the optimizer take effect.

    A `Checkpoint` in Lightning's sense, so that it comes after the callbacks whose state a checkpoint holds.
    """

    LOOK_SECONDS = 0.5

    def __init__(self, stage: str, metric: str, stop_file: Path, trial: str, population: bool) -> None:
        self._stage, self._metric, self._stop_file = stage, metric, stop_file
        self._trial, self._population = trial, population
        self._looked = 0.0

    def setup(self, trainer: "Trainer", pl_module: "LightningModule", stage: str) -> None:
        if any(logger.name == self._stage for logger in trainer.loggers):
            reports = Reports(trainer, self._metric, self._trial, self._population)
            trainer.loggers = [*trainer.loggers, reports]

    def on_train_start(self, trainer: "Trainer", pl_module: "LightningModule") -> None:
        if self._population:
            renew_optimizers(trainer, pl_module)

    def on_train_batch_end(
        self, trainer: "Trainer", pl_module: "LightningModule", outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if time.monotonic() - self._looked < self.LOOK_SECONDS:
            return
        self._looked = time.monotonic()
        if not self._stop_file.exists():
            return
        for callback in trainer.callbacks:  # type: ignore[attr-defined]
            if isinstance(callback, RollingCheckpoint):
                callback.save(trainer)
        raise Interrupted(f"the sweep was stopped after step {trainer.global_step}; a checkpoint is written.")


def renew_optimizers(trainer: "Trainer", module: "LightningModule") -> None:
    """Give restored optimizers the settings of the present configuration, and keep their moments.

    A checkpoint restores the learning rate and every other setting of the optimizer that wrote it. The rate of now
    keeps its place in the schedule: it is multiplied by the ratio of the two base rates.
    """
    made = module.configure_optimizers()
    fresh = _optimizers(made)
    for old, new in zip(trainer.optimizers, fresh, strict=True):
        for group, wanted in zip(old.param_groups, new.param_groups, strict=True):
            base_before = group.get("initial_lr", group["lr"])
            base = wanted.get("initial_lr", wanted["lr"])
            rate = group["lr"] * (base / base_before if base_before else 1.0)
            # Some optimizers count their steps in the group: that is a state, not a setting.
            group.update({name: value for name, value in wanted.items() if name not in ("params", "step")})
            group["lr"] = rate
    for config in trainer.lr_scheduler_configs:
        scheduler: Any = config.scheduler
        if hasattr(scheduler, "base_lrs"):
            scheduler.base_lrs = [group.get("initial_lr", group["lr"]) for group in scheduler.optimizer.param_groups]
            scheduler._last_lr = [group["lr"] for group in scheduler.optimizer.param_groups]


def _optimizers(made: Any) -> list[Optimizer]:
    """The optimizers in what `configure_optimizers` returns."""
    if isinstance(made, Optimizer):
        return [made]
    if isinstance(made, Mapping):
        return [made["optimizer"]]
    if isinstance(made, tuple) and len(made) == 2 and isinstance(made[0], list):
        return list(made[0])
    return [optimizer for part in made or () for optimizer in _optimizers(part)]
