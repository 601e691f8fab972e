"""What the converters share: settings under the reference's argument names, and how its encoder layers lie in ours."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from data.errors import CheckpointError

State = dict[str, Tensor]

LAYER_PARTS = {
    "conv1": "feed_forward.expand",
    "conv2": "feed_forward.contract",
    "norm1": "attention_norm",
    "norm2": "feed_forward_norm",
}
"""Of the layers that Time-Series-Library and the iTransformer repository share."""
CALENDAR_FEATURES = {"s": 6, "t": 5, "min": 5, "h": 4, "b": 3, "d": 3, "w": 2, "m": 1, "me": 1}
"""Time features by pandas frequency, as Time-Series-Library makes them."""


class Settings:
    """The reference's arguments, where the weights do not tell.

    Raises:
        CheckpointError: of one that is asked for and missing or of another kind, naming it; of one that contradicts the
            weights.
    """

    def __init__(self, values: Mapping[str, Any]) -> None:
        self.values = values

    def integer(self, name: str, default: int | None = None) -> int:
        value = self._value(name, default, "a whole number")
        if isinstance(value, bool | int):
            return int(value)
        if isinstance(value, float) and value.is_integer():
            return int(value)
        raise CheckpointError(f"the setting {name} must be a whole number, got {value!r}.")

    def number(self, name: str, default: float) -> float:
        value = self._value(name, default, "a number")
        if isinstance(value, int | float) and not isinstance(value, bool):
            return float(value)
        raise CheckpointError(f"the setting {name} must be a number, got {value!r}.")

    def text(self, name: str, default: str) -> str:
        return str(self._value(name, default, "text"))

    def one_of(self, name: str, default: str, choices: Mapping[str, Any]) -> str:
        """A text that is one of `choices`, in small letters."""
        value = self.text(name, default).lower()
        if value not in choices:
            raise CheckpointError(f"the setting {name} must be one of {', '.join(choices)}, got {value!r}.")
        return value

    def agreed(self, name: str, found: int) -> int:
        """What the weights tell, held against the setting of that name where there is one."""
        if name in self.values and self.integer(name) != found:
            raise CheckpointError(
                f"the weights say {name} = {found}, the settings {self.values[name]!r}; do they belong together?"
            )
        return found

    def _value(self, name: str, default: Any, kind: str) -> Any:
        value = self.values.get(name, default)
        if value is None:
            raise CheckpointError(
                f"the weights do not tell {name} ({kind}) and the settings have none; put it into a JSON file of the "
                f"reference's arguments beside the weights."
            )
        return value

    def calendar(self) -> int:
        """Time features per step, by `embed` and `freq`."""
        frequency = self.text("freq", "h").lstrip("0123456789").lower()
        if self.text("embed", "timeF") == "timeF":
            return CALENDAR_FEATURES.get(frequency, 4)
        return 5 if frequency in ("t", "min") else 4


def shape_of(state: Mapping[str, Tensor], key: str, axes: int) -> tuple[int, ...]:
    """The shape of a tensor that must be there and have so many axes.

    Raises:
        CheckpointError: it is missing, or of another kind.
    """
    if key not in state:
        raise CheckpointError(f"the weights lack {key}; check that the file is whole.")
    if state[key].ndim != axes:
        raise CheckpointError(f"{key} has {state[key].ndim} axes instead of {axes}.")
    return tuple(state[key].shape)


def count(state: Mapping[str, Tensor], pattern: str) -> int:
    """How many numbers from 0 on give a key that is there."""
    number = 0
    while pattern.format(number) in state:
        number += 1
    return number


def linear(state: Mapping[str, Tensor], theirs: str, ours: str) -> State:
    """A linear layer, or a convolution of width 1, that is one; without bias where it has none."""
    found = {f"{ours}.{kind}": state[key] for kind in ("weight", "bias") if (key := f"{theirs}.{kind}") in state}
    return {key: tensor[..., 0] if tensor.ndim == 3 else tensor for key, tensor in found.items()}


def stacked(state: Mapping[str, Tensor], theirs: list[str], ours: str) -> State:
    """Several linear layers of the same input as one, rows below each other."""
    return {
        f"{ours}.{kind}": torch.cat([state[f"{name}.{kind}"] for name in theirs])
        for kind in ("weight", "bias")
        if all(f"{name}.{kind}" in state for name in theirs)
    }


def encoder_layer(state: Mapping[str, Tensor], theirs: str, ours: str) -> State:
    """One post-norm layer."""
    attention = f"{theirs}.attention"
    names = [f"{attention}.{part}_projection" for part in ("query", "key", "value")]
    found = stacked(state, names, f"{ours}.attention.query_key_value")
    found |= linear(state, f"{attention}.out_projection", f"{ours}.attention.output")
    for part, our_part in LAYER_PARTS.items():
        found |= linear(state, f"{theirs}.{part}", f"{ours}.{our_part}")
    return found


def flattened_head(weight: Tensor, width: int) -> Tensor:
    """The columns of a head's matrix [rows, width · tokens] put in our order, token by token."""
    return weight.unflatten(-1, (width, -1)).transpose(-2, -1).flatten(-2)


def contiguous(state: State) -> State:
    """The tensors, in float32 where they are no counts, each with memory of its own."""
    kept = {key: tensor.detach() for key, tensor in state.items()}
    return {
        key: (tensor.float() if tensor.is_floating_point() else tensor).contiguous().clone()
        for key, tensor in kept.items()
    }


def stride_of(known: Settings, *, look_back: int, patch: int, tokens: int, repeats: bool) -> int:
    """Steps between patches: that of the settings or half a patch, where it makes so many tokens, else the first that
    does.

    Args:
        repeats: the newest value is repeated `stride` times before the patches are cut.

    Raises:
        CheckpointError: none does.
    """
    named = [known.integer("stride")] if "stride" in known.values else []
    for stride in (*named, max(patch // 2, 1), *range(1, look_back + 1)):
        if look_back >= patch and (look_back - patch) // stride + 1 + repeats == tokens:
            return stride
    raise CheckpointError(
        f"no stride cuts {look_back} steps into {tokens} patches of {patch}; check seq_len in the settings."
    )
