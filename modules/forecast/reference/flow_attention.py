"""Flow attention with its four projections, as the core file of its authors' repository stores it."""

from collections.abc import Mapping

from torch import Tensor

from modules.forecast.reference.layout import State, linear

NAMES = {f"{theirs}_projection": ours for theirs, ours in
         (("query", "query"), ("key", "key"), ("value", "value"), ("out", "output"))}  # fmt: skip


def recognises(state: Mapping[str, Tensor]) -> bool:
    """Does this state dict, by its keys, hold the projections and nothing else?"""
    return {key.rpartition(".")[0] for key in state} == set(NAMES)


def rename(state: Mapping[str, Tensor]) -> State:
    """Weights, or their gradients, under our names."""
    found: State = {}
    for theirs, ours in NAMES.items():
        found |= linear(state, theirs, ours)
    return found
