"""Published IFactFormer checkpoints as operators of ours."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from configs.load import to_plain
from data.errors import CheckpointError
from data.foreign_checkpoint import one_checkpoint, read_weights
from data.turbulence.published_statistics import PublishedStatistics, read_statistics
from flows.domain import ImportedModel
from modules.turbulence.import_weights import PUBLISHED_ITERATIONS, convert
from modules.turbulence.stepper import StepperConfig

CHECKPOINTS = ("*.pth", "*.pt", "*.ckpt", "*.safetensors")
STATE = "weights."
"""Before every tensor of a network in a file that holds its inputs and outputs too."""
STATISTICS = "norm.pkl"
"""Beside the checkpoint: what the published training normalises by."""
SCALES = "scales"
FROM_DATA = "data"
"""An imported model's `scales` where no statistics came with it: those of the run's training part."""


def import_ifactformer(source: Path) -> Mapping[str, ImportedModel]:
    """The network in a checkpoint file, or in a folder that holds one; nothing in the file is executed.

    The number of iterations is nowhere in the weights: it comes from NAME.json beside the file (`n_layer`, alone or
    under `model`), else it is the published one. Statistics come from norm.pkl beside it, else from the run's data.

    Raises:
        CheckpointError: no such file, a damaged or hostile one, or weights of another network.
    """
    file = one_checkpoint(source, CHECKPOINTS)
    try:
        network, weights = convert(read_weights(file, STATE), iterations=_iterations(file.with_suffix(".json")))
    except CheckpointError as error:
        raise CheckpointError(f"{file}: {error}" if str(file) not in str(error) else str(error)) from None
    stepper = StepperConfig(components=network.components, axes=network.axes, history=network.history, network=network)
    stage = "chained" if network.variant == "chained" else "operator"
    statistics = file.with_name(STATISTICS)
    extra = {} if statistics.is_file() else {SCALES: FROM_DATA}
    state = {**stepper.build().state_dict(), **{f"network.{name}": value for name, value in weights.items()}}
    if statistics.is_file():
        state |= _normalised(state, read_statistics(statistics), statistics)
    settings = {"networks": [stage], stage: {"stepper": to_plain(stepper)}}
    return {stage: ImportedModel(config=stepper, weights=state, settings=settings, extra=extra)}


def _normalised(state: Mapping[str, Tensor], found: PublishedStatistics, path: Path) -> dict[str, Tensor]:
    """What changes of the state by published statistics: those of the input are the stepper's, and its last layer takes
    the small difference to those of the target."""
    mean, std, target_mean, target_std = (
        torch.from_numpy(values).float() for values in (found.mean, found.std, found.target_mean, found.target_std)
    )
    if len(mean) != len(state["mean"]):
        raise CheckpointError(f"{path}: expected statistics of {len(state['mean'])} components, got {len(mean)}.")
    if bool((std <= 0).any()):
        raise CheckpointError(f"{path}: expected positive standard deviations, got {std.tolist()}.")
    ratio, shift = target_std / std, (target_mean - mean) / std
    return {
        "mean": mean,
        "std": std,
        "network.head.weight": state["network.head.weight"] * ratio[:, None],
        "network.head.bias": state["network.head.bias"] * ratio + shift,
    }


def _iterations(beside: Path) -> int:
    if not beside.is_file():
        return PUBLISHED_ITERATIONS
    try:
        found: Any = json.loads(beside.read_text(encoding="utf-8"))
        found = found.get("model", found)
        return int(found["n_layer"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(
            f"{beside}: expected the published arguments with n_layer, a whole number ({error})."
        ) from None
