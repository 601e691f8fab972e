"""Networks rebuilt from the folder of an exported model alone."""

import dataclasses
from pathlib import Path
from typing import Any

from torch import nn

from configs import load
from data.errors import CheckpointError
from data.model_folder import read_model
from flows.domain import load_domain


@dataclasses.dataclass(frozen=True)
class LoadedModel:
    """A network in evaluation mode, and the rest of its config."""

    network: nn.Module
    config: dict[str, Any]


def load_model(folder: Path) -> LoadedModel:
    """The network in `folder`, as `training.train` or an import wrote it.

    Raises:
        CheckpointError: the folder is not whole, of an unknown stage, or its weights do not fit its config.
    """
    weights, config, _ = read_model(folder)
    models = load_domain(str(config.get("domain"))).models
    stage = str(config.get("stage"))
    if stage not in models:
        raise CheckpointError(f"{folder}: stage '{stage}' is none of {', '.join(models)}. Export the model again.")
    built: Any = load.resolve(models[stage], [load.tagged(config.get("network", {}), str(folder / "config.yaml"))])
    network: nn.Module = built.build()
    try:
        network.load_state_dict(weights)
    except RuntimeError as error:
        raise CheckpointError(f"{folder}: the weights do not fit the config: {error}") from None
    return LoadedModel(network.eval(), config)
