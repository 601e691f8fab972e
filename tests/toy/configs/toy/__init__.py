from dataclasses import dataclass

from configs.training import RunConfig, SampleConfig, TrainerConfig
from modules.toy import ToyNetworkConfig


@dataclass(frozen=True, kw_only=True)
class Flow:
    network: ToyNetworkConfig = ToyNetworkConfig()
    trainer: TrainerConfig = TrainerConfig()


@dataclass(frozen=True, kw_only=True)
class ToyConfig(RunConfig):
    flow: Flow = Flow()
    sample: SampleConfig = SampleConfig()
