from dataclasses import dataclass

from configs.training import RunConfig, SampleConfig, TrainerConfig
from modules.toy import ToyNetworkConfig


@dataclass(frozen=True, kw_only=True)
class Flow:
    network: ToyNetworkConfig = ToyNetworkConfig()
    trainer: TrainerConfig = TrainerConfig()
    step_seconds: float = 0.0
    """What each step waits, so that a test finds a training at work."""


@dataclass(frozen=True, kw_only=True)
class ToyConfig(RunConfig):
    flow: Flow = Flow()
    sample: SampleConfig = SampleConfig()
