"""One section per trainable forecaster: the network, what it answers, and how long it learns."""

from dataclasses import dataclass, field

from configs.training import TrainerConfig
from data.errors import ConfigError
from modules.forecast.cyclenet import CycleNetConfig
from modules.forecast.heads import Head
from modules.forecast.itransformer import ITransformerConfig
from modules.forecast.linear import DLinearConfig, NLinearConfig, RLinearConfig
from modules.forecast.lmu import LMUConfig
from modules.forecast.patchtst import PatchTSTConfig
from modules.forecast.patchtst_tslib import TSLibPatchTSTConfig
from modules.forecast.sparsetsf import SparseTSFConfig
from modules.forecast.timemixer import TimeMixerConfig
from modules.forecast.timexer import TimeXerConfig
from modules.forecast.xpatch import XPatchConfig
from modules.layers.optimization import OptimizerConfig


def _adam() -> OptimizerConfig:
    return OptimizerConfig(kind="adam", learning_rate=1e-3, beta2=0.999, warmup=0.0, schedule="geometric")


def _trainer() -> TrainerConfig:
    return TrainerConfig(
        steps=5000, batch_size=32, ema_decay=None, gradient_clip=None, select="best", patience=3, log_every=50
    )


@dataclass(frozen=True, kw_only=True)
class NetworkSection:
    """How one network is trained."""

    head: Head = field(default_factory=Head)
    optimizer: OptimizerConfig = field(default_factory=_adam)
    epochs: float | None = 10.0
    """Passes over the training windows, up to `trainer.steps`; validation after each. null leaves it to `trainer`."""
    trainer: TrainerConfig = field(default_factory=_trainer)

    def __post_init__(self) -> None:
        if self.epochs is not None and self.epochs <= 0:
            raise ConfigError(f"epochs must be positive, or null, got {self.epochs}.")


@dataclass(frozen=True, kw_only=True)
class NLinearSection(NetworkSection):
    """Zeng et al. 2023: a linear map of what differs from the last value."""

    model: NLinearConfig = field(default_factory=NLinearConfig)


@dataclass(frozen=True, kw_only=True)
class DLinearSection(NetworkSection):
    """Zeng et al. 2023: linear maps of trend and rest."""

    model: DLinearConfig = field(default_factory=DLinearConfig)


@dataclass(frozen=True, kw_only=True)
class RLinearSection(NetworkSection):
    """Li et al. 2023: a linear map in each window's own units."""

    model: RLinearConfig = field(default_factory=RLinearConfig)


@dataclass(frozen=True, kw_only=True)
class CycleNetSection(NetworkSection):
    """Lin et al. 2024: a learned cycle, and a linear map or small network for the rest."""

    model: CycleNetConfig = field(default_factory=CycleNetConfig)


@dataclass(frozen=True, kw_only=True)
class SparseTSFSection(NetworkSection):
    """Lin et al. 2024: one small map for all phases of a period."""

    model: SparseTSFConfig = field(default_factory=SparseTSFConfig)


@dataclass(frozen=True, kw_only=True)
class PatchTSTSection(NetworkSection):
    """Nie et al. 2023; with `class: TSLibPatchTSTConfig` the variant of the Time-Series-Library."""

    model: PatchTSTConfig | TSLibPatchTSTConfig = field(default_factory=PatchTSTConfig)


@dataclass(frozen=True, kw_only=True)
class ITransformerSection(NetworkSection):
    """Liu et al. 2024: one token per variate."""

    model: ITransformerConfig = field(default_factory=ITransformerConfig)


@dataclass(frozen=True, kw_only=True)
class TimeXerSection(NetworkSection):
    """Wang et al. 2024: patches of the target, tokens of what drives it."""

    model: TimeXerConfig = field(default_factory=TimeXerConfig)


@dataclass(frozen=True, kw_only=True)
class TimeMixerSection(NetworkSection):
    """Wang et al. 2024: several time scales mixed."""

    model: TimeMixerConfig = field(default_factory=TimeMixerConfig)


@dataclass(frozen=True, kw_only=True)
class XPatchSection(NetworkSection):
    """Stitsyuk and Choi 2025: trend and rest by exponential smoothing, patches through convolutions."""

    model: XPatchConfig = field(default_factory=XPatchConfig)


@dataclass(frozen=True, kw_only=True)
class LMUSection(NetworkSection):
    """Voelker et al. 2019: a Legendre memory, step by step or in parallel."""

    model: LMUConfig = field(default_factory=LMUConfig)
