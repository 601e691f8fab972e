"""What every domain's configuration has in common: the run's own settings and those of one training."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """The root of a domain's configuration; a domain adds its sections by inheriting."""

    seed: int = 0
    """All randomness of a run follows from it: same seed, same machine, same bits."""
    data: str | None = None
    """Folder or file with the user's own data; null for the domain's synthetic data."""
    wandb: Literal["online", "offline", "off"] = "offline"
    """Where W&B records go. Offline needs no account and no network."""
    threads: int | None = None
    """CPU threads of tensor operations; null leaves torch's default. Small networks are as fast with 1, and much faster
    on a machine that others use too. The last bits of results depend on it."""

    def __post_init__(self) -> None:
        if not 0 <= self.seed < 2**63:
            raise ValueError(f"seed must lie in [0, 2^63), got {self.seed}.")
        if self.threads is not None and self.threads < 1:
            raise ValueError(f"threads must be at least 1, or null for the default, got {self.threads}.")


@dataclass(frozen=True, kw_only=True)
class TrainerConfig:
    """How long one stage trains, on what, and how often it saves."""

    steps: int = 1000
    """Optimizer steps in total."""
    batch_size: int = 16
    """Samples in one optimizer step over all devices together."""
    workers: int = 0
    """Processes that load data; 0 loads in the training process."""
    validate_every: int = 200
    """Optimizer steps between validations; 0 validates at the end only."""
    log_every: int = 10
    """Optimizer steps between rows of metrics.csv."""
    checkpoint_every_steps: int = 500
    checkpoint_every_seconds: float = 30.0
    """A checkpoint is written when either interval has passed."""
    keep_checkpoints: int = 2
    ema_decay: float | None = 0.999
    """Decay of the exponential moving average of the weights; null exports the last weights instead."""
    select: Literal["last", "best"] = "last"
    """Which weights are exported: those of the end, or those of the lowest validation loss."""
    patience: int | None = None
    """Validations without improvement after which the training ends; null goes on to the last step."""
    gradient_clip: float | None = 1.0
    """Largest norm of the gradient; null leaves it alone."""
    precision: Literal["32-true", "bf16-mixed", "16-mixed", "64-true"] = "32-true"
    accelerator: Literal["auto", "cpu", "gpu"] = "auto"
    devices: int = 1
    """Of this process: one. Several train as several workers (`--on ray --workers N`)."""

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size", "log_every", "checkpoint_every_steps", "keep_checkpoints", "devices"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}.")
        for name in ("workers", "validate_every"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must not be negative, got {getattr(self, name)}.")
        if self.patience is not None and self.patience < 1:
            raise ValueError(f"patience must be at least 1, or null for none, got {self.patience}.")
        if self.ema_decay is not None and not 0 <= self.ema_decay < 1:
            raise ValueError(f"ema_decay must lie in [0, 1), got {self.ema_decay}; null switches the average off.")
        if self.checkpoint_every_seconds <= 0:
            raise ValueError(f"checkpoint_every_seconds must be positive, got {self.checkpoint_every_seconds}.")


@dataclass(frozen=True, kw_only=True)
class SampleConfig:
    """What every domain's sampling has in common."""

    count: int = 4
    """How many new samples; sample k depends on the run's seed and k alone."""

    def __post_init__(self) -> None:
        if self.count < 1:
            raise ValueError(f"count must be at least 1, got {self.count}.")
