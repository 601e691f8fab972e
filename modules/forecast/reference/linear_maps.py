"""What the converters of linear models share: one map of time for all targets, or a list with one for each."""

from collections.abc import Mapping

import torch
from torch import Tensor

from modules.forecast.interface import WindowShape
from modules.forecast.reference.layout import Settings, State, count, shape_of


def has_time_linear(state: Mapping[str, Tensor], theirs: str) -> bool:
    return f"{theirs}.weight" in state or f"{theirs}.0.weight" in state


def is_individual(state: Mapping[str, Tensor], theirs: str) -> bool:
    return f"{theirs}.0.weight" in state


def time_linear(state: Mapping[str, Tensor], theirs: str, ours: str) -> State:
    """Weight and bias; stacked along a first axis where each target has its own."""
    if not is_individual(state, theirs):
        return {f"{ours}.{kind}": state[f"{theirs}.{kind}"] for kind in ("weight", "bias")}
    targets = range(count(state, theirs + ".{}.weight"))
    return {
        f"{ours}.{kind}": torch.stack([state[f"{theirs}.{n}.{kind}"] for n in targets]) for kind in ("weight", "bias")
    }


def sizes(
    state: Mapping[str, Tensor], theirs: str, known: Settings, columns: str, targets: int | None = None
) -> WindowShape:
    """Look-back, horizon, targets: these as given, or as individual maps tell, or as the setting `columns` does."""
    individual = is_individual(state, theirs)
    horizon, look_back = shape_of(state, f"{theirs}.0.weight" if individual else f"{theirs}.weight", 2)
    if targets is None and individual:
        targets = count(state, theirs + ".{}.weight")
    return WindowShape(
        look_back=known.agreed("seq_len", look_back),
        horizon=known.agreed("pred_len", horizon),
        targets=known.integer(columns) if targets is None else known.agreed(columns, targets),
    )
