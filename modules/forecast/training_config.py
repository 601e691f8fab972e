"""How a forecaster is trained.

Apart from the LightningModule it configures, and built late: a step that only reads a configuration need not wait for
Lightning's import.
"""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, Protocol, runtime_checkable

from data.errors import ConfigError
from modules.forecast.interface import Forecaster
from modules.layers.optimization import OptimizerConfig

if TYPE_CHECKING:
    from modules.forecast.training import ForecastTraining


@runtime_checkable
class Network(Protocol):
    """A forecaster's config, with the shape and the head it is built for."""

    def build(self) -> Forecaster: ...


@dataclass(frozen=True, kw_only=True)
class ForecastTrainingConfig:
    """What to train and how."""

    network: Network
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    task: Literal["forecast", "impute"] = "forecast"
    """`impute`: give hidden steps of the window back, in place of those after it; its horizon is its look-back."""
    hidden: float = 0.25
    """Of `impute`: share of the steps that are hidden."""
    block: int = 8
    """Of `impute`: steps that are hidden together, as gaps are."""

    def __post_init__(self) -> None:
        if self.task not in ("forecast", "impute"):
            raise ConfigError(f"unknown task '{self.task}'; available: forecast, impute.")
        if not 0 < self.hidden < 1:
            raise ConfigError(f"hidden is a share between 0 and 1, got {self.hidden}.")
        if self.block < 1:
            raise ConfigError(f"block must be at least 1 step, got {self.block}.")

    def build(self) -> "ForecastTraining":
        from modules.forecast.training import ForecastTraining

        return ForecastTraining(self)
