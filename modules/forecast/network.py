"""Any forecaster with the shape and the head that it was built for: what an exported model's config says."""

from dataclasses import dataclass, field

from modules.forecast.cyclenet import CycleNetConfig
from modules.forecast.heads import Head
from modules.forecast.interface import Forecaster, WindowShape
from modules.forecast.itransformer import ITransformerConfig
from modules.forecast.linear import DLinearConfig, NLinearConfig, RLinearConfig
from modules.forecast.lmu import LMUConfig
from modules.forecast.patchtst import PatchTSTConfig
from modules.forecast.patchtst_tslib import TSLibPatchTSTConfig
from modules.forecast.ridge import RidgeConfig
from modules.forecast.sparsetsf import SparseTSFConfig
from modules.forecast.timemixer import TimeMixerConfig
from modules.forecast.timexer import TimeXerConfig
from modules.forecast.xpatch import XPatchConfig

ModelConfig = (
    RidgeConfig
    | NLinearConfig
    | DLinearConfig
    | RLinearConfig
    | CycleNetConfig
    | SparseTSFConfig
    | PatchTSTConfig
    | TSLibPatchTSTConfig
    | ITransformerConfig
    | TimeXerConfig
    | TimeMixerConfig
    | XPatchConfig
    | LMUConfig
)


@dataclass(frozen=True, kw_only=True)
class ForecastNetwork:
    """A forecaster and all that decides it."""

    shape: WindowShape = field(default_factory=WindowShape)
    head: Head = field(default_factory=Head)
    model: ModelConfig = field(default_factory=RidgeConfig)

    def build(self) -> Forecaster:
        """The forecaster, untrained."""
        return self.model.build(self.shape, self.head)
