"""Weights of TimeMixer as Time-Series-Library names them."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from data.errors import CheckpointError
from modules.forecast.interface import WindowShape
from modules.forecast.reference.layout import Settings, contiguous, count, shape_of
from modules.forecast.timemixer import TimeMixerConfig

POOLING = {"avg": "mean", "max": "max"}
_PARTS = {
    "mixing_multi_scale_season.down_sampling_layers": "season_mixing.steps",
    "mixing_multi_scale_trend.up_sampling_layers": "trend_mixing.steps",
    "out_cross_layer": "after",
    "cross_layer": "before",
}
_HEADS = {
    "predict_layers": "predictors",
    "projection_layer": "projection",
    "out_res_layers": "trends.inner",
    "regression_layers": "trends.outer",
}


def recognises(state: Mapping[str, Tensor]) -> bool:
    """Whether these are TimeMixer's keys."""
    return any("mixing_multi_scale_season" in key for key in state) and "projection_layer.weight" in state


def rename(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """From their names (weights or gradients) to ours, without what their network holds and never uses."""
    shared = any(".cross_layer." in key for key in state)
    renamed = {}
    for key, value in state.items():
        ours = _renamed(key, shared)
        if ours == "embedding.weight":
            value = value.transpose(1, 2).flatten(1)  # [D, column, neighbour] -> [D, neighbour · column]
        if ours is not None:
            renamed[ours] = value
    return renamed


def _renamed(key: str, shared: bool) -> str | None:
    if key.startswith("pdm_blocks."):
        _, number, rest = key.split(".", 2)
        for theirs, ours in _PARTS.items():
            if rest.startswith(theirs + "."):
                unused = shared and theirs == "out_cross_layer"
                return None if unused else f"blocks.{number}.{ours}{rest.removeprefix(theirs)}"
        return None  # a layer norm that no forward pass calls
    if key.startswith("normalize_layers."):
        _, number, rest = key.split(".", 2)
        return f"affines.{number}.{rest.removeprefix('affine_')}"
    if key == "enc_embedding.value_embedding.tokenConv.weight":
        return "embedding.weight"
    if key == "enc_embedding.temporal_embedding.embed.weight":
        return "calendar.weight"
    name, _, rest = key.partition(".")
    return f"{_HEADS[name]}.{rest}" if name in _HEADS else None


def convert(
    state: Mapping[str, Tensor], settings: Mapping[str, Any]
) -> tuple[TimeMixerConfig, WindowShape, dict[str, Tensor]]:
    """Our configuration, shape and weights.

    Raises:
        CheckpointError: a setting that the weights do not tell is missing, or one that cannot be imported.
    """
    known = Settings(settings)
    _check_importable(known)
    scales = count(state, "predict_layers.{}.weight")
    horizon, look_back = shape_of(state, "predict_layers.0.weight", 2)
    shared = any(".cross_layer." in key for key in state)
    config = TimeMixerConfig(
        width=known.agreed("d_model", shape_of(state, "projection_layer.weight", 2)[1]),
        feed_forward=known.agreed("d_ff", shape_of(state, "pdm_blocks.0.out_cross_layer.0.weight", 2)[0]),
        layers=known.agreed("e_layers", count(state, "pdm_blocks.{}.out_cross_layer.0.weight")),
        scales=known.agreed("down_sampling_layers", scales - 1) + 1,
        factor=known.integer("down_sampling_window") if scales > 1 else 2,
        pooling="max" if known.one_of("down_sampling_method", "avg", POOLING) == "max" else "mean",
        moving_average=known.integer("moving_avg"),
        channel_independent=not shared,
        normalise=bool(known.integer("use_norm", 1)),
        dropout=known.number("dropout", 0.1),
    )
    marks = "enc_embedding.temporal_embedding.embed.weight"
    shape = WindowShape(
        look_back=known.agreed("seq_len", look_back),
        horizon=known.agreed("pred_len", horizon),
        targets=known.agreed("enc_in", shape_of(state, "normalize_layers.0.affine_weight", 1)[0]),
        calendar=shape_of(state, marks, 2)[1] if marks in state else 0,
    )
    weights = rename(state)
    if not config.normalise:
        weights = {key: value for key, value in weights.items() if not key.startswith("affines.")}
    return config, shape, contiguous(weights)


def _check_importable(known: Settings) -> None:
    if known.text("decomp_method", "moving_avg") != "moving_avg":
        raise CheckpointError(
            f"TimeMixer: expected decomp_method moving_avg, got {known.values['decomp_method']}: the reference takes "
            "its frequencies along the features and across the windows of a batch. It cannot be imported."
        )
    if known.text("down_sampling_method", "avg") == "conv":
        raise CheckpointError(
            "TimeMixer: expected down_sampling_method avg or max, got conv, whose kernel the reference draws anew at "
            "every call and does not store. It cannot be imported."
        )
