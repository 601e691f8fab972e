"""The configuration of the turbulence domain."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from configs.training import RunConfig, SampleConfig
from configs.turbulence.networks import ChainedSection, FNOSection, OperatorSection
from data.errors import ConfigError
from data.export.field import FORMATS as FIELD_FORMATS
from data.synthetic.turbulence.generate import SyntheticTurbulenceConfig
from data.synthetic.turbulence.subgrid import Model
from data.turbulence.source import ImportConfig

NETWORKS = ("operator", "chained", "fno")
"""What can be trained: a section of the configuration and a stage each."""
SOLVERS: Mapping[str, Model] = {"coarse": "none", "smagorinsky": "smagorinsky", "dynamic": "dynamic", "wale": "wale"}
"""The equations themselves on the grid of the network → their subgrid model; coarse has none."""
FORMATS = (*FIELD_FORMATS, "csv")


@dataclass(frozen=True, kw_only=True)
class SampleSection(SampleConfig):
    """Rollouts: the same ones for every network and solver."""

    count: int = 4
    """Trajectories, begun at frames spread evenly over the test part."""
    steps: int = 200
    """Frames of each."""
    members: int = 1
    """Copies of each trajectory that begin a little apart, for the spread of an ensemble; the first is exact."""
    amplitude: float = 0.01
    """By how much the copies differ at the start, as a share of the fluctuation's rms."""
    guard: float = 10.0
    """A rollout is given up when the energy of its fluctuation leaves the training's band by this factor."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.steps < 1 or self.members < 1:
            raise ConfigError(f"sample: expected steps and members of at least 1, got {self.steps} and {self.members}.")
        if self.amplitude < 0 or self.guard < 1:
            raise ConfigError(
                "sample: expected an amplitude of at least 0 and a guard of at least 1, "
                f"got {self.amplitude} and {self.guard}."
            )


@dataclass(frozen=True, kw_only=True)
class SolversSection:
    """The solver on the network's grid, from the same frames: what a network has to beat."""

    models: tuple[str, ...] = ("coarse", "dynamic")
    """Some of coarse (no model of the smaller scales), smagorinsky, dynamic, wale (in three dimensions)."""
    seconds: float = 600.0
    """Longest that one of them may compute; what it has done by then is compared."""

    def __post_init__(self) -> None:
        unknown = [name for name in self.models if name not in SOLVERS]
        if unknown:
            raise ConfigError(f"solvers.models must be some of {', '.join(SOLVERS)}; got {', '.join(unknown)}.")
        if self.seconds <= 0:
            raise ConfigError(f"solvers.seconds must be positive, got {self.seconds}.")


@dataclass(frozen=True, kw_only=True)
class EvaluateSection:
    """Rollouts against the simulation."""

    horizon: int = 10
    """Steps over which frames are compared one by one; every rollout has a truth that long at least."""
    settle: int = 20
    """First frames of each rollout that are left out of its statistics."""
    block: int = 8
    """Frames of a block of the confidence intervals, at first; blocks grow with the rollout."""

    def __post_init__(self) -> None:
        if self.horizon < 1 or self.settle < 0 or self.block < 1:
            raise ConfigError(
                "evaluate: expected horizon and block of at least 1 and settle of at least 0, "
                f"got {self.horizon}, {self.block} and {self.settle}."
            )


@dataclass(frozen=True, kw_only=True)
class ExportSection:
    """Files for other programs."""

    formats: tuple[str, ...] = ("well", "xdmf", "csv")
    """Some of well (HDF5 in The Well's layout), xdmf and vtk (for ParaView), csv (statistics)."""
    frames: int = 200
    """Most frames of a rollout that are written for ParaView, its last ones."""

    def __post_init__(self) -> None:
        unknown = [name for name in self.formats if name not in FORMATS]
        if unknown or not self.formats:
            raise ConfigError(f"formats must be some of {', '.join(FORMATS)}; got {', '.join(unknown) or 'none'}.")
        if self.frames < 1:
            raise ConfigError(f"export.frames must be at least 1, got {self.frames}.")


@dataclass(frozen=True, kw_only=True)
class TurbulenceConfig(RunConfig):
    """Everything that decides a run."""

    synthetic: SyntheticTurbulenceConfig = field(default_factory=SyntheticTurbulenceConfig)
    importing: ImportConfig = field(default_factory=ImportConfig)
    """How files are read that do not say all of it themselves."""
    stride: int = 1
    """Stored frames from one step of a rollout to the next."""
    networks: tuple[str, ...] = ("operator",)
    """Which of operator, chained and fno are trained."""
    operator: OperatorSection = field(default_factory=OperatorSection)
    chained: ChainedSection = field(default_factory=ChainedSection)
    fno: FNOSection = field(default_factory=FNOSection)
    sample: SampleSection = field(default_factory=SampleSection)
    solvers: SolversSection = field(default_factory=SolversSection)
    evaluate: EvaluateSection = field(default_factory=EvaluateSection)
    export: ExportSection = field(default_factory=ExportSection)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.stride < 1:
            raise ConfigError(f"stride must be at least 1, got {self.stride}.")
        unknown = [name for name in self.networks if name not in NETWORKS]
        if unknown or not self.networks:
            raise ConfigError(f"networks must be some of {', '.join(NETWORKS)}; got {', '.join(unknown) or 'none'}.")
        if self.evaluate.settle >= self.sample.steps:
            raise ConfigError(
                f"evaluate.settle ({self.evaluate.settle}) leaves nothing of rollouts of {self.sample.steps} steps; "
                "lower it, or raise sample.steps."
            )
