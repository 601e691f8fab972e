"""Before a training: what it will use, in words, against what there is; and no for what cannot fit."""

import json
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

from configs.load import to_plain
from data.checkpoint import checkpoint_step
from data.errors import ConfigError
from flows.run import Interrupted

if TYPE_CHECKING:
    from flows.steps.calibration import Measured, Needs
    from flows.steps.training import Training

SHORT = 200
"""Steps: a training of fewer is not worth measuring."""
TIGHT = 0.8
"""Share of the memory above which a warning is due: estimates are not exact."""


@dataclass(frozen=True)
class Site:
    """Where a training takes place."""

    words: str
    """`in this process`, `2 workers on 2 nodes`."""
    workers: int = 1
    together: int = 1
    """Most workers that share one machine's memory."""
    on_one_gpu: int = 1
    """Workers that share one GPU, where they have GPUs."""
    sharded: bool = False
    """Whether weights and optimizer state are divided among the workers."""


_said: set[str] = set()
"""Trainings that this process has described: of ten seeds the first stands for all."""


def announce_local(training: "Training") -> None:
    """Say what a training in this process will use.

    Raises:
        ConfigError: it cannot fit.
        Interrupted: SIGTERM or Ctrl-C came meanwhile.
    """
    from flows.steps.calibration import measure

    devices = training.settings.devices
    words = "in this process" if devices == 1 else f"by {devices} processes of this machine"
    announce(training, Site(words, devices, devices), lambda: measure(training, devices))


def announce(training: "Training", site: Site, measure: Callable[[], "Measured"]) -> None:
    """Say where a training takes place, what memory it needs and about how long it takes.

    `measure` is called unless the training is short, or was described before. Whatever goes wrong in it, other than
    memory and interruption, is left for the training itself to say.

    Raises:
        ConfigError: it cannot fit; the message says what to change.
    """
    steps, settings = steps_left(training), training.settings
    if steps <= 0 or training.run.sweep is not None:  # a sweep speaks of all its trials at once
        return
    each = "" if site.workers == 1 else f", {_range(settings.batch_size, site.workers)} in each worker"
    print(f"train {training.place}: {site.words}; {steps} steps, batch {settings.batch_size}{each}", flush=True)
    likeness = _likeness(training, site)
    if settings.steps < SHORT or likeness in _said:
        return
    _said.add(likeness)
    try:
        measured = measure()
    except Interrupted:
        raise
    except Exception as error:
        if is_out_of_memory(error):
            raise ConfigError(
                f"training {training.place} cannot fit: its first steps ran out of memory. {CURE}"
            ) from None
        first = (str(error).strip().splitlines() or [""])[0]
        print(f"  not measured: {type(error).__name__}: {first}", flush=True)
        return
    needs = measured.needs.shared_out(site.workers) if site.sharded else measured.needs
    _check_memory(training, site, measured, needs)
    print(f"  memory: {_memory(site, measured, needs)}", flush=True)
    if measured.steps:
        print(f"  time: {_time(training, measured, steps)}", flush=True)


CURE = (
    "Take a smaller trainer.batch_size or network, or more workers (--on ray --workers N: the batch is that of all "
    "together)."
)


def steps_left(training: "Training") -> int:
    """Optimizer steps from the newest checkpoint on."""
    done = [checkpoint_step(path) for path in training.run.checkpoints(training.place).glob("*.ckpt")]
    return training.settings.steps - max([0, *done])


def is_out_of_memory(error: BaseException) -> bool:
    """True for whatever Python and torch raise where there is no memory left."""
    text = f"{type(error).__name__}: {error}"
    return isinstance(error, MemoryError) or any(
        sign in text for sign in ("OutOfMemory", "out of memory", "can't allocate memory", "not enough memory")
    )


def _likeness(training: "Training", site: Site) -> str:
    described = [training.run.name, training.stage, to_plain(training.network), to_plain(training.settings)]
    return json.dumps([*described, site.words], default=str)


