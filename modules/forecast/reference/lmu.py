"""LMUFormer's non-spiking memory cell as its authors' repository stores it."""

from collections.abc import Mapping

from torch import Tensor

from modules.forecast.reference.layout import State, linear


def recognises(state: Mapping[str, Tensor]) -> bool:
    """Does this state dict, by its keys, hold the memory cell?"""
    return all(key in state for key in ("W_u.weight", "W_h.weight"))


def rename(state: Mapping[str, Tensor]) -> State:
    """Weights, or their gradients, under our names; without the matrices that follow from order and theta."""
    return linear(state, "W_u", "signal") | linear(state, "W_h", "hidden")
