"""The sections of what is not forecasting of series: labels of whole sequences, and films."""

from dataclasses import dataclass, field

from configs.training import TrainerConfig
from data.forecast.films import FilmPreparationConfig
from data.splits import SplitConfig
from data.synthetic.films import SyntheticFilmsConfig
from data.synthetic.sequences import SyntheticSequencesConfig
from modules.forecast.classifier_training_config import ClassifierTrainingConfig
from modules.forecast.predformer_training_config import PredFormerTrainingConfig


@dataclass(frozen=True, kw_only=True)
class ClassifierSection(ClassifierTrainingConfig):
    """Labels of whole sequences, by the Flowformer. Its features, length and classes follow from the data."""

    synthetic: SyntheticSequencesConfig = field(default_factory=SyntheticSequencesConfig)
    split: SplitConfig = field(default_factory=lambda: SplitConfig(validation=0.15, test=0.0))
    """What is kept from training to choose the weights by; the test sequences are those that the source names."""
    trainer: TrainerConfig = field(default_factory=TrainerConfig)


@dataclass(frozen=True, kw_only=True)
class FilmsSection(PredFormerTrainingConfig):
    """Frames to come, by PredFormer. The size and number of frames follow from the data."""

    synthetic: SyntheticFilmsConfig = field(default_factory=SyntheticFilmsConfig)
    prepare: FilmPreparationConfig = field(default_factory=FilmPreparationConfig)
    split: SplitConfig = field(default_factory=SplitConfig)
    trainer: TrainerConfig = field(default_factory=TrainerConfig)
