"""What every forecaster has in common: the shape of its windows, and what it answers."""

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor, nn

from data.batch import WindowBatch
from data.errors import ConfigError
from modules.forecast.heads import Head


@dataclass(frozen=True, kw_only=True)
class WindowShape:
    """Steps and columns of the windows that a forecaster is built for."""

    look_back: int = 96
    """Steps before the origin that it sees."""
    horizon: int = 96
    """Steps from the origin on that it predicts."""
    targets: int = 1
    """Columns that it predicts."""
    observed: int = 0
    """Covariates known up to the origin."""
    known: int = 0
    """Covariates known over the horizon too."""
    calendar: int = 0
    """Features of the time stamps."""
    static: int = 0
    """Columns that do not change along a series."""
    season: int = 24
    """Steps of the main season."""

    def __post_init__(self) -> None:
        for name in ("look_back", "horizon", "targets", "season"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} must be at least 1, got {getattr(self, name)}.")
        for name in ("observed", "known", "calendar", "static"):
            if getattr(self, name) < 0:
                raise ConfigError(f"{name} must not be negative, got {getattr(self, name)}.")


class Forecaster(nn.Module):
    """A map from windows to forecasts, trained or not.

    Subclasses build themselves from a `WindowShape` and a `Head`, and take what they can use of a window: at least
    `past`, with or without its mask. Answers are in the units of the window.
    """

    takes_calendar: bool = False
    """Whether it reads the features of the time stamps; windows for the others are cut without, which costs less."""

    def __init__(self, shape: WindowShape, head: Head) -> None:
        super().__init__()
        self.shape = shape
        self.head = head

    def forward(self, window: WindowBatch) -> Float[Tensor, "batch horizon target output"]:
        """`output` is the head's: 1 for a point forecast, one per quantile level, or a distribution's parameters."""
        raise NotImplementedError
