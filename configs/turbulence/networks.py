"""How each network of the turbulence domain is trained: what it steps, by which loss, for how long."""

from dataclasses import dataclass, field
from typing import Literal

from configs.training import TrainerConfig
from modules.turbulence.fno import FNOConfig
from modules.turbulence.ifactformer import IFactFormerConfig
from modules.turbulence.stepper import StepperConfig
from modules.turbulence.training_config import TurbulenceTrainingConfig


@dataclass(frozen=True, kw_only=True)
class NetworkSection(TurbulenceTrainingConfig):
    """What is trained and how; the data decide the components and axes of `stepper`."""

    trainer: TrainerConfig = field(default_factory=TrainerConfig)
    augment: Literal["symmetries", "shifts", "none"] = "symmetries"
    """Train on shifted and mirrored fields too, as far as they obey the same equations; on shifted ones; or as is."""


@dataclass(frozen=True, kw_only=True)
class OperatorSection(NetworkSection):
    """IFactFormer-m."""

    stepper: StepperConfig = field(default_factory=lambda: StepperConfig(network=IFactFormerConfig()))


@dataclass(frozen=True, kw_only=True)
class ChainedSection(NetworkSection):
    """Its predecessor, whose axis kernels come one after another."""

    stepper: StepperConfig = field(default_factory=lambda: StepperConfig(network=IFactFormerConfig(variant="chained")))


@dataclass(frozen=True, kw_only=True)
class FNOSection(NetworkSection):
    """The Fourier neural operator."""

    stepper: StepperConfig = field(default_factory=lambda: StepperConfig(network=FNOConfig()))
