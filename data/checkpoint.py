"""Checkpoints that are whole or not there: nothing here runs a pickle.

A training checkpoint `step-00000120.ckpt` is a Lightning checkpoint with `step-00000120.ckpt.sha256` beside it, in the
format of `sha256sum`. Exported models: `data.model_folder`.
"""

import hashlib
import io
import re
import time
import warnings
from contextlib import suppress
from pathlib import Path
from typing import IO, Any, cast

import lightning
import torch
from lightning.fabric.plugins import CheckpointIO
from lightning.pytorch.callbacks import Checkpoint, WeightAveraging
from lightning.pytorch.utilities import rank_zero_only
from torch import Tensor

from data.atomic import remove_stale, written_file
from data.errors import CheckpointError

CHECKSUM = ".sha256"


class CheckpointWarning(UserWarning):
    """A broken checkpoint was passed over; the text names it and the one used in its place."""


class AtomicCheckpointIO(CheckpointIO):
    """Lightning's reading and writing of checkpoints, made whole-or-nothing and free of pickle.

    Give it to the trainer: `Trainer(plugins=[AtomicCheckpointIO()])`.

    Raises:
        CheckpointError: on saving, an object that `weights_only=True` would refuse; on loading, a missing or wrong
            checksum, or a file that holds more than tensors and plain values.
        DiskFullError: no space left; earlier checkpoints are untouched.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any | None = None) -> None:
        path = Path(path)
        remove_stale(path)
        with written_file(path) as temporary:
            checksum = _save(checkpoint, temporary)
            if unsafe := torch.serialization.get_unsafe_globals_in_checkpoint(str(temporary)):
                raise CheckpointError(
                    f"{path.name}: a checkpoint holds tensors and plain values only, got objects of "
                    f"{', '.join(unsafe)}. Store their fields (dataclasses.asdict, str, float) instead."
                )
            # The checksum goes first, so a file under its name always has one. Where the name is taken, both the old
            # and the new sum are listed until the rename is done: whichever file a kill leaves there is a good one.
            taken = _listed_sums(path) if path.exists() else []
            _write_sums(path, [checksum, *taken])
        if taken:
            _write_sums(path, [checksum])

    def load_checkpoint(
        self, path: str | Path, map_location: Any | None = None, weights_only: bool | None = None
    ) -> dict[str, Any]:
        """The checkpoint; with `weights_only=True` whatever the argument says."""
        return load_checkpoint(Path(path), map_location)

    def remove_checkpoint(self, path: str | Path) -> None:
        path = Path(path)
        path.unlink(missing_ok=True)
        _sums_path(path).unlink(missing_ok=True)


def load_checkpoint(path: Path, map_location: Any | None = "cpu") -> dict[str, Any]:
    """The content of a training checkpoint whose checksum is right.

    Raises:
        CheckpointError: no such file, missing or wrong checksum, or objects other than tensors and plain values.
    """
    if problem := find_problem(path):
        raise CheckpointError(
            f"checkpoint {path} {problem}. Use an earlier one (penstock resume finds it), or train again."
        )
    try:
        content = torch.load(path, map_location=map_location, weights_only=True)
    except Exception as error:  # torch.load raises whatever the bytes provoke
        raise CheckpointError(
            f"checkpoint {path}: expected tensors and plain values, got: {_first_line(error)}. It was not made by "
            "penstock and nothing in it was run. Import foreign weights with penstock import."
        ) from error
    if not isinstance(content, dict):
        raise CheckpointError(f"checkpoint {path}: expected a dictionary, got {type(content).__name__}.")
    return content


def load_training_weights(path: Path, *, averaged: bool = True) -> dict[str, Tensor]:
    """The weights in a training checkpoint: the averaged ones where averaging was on, or the last step's.

    Lightning keeps the average under `state_dict` and the raw weights under `current_model_state`.
    """
    content = load_checkpoint(path)
    raw = content.get("current_model_state", content.get("state_dict"))
    weights = content.get("state_dict") if averaged else raw
    if not isinstance(weights, dict):
        raise CheckpointError(f"checkpoint {path}: expected weights under 'state_dict', got keys {sorted(content)}.")
    return weights


def find_problem(path: Path) -> str | None:
    """What is wrong with the file of a checkpoint, as the end of a sentence; None where its checksum is right."""
    if not path.is_file():
        return "does not exist"
    sums = _listed_sums(path)
    if not sums:
        return f"has no checksum ({_sums_path(path).name}) beside it"
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    return None if found in sums else f"is broken: its SHA-256 is {found}, expected {sums[0]}"


def checkpoint_step(path: Path) -> int:
    """The optimizer step in a checkpoint's name, -1 where there is none."""
    match = re.search(r"step[-=](\d+)", path.name)
    return int(match[1]) if match else -1


def newest_valid(folder: Path) -> Path | None:
    """The checkpoint of the highest step whose checksum is right, None where there is none.

    Warns:
        CheckpointWarning: newer ones are broken or half-written; names them and the one used instead.
    """
    broken: list[str] = []
    chosen = None
    for path in sorted(folder.glob("*.ckpt"), key=lambda path: (checkpoint_step(path), path.name), reverse=True):
        problem = find_problem(path)
        if problem is None:
            chosen = path
            break
        broken.append(f"{path} {problem}")
    if broken:
        instead = f"using {chosen.name} instead" if chosen else "there is no earlier one to use: starting from step 0"
        warnings.warn(f"{'; '.join(broken)}; {instead}.", CheckpointWarning, stacklevel=2)
    return chosen


