"""Weights of xPatch as its authors name them."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from modules.forecast.interface import WindowShape
from modules.forecast.reference.layout import Settings, contiguous, shape_of
from modules.forecast.xpatch import Smoothing, XPatchConfig

SMOOTHING: dict[str, Smoothing] = {"ema": "exponential", "dema": "double", "reg": "none"}
_MODULES = {
    "revin_layer": "affine",
    "net.fc1": "patches.embed",
    "net.bn1": "patches.embed_norm",
    "net.conv1": "patches.depthwise",
    "net.bn2": "patches.depthwise_norm",
    "net.fc2": "patches.residual",
    "net.conv2": "patches.pointwise",
    "net.bn3": "patches.pointwise_norm",
    "net.fc3": "patches.expand",
    "net.fc4": "patches.contract",
    "net.fc5": "trend.first",
    "net.ln1": "trend.first_norm",
    "net.fc6": "trend.second",
    "net.ln2": "trend.second_norm",
    "net.fc7": "trend.third",
    "net.fc8": "output",
}


def recognises(state: Mapping[str, Tensor]) -> bool:
    """Whether these are xPatch's keys."""
    return {"net.fc8.weight", "net.conv1.weight", "net.bn3.weight"} <= set(state)


def rename(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """From their names (weights or gradients) to ours; their 1×1 convolution is a linear map of the patches."""
    renamed = {}
    for key, value in state.items():
        module, _, name = key.rpartition(".")
        if module in _MODULES:
            value = value.squeeze(-1) if key == "net.conv2.weight" else value
            renamed[f"{_MODULES[module]}.{name.removeprefix('affine_')}"] = value
    return renamed


def convert(
    state: Mapping[str, Tensor], settings: Mapping[str, Any]
) -> tuple[XPatchConfig, WindowShape, dict[str, Tensor]]:
    """Our configuration, shape and weights.

    Raises:
        CheckpointError: a setting that the weights do not tell is missing or unknown.
    """
    known = Settings(settings)
    affine = "revin_layer.affine_weight"
    config = XPatchConfig(
        patch=known.agreed("patch_len", shape_of(state, "net.fc1.weight", 2)[1]),
        stride=known.integer("stride"),
        pad=known.text("padding_patch", "end") == "end",
        smoothing=SMOOTHING[known.one_of("ma_type", "ema", SMOOTHING)],
        level=known.number("alpha", 0.3),
        slope=known.number("beta", 0.3),
        normalise=bool(known.integer("revin", 1)),
    )
    shape = WindowShape(
        look_back=known.agreed("seq_len", shape_of(state, "net.fc5.weight", 2)[1]),
        horizon=known.agreed("pred_len", shape_of(state, "net.fc7.weight", 2)[0]),
        targets=known.agreed("enc_in", shape_of(state, affine, 1)[0]) if affine in state else known.integer("enc_in"),
    )
    weights = rename(state)
    if not config.normalise:
        weights = {key: value for key, value in weights.items() if not key.startswith("affine.")}
    return config, shape, _own(weights)


def _own(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Floating-point tensors as the importer wants them; the count of batches stays a whole number."""
    floating = contiguous({key: value for key, value in weights.items() if value.is_floating_point()})
    return {**{key: value.clone() for key, value in weights.items()}, **floating}