def _check_memory(training: "Training", site: Site, measured: "Measured", needs: "Needs") -> None:
    there, shared = measured.machine.memory, _sharing(site, measured)
    if needs.total * shared <= there:
        return
    growing = needs.activations + needs.data
    fixed = needs.total - growing
    fits = int(measured.samples * (there / shared - fixed) / max(growing, 1))
    advice = []
    if fits >= 1:
        whole = training.settings.batch_size
        advice.append(f"trainer.batch_size {min(fits * site.workers, whole - 1)} would fit")
        machines = -(-measured.samples * site.workers // fits)
        advice.append(f"so would {machines} workers, each on a machine or GPU like this one, with the same batch")
    else:
        advice.append("not even one sample fits")
    if fixed > growing and not site.sharded:
        advice.append("--on ray --workers N --strategy fsdp divides weights and optimizer state among the workers")
    if measured.machine.gpu and training.settings.precision == "32-true":
        advice.append("trainer.precision bf16-mixed takes about half for the activations")
    each = "" if site.workers == 1 else " in each worker"
    raise ConfigError(
        f"training {training.place} cannot fit: it needs about {size(needs.total)}{each} ({_parts(needs)}), and "
        f"{measured.machine.name} has {size(there)} free{_where(measured)}"
        f"{f' for {shared} workers' if shared > 1 else ''}. {_sentence(advice)}"
    )


def _sharing(site: Site, measured: "Measured") -> int:
    return site.on_one_gpu if measured.machine.gpu else site.together


def _where(measured: "Measured") -> str:
    return f" on its {measured.machine.device}" if measured.machine.gpu else ""


def _memory(site: Site, measured: "Measured", needs: "Needs") -> str:
    shared = _sharing(site, measured)
    each = "" if site.workers == 1 else " a worker"
    machine = f"{measured.machine.device}, " if measured.machine.gpu else ""
    text = f"about {size(needs.total)}{each} ({_parts(needs)}); {machine}{size(measured.machine.memory)} free"
    if shared > 1:
        text += f" on a machine of {shared} workers"
    tight = needs.total * shared > TIGHT * measured.machine.memory
    return text + (". This is tight: the estimate is not exact" if tight else "")


def _parts(needs: "Needs") -> str:
    parts = {field.name: getattr(needs, field.name) for field in fields(needs)}
    return ", ".join(f"{name} {size(value)}" for name, value in parts.items() if value)


def _time(training: "Training", measured: "Measured", steps: int) -> str:
    settings = training.settings
    every = settings.validate_every or getattr(training.data, "batches_per_epoch", steps)
    seconds = steps * measured.step + steps // max(every, 1) * measured.validation
    with_validation = ", validation included" if measured.validation else ""
    threads = (
        f", {measured.machine.threads} threads" if measured.machine.threads > 1 and not measured.machine.gpu else ""
    )
    return (
        f"about {duration(seconds)} ({_short(measured.step)} a step, from {measured.steps} steps on "
        f"{measured.machine.device}{threads}{with_validation})"
    )


def size(count: float) -> str:
    """Bytes as people say them."""
    for unit in ("B", "KiB", "MiB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1024
    return f"{count:.3g} GiB"


def duration(seconds: float) -> str:
    """Seconds as people say them."""
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    if seconds < 5400:
        return f"{round(seconds / 60)} min"
    hours = seconds / 3600
    return f"{hours:.1f} h" if hours < 48 else f"{hours / 24:.1f} days"


def _short(seconds: float) -> str:
    return f"{seconds:.2f} s" if seconds >= 1 else f"{seconds * 1000:.3g} ms"


def _range(batch: int, workers: int) -> str:
    low, high = batch // workers, -(-batch // workers)
    return str(low) if low == high else f"{low} or {high}"


def _sentence(parts: list[str]) -> str:
    text = "; ".join(parts)
    return f"{text[0].upper()}{text[1:]}."
