"""How the two networks are trained.

Apart from the LightningModules they configure, and built late: a step that only reads a configuration need not wait
for Lightning's import, which takes longer than many a step.
"""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from data.errors import ConfigError
from modules.layers.optimization import OptimizerConfig
from modules.shape.initialisation import LocalInitialisation
from modules.shape.transformer import ShapeTransformerConfig
from modules.shape.vae import ShapeVAEConfig
from modules.transport.objective import Weighting
from modules.transport.time_sampling import TimeSamplingConfig

if TYPE_CHECKING:
    from modules.shape.flow_training import ShapeFlowTraining
    from modules.shape.vae_training import ShapeVAETraining


@dataclass(frozen=True, kw_only=True)
class ShapeVAELossConfig:
    """Weights of the terms of the loss."""

    near: float = 1.0
    """L1 + L2 of the truncated distance at points near the surface."""
    volume: float = 1.0
    """The same at points uniform in the cube."""
    normal: float = 0.0
    """1 - cosine of the field's gradient and the surface normal, on the surface."""
    eikonal: float = 0.0
    """Squared deviation of the gradient's length from 1, in units of distance, on the surface."""
    gradient_from: float = 0.0
    """Share of the training after which the normal and eikonal terms begin; they double the cost of a step."""
    gradient_every: int = 1
    """Steps from one use of these terms to the next."""
    gradient_points: int = 0
    """Surface points per shape for these terms; 0: all that the batch has."""
    kl: float = 1e-3
    """KL divergence from the standard normal in nats, mean over all latent elements."""
    one_sided: bool = True
    """Beyond the truncation only the sign and the size ±1 are asked for, not the flat value: no error where the field
    is further out than its clipped target."""

    def __post_init__(self) -> None:
        for name in ("near", "volume", "normal", "eikonal", "kl"):
            if getattr(self, name) < 0:
                raise ConfigError(f"loss weight '{name}' must not be negative, got {getattr(self, name)}.")
        if not 0 <= self.gradient_from <= 1:
            raise ConfigError(f"gradient_from is a share of the training in [0, 1], got {self.gradient_from}.")
        if self.gradient_every < 1:
            raise ConfigError(f"gradient_every must be at least 1 step, got {self.gradient_every}.")


@dataclass(frozen=True, kw_only=True)
class ShapeVAETrainingConfig:
    """The network, how it starts, what it is trained on, and with which optimizer."""

    network: ShapeVAEConfig = field(default_factory=lambda: ShapeVAEConfig(truncation=0.2))
    initialisation: LocalInitialisation | None = field(default_factory=LocalInitialisation)
    """None: the default of each layer."""
    loss: ShapeVAELossConfig = field(default_factory=ShapeVAELossConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)

    def __post_init__(self) -> None:
        if self.network.truncation is None:
            raise ConfigError(
                "training needs network.truncation, the distance at which targets are clipped, in cube units; try 0.2."
            )

    def build(self, seed: int = 0) -> "ShapeVAETraining":
        from modules.shape.vae_training import ShapeVAETraining

        return ShapeVAETraining(self, seed)


@dataclass(frozen=True, kw_only=True)
class ShapeFlowTrainingConfig:
    """What to train and how; sizes default to the published model, so set them."""

    network: ShapeTransformerConfig = field(default_factory=ShapeTransformerConfig)
    times: TimeSamplingConfig = field(default_factory=TimeSamplingConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    weighting: Weighting = "uniform"
    condition_dropout: float = 0.1
    """Share of samples trained without their condition, which guidance needs."""
    validation_draws: int = 4
    """Pairs of noise and time per validation sample; more of them make its loss smoother."""

    def __post_init__(self) -> None:
        if not 0 <= self.condition_dropout <= 1:
            raise ConfigError(f"condition_dropout is a share in [0, 1], got {self.condition_dropout}.")
        if self.validation_draws < 1:
            raise ConfigError(f"validation_draws must be at least 1, got {self.validation_draws}.")

    def build(self) -> "ShapeFlowTraining":
        from modules.shape.flow_training import ShapeFlowTraining

        return ShapeFlowTraining(self)
