"""The configuration of the shape domain."""

from dataclasses import dataclass, field

from configs.training import RunConfig, SampleConfig, TrainerConfig
from data.shape import PrepareConfig, ShapeSamplesConfig
from data.splits import SplitConfig
from data.synthetic.shape import SyntheticShapesConfig
from modules.geometry.surface import ExtractionConfig
from modules.shape.image import ImageEncoderConfig
from modules.shape.sampling import LatentSamplingConfig
from modules.shape.training_config import ShapeFlowTrainingConfig, ShapeVAETrainingConfig
from modules.shape.transformer import ShapeTransformerConfig

FORMATS = ("glb", "obj", "ply", "stl")


@dataclass(frozen=True, kw_only=True)
class VAESection(ShapeVAETrainingConfig):
    """Training of the autoencoder."""

    draw: ShapeSamplesConfig = field(default_factory=ShapeSamplesConfig)
    trainer: TrainerConfig = field(default_factory=TrainerConfig)


@dataclass(frozen=True, kw_only=True)
class ImageSection:
    """Pictures as the condition of the velocity network, for `flow.network.condition_width` channels."""

    folder: str | None = None
    """One picture per item, named after it; null trains without pictures."""
    encoder: ImageEncoderConfig = field(default_factory=ImageEncoderConfig)


@dataclass(frozen=True, kw_only=True)
class FlowSection(ShapeFlowTrainingConfig):
    """Training of the velocity network."""

    network: ShapeTransformerConfig = field(
        default_factory=lambda: ShapeTransformerConfig(width=128, layers=5, heads=4, condition_width=None)
    )
    trainer: TrainerConfig = field(default_factory=TrainerConfig)


@dataclass(frozen=True, kw_only=True)
class SampleSection(LatentSamplingConfig, SampleConfig):
    """New shapes."""

    extraction: ExtractionConfig = field(default_factory=lambda: ExtractionConfig(resolution=128))
    label: int | None = None
    """Class of all samples, for a network with classes."""
    image: str | None = None
    """Picture of what all samples should be, for a network trained with pictures."""

    def __post_init__(self) -> None:
        LatentSamplingConfig.__post_init__(self)
        SampleConfig.__post_init__(self)


@dataclass(frozen=True, kw_only=True)
class EvaluateSection:
    """Reconstruction of held-out solids, and a look at the samples."""

    items: int = 32
    """Most solids that are reconstructed."""
    points: int = 20_000
    """Surface points per distance, and volume points per IoU."""
    shown: int = 6
    """Reconstructions kept as meshes for the report."""
    extraction: ExtractionConfig = field(default_factory=lambda: ExtractionConfig(resolution=128))

    def __post_init__(self) -> None:
        if self.items < 1 or self.points < 100 or self.shown < 0:
            raise ValueError(
                f"expected items >= 1, points >= 100 and shown >= 0, got items={self.items}, points={self.points} "
                f"and shown={self.shown}."
            )


@dataclass(frozen=True, kw_only=True)
class ExportSection:
    """Files for other programs."""

    formats: tuple[str, ...] = ("glb",)
    """Some of glb, obj, ply, stl."""

    def __post_init__(self) -> None:
        unknown = [name for name in self.formats if name not in FORMATS]
        if unknown or not self.formats:
            raise ValueError(f"formats must be some of {', '.join(FORMATS)}; got {', '.join(unknown) or 'none'}.")


@dataclass(frozen=True, kw_only=True)
class ShapeConfig(RunConfig):
    """Everything that decides a run."""

    synthetic: SyntheticShapesConfig = field(default_factory=SyntheticShapesConfig)
    prepare: PrepareConfig = field(default_factory=PrepareConfig)
    split: SplitConfig = field(default_factory=SplitConfig)
    vae: VAESection = field(default_factory=VAESection)
    images: ImageSection = field(default_factory=ImageSection)
    flow: FlowSection = field(default_factory=FlowSection)
    sample: SampleSection = field(default_factory=SampleSection)
    evaluate: EvaluateSection = field(default_factory=EvaluateSection)
    export: ExportSection = field(default_factory=ExportSection)

    def __post_init__(self) -> None:
        super().__post_init__()
        ours, theirs = self.vae.network.latent_channels, self.flow.network.latent_channels
        if ours != theirs:
            raise ValueError(
                f"both networks share the latents: set flow.network.latent_channels to vae.network.latent_channels "
                f"({ours}), got {theirs}."
            )
        if (self.images.folder or self.sample.image) and self.flow.network.condition_width is None:
            raise ValueError(
                "pictures need a network that reads them: set flow.network.condition_width to the channels of the "
                "image encoder (1024 for facebook/dinov2-large), got null."
            )
