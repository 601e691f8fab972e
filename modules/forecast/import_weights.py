"""Weights of published forecasters to ours, whichever of the known networks they are."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from data.errors import CheckpointError, ConfigError
from modules.forecast.heads import Head
from modules.forecast.interface import WindowShape
from modules.forecast.network import ModelConfig
from modules.forecast.reference import (
    cyclenet,
    dlinear,
    itransformer,
    nlinear,
    patchtst,
    patchtst_tslib,
    rlinear,
    sparsetsf,
    timemixer,
    timexer,
    xpatch,
)

PARALLEL = "module."
"""What DataParallel puts before every key."""

Recognises = Callable[[Mapping[str, Tensor]], bool]
Convert = Callable[[Mapping[str, Tensor], Mapping[str, Any]], tuple[ModelConfig, WindowShape, dict[str, Tensor]]]


@dataclass(frozen=True)
class ImportedForecaster:
    """A published forecaster in our form; the weights load into `model_config.build(shape, Head())`."""

    model_config: ModelConfig
    shape: WindowShape
    weights: dict[str, Tensor]
    kind: str
    """Which of the forecasters it is, in small letters: patchtst, itransformer, …"""


KINDS: dict[str, tuple[Recognises, Convert]] = {
    "iTransformer": (itransformer.recognises, itransformer.convert),
    "PatchTST": (patchtst.recognises, patchtst.convert),
    "PatchTST (Time-Series-Library)": (patchtst_tslib.recognises, patchtst_tslib.convert),
    "TimeXer": (timexer.recognises, timexer.convert),
    "TimeMixer": (timemixer.recognises, timemixer.convert),
    "xPatch": (xpatch.recognises, xpatch.convert),
    "CycleNet": (cyclenet.recognises, cyclenet.convert),
    "SparseTSF": (sparsetsf.recognises, sparsetsf.convert),
    "DLinear": (dlinear.recognises, dlinear.convert),
    "RLinear": (rlinear.recognises, rlinear.convert),
    "NLinear": (nlinear.recognises, nlinear.convert),
}
"""Networks by name, asked in this order; what stands in brackets tells two forms of one forecaster apart."""


def import_forecaster(state: Mapping[str, Tensor], settings: Mapping[str, Any]) -> ImportedForecaster:
    """The network that these tensors are, under our names.

    Args:
        state: the original's tensors under its own key names, with or without the prefix of DataParallel.
        settings: the original's arguments under its own names, for what the tensors do not tell.

    Raises:
        CheckpointError: an unknown network, a setting that is missing or contradicts the tensors, or tensors that are
            missing, too many, or of the wrong shape.
    """
    if state and all(key.startswith(PARALLEL) for key in state):
        state = {key.removeprefix(PARALLEL): tensor for key, tensor in state.items()}
    name = _recognised(state, settings)
    try:
        config, shape, weights = KINDS[name][1](state, settings)
        _check_fit(config, shape, weights)
    except (CheckpointError, ConfigError) as error:
        raise CheckpointError(f"{name}: {error}") from None
    except (KeyError, IndexError, RuntimeError, ValueError) as error:
        raise CheckpointError(f"{name}: a tensor is missing or of another shape than its kind has: {error}") from None
    return ImportedForecaster(config, shape, weights, name.partition(" ")[0].lower())


def _recognised(state: Mapping[str, Tensor], settings: Mapping[str, Any]) -> str:
    """By the keys; by the name in the settings where two networks have the same."""
    found = [name for name, (recognises, _) in KINDS.items() if recognises(state)]
    if not found:
        raise CheckpointError(
            f"these weights are of none of the networks that can be read ({', '.join(KINDS)}); they begin with "
            f"{', '.join(sorted(state)[:6]) or 'nothing'}."
        )
    named = str(settings.get("model", "")).lower()
    if found[0] == "NLinear" and named == "rlinear":  # its normalisation is what tells them apart, and may be off
        return "RLinear"
    return found[0]


def _check_fit(config: ModelConfig, shape: WindowShape, weights: Mapping[str, Tensor]) -> None:
    with torch.device("meta"):
        wanted = {key: tuple(tensor.shape) for key, tensor in config.build(shape, Head()).state_dict().items()}
    lost, unknown = sorted(wanted.keys() - weights.keys()), sorted(weights.keys() - wanted.keys())
    if lost or unknown:
        raise CheckpointError(
            f"after conversion these tensors are missing: {', '.join(lost[:6]) or 'none'}; these are too many: "
            f"{', '.join(unknown[:6]) or 'none'}. Check that the file is whole and its settings are its own."
        )
    for key, size in wanted.items():
        if tuple(weights[key].shape) != size:
            raise CheckpointError(
                f"{key} comes out in the shape {tuple(weights[key].shape)} instead of {size}, which the other tensors "
                f"and the settings ask for; check that they belong together."
            )
