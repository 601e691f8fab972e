"""Published IFactFormer checkpoints as operators of ours."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from configs.load import to_plain
from data.errors import CheckpointError
from data.foreign_checkpoint import one_checkpoint, read_foreign_checkpoint
from data.model_folder import read_safetensors
from flows.domain import ImportedModel
from modules.turbulence.import_weights import PUBLISHED_ITERATIONS, convert
from modules.turbulence.stepper import StepperConfig

CHECKPOINTS = ("*.pth", "*.pt", "*.ckpt", "*.safetensors")
SAFETENSORS = ".safetensors"
STATE = "weights."
"""Before every tensor of a network in a file that holds its inputs and outputs too."""
SCALES = "scales"
FROM_DATA = "data"
"""An imported model's `scales`: the statistics are those of the run's training part. The published ones lie in a
pickle of their own, which is not read."""


def import_ifactformer(source: Path) -> Mapping[str, ImportedModel]:
    """The network in a checkpoint file, or in a folder that holds one; nothing in the file is executed.

    The number of iterations is nowhere in the weights: it comes from NAME.json beside the file (`n_layer`, alone or
    under `model`), else it is the published one.

    Raises:
        CheckpointError: no such file, a damaged or hostile one, or weights of another network.
    """
    file = one_checkpoint(source, CHECKPOINTS)
    try:
        network, weights = convert(_read(file), iterations=_iterations(file.with_suffix(".json")))
    except CheckpointError as error:
        raise CheckpointError(f"{file}: {error}" if str(file) not in str(error) else str(error)) from None
    stepper = StepperConfig(components=network.components, axes=network.axes, history=network.history, network=network)
    stage = "chained" if network.variant == "chained" else "operator"
    state = {**stepper.build().state_dict(), **{f"network.{name}": value for name, value in weights.items()}}
    settings = {"networks": [stage], stage: {"stepper": to_plain(stepper)}}
    return {stage: ImportedModel(config=stepper, weights=state, settings=settings, extra={SCALES: FROM_DATA})}


def _read(file: Path) -> Mapping[str, Tensor]:
    if file.suffix != SAFETENSORS:
        return read_foreign_checkpoint(file).state
    try:
        tensors = read_safetensors(file.read_bytes(), file)
    except OSError as error:
        raise CheckpointError(f"{file}: cannot be read: {error}") from None
    inside = {key.removeprefix(STATE): tensor for key, tensor in tensors.items() if key.startswith(STATE)}
    return inside or tensors


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
