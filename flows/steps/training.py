"""The training step of every domain: from wherever the last checkpoint is to an exported model."""

import os
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import lightning
from lightning.pytorch.callbacks import Callback
from torch import Tensor

from configs.load import to_plain
from configs.training import TrainerConfig
from data.best_weights import BestWeights
from data.checkpoint import (
    AtomicCheckpointIO,
    RollingCheckpoint,
    checkpoint_step,
    ema_callback,
    load_training_weights,
    newest_valid,
)
from data.errors import ConfigError
from data.model_folder import write_model
from flows.executor import Group, executor_for
from flows.run import Run
from flows.steps.training_callbacks import DoubleBatches, FinalWeights, ShowProgress, StopWhenAsked, TidyLogger
from flows.tracking import Metrics, tracked

if TYPE_CHECKING:
    from lightning import LightningDataModule, LightningModule, Trainer


MODEL = "model."
"""What the names of the network's weights begin with in a training's checkpoint."""


@dataclass(frozen=True)
class Training:
    """One training as a step asks for it: all that is needed to do it, in this process or in others."""

    run: Run
    stage: str
    place: str
    """Names its files; the stage, unless a stage is trained more than once (other seeds, other folds)."""
    seed: int
    build: Callable[[], "LightningModule"]
    """Called after seeding, so that the first weights follow from the seed."""
    data: "LightningDataModule"
    settings: TrainerConfig
    network: Any
    """The config that builds the module's `model` again."""
    extra: Mapping[str, Any]
    """Whatever else belongs to the exported model."""


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
    """Train one stage where the run's placement says, and write its model; gives the model's folder.

    Goes on from the newest whole checkpoint of the stage. See `Training` for the arguments; `place` defaults to the
    stage, `seed` to the run's.

    Raises:
        Interrupted: SIGTERM or Ctrl-C came; a checkpoint was written.
        DiskFullError: no room for a checkpoint; the earlier ones are whole.
    """
    seed = run.config.seed if seed is None else seed
    training = Training(run, stage, place or stage, seed, build, data, settings, network, extra or {})
    executor_for(run).train(training)
    return run.model(training.place)


def fit(training: Training, group: Group) -> None:
    """This process's part in a training; the first process of the group writes what is written.

    Raises:
        ConfigError: several devices for one process.
    """
    if training.settings.devices > 1 and group.size == 1:
        count = training.settings.devices
        raise ConfigError(
            f"trainer.devices: one process trains on one device, got {count}. Several take part as workers: "
            f"--on ray --workers {count} --gpus-per-worker 1."
        )
    run, place, settings, first = training.run, training.place, training.settings, group.rank == 0
    _quieten()
    _seed(training.seed)
    module = training.build()
    if settings.precision == "64-true":
        module.double()  # Lightning would do so after the weight average has made its copy
    start = group.agreed(newest_valid(run.checkpoints(place)) if first else None)
    resumed_at = 0 if start is None else max(0, checkpoint_step(start))
    if start is not None and first:
        print(f"going on from step {resumed_at} ({start.name})", flush=True)
    rolling = RollingCheckpoint(
        run.checkpoints(place),
        every_steps=settings.checkpoint_every_steps,  # those by time: StopWhenAsked
        keep=settings.keep_checkpoints,
    )
    best = BestWeights(patience=settings.patience)
    chosen = best if settings.select == "best" else None
    watching: list[Callback] = [rolling, *([ShowProgress(place, settings.steps)] if first else [])]
    with tracked(run, f"train_{place}") if first else nullcontext() as tracker:
        metrics = Metrics(run.metrics_file, place, resumed_at) if first else None
        final = FinalWeights(group, chosen)
        trainer = _trainer(settings, [*watching, *_chosen(settings, best)], [final], rolling, group)
        trainer.loggers = [TidyLogger(place, group, metrics, tracker)]
        # weights_only is said again beside the plugin that enforces it, so that Lightning does not warn.
        trainer.fit(
            module, datamodule=training.data, ckpt_path=None if start is None else str(start), weights_only=True
        )
        if chosen is not None and chosen.step and first:
            kept = f"kept the weights of step {best.step}, the lowest validation loss ({best.value:.5g})"
            print(kept, flush=True)
        if tracker is not None:
            _write(
                training,
                final.weights or _finished_before(chosen, start),
                trainer.global_step,
            )
            tracker.log_files(f"{run.name}-{place}", "model", run.model(place))


def _finished_before(best: BestWeights | None, start: Path | None) -> Mapping[str, Tensor]:
    """The weights of a training whose last checkpoint is that of its last step: there is no step left to do."""
    assert start is not None
    if best is not None and best.weights:
        return best.weights
    saved = load_training_weights(start)
    return {name.removeprefix(MODEL): value for name, value in saved.items() if name.startswith(MODEL)}


def _write(training: Training, model: Mapping[str, Tensor], step: int) -> None:
    run, place = training.run, training.place
    network = to_plain(training.network)
    described = {"domain": run.domain_name, "stage": training.stage, "network": network, **training.extra}
    facts = run.provenance() | {"run": run.name, "stage": place, "step": step}
    write_model(run.model(place), model, described, facts)


def _chosen(settings: TrainerConfig, best: BestWeights) -> list[Callback]:
    """The watch over the validation loss, where anything depends on it."""
    return [best] if settings.select == "best" or settings.patience is not None else []


def _trainer(
    settings: TrainerConfig,
    callbacks: list[Callback],
    at_the_end: list[Callback],
    rolling: RollingCheckpoint,
    group: Group,
) -> "Trainer":
    if settings.ema_decay is not None:
        callbacks.append(ema_callback(settings.ema_decay))
    double = settings.precision == "64-true"
    callbacks += [*at_the_end, *group.callbacks(), StopWhenAsked(rolling, group, settings.checkpoint_every_seconds)]
    placed = {"accelerator": settings.accelerator, "devices": settings.devices, **group.trainer_options()}
    return lightning.Trainer(
        max_steps=settings.steps,
        min_epochs=0,
        precision=None if double else settings.precision,
        gradient_clip_val=settings.gradient_clip,
        val_check_interval=settings.validate_every or None,
        check_val_every_n_epoch=None if settings.validate_every else 1,
        log_every_n_steps=min(settings.log_every, settings.steps),
        num_sanity_val_steps=0,
        # "warn": a few CUDA kernels have no deterministic form; on a CPU all that we use have.
        deterministic="warn",
        benchmark=False,
        callbacks=callbacks,
        plugins=[AtomicCheckpointIO(), *([DoubleBatches()] if double else []), *placed.pop("plugins", ())],
        logger=False,
        enable_checkpointing=True,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        **placed,
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
        ".*have no `validation_step`.*",
        ".*`srun` command is available.*",
        ".*`broadcast_buffers` is deprecated.*",  # its successor is not in torch 2.12
    ):
        warnings.filterwarnings("ignore", text)
