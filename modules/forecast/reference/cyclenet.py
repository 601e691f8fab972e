"""CycleNet as its authors store it."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from modules.forecast.cyclenet import CycleNetConfig
from modules.forecast.interface import WindowShape
from modules.forecast.reference.layout import Settings, State, contiguous, linear, shape_of

CYCLE = "cycleQueue.data"


def recognises(state: Mapping[str, Tensor]) -> bool:
    """Does this state dict, by its keys, hold a CycleNet?"""
    return CYCLE in state


def rename(state: Mapping[str, Tensor]) -> State:
    """Weights, or their gradients, under our names."""
    found = {"cycle": state[CYCLE]}
    if "model.weight" in state:
        return found | linear(state, "model", "network")
    return found | linear(state, "model.0", "network.hidden") | linear(state, "model.2", "network.output")


def convert(
    state: Mapping[str, Tensor], settings: Mapping[str, Any]
) -> tuple[CycleNetConfig, WindowShape, dict[str, Tensor]]:
    """Our configuration, shape and weights; all but `use_revin` (1 where it is not given) can be read from these."""
    known = Settings(settings)
    cycle, targets = shape_of(state, CYCLE, 2)
    is_linear = "model.weight" in state
    first = shape_of(state, "model.weight" if is_linear else "model.0.weight", 2)
    last = first if is_linear else shape_of(state, "model.2.weight", 2)
    config = CycleNetConfig(
        network="linear" if is_linear else "mlp",
        width=CycleNetConfig.width if is_linear else known.agreed("d_model", first[0]),
        cycle=known.agreed("cycle", cycle),
        normalise=bool(known.integer("use_revin", 1)),
    )
    shape = WindowShape(
        look_back=known.agreed("seq_len", first[1]),
        horizon=known.agreed("pred_len", last[0]),
        targets=known.agreed("enc_in", targets),
        season=cycle,
    )
    return config, shape, contiguous(rename(state))
