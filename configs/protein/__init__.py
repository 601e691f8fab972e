"""The configuration of the protein domain."""

import re
from dataclasses import dataclass, field, replace
from typing import Literal

from configs.training import RunConfig, SampleConfig, TrainerConfig
from data.errors import ConfigError
from data.export.backbone import FORMATS as STRUCTURE_FORMATS
from data.export.backbone import ResidueName
from data.protein import ProteinPreparationConfig, ProteinSamplesConfig
from data.splits import SplitConfig, stable_hash
from data.synthetic.protein import SyntheticProteinConfig
from modules.layers.optimization import OptimizerConfig
from modules.protein.contig import parse_contig
from modules.protein.filters import PairFilterConfig
from modules.protein.losses import ProteinLossConfig
from modules.protein.motif import MotifMode
from modules.protein.sampling import ProteinSamplingConfig
from modules.protein.symmetry import Symmetry
from modules.protein.training_config import ProteinFlowTrainingConfig
from modules.transport.time_sampling import TimeSamplingConfig

FORMATS = (*STRUCTURE_FORMATS, "jsonl")


@dataclass(frozen=True, kw_only=True)
class LengthsSection:
    """How long generated chains are."""

    shortest: int = 60
    """Residues."""
    longest: int = 128
    """Residues."""
    together: int = 8
    """Consecutive samples of one length, which a network call takes together."""

    def __post_init__(self) -> None:
        if not 3 <= self.shortest <= self.longest:
            raise ConfigError(
                f"expected 3 <= shortest <= longest residues, got shortest={self.shortest} and longest={self.longest}."
            )
        if self.together < 1:
            raise ConfigError(f"together must be at least 1, got {self.together}.")

    def of(self, index: int, seed: int) -> int:
        """Residues of sample `index`: uniform between both ends, a function of (seed, index) alone."""
        block = index // self.together
        return self.shortest + stable_hash("length", seed, block) % (self.longest - self.shortest + 1)


@dataclass(frozen=True, kw_only=True)
class FlowSection(ProteinFlowTrainingConfig):
    """Training of the base model."""

    draw: ProteinSamplesConfig = field(default_factory=ProteinSamplesConfig)
    max_pairs: int = 1_000_000
    """Most residue pairs in a batch beyond its first chain: chains of L residues come max_pairs / L² + 1 together, at
    most `trainer.batch_size`."""
    one_per_cluster: bool = True
    """One random chain of each cluster of alike sequences per epoch; else every chain."""
    trainer: TrainerConfig = field(default_factory=TrainerConfig)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.max_pairs < 1:
            raise ConfigError(f"max_pairs must be at least 1, got {self.max_pairs}.")


@dataclass(frozen=True, kw_only=True)
class PairsSection:
    """Pairs of noise and backbone that the base model makes, and which of them are trained on."""

    count: int = 512
    """Pairs drawn."""
    lengths: LengthsSection = field(default_factory=LengthsSection)
    sampling: ProteinSamplingConfig = field(default_factory=ProteinSamplingConfig)
    filter: PairFilterConfig = field(default_factory=PairFilterConfig)
    judge: str | None = None
    """A command that has the last word on each pair, e.g. "judge.sh {pdb}": it gets a PDB file and prints JSON,
    {"accept": true, "score": 1.3}. null: the filter alone decides."""
    judge_seconds: float = 600.0
    """Longest that the judge may take for one backbone."""
    least: float = 0.25
    """Share of the pairs that is trained on at least: where fewer pass, those that break the fewest rules go along, and
    the report says so. 0 is strict."""

    def __post_init__(self) -> None:
        if self.count < 1:
            raise ConfigError(f"pairs.count must be at least 1, got {self.count}.")
        if not 0 <= self.least <= 1:
            raise ConfigError(f"pairs.least is a share in [0, 1], got {self.least}.")
        if self.judge_seconds <= 0:
            raise ConfigError(f"pairs.judge_seconds must be positive, got {self.judge_seconds}.")


@dataclass(frozen=True, kw_only=True)
class ReflowSection:
    """Training on the pairs, from the base model's weights; what is not said here is as in `flow`."""

    loss: ProteinLossConfig | None = None
    """null: that of `flow`."""
    times: TimeSamplingConfig | None = None
    """null: those of `flow`."""
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    max_pairs: int = 1_000_000
    """As in `flow`."""
    trainer: TrainerConfig = field(default_factory=TrainerConfig)

    def __post_init__(self) -> None:
        if self.max_pairs < 1:
            raise ConfigError(f"max_pairs must be at least 1, got {self.max_pairs}.")

    def training(self, flow: ProteinFlowTrainingConfig) -> ProteinFlowTrainingConfig:
        """How the rectified model is trained, after the base model's training `flow`."""
        loss, times = self.loss or flow.loss, self.times or flow.times
        return replace(flow, loss=loss, times=times, optimizer=self.optimizer, start=None)


@dataclass(frozen=True, kw_only=True)
class CompareSection:
    """Base and rectified model side by side, from the same noise."""

    steps: tuple[int, ...] = (5, 10, 20, 50)
    """Network calls per sample."""
    count: int = 48
    """Samples of each."""
    lengths: LengthsSection = field(default_factory=LengthsSection)
    repulsion: float = 0.0
    """In place of `sample.repulsion`, whose other settings hold here too: 0 compares the networks, not the helper."""

    def __post_init__(self) -> None:
        if not self.steps or min(self.steps) < 2:
            raise ConfigError(f"compare.steps: expected numbers of at least 2, got {list(self.steps)}.")
        if self.count < 2:
            raise ConfigError(f"compare.count must be at least 2, got {self.count}.")


