"""How the backbone network is trained.

Apart from the LightningModule it configures, and built late: a step that only reads a configuration need not wait for
Lightning's import.
"""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from data.errors import ConfigError
from modules.layers.optimization import OptimizerConfig
from modules.protein.chain_start import ChainStart
from modules.protein.corruption import RotationNoise
from modules.protein.losses import ProteinLossConfig
from modules.protein.network import ProteinNetworkConfig
from modules.transport.time_sampling import TimeSamplingConfig

if TYPE_CHECKING:
    from modules.protein.flow_training import ProteinFlowTraining


@dataclass(frozen=True, kw_only=True)
class ProteinFlowTrainingConfig:
    """What to train and how; sizes default to the published model, so set them."""

    network: ProteinNetworkConfig = field(default_factory=ProteinNetworkConfig)
    start: ChainStart | None = None
    """First weights under which attention follows the chain; null: those of the published training."""
    loss: ProteinLossConfig = field(default_factory=ProteinLossConfig)
    times: TimeSamplingConfig = field(default_factory=lambda: TimeSamplingConfig(distribution="uniform"))
    least_time: float = 0.01
    """Times lie at least so far from 0 and from 1."""
    rotation_noise: RotationNoise = "igso3"
    """`igso3`: around the data, as published; `uniform`: as at sampling. Stored pairs bring their own."""
    coupling: Literal["independent", "optimal"] = "independent"
    """`optimal`: noise and data of a batch are paired by least squared distance. Stored pairs stay as they are."""
    self_condition: float = 0.5
    """Share of batches in which the network also sees its own prediction, at the cost of a second forward pass."""
    motif_share: float = 0.0
    """Share of samples in which 5 to 50 % of the residues are given, so that the network learns scaffolding."""
    optimizer: OptimizerConfig = field(default_factory=lambda: OptimizerConfig(learning_rate=1e-4))
    validation_draws: int = 2
    """Pairs of noise and time per validation sample; more of them make its loss smoother."""

    def __post_init__(self) -> None:
        if not 0 < self.least_time < 0.5:
            raise ConfigError(f"least_time must lie between 0 and 0.5, got {self.least_time}; 0.01 is usual.")
        for name in ("self_condition", "motif_share"):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(f"{name} is a share in [0, 1], got {getattr(self, name)}.")
        for name, known in (("rotation_noise", ("uniform", "igso3")), ("coupling", ("independent", "optimal"))):
            if getattr(self, name) not in known:
                raise ConfigError(f"unknown {name} '{getattr(self, name)}'; available: {', '.join(known)}.")
        if self.validation_draws < 1:
            raise ConfigError(f"validation_draws must be at least 1, got {self.validation_draws}.")

    def build(self) -> "ProteinFlowTraining":
        from modules.protein.flow_training import ProteinFlowTraining

        return ProteinFlowTraining(self)
