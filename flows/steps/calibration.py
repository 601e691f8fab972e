"""What a training will need: a few of its steps, done on real batches and thrown away.

Nothing of it is left: the module is built anew for the training, random generators are put back, nothing is written.
"""

import copy
import logging
import os
import platform
import resource
import signal
import time
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, fields, is_dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import lightning
import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.utilities.model_helpers import is_overridden
from lightning.pytorch.utilities.seed import isolate_rng
from torch import Tensor

from data.checkpoint import ema_callback
from flows.run import Interrupted

if TYPE_CHECKING:
    from flows.steps.training import Training

MOST_STEPS = 20
MOST_SECONDS = 1.5
SHARE = 0.05
"""Of the time that the training is expected to take: calibration ends when it has cost as much, or MOST_SECONDS."""
VALIDATED = 2
"""Batches of the validation that are timed."""
PROBED = 2
"""Samples of the first step, which shows whether a whole batch would fit."""


@dataclass(frozen=True)
class Machine:
    """What there is where a process trains; memory in bytes."""

    name: str
    device: str
    """`CPU`, or the GPU's name."""
    threads: int
    memory: int
    """Free for this process, in main memory or, on a GPU, in the GPU's."""

    @property
    def gpu(self) -> bool:
        return self.device != "CPU"


