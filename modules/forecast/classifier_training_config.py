"""How the classifier is trained.

Apart from the LightningModule it configures, and built late: a step that only reads a configuration need not wait for
Lightning's import.
"""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from data.errors import ConfigError
from modules.forecast.classifier import ClassifierConfig
from modules.layers.optimization import OptimizerConfig

if TYPE_CHECKING:
    from modules.forecast.classifier_training import ClassifierTraining


@dataclass(frozen=True, kw_only=True)
class ClassifierTrainingConfig:
    """What to train and how; sizes default to the published network, so set them."""

    network: ClassifierConfig = field(default_factory=ClassifierConfig)
    label_smoothing: float = 0.0
    """Share of the target that is spread over all classes."""
    optimizer: OptimizerConfig = field(default_factory=lambda: OptimizerConfig(kind="radam", learning_rate=1e-3))

    def __post_init__(self) -> None:
        if not 0 <= self.label_smoothing < 1:
            raise ConfigError(f"label_smoothing is a share in [0, 1), got {self.label_smoothing}.")

    def build(self) -> "ClassifierTraining":
        from modules.forecast.classifier_training import ClassifierTraining

        return ClassifierTraining(self)
