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
    loss = section.loss if _is_vorticity(fields) else replace(section.loss, velocity=0.0)
    training = replace(_training(section), stepper=stepper, loss=loss)
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
    """The stepper for the components and axes that the data have."""
    return replace(
        stepper,
        components=len(fields.components),
        axes=len(fields.grid.axes),
        velocity=stepper.velocity and _is_vorticity(fields),
    )


def _is_vorticity(fields: Fields) -> bool:
    """Whether there is a velocity to derive: elsewhere options that concern it have nothing to do."""
    return fields.components == ("vorticity",) and fields.grid.walls is None


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