@dataclass(frozen=True, kw_only=True)
class MotifSection:
    """A given part that the samples are built around."""

    file: str | None = None
    """PDB or mmCIF file with the motif; null draws without."""
    contig: str | None = None
    """What goes where, e.g. "10-40/A163-181/10-40": lengths (or ranges) to make, and residues of the file to keep."""
    length: str | None = None
    """Residues in all, a number or a range ("80-100"), where the contig leaves a choice; null: whatever it gives."""
    mode: MotifMode = "hard"
    """`hard`: the motif's atoms stay exactly where they are. `guided`: the samples are drawn towards it."""

    def __post_init__(self) -> None:
        if (self.file is None) != (self.contig is None):
            given, missing = ("file", "contig") if self.contig is None else ("contig", "file")
            raise ConfigError(f"a motif needs a file and a contig: motif.{given} is set, motif.{missing} is not.")
        if self.contig is not None:
            parse_contig(self.contig)
        if self.length is not None and self.file is None:
            raise ConfigError("motif.length is that of a design around a motif; set motif.file and motif.contig too.")
        _ = self.total  # read once, so that a mistake is named now

    @property
    def total(self) -> tuple[int, int] | None:
        """Least and most residues in all; None where the contig alone decides."""
        if self.length is None:
            return None
        found = re.fullmatch(r"(\d+)(?:-(\d+))?", self.length.strip())
        ends = (int(found[1]), int(found[2] or found[1])) if found else (0, 0)
        if not 1 <= ends[0] <= ends[1]:
            raise ConfigError(f"motif.length: expected a number or a range such as 80-100, got '{self.length}'.")
        return ends


@dataclass(frozen=True, kw_only=True)
class SampleSection(ProteinSamplingConfig, SampleConfig):
    """New backbones."""

    model: Literal["auto", "flow", "reflow"] = "auto"
    """Which network draws: `flow` the base model, `reflow` the rectified, `auto` the latter once it exists."""
    lengths: LengthsSection = field(default_factory=lambda: LengthsSection(together=1))
    """Residues of each sample (of each chain, with a symmetry); with a motif the contig decides."""
    motif: MotifSection = field(default_factory=MotifSection)
    symmetry: str | None = None
    """C2, C3, … (cyclic) or D2, D3, … (dihedral); null for single chains."""
    trajectory: bool = False
    """Keep every state from noise to sample."""

    def __post_init__(self) -> None:
        ProteinSamplingConfig.__post_init__(self)
        SampleConfig.__post_init__(self)
        if self.symmetry is not None:
            Symmetry(self.symmetry)
        if self.symmetry is not None and self.motif.file is not None:
            raise ConfigError("sample.symmetry and sample.motif do not go together yet: set one of them to null.")


@dataclass(frozen=True, kw_only=True)
class EvaluateSection:
    """The samples against the prepared chains."""

    judge: str | None = None
    """Command that judges every sample, as `pairs.judge`; null: that of the pairs, if there is one."""
    judge_seconds: float = 600.0
    """Longest that it may take for one backbone."""
    bootstrap: int = 500
    """Resamplings for the confidence intervals."""
    tm_pairs: int = 200
    """Most pairs of samples whose TM-score is taken for the diversity; 0 leaves it out."""
    tm_training: int = 10
    """Training chains that each sample is aligned with in full, of those that fit it best without gaps; 0 leaves out
    whether samples were memorised."""
    reference: int = 300
    """Most prepared chains that the samples are held against; their number tells in the time."""

    def __post_init__(self) -> None:
        if min(self.bootstrap, self.tm_pairs, self.tm_training) < 0 or self.reference < 1:
            raise ConfigError(
                f"expected counts of at least 0 and a reference of at least 1, got bootstrap={self.bootstrap}, "
                f"tm_pairs={self.tm_pairs}, tm_training={self.tm_training} and reference={self.reference}."
            )
        if self.judge_seconds <= 0:
            raise ConfigError(f"evaluate.judge_seconds must be positive, got {self.judge_seconds}.")


@dataclass(frozen=True, kw_only=True)
class ExportSection:
    """Files for other programs."""

    formats: tuple[str, ...] = ("pdb", "cif")
    """Some of pdb, cif, each with .gz too, and jsonl (for ProteinMPNN, with the motif as fixed positions)."""
    residue_name: ResidueName = "GLY"
    """What residues without a sequence are called."""

    def __post_init__(self) -> None:
        unknown = [name for name in self.formats if name not in FORMATS]
        if unknown or not self.formats:
            raise ConfigError(f"formats must be some of {', '.join(FORMATS)}; got {', '.join(unknown) or 'none'}.")


@dataclass(frozen=True, kw_only=True)
class ProteinConfig(RunConfig):
    """Everything that decides a run."""

    synthetic: SyntheticProteinConfig = field(default_factory=SyntheticProteinConfig)
    prepare: ProteinPreparationConfig = field(default_factory=ProteinPreparationConfig)
    split: SplitConfig = field(default_factory=SplitConfig)
    flow: FlowSection = field(default_factory=FlowSection)
    pairs: PairsSection = field(default_factory=PairsSection)
    reflow: ReflowSection = field(default_factory=ReflowSection)
    compare: CompareSection = field(default_factory=CompareSection)
    sample: SampleSection = field(default_factory=SampleSection)
    evaluate: EvaluateSection = field(default_factory=EvaluateSection)
    export: ExportSection = field(default_factory=ExportSection)
