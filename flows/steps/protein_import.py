"""The published frame flows' weights (FrameFlow, QFlow, ReQFlow) as the model of a protein run."""

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
from modules.protein.import_weights import import_reqflow

CHECKPOINTS = ("*.ckpt", "*.pt", "*.pth")
SAFETENSORS = ".safetensors"


def import_reqflow_file(source: Path) -> Mapping[str, ImportedModel]:
    """The model in a Lightning checkpoint as published, in a bare state dict, or in a folder that holds one of these.

    Nothing in the file is executed. A .safetensors file under the original's key names is read as well, with the
    original's configuration from NAME.json beside it where there is one.

    Raises:
        CheckpointError: no such file, a damaged or hostile one, or weights of another network.
    """
    file = one_checkpoint(source, CHECKPOINTS)
    state, hyper = _read(file)
    try:
        config, weights = import_reqflow(state, hyper or None)
    except CheckpointError as error:
        raise CheckpointError(f"{file}: {error}") from None
    return {"flow": ImportedModel(config=config, weights=weights, settings={"flow.network": to_plain(config)})}


def _read(file: Path) -> tuple[Mapping[str, Tensor], dict[str, Any]]:
    if file.suffix != SAFETENSORS:
        checkpoint = read_foreign_checkpoint(file)
        return checkpoint.state, checkpoint.hyper
    try:
        state = read_safetensors(file.read_bytes(), file)
        beside = file.with_suffix(".json")
        hyper = json.loads(beside.read_text(encoding="utf-8")) if beside.is_file() else {}
    except CheckpointError:
        raise
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{file}: cannot be read with its configuration beside it: {error}") from None
    if not isinstance(hyper, dict):
        raise CheckpointError(f"{beside}: expected the original's configuration as keys and values.")
    return state, hyper
