"""The training step of every domain: from wherever the last checkpoint is to an exported model."""

import os
import signal
from collections.abc import Callable, Mapping
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, cast

import lightning
import torch
from lightning.pytorch.callbacks import Callback, Checkpoint
from lightning.pytorch.loggers.logger import Logger
from torch import nn

from configs.load import to_plain
from configs.training import TrainerConfig
from data.best_weights import BestWeights
from data.checkpoint import (
    AtomicCheckpointIO,
    RollingCheckpoint,
    checkpoint_callback,
    checkpoint_step,
    ema_callback,
    newest_valid,
)
from data.model_folder import write_model
from flows.progress import Progress
from flows.run import Interrupted, Run
from flows.tracking import Metrics, Tracker, tracked

if TYPE_CHECKING:
    from lightning import LightningDataModule, LightningModule, Trainer


def train(
    run: Run,
    stage: str,
    build: Callable[[], "LightningModule"],
    data: "LightningDataModule",
    settings: TrainerConfig,
    *,
    network: Any,
    extra: Mapping[str, Any] | None = None,
    place: str | None = None,
    seed: int | None = None,
) -> Path:
    """Train one stage and write its model; gives the model's folder.

    Goes on from the newest whole checkpoint of the stage. `build` is called after seeding, so the first weights follow
    from the run's seed. What is exported is the module's `model`, with the config `network` that builds it again and
    whatever else (`extra`) belongs to it. `place` names its files where a stage is trained more than once (other seeds,
    other folds), `seed` then takes the place of the run's.

    Raises:
        Interrupted: SIGTERM or Ctrl-C came; a checkpoint was written.
        DiskFullError: no room for a checkpoint; the earlier ones are whole.
    """
    _quieten()
    place = place or stage
    _seed(run.config.seed if seed is None else seed)
    module = build()
    start = newest_valid(run.checkpoints(place))
    resumed_at = 0 if start is None else max(0, checkpoint_step(start))
    if start is not None:
        print(f"going on from step {resumed_at} ({start.name})", flush=True)
    rolling = checkpoint_callback(
        run.checkpoints(place),
        every_steps=settings.checkpoint_every_steps,
        every_seconds=settings.checkpoint_every_seconds,
        keep=settings.keep_checkpoints,
    )
    best = BestWeights(patience=settings.patience)
    with tracked(run, f"train_{place}") as tracker:
        trainer = _trainer(settings, [rolling, ShowProgress(place, settings.steps), *_chosen(settings, best)], rolling)
        trainer.loggers = [TidyLogger(Metrics(run.metrics_file, place, resumed_at), tracker)]
        # weights_only is said again beside the plugin that enforces it, so that Lightning does not warn.
        trainer.fit(module, datamodule=data, ckpt_path=None if start is None else str(start), weights_only=True)
        if settings.select == "best" and best.weights:
            cast(nn.Module, module.model).load_state_dict(best.weights)
            print(f"kept the weights of step {best.step}, the lowest validation loss ({best.value:.5g})", flush=True)
        described = {"domain": run.domain_name, "stage": stage, "network": to_plain(network), **(extra or {})}
        facts = run.provenance() | {"run": run.name, "stage": place, "step": trainer.global_step}
        write_model(run.model(place), cast(nn.Module, module.model), described, facts)
        tracker.log_files(f"{run.name}-{place}", "model", run.model(place))
    return run.model(place)


def _chosen(settings: TrainerConfig, best: BestWeights) -> list[Callback]:
    """The watch over the validation loss, where anything depends on it."""
    return [best] if settings.select == "best" or settings.patience is not None else []


def _trainer(settings: TrainerConfig, callbacks: list[Callback], rolling: RollingCheckpoint) -> "Trainer":
    if settings.ema_decay is not None:
        callbacks.append(ema_callback(settings.ema_decay))
    callbacks.append(StopWhenAsked(rolling))
    return lightning.Trainer(
        max_steps=settings.steps,
        min_epochs=0,
        accelerator=settings.accelerator,
        devices=settings.devices,
        precision=settings.precision,
        gradient_clip_val=settings.gradient_clip,
        val_check_interval=settings.validate_every or None,
        check_val_every_n_epoch=None if settings.validate_every else 1,
        log_every_n_steps=min(settings.log_every, settings.steps),
        num_sanity_val_steps=0,
        # "warn": a few CUDA kernels have no deterministic form; on a CPU all that we use have.
        deterministic="warn",
        benchmark=False,
        callbacks=callbacks,
        plugins=[AtomicCheckpointIO()],
        logger=False,
        enable_checkpointing=True,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
    )


def _seed(seed: int) -> None:
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    lightning.seed_everything(seed % 2**32, workers=True, verbose=False)


def _quieten() -> None:
    """Lightning's banners and hints off: the log shows what a user acts on."""
    import logging
    import warnings

    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.ERROR)
    for text in (
        ".*does not have many workers.*",
        ".*smaller than the logging interval.*",
        ".*LeafSpec.*",
        ".*isinstance\\(treespec.*",
    ):
        warnings.filterwarnings("ignore", text)


class TidyLogger(Logger):
    """Lightning's metrics as rows of metrics.csv and points in W&B."""

    def __init__(self, metrics: Metrics, tracker: Tracker) -> None:
        super().__init__()
        self._metrics, self._tracker = metrics, tracker

    @property
    def name(self) -> str:
        return self._metrics.stage

    @property
    def version(self) -> str:
        return ""

    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        """Nothing: the run's config.yaml has them all."""

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        values = {name: float(value) for name, value in metrics.items() if name != "epoch"}
        # Lightning counts the steps before the one just done; a row at step n is after n optimizer steps.
        done = (step or 0) + 1
        if values:
            self._metrics.log(values, done, int(metrics.get("epoch", 0)))
            self._tracker.log({**values, "epoch": metrics.get("epoch", 0)}, done)


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

    A `Checkpoint` in Lightning's sense, so that it runs after the callbacks whose state the checkpoint holds.
    """

    SIGNALS = (signal.SIGTERM, signal.SIGINT)

    def __init__(self, rolling: RollingCheckpoint) -> None:
        self._rolling = rolling
        self._asked: str | None = None
        self._before: dict[int, Any] = {}

    def setup(self, trainer: "Trainer", pl_module: "LightningModule", stage: str) -> None:
        try:
            self._before = {number: signal.signal(number, self._ask) for number in self.SIGNALS}
        except ValueError:
            self._before = {}  # not in the main thread: whoever runs us there handles signals

    def on_train_start(self, trainer: "Trainer", pl_module: "LightningModule") -> None:
        # Lightning has put its own handler before ours by now. A SIGTERM that reaches it between our look at the end
        # of a batch and its own ends the process at once, with exit code 0 and without a checkpoint.
        for number in self._before:
            signal.signal(number, self._ask)

    def teardown(self, trainer: "Trainer", pl_module: "LightningModule", stage: str) -> None:
        self._restore()

    def on_exception(self, trainer: "Trainer", pl_module: "LightningModule", exception: BaseException) -> None:
        self._restore()

    def _restore(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}

    def _ask(self, number: int, frame: FrameType | None) -> None:
        if self._asked:
            raise KeyboardInterrupt  # asked twice: at once
        self._asked = signal.Signals(number).name

    def on_train_batch_end(
        self, trainer: "Trainer", pl_module: "LightningModule", outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if self._asked:
            self._rolling.save(trainer)
            raise Interrupted(f"stopped by {self._asked} after step {trainer.global_step}; a checkpoint is written.")
