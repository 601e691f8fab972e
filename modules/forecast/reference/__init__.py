"""Published checkpoints under our names: one file per model, each with `recognises`, `rename` and `convert`."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from data.errors import CheckpointError


def setting(settings: Mapping[str, Any], name: str, meaning: str) -> Any:
    """The reference's own argument `name`.

    Raises:
        CheckpointError: where it was not given, though nothing in the weights tells it.
    """
    if name not in settings:
        raise CheckpointError(
            f"expected the setting {name} ({meaning}), which cannot be read from the weights; give the published run's."
        )
    return settings[name]


def weight(state: Mapping[str, Tensor], key: str) -> Tensor:
    """The tensor under `key`.

    Raises:
        CheckpointError: where there is none.
    """
    if key not in state:
        raise CheckpointError(f"expected a tensor {key}, got {sorted(state)[:8]}; is it another model's checkpoint?")
    return state[key]
