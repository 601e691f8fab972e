"""Published forecasters' checkpoints (Time-Series-Library's, and the authors' own) as forecasters of ours."""

import json
import re
from pathlib import Path
from typing import Any

from data.errors import CheckpointError
from data.foreign_checkpoint import one_checkpoint, read_weights
from modules.forecast.import_weights import ImportedForecaster, import_forecaster

CHECKPOINTS = ("*.pth", "*.pt", "*.ckpt", "*.safetensors")
ARGUMENTS = ("args.json", "config.json")
STATE = "state/"
"""Before every tensor of a network in a file that holds its inputs and outputs too."""
FOLDER_NUMBERS = {
    "sl": "seq_len", "pl": "pred_len", "dm": "d_model", "nh": "n_heads", "el": "e_layers", "df": "d_ff",
}  # fmt: skip
SHIFTED_NUMBERS = {
    "ft": "seq_len", "ll": "pred_len", "pl": "d_model", "dm": "n_heads", "nh": "e_layers", "dl": "d_ff",
}  # fmt: skip
"""In iTransformer's own repository each number stands one mark further on than it should."""
ETT_VARIATES = 7
_FOLDER = re.compile(r"_(?P<model>[A-Za-z]\w*?)_(?P<data>[A-Za-z][A-Za-z0-9-]*)_(?:ft)?(?P<features>MS|M|S)_(?=ft|sl)")
_NUMBER = re.compile(r"_([a-z]{2})(\d+)(?=_|$)")
_EMBEDDING = re.compile(r"_(?:eb|fc)(timeF|fixed|learned)(?=_|$)")


def read_reference(source: Path) -> ImportedForecaster:
    """The forecaster in a checkpoint file, or in a folder that holds one.

    Nothing in the file is executed. What the weights do not tell comes from the reference's own arguments: the name of
    the folder as Time-Series-Library gives it, `args.json` or `config.json` beside the file, and NAME.json, each
    before those named earlier; either the arguments themselves or under `config`.

    Raises:
        CheckpointError: no such file, a damaged or hostile one, weights of an unknown network, or arguments that are
            missing.
    """
    file = one_checkpoint(source, CHECKPOINTS)
    state = read_weights(file, STATE)
    try:
        return import_forecaster(state, reference_settings(file))
    except CheckpointError as error:
        raise CheckpointError(f"{file}: {error}") from None


def reference_settings(file: Path) -> dict[str, Any]:
    """The reference's arguments, as far as names of folders and JSON files beside the checkpoint tell them."""
    settings = folder_settings(file.parent.name)
    for beside in (*(file.parent / name for name in ARGUMENTS), file.with_suffix(".json")):
        if beside.is_file():
            settings |= _arguments(beside)
    return settings


def folder_settings(name: str) -> dict[str, Any]:
    """The arguments in the name that the published programs give a checkpoint's folder; empty of any other name."""
    match = _FOLDER.search("_" + name)
    if match is None:
        return {}
    found: dict[str, Any] = match.groupdict() | {"model": match["model"].rpartition("_")[2]}
    numbers = dict(_NUMBER.findall(name))
    names = SHIFTED_NUMBERS if "ft" in numbers else FOLDER_NUMBERS
    found |= {argument: int(numbers[mark]) for mark, argument in names.items() if mark in numbers}
    if match["data"].startswith("ETT"):
        found["enc_in"] = 1 if match["features"] == "S" else ETT_VARIATES
    embedding = _EMBEDDING.search(name)
    return found if embedding is None else found | {"embed": embedding.group(1)}


def _arguments(file: Path) -> dict[str, Any]:
    """The arguments in a JSON file: its keys, or those under `config`; the model's name from `file` where given."""
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{file}: cannot be read as the reference's arguments: {error}") from None
    if not isinstance(found, dict):
        raise CheckpointError(f"{file}: expected the reference's arguments as keys and values.")
    inner = found.get("config")
    if not isinstance(inner, dict):
        return found
    written = {"model": Path(found["file"]).stem} if isinstance(found.get("file"), str) else {}
    return written | inner
