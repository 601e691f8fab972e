"""Exported models: a folder of `model.safetensors`, `config.yaml` and `provenance.json`; nothing here runs a pickle.

Apart from `data.checkpoint`, so that whoever only reads a model need not wait for Lightning's import.
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import safetensors.torch
import yaml
from safetensors import SafetensorError
from torch import Tensor, nn

from data.atomic import written_folder
from data.errors import CheckpointError

WEIGHTS, CONFIG, PROVENANCE = "model.safetensors", "config.yaml", "provenance.json"


class ExportedModel(NamedTuple):
    """What an exported folder holds: all that is needed to build the model again."""

    weights: dict[str, Tensor]
    config: dict[str, Any]
    provenance: dict[str, Any]


def write_model(
    folder: Path,
    model: nn.Module | Mapping[str, Tensor],
    config: Mapping[str, Any],
    provenance: Mapping[str, Any],
) -> None:
    """Write `model.safetensors`, `config.yaml` and `provenance.json` into `folder`, which appears whole or not at all.

    Raises:
        CheckpointError: a config or provenance of other than plain values.
        DiskFullError: no space left; an earlier folder is as it was.
    """
    weights = model.state_dict() if isinstance(model, nn.Module) else model
    # Clones: safetensors refuses tensors that share memory (tied weights); each is stored under each of its names.
    plain = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in weights.items()}
    blob = safetensors.torch.save(plain, metadata={"format": "pt"})
    try:
        config_text = yaml.safe_dump(dict(config), sort_keys=False)
        sums = {WEIGHTS: hashlib.sha256(blob).hexdigest(), CONFIG: hashlib.sha256(config_text.encode()).hexdigest()}
        provenance_text = json.dumps({**provenance, "sha256": sums}, indent=2, allow_nan=False) + "\n"
    except (yaml.YAMLError, TypeError, ValueError) as error:
        raise CheckpointError(
            f"model config and provenance hold plain values (numbers, strings, lists, dictionaries), got: {error}"
        ) from error
    with written_folder(folder) as temporary:
        (temporary / WEIGHTS).write_bytes(blob)
        (temporary / CONFIG).write_text(config_text, encoding="utf-8")
        (temporary / PROVENANCE).write_text(provenance_text, encoding="utf-8")


def read_model(folder: Path) -> ExportedModel:
    """The weights, config and provenance of an exported folder.

    Raises:
        CheckpointError: a file is missing, damaged, or not what its name says.
    """
    missing = [name for name in (WEIGHTS, CONFIG, PROVENANCE) if not (folder / name).is_file()]
    if missing:
        raise CheckpointError(
            f"{folder}: expected an exported model ({WEIGHTS}, {CONFIG}, {PROVENANCE}), missing {', '.join(missing)}. "
            "Make one with: penstock export model RUN"
        )
    try:
        blob = (folder / WEIGHTS).read_bytes()
        config_bytes = (folder / CONFIG).read_bytes()
        provenance = json.loads((folder / PROVENANCE).read_text(encoding="utf-8"))
        config = yaml.safe_load(config_bytes)
    except (OSError, yaml.YAMLError, ValueError) as error:
        raise CheckpointError(f"{folder}: cannot be read: {error}. Export the model again.") from error
    if not isinstance(config, dict) or not isinstance(provenance, dict):
        raise CheckpointError(f"{folder}: {CONFIG} and {PROVENANCE} each hold a table of keys and values, got others.")
    sums = provenance.get("sha256")
    for name, content in ((WEIGHTS, blob), (CONFIG, config_bytes)):
        expected = sums.get(name) if isinstance(sums, dict) else None
        found = hashlib.sha256(content).hexdigest()
        if found != expected:
            raise CheckpointError(
                f"{folder / name}: SHA-256 is {found}, {PROVENANCE} says {expected}: the file was damaged or changed. "
                "Copy or export the model again."
            )
    return ExportedModel(read_safetensors(blob, folder / WEIGHTS), config, provenance)


def read_safetensors(blob: bytes, name: Path) -> dict[str, Tensor]:
    """The tensors in the bytes of a safetensors file; `name` is for the message.

    Raises:
        CheckpointError: not a safetensors file.
    """
    try:
        return safetensors.torch.load(blob)
    except (SafetensorError, ValueError, KeyError, TypeError, RuntimeError) as error:
        raise CheckpointError(
            f"{name}: expected a safetensors file, got: {str(error).strip().splitlines()[0][:300]}."
        ) from error
