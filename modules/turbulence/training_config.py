"""How a stepper is trained.

Apart from the LightningModule it configures, and built late: a step that only reads a configuration need not wait for
Lightning's import.
"""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from data.errors import ConfigError
from modules.layers.optimization import OptimizerConfig
from modules.turbulence.losses import LossConfig
from modules.turbulence.stepper import StepperConfig

if TYPE_CHECKING:
    from modules.turbulence.training import TurbulenceTraining


@dataclass(frozen=True, kw_only=True)
class TurbulenceTrainingConfig:
    """What to train and how. The defaults are the published recipe: one step, relative L2, nothing else."""

    stepper: StepperConfig = field(default_factory=StepperConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    horizon: int = 1
    """Steps that are trained on, each from the prediction before; gradients go back through all of them."""
    curriculum: float = 0.0
    """Share of the training over which the horizon grows from 1 to `horizon`, step by step."""
    pushforward: int = 0
    """At most so many steps are taken before those that are trained on, without gradients (Brandstetter, Worrall and
    Welling 2022): the network learns from its own predictions. How many is drawn for each batch, from 0 on."""
    noise: float = 0.0
    """Standard deviation of noise on the frames given, in units of each component's change from frame to frame."""
    validation_horizon: int = 1
    """Steps of the validation's rollouts."""

    def __post_init__(self) -> None:
        if self.horizon < 1 or self.validation_horizon < 1 or self.pushforward < 0:
            raise ConfigError(
                "expected horizon and validation_horizon of at least 1 step and pushforward of at least 0, "
                f"got {self.horizon}, {self.validation_horizon} and {self.pushforward}."
            )
        if not 0 <= self.curriculum <= 1:
            raise ConfigError(f"curriculum is a share of the training in [0, 1], got {self.curriculum}.")
        if self.noise < 0:
            raise ConfigError(f"noise must not be negative, got {self.noise}.")

    @property
    def frames(self) -> int:
        """Frames after the history that a window must have, for training and validation."""
        return max(self.pushforward + self.horizon, self.validation_horizon)

    def build(self, seed: int = 0) -> "TurbulenceTraining":
        from modules.turbulence.training import TurbulenceTraining

        return TurbulenceTraining(self, seed)
