"""The published system's weights as models of a shape run."""

import json
from collections.abc import Mapping
from pathlib import Path

from configs.load import to_plain
from data.errors import CheckpointError
from data.model_folder import read_safetensors
from flows.domain import ImportedModel
from modules.shape.import_weights import component_of, import_component, join_shards, scheduler_config
from modules.shape.transformer import ShapeTransformerConfig
from modules.shape.vae import ShapeVAEConfig

CONFIG, WEIGHTS = "config.json", "*.safetensors"
STAGES = {"vae": "vae", "transformer": "flow"}


def import_triposg(source: Path) -> Mapping[str, ImportedModel]:
    """The models under a folder as published (`vae/` and `transformer/`, each config.json and *.safetensors; the
    schedule from `scheduler/`), or in one of these folders, or one file of weights beside its config.json or NAME.json.

    Raises:
        CheckpointError: a config or weights are missing, damaged, or of another network.
    """
    folders = [source.parent] if source.is_file() else sorted({path.parent for path in source.rglob(WEIGHTS)})
    found = {}
    for folder in folders:
        if source.is_dir() and len(folders) > 1 and folder.name not in STAGES:
            continue  # another part of the pipeline (its image encoder) that we do not import
        files = [source] if source.is_file() else sorted(folder.glob(WEIGHTS))
        state = join_shards(read_safetensors(file.read_bytes(), file) for file in files)
        config, weights = import_component(state, _reference(_config_of(source, folder)))
        stage = STAGES[component_of(state)]
        settings = _settings(config) | (_schedule(folder.parent / "scheduler" / CONFIG) if stage == "flow" else {})
        found[stage] = ImportedModel(config=config, weights=weights, settings=settings)
    if not found:
        raise CheckpointError(f"{source}: expected folders with {CONFIG} and {WEIGHTS}; found none.")
    return found


def _settings(config: ShapeVAEConfig | ShapeTransformerConfig) -> dict[str, object]:
    """What the run's configuration says; the other network's latents follow."""
    network = to_plain(config)
    if isinstance(config, ShapeVAEConfig):
        # Needed by a training only, and published weights do not say it: the model's own config keeps null.
        network["truncation"] = config.truncation or 0.05
        return {"vae.network": network, "flow.network.latent_channels": config.latent_channels}
    return {"flow.network": network, "vae.network.latent_channels": config.latent_channels}


def _config_of(source: Path, folder: Path) -> Path:
    """config.json in the folder, or for a single file of weights NAME.json beside NAME[.weights].safetensors."""
    name = source.name.removesuffix(".safetensors").removesuffix(".weights")
    named = folder / f"{name}.json"
    return named if source.is_file() and named.is_file() else folder / CONFIG


def _schedule(path: Path) -> dict[str, object]:
    """How the published pipeline samples, where its scheduler's config is at hand."""
    if not path.is_file():
        return {}
    sampling = scheduler_config(_reference(path))
    return {"sample.steps": sampling.steps, "sample.shift": sampling.shift, "sample.guidance": sampling.guidance}


def _reference(path: Path) -> dict[str, object]:
    """The published constructor arguments; keys that begin with an underscore are the library's own."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path}: expected the published config beside the weights ({error}).") from None
    if not isinstance(values, dict):
        raise CheckpointError(f"{path}: expected keys and values, got {type(values).__name__}.")
    return {key: value for key, value in values.items() if not key.startswith("_")}
