"""How PredFormer is trained.

Apart from the LightningModule it configures, and built late: a step that only reads a configuration need not wait for
Lightning's import.
"""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from modules.forecast.predformer import PredFormerConfig
from modules.layers.optimization import OptimizerConfig

if TYPE_CHECKING:
    from modules.forecast.predformer_training import PredFormerTraining


@dataclass(frozen=True, kw_only=True)
class PredFormerTrainingConfig:
    """What to train and how; the optimizer's defaults are near the published ones (AdamW, decay 0.01, one cycle)."""

    network: PredFormerConfig = field(default_factory=PredFormerConfig)
    optimizer: OptimizerConfig = field(
        default_factory=lambda: OptimizerConfig(learning_rate=1e-3, weight_decay=1e-2, beta2=0.999)
    )

    def build(self) -> "PredFormerTraining":
        from modules.forecast.predformer_training import PredFormerTraining

        return PredFormerTraining(self)