@dataclass(frozen=True)
class Needs:
    """What one training process holds in memory at once, in bytes."""

    weights: int
    gradients: int
    optimizer: int
    average: int
    """Copies of the weights: their moving average, the best so far."""
    activations: int
    """What the forward pass of its part of a batch leaves for the backward pass."""
    data: int

    @property
    def total(self) -> int:
        return sum(getattr(self, field.name) for field in fields(self))

    def for_samples(self, ratio: float) -> "Needs":
        """With batches `ratio` times as large."""
        return replace(self, activations=round(self.activations * ratio), data=round(self.data * ratio))

    def shared_out(self, workers: int) -> "Needs":
        """With weights, gradients and optimizer state divided among `workers`."""
        names = ("weights", "gradients", "optimizer", "average")
        return replace(self, **{name: -(-getattr(self, name) // workers) for name in names})


@dataclass(frozen=True)
class Measured:
    """What one training process needs and how fast it is."""

    machine: Machine
    needs: Needs
    samples: int
    """In this process's part of a batch."""
    steps: int = 0
    """That were timed; 0 where a whole batch would not fit and was not tried."""
    step: float = 0.0
    """Seconds of an optimizer step, with the time for its data."""
    validation: float = 0.0
    """Seconds of one validation."""


class _Enough(Exception):
    """Everything is known."""


def measure(training: "Training", workers: int = 1, accelerator: str | None = None) -> Measured:
    """Do a few steps of a training as one of `workers` processes would, and forget them.

    The first step is one of few samples; where it shows that a whole batch would not fit, none is tried.

    Raises:
        Interrupted: SIGTERM or Ctrl-C came.
    """
    settings, data = training.settings, _data_of(training, workers)
    accelerator = accelerator or settings.accelerator
    with isolate_rng(), _quiet():
        watch = _Watch(training, workers, free_memory())
        lightning.seed_everything(training.seed % 2**32, workers=True, verbose=False)
        module = training.build()
        averaging = [] if settings.ema_decay is None else [ema_callback(settings.ema_decay)]
        with watch.signals(), suppress(_Enough):
            _trainer(training, accelerator, [watch, *averaging]).fit(module, datamodule=data)
        found = watch.found(module)
        if found.steps and settings.steps >= (settings.validate_every or data.batches_per_epoch):
            found = replace(found, validation=_validation(training, accelerator, module) / workers)
    return found


def free_memory() -> int:
    """Bytes of main memory that this process may still take: of the machine, its container, and its own limits."""
    found = [os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")]
    if (meminfo := _text("/proc/meminfo")) is not None:
        found = [int(line.split()[1]) * 1024 for line in meminfo.splitlines() if line.startswith("MemAvailable:")]
    for limit, used in (
        ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"),
        ("/sys/fs/cgroup/memory/memory.limit_in_bytes", "/sys/fs/cgroup/memory/memory.usage_in_bytes"),
    ):
        most, taken = _text(limit), _text(used)
        if most is not None and taken is not None and most.isdigit():
            found.append(max(0, int(most) - int(taken)))
    own, _ = resource.getrlimit(resource.RLIMIT_AS)
    if own != resource.RLIM_INFINITY and (size := _text("/proc/self/statm")) is not None:
        found.append(max(0, own - int(size.split()[0]) * resource.getpagesize()))
    return min(found)


def _text(path: str) -> str | None:
    try:
        return Path(path).read_text().strip()
    except OSError:
        return None


def _data_of(training: "Training", workers: int) -> Any:
    """The training's data module, loading in this process; its batch 0 is of few samples, batch 1 is the first of the
    training."""
    data: Any = copy.copy(training.data)
    part, few = data.part, max(workers, data.batch_size // PROBED)
    data.workers, data.start_method = 0, None
    data.part = lambda number, rank, world: part(max(0, number - 1), 0, workers if number else few)
    return data


def _trainer(
    training: "Training", accelerator: str, callbacks: list[Callback], validation_batches: int = 0
) -> lightning.Trainer:
    settings = training.settings
    return lightning.Trainer(
        max_steps=settings.steps,
        min_epochs=0,
        precision=settings.precision,
        gradient_clip_val=settings.gradient_clip,
        log_every_n_steps=min(settings.log_every, settings.steps),
        limit_val_batches=validation_batches,
        num_sanity_val_steps=0,
        deterministic="warn",
        benchmark=False,
        callbacks=callbacks,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        accelerator=accelerator,
        devices=1,
    )


class _Watch(Callback):
    """Measures the steps and ends them when enough is known."""

    def __init__(self, training: "Training", workers: int, free: int) -> None:
        self.training, self.workers, self.free = training, workers, free
        self._began = time.monotonic()
        self._asked: str | None = None
        self._before: dict[int, Any] = {}
        self._saved: _Saved | None = None
        self._samples: list[int] = []
        self._needs: list[Needs] = []
        self._steps: list[float] = []
        self._loads: list[float] = []
        self._gradients = 0
        self._at = self._ended = 0.0

    @contextmanager
    def signals(self) -> Iterator[None]:
        """SIGTERM and Ctrl-C end the calibration after its step."""
        with suppress(ValueError):  # not in the main thread: whoever runs us there handles signals
            self._before = {number: signal.signal(number, self._ask) for number in (signal.SIGTERM, signal.SIGINT)}
        try:
            yield
        finally:
            if self._saved is not None:
                self._saved.stop()
            for number, handler in self._before.items():
                signal.signal(number, handler)

    def _ask(self, number: int, frame: Any) -> None:
        self._asked = signal.Signals(number).name

    def on_train_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        for number in self._before:
            signal.signal(number, self._ask)  # Lightning has put its own before ours

    def on_train_batch_start(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        self._at = _now(pl_module)
        if self._samples:
            self._loads.append(self._at - self._ended)
        self._samples.append(len(batch))
        if len(self._needs) < 2:
            self._saved = _Saved([*pl_module.parameters(), *pl_module.buffers()], list(_tensors(batch)))

    def on_before_backward(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, loss: Tensor
    ) -> None:
        if self._saved is not None:
            self._saved.stop()

    def on_before_optimizer_step(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, optimizer: torch.optim.Optimizer
    ) -> None:
        self._gradients = sum(p.grad.nbytes for p in pl_module.parameters() if p.grad is not None)

    def on_train_batch_end(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self._ended = _now(pl_module)
        self._steps.append(self._ended - self._at)
        if self._saved is not None:
            self._needs.append(self._needs_of(trainer, pl_module, self._saved))
            self._saved = None
        if self._asked:
            raise Interrupted(f"stopped by {self._asked} before the first step.")
        if len(self._steps) == 1:
            if self._full().total > self.machine(pl_module).memory:
                raise _Enough
        elif self._known():
            raise _Enough

    def _known(self) -> bool:
        timed = self._steps[1:]
        spent = time.monotonic() - self._began
        expected = self.training.settings.steps * min(timed)
        return len(timed) >= MOST_STEPS or spent >= min(MOST_SECONDS, SHARE * expected)

    def _needs_of(self, trainer: lightning.Trainer, module: lightning.LightningModule, saved: "_Saved") -> Needs:
        settings = self.training.settings
        weights = [*module.parameters(), *module.buffers()]
        copies = (settings.ema_decay is not None) + 2 * (settings.select == "best" or settings.patience is not None)
        states = [state for optimizer in trainer.optimizers for state in optimizer.state.values()]
        return Needs(
            weights=_bytes(weights),
            gradients=self._gradients,
            optimizer=_bytes(tensor for state in states for tensor in _tensors(state)),
            average=copies * _bytes(module.parameters()),
            activations=saved.bytes,
            # What the loader's processes hold ready is in memory too, twice for each.
            data=_bytes(saved.given) * (1 + 2 * settings.workers),
        )

    def _full(self) -> Needs:
        """What a whole batch needs, by the largest that was measured."""
        samples = -(-self.training.settings.batch_size // self.workers)
        if len(self._needs) > 1:
            return self._needs[1]
        return self._needs[0].for_samples(samples / self._samples[0])

    def machine(self, module: lightning.LightningModule) -> Machine:
        if module.device.type == "cuda":
            free, _ = torch.cuda.mem_get_info(module.device)
            held = torch.cuda.memory_reserved(module.device)
            name = torch.cuda.get_device_name(module.device)
            return Machine(platform.node(), name, torch.get_num_threads(), free + held)
        return Machine(platform.node(), "CPU", torch.get_num_threads(), self.free)

    def found(self, module: lightning.LightningModule) -> Measured:
        timed, loads = sorted(self._steps[1:]), sorted(self._loads[1:])
        load = loads[len(loads) // 2] if loads else 0.0
        step = timed[(len(timed) - 1) // 2] if timed else 0.0
        workers = self.training.settings.workers
        # Loader processes work at the same time as the step.
        whole = max(step, load / workers) if workers else step + load
        samples = self._samples[1] if timed else -(-self.training.settings.batch_size // self.workers)
        return Measured(self.machine(module), self._full(), samples, len(timed), whole)


class _Saved:
    """Counts the bytes that the forward pass keeps for the backward pass, without those that are there anyway."""

    def __init__(self, weights: Iterable[Tensor], given: list[Tensor]) -> None:
        self.bytes, self.given = 0, given
        self._seen = {_storage(tensor) for tensor in (*weights, *given)}
        self._hooks: Any = torch.autograd.graph.saved_tensors_hooks(self._keep, lambda tensor: tensor)
        self._hooks.__enter__()

    def _keep(self, tensor: Tensor) -> Tensor:
        # A storage lives until the backward pass, so its address is its name.
        if _storage(tensor) not in self._seen:
            self._seen.add(_storage(tensor))
            self.bytes += tensor.untyped_storage().nbytes()
        return tensor

    def stop(self) -> None:
        if self._hooks is not None:
            self._hooks.__exit__(None, None, None)
            self._hooks = None


def _storage(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


def _bytes(tensors: Iterable[Tensor]) -> int:
    return sum({_storage(tensor): tensor.untyped_storage().nbytes() for tensor in tensors}.values())


def _tensors(value: Any) -> Iterator[Tensor]:
    """The tensors in a batch or in an optimizer's state."""
    if isinstance(value, Tensor):
        yield value
    elif is_dataclass(value):
        for field in fields(value):
            yield from _tensors(getattr(value, field.name))
    elif isinstance(value, dict):
        for part in value.values():
            yield from _tensors(part)
    elif isinstance(value, list | tuple):
        for part in value:
            yield from _tensors(part)


def _now(module: lightning.LightningModule) -> float:
    if module.device.type == "cuda":
        torch.cuda.synchronize(module.device)
    return time.monotonic()


def _validation(training: "Training", accelerator: str, module: lightning.LightningModule) -> float:
    """Seconds of one validation by a process alone, from its first batches; 0 where nothing is held out."""
    data: Any = copy.copy(training.data)
    data.workers, data.start_method = 0, None
    loader = data.val_dataloader()
    if not len(loader) or not is_overridden("validation_step", module):
        return 0.0
    watch = _WatchValidation()
    _trainer(training, accelerator, [watch], VALIDATED).validate(module, datamodule=data, verbose=False)
    return watch.seconds / max(1, watch.batches) * len(loader)


class _WatchValidation(Callback):
    def __init__(self) -> None:
        self.batches, self.seconds, self._at = 0, 0.0, 0.0

    def on_validation_epoch_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        self._at = _now(pl_module)

    def on_validation_batch_end(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, *batch: Any, **also: Any
    ) -> None:
        self.batches += 1
        self.seconds = _now(pl_module) - self._at


@contextmanager
def _quiet() -> Iterator[None]:
    """Without Lightning's banners, hints and warnings: the training itself says what there is to say."""
    loggers = [logging.getLogger(name) for name in ("lightning.pytorch", "lightning.fabric")]
    before = [logger.level for logger in loggers]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            for logger, level in zip(loggers, before, strict=True):
                logger.setLevel(level)
