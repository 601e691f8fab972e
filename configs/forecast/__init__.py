"""The configuration of the forecast domain."""

from dataclasses import dataclass, field, fields
from typing import Literal

from configs.forecast.networks import (
    CycleNetSection,
    DLinearSection,
    ITransformerSection,
    LMUSection,
    NetworkSection,
    NLinearSection,
    PatchTSTSection,
    RLinearSection,
    SparseTSFSection,
    TimeMixerSection,
    TimeXerSection,
    XPatchSection,
)
from configs.forecast.tasks import ClassifierSection, FilmsSection
from configs.training import RunConfig
from data.errors import ConfigError
from data.forecast import ColumnsConfig
from data.forecast.time_split import TimeSplitConfig
from data.synthetic.forecast import SyntheticForecastConfig
from modules.forecast.foundation import FoundationConfig

FORMATS = ("parquet", "csv")
NETWORKS = (
    "nlinear", "dlinear", "rlinear", "cyclenet", "sparsetsf", "patchtst", "itransformer", "timexer", "timemixer",
    "xpatch", "lmu",
)  # fmt: skip
"""The trainable forecasters: a section of the configuration and a stage each."""


@dataclass(frozen=True, kw_only=True)
class ChooseSection:
    """What is chosen on the validation part before anything is trained, with closed-form models."""

    season: int | None = None
    """Steps of the main season; null tries those that the step suggests (24 and 168 of hours)."""
    look_back: int | None = None
    """Steps that the models see; null tries `look_backs`."""
    look_backs: tuple[int, ...] = ()
    """Candidates; empty takes multiples of the season around the horizon."""
    penalties: tuple[float, ...] = (1e-4, 1e-3, 1e-2, 1e-1)
    """Of the ridge regression."""
    windows: int = 4000
    """Most windows that a ridge regression is fitted on, spread evenly over the training part; null in the published
    protocols, which take all."""

    def __post_init__(self) -> None:
        for name in ("season", "look_back"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ConfigError(f"choose.{name} must be at least 1, or null to have it chosen, got {value}.")
        if not self.penalties or min(self.penalties) <= 0:
            raise ConfigError(f"choose.penalties: expected positive numbers, got {list(self.penalties)}.")


@dataclass(frozen=True, kw_only=True)
class IntervalsSection:
    """How intervals are put around forecasts."""

    levels: tuple[float, ...] = (0.8, 0.9)
    """Nominal coverages."""
    method: Literal["conformal", "head"] = "conformal"
    """`head`: the quantiles that a network with such a head gives itself; models without one stay conformal."""
    window: int = 1000
    """Earlier forecasts whose errors decide the width: the last ones whose truth is known."""

    def __post_init__(self) -> None:
        if not self.levels or min(self.levels) <= 0 or max(self.levels) >= 1:
            raise ConfigError(f"intervals.levels are shares between 0 and 1, got {list(self.levels)}.")
        if self.window < 10:
            raise ConfigError(f"intervals.window must be at least 10 forecasts, got {self.window}.")

    @property
    def quantiles(self) -> tuple[float, ...]:
        """The quantile levels of all interval ends and the median, rising."""
        ends = {round(0.5 - level / 2, 6) for level in self.levels} | {
            round(0.5 + level / 2, 6) for level in self.levels
        }
        return tuple(sorted(ends | {0.5}))


@dataclass(frozen=True, kw_only=True)
class EvaluateSection:
    """The backtest."""

    windows: int = 20_000
    """Most test windows; where there are more, origins are spread evenly and the report says so."""
    folds: int = 1
    """Blocks of the test part. Above 1 the scaler and the closed-form models are fitted again before each."""
    refit: bool = False
    """Whether networks are trained again before each fold too."""
    bootstrap: int = 500
    """Resamplings of blocks of origins for the error bars."""
    anomaly_rate: float = 0.01
    """Expected share of ordinary values that are flagged as anomalies."""
    leak_test: bool = False
    """Overwrite everything after tested origins with garbage and demand the same bits."""
    leak_origins: int = 8
    """Origins that the leak test tries."""

    def __post_init__(self) -> None:
        if min(self.windows, self.folds, self.bootstrap, self.leak_origins) < 1:
            raise ConfigError(
                "evaluate: windows, folds, bootstrap and leak_origins must be at least 1, got "
                f"{self.windows}, {self.folds}, {self.bootstrap} and {self.leak_origins}."
            )
        if not 0 < self.anomaly_rate < 1:
            raise ConfigError(f"evaluate.anomaly_rate is a share between 0 and 1, got {self.anomaly_rate}.")


@dataclass(frozen=True, kw_only=True)
class SampleSection:
    """The forecast of what nobody knows yet."""

    model: str = "auto"
    """Name of a model of the backtest; `auto` takes the one with the lowest validation error."""
    refit: bool = True
    """Whether a closed-form model is fitted again on everything before it forecasts. Networks stay as trained."""


@dataclass(frozen=True, kw_only=True)
class ExportSection:
    """Files for other programs."""

    formats: tuple[str, ...] = FORMATS
    """Some of parquet, csv."""

    def __post_init__(self) -> None:
        unknown = [name for name in self.formats if name not in FORMATS]
        if unknown or not self.formats:
            raise ConfigError(f"formats must be some of {', '.join(FORMATS)}; got {', '.join(unknown) or 'none'}.")


@dataclass(frozen=True, kw_only=True)
class ForecastConfig(RunConfig):
    """Everything that decides a run. A network is trained where its section is not null."""

    task: Literal["forecast", "impute", "classify", "films"] = "forecast"
    """`impute` fills gaps, `classify` labels whole sequences, `films` predicts frames."""
    protocol: str = ""
    """What a published number was measured under, in words, for the report."""
    columns: ColumnsConfig = field(default_factory=ColumnsConfig)
    synthetic: SyntheticForecastConfig = field(default_factory=SyntheticForecastConfig)
    split: TimeSplitConfig = field(default_factory=TimeSplitConfig)
    horizon: int | None = None
    """Steps to forecast; null: the shortest season that the step suggests, a day of hours."""
    scale_per_series: bool = True
    """Whether each series is standardised by its own mean and deviation, or all by common ones."""
    seeds: int = 1
    """Trainings of every network, which differ in their seed alone; the report gives mean and standard deviation."""
    choose: ChooseSection = field(default_factory=ChooseSection)
    nlinear: NLinearSection | None = None
    dlinear: DLinearSection | None = None
    rlinear: RLinearSection | None = None
    cyclenet: CycleNetSection | None = None
    sparsetsf: SparseTSFSection | None = None
    patchtst: PatchTSTSection | None = None
    itransformer: ITransformerSection | None = None
    timexer: TimeXerSection | None = None
    timemixer: TimeMixerSection | None = None
    xpatch: XPatchSection | None = None
    lmu: LMUSection | None = None
    foundation: FoundationConfig | None = None
    """A pretrained forecaster of another package, which is asked and not trained."""
    classifier: ClassifierSection | None = None
    predformer: FilmsSection | None = None
    intervals: IntervalsSection = field(default_factory=IntervalsSection)
    evaluate: EvaluateSection = field(default_factory=EvaluateSection)
    sample: SampleSection = field(default_factory=SampleSection)
    export: ExportSection = field(default_factory=ExportSection)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.horizon is not None and self.horizon < 1:
            raise ConfigError(f"horizon must be at least 1 step, or null for one season, got {self.horizon}.")
        if self.seeds < 1:
            raise ConfigError(f"seeds must be at least 1, got {self.seeds}.")

    @property
    def networks(self) -> dict[str, NetworkSection]:
        """The networks that are asked for, by name."""
        return {name: section for name in NETWORKS if (section := getattr(self, name)) is not None}


assert set(NETWORKS) <= {f.name for f in fields(ForecastConfig)}
