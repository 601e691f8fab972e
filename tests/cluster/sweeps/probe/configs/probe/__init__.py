from dataclasses import dataclass
from typing import Literal

from configs.training import RunConfig, SampleConfig, TrainerConfig
from modules.toy import ToyNetworkConfig


@dataclass(frozen=True, kw_only=True)
class Adam:
    lr: float = 1e-2
    decay: float = 0.0

    def __post_init__(self):
        if self.lr <= 0:
            raise ValueError(f"lr must be positive, got {self.lr}.")


@dataclass(frozen=True, kw_only=True)
class Flow:
    network: ToyNetworkConfig = ToyNetworkConfig()
    optimizer: Adam = Adam()
    fault: Literal["none", "raise", "nan", "memory", "kill", "kill-once"] = "none"
    fault_at: int = 25
    pause: float = 0.0
    marks: str | None = None
    trainer: TrainerConfig = TrainerConfig()


@dataclass(frozen=True, kw_only=True)
class ProbeConfig(RunConfig):
    flow: Flow = Flow()
    sample: SampleConfig = SampleConfig()