class RollingCheckpoint(Checkpoint):
    """Saves every `every_steps` optimizer steps, after the last one, and when `save` is called; keeps the last `keep`.

    As a `Checkpoint` in Lightning's sense this runs after the other callbacks, so the weight average of the step is
    already made. Who saves by the clock asks `seconds_since`, and lets all processes agree.
    """

    def __init__(self, folder: Path, *, every_steps: int | None = None, keep: int = 3) -> None:
        if keep < 1:
            raise CheckpointError(f"keep: expected at least 1 checkpoint, got {keep}.")
        self.folder = folder
        self.every_steps = every_steps
        self.keep = keep
        self._saved_step = 0
        self._saved_at = time.monotonic()

    def on_train_start(self, trainer: "lightning.Trainer", pl_module: "lightning.LightningModule") -> None:
        self._saved_step = trainer.global_step
        self._saved_at = time.monotonic()

    def on_train_batch_end(
        self,
        trainer: "lightning.Trainer",
        pl_module: "lightning.LightningModule",
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        step = trainer.global_step
        if step != self._saved_step and self._is_due(trainer, step):
            self._save(trainer, step)

    def on_train_epoch_end(self, trainer: "lightning.Trainer", pl_module: "lightning.LightningModule") -> None:
        # Not in on_train_end: there the averaged weights have already replaced those that training would go on from.
        if trainer.should_stop and trainer.global_step != self._saved_step:
            self._save(trainer, trainer.global_step)

    def _is_due(self, trainer: "lightning.Trainer", step: int) -> bool:
        if step >= trainer.estimated_stepping_batches:
            return True
        return self.every_steps is not None and step % self.every_steps == 0

    @property
    def seconds_since(self) -> float:
        """Seconds since the last checkpoint, or the start."""
        return time.monotonic() - self._saved_at

    def save(self, trainer: "lightning.Trainer") -> None:
        """Save now, unless this step is saved already: for whoever ends a training early."""
        if trainer.global_step != self._saved_step:
            self._save(trainer, trainer.global_step)

    def _save(self, trainer: "lightning.Trainer", step: int) -> None:
        trainer.save_checkpoint(self.folder / f"step-{step:08d}.ckpt")
        self._saved_step, self._saved_at = step, time.monotonic()
        self._retain(trainer)

    @rank_zero_only
    def _retain(self, trainer: "lightning.Trainer") -> None:
        """Remove all but the newest `keep`, those of an earlier process included; later steps are a discarded past."""
        kept: list[Path] = []
        for path in sorted(self.folder.glob("step-*.ckpt"), key=checkpoint_step, reverse=True):
            if checkpoint_step(path) > self._saved_step or len(kept) >= self.keep:
                trainer.strategy.remove_checkpoint(path)
            else:
                kept.append(path)
        for sums in self.folder.glob(f"step-*.ckpt{CHECKSUM}"):
            if not sums.with_suffix("").exists():
                sums.unlink(missing_ok=True)


def ema_callback(decay: float = 0.999, *, warmup: bool = True) -> WeightAveraging:
    """Lightning's weight averaging as an exponential moving average, updated after every optimizer step.

    With `warmup` the decay of update n is min(decay, (1 + n) / (10 + n)), so that short trainings do not average in
    their first, random weights. Validation and exports see the average; checkpoints hold both.
    """

    def average(averaged: Tensor, current: Tensor, count: Tensor | int) -> Tensor:
        n = int(count)
        return averaged.lerp(current, 1 - (min(decay, (1 + n) / (10 + n)) if warmup else decay))

    # Buffers are tables and counters, not learned: they are copied, not averaged.
    return WeightAveraging(avg_fn=average, use_buffers=False)


class _HashingFile(io.RawIOBase):
    """A file that sums what is written, and remembers why writing failed: torch's C++ writer forgets it."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("wb")
        self.digest = hashlib.sha256()
        self.error: OSError | None = None

    def writable(self) -> bool:
        return True

    def write(self, block: Any) -> int:
        try:
            self._file.write(block)
        except OSError as error:
            self.error = error
            raise
        self.digest.update(block)
        return memoryview(block).nbytes

    def finish(self) -> None:
        """Hand over the last bytes: what is buffered may still not fit."""
        try:
            self._file.flush()
        except OSError as error:
            self.error = error
            raise

    def close(self) -> None:
        with suppress(OSError):  # `finish` has said it already
            self._file.close()
        super().close()


def _save(checkpoint: dict[str, Any], path: Path) -> str:
    """Write a checkpoint to `path`; the SHA-256 of its bytes."""
    file = _HashingFile(path)
    try:
        torch.save(checkpoint, cast(IO[bytes], file))
        file.finish()
    except Exception:
        if file.error is not None:
            raise file.error from None
        raise
    finally:
        file.close()
    return file.digest.hexdigest()


def _sums_path(path: Path) -> Path:
    return path.with_name(path.name + CHECKSUM)


def _write_sums(path: Path, sums: list[str]) -> None:
    with written_file(_sums_path(path)) as temporary:
        temporary.write_text("".join(f"{checksum}  {path.name}\n" for checksum in sums), encoding="ascii")


def _listed_sums(path: Path) -> list[str]:
    try:
        text = _sums_path(path).read_text(encoding="ascii")
    except (OSError, UnicodeDecodeError):
        return []
    return re.findall(r"^([0-9a-f]{64})  ", text, flags=re.MULTILINE)


def _first_line(error: BaseException) -> str:
    return str(error).strip().split("\n")[0][:300]
