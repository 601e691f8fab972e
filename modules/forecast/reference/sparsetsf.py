"""SparseTSF as its authors store it."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from modules.forecast.interface import WindowShape
from modules.forecast.reference.layout import Settings, State, contiguous, linear, shape_of
from modules.forecast.sparsetsf import SparseTSFConfig

SMOOTH = "conv1d.weight"


def recognises(state: Mapping[str, Tensor]) -> bool:
    """Does this state dict, by its keys, hold a SparseTSF?"""
    return SMOOTH in state and ("linear.weight" in state or "mlp.0.weight" in state)


def rename(state: Mapping[str, Tensor]) -> State:
    """Weights, or their gradients, under our names."""
    found = {"smooth.weight": state[SMOOTH]} | linear(state, "linear", "network")
    return found | linear(state, "mlp.0", "network.0") | linear(state, "mlp.2", "network.2")


def convert(
    state: Mapping[str, Tensor], settings: Mapping[str, Any]
) -> tuple[SparseTSFConfig, WindowShape, dict[str, Tensor]]:
    """Our configuration, shape and weights. The weights do not tell `period_len` and `enc_in`."""
    known = Settings(settings)
    is_linear = "linear.weight" in state
    first = shape_of(state, "linear.weight" if is_linear else "mlp.0.weight", 2)
    last = first if is_linear else shape_of(state, "mlp.2.weight", 2)
    period = known.integer("period_len")
    config = SparseTSFConfig(
        network="linear" if is_linear else "mlp",
        width=SparseTSFConfig.width if is_linear else known.agreed("d_model", first[0]),
        period=period,
    )
    shape = WindowShape(
        look_back=known.agreed("seq_len", first[1] * period),
        horizon=known.agreed("pred_len", last[0] * period),
        targets=known.integer("enc_in"),
        season=period,
    )
    return config, shape, contiguous(rename(state))
