"""Training of the operators that a configuration asks for."""

from dataclasses import fields as fields_of_class
from dataclasses import replace
from typing import Any

import torch

from configs.turbulence import TurbulenceConfig
from data.turbulence.windows import FieldWindows
from flows.run import Run
from flows.steps.turbulence_data import Fields, fields_of
from modules.turbulence.scales import FieldScales, measured
from modules.turbulence.stepper import StepperConfig
from modules.turbulence.training_config import TurbulenceTrainingConfig


def train_network(run: Run, name: str) -> None:
    """Train one network on the windows of the training part."""
    from data.datamodule import ItemDataModule
    from flows.steps.training import train
    from modules.turbulence.training import TurbulenceTraining

    config: TurbulenceConfig = run.config
    section: Any = getattr(config, name)
    fields = fields_of(run)
    stepper = fitted(section.stepper, fields)
    training = replace(_training(section), stepper=stepper)
    windows = FieldWindows(fields.folder, stepper.history, training.frames, fields.stride, section.augment)
    settings = section.trainer
    data = ItemDataModule(windows, None, settings.batch_size, config.seed, settings.workers, splits=windows.splits)
    scales = training_scales(fields)

    def build() -> TurbulenceTraining:
        module = training.build(config.seed)
        module.set_scales(scales)
        return module

    train(run, name, build, data, settings, network=stepper)


def fitted(stepper: StepperConfig, fields: Fields) -> StepperConfig:
    """The stepper for the components and axes that the data have, shown a velocity only of a plane vorticity."""
    plane = fields.components == ("vorticity",) and fields.grid.walls is None
    return replace(
        stepper,
        components=len(fields.components),
        axes=len(fields.grid.axes),
        velocity=stepper.velocity and plane,
    )


def training_scales(fields: Fields) -> FieldScales:
    """What the training frames are like, at the spacing of the steps."""
    trajectories = (
        (torch.from_numpy(file.read(trajectory, [k])[0]) for k in range(0, file.lengths[trajectory], fields.stride))
        for file, trajectory in fields.trajectories("train")
    )
    return measured(trajectories, fields.grid)


def _training(section: TurbulenceTrainingConfig) -> TurbulenceTrainingConfig:
    """A section without what it says beyond the training of the module."""
    names = [f.name for f in fields_of_class(TurbulenceTrainingConfig)]
    return TurbulenceTrainingConfig(**{name: getattr(section, name) for name in names})
