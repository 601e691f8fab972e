"""PatchTST as its authors store it."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from data.errors import CheckpointError
from modules.forecast.interface import WindowShape
from modules.forecast.patchtst import PatchTSTConfig
from modules.forecast.reference.layout import (
    Settings,
    State,
    contiguous,
    count,
    flattened_head,
    linear,
    shape_of,
    stacked,
    stride_of,
)

WHOLE = ("model",)
PARTS = ("model_res", "model_trend")
"""With series decomposition: the networks of rest and trend, in our order."""
LAYER_PARTS = {"ff.0": "feed_forward.expand", "ff.3": "feed_forward.contract", "self_attn.to_out.0": "attention.output"}
NORMS = {"norm_attn.1": "attention_norm", "norm_ffn.1": "feed_forward_norm"}


def recognises(state: Mapping[str, Tensor]) -> bool:
    """Does this state dict, by its keys, hold the authors' PatchTST?"""
    return all(f"{part}.backbone.W_P.weight" in state for part in _parts(state))


def rename(state: Mapping[str, Tensor]) -> State:
    """Weights, or their gradients, under our names."""
    found: State = {}
    for number, part in enumerate(_parts(state)):
        found |= _network(state, part, f"networks.{number}")
    return found


def convert(
    state: Mapping[str, Tensor], settings: Mapping[str, Any]
) -> tuple[PatchTSTConfig, WindowShape, dict[str, Tensor]]:
    """Our configuration, shape and weights.

    The weights do not tell `seq_len`, `n_heads`, `subtract_last`, and `enc_in` where all variates share everything.
    """
    known = Settings(settings)
    part = _parts(state)[0]
    if f"{part}.backbone.encoder.layers.0.norm_attn.1.running_mean" not in state:
        raise CheckpointError("this PatchTST has layer norms; only the published one with batch norms can be read.")
    width, patch = shape_of(state, f"{part}.backbone.W_P.weight", 2)
    tokens = shape_of(state, f"{part}.backbone.W_pos", 2)[0]
    individual = f"{part}.head.linears.0.weight" in state
    horizon = shape_of(state, f"{part}.head.linears.0.bias" if individual else f"{part}.head.linear.bias", 1)[0]
    affine = f"{part}.revin_layer.affine_weight" in state
    look_back = known.integer("seq_len")
    repeats = known.text("padding_patch", "end") == "end"
    layer = part + ".backbone.encoder.layers.{}"
    config = PatchTSTConfig(
        patch=known.agreed("patch_len", patch),
        stride=stride_of(known, look_back=look_back, patch=patch, tokens=tokens, repeats=repeats),
        repeat_newest=repeats,
        drop_newest=True,
        width=known.agreed("d_model", width),
        heads=known.integer("n_heads"),
        layers=known.agreed("e_layers", count(state, layer + ".ff.0.weight")),
        feed_forward=known.agreed("d_ff", shape_of(state, f"{layer.format(0)}.ff.0.weight", 2)[0]),
        dropout=known.number("dropout", 0.2),
        head_dropout=known.number("head_dropout", 0.0),
        normalise=affine or bool(known.integer("revin", 1)),
        affine=affine,
        centre="last" if known.integer("subtract_last", 0) else "mean",
        individual=individual,
        moving_average=known.integer("kernel_size", 25) if part in PARTS else 0,
    )
    shape = WindowShape(
        look_back=look_back, horizon=known.agreed("pred_len", horizon), targets=_targets(state, part, known)
    )
    return config, shape, contiguous(rename(state))


def _parts(state: Mapping[str, Tensor]) -> tuple[str, ...]:
    return PARTS if any(key.startswith("model_trend.") for key in state) else WHOLE


def _targets(state: Mapping[str, Tensor], part: str, known: Settings) -> int:
    if f"{part}.revin_layer.affine_weight" in state:
        return known.agreed("enc_in", shape_of(state, f"{part}.revin_layer.affine_weight", 1)[0])
    if f"{part}.head.linears.0.weight" in state:
        return known.agreed("enc_in", count(state, part + ".head.linears.{}.weight"))
    return known.integer("enc_in")


def _network(state: Mapping[str, Tensor], part: str, ours: str) -> State:
    backbone = f"{part}.backbone"
    found = linear(state, f"{backbone}.W_P", f"{ours}.embedding") | {
        f"{ours}.positions": state[f"{backbone}.W_pos"],
    }
    for kind in ("weight", "bias"):
        if f"{part}.revin_layer.affine_{kind}" in state:
            found[f"{ours}.affine.{kind}"] = state[f"{part}.revin_layer.affine_{kind}"]
    layer = backbone + ".encoder.layers.{}"
    for n in range(count(state, layer + ".ff.0.weight")):
        theirs, our = layer.format(n), f"{ours}.layers.{n}"
        names = [f"{theirs}.self_attn.W_{part}" for part in "QKV"]
        found |= stacked(state, names, f"{our}.attention.query_key_value")
        for their_part, our_part in LAYER_PARTS.items():
            found |= linear(state, f"{theirs}.{their_part}", f"{our}.{our_part}")
        scale = f"{theirs}.self_attn.sdp_attn.scale"
        if scale in state:  # a constant, without a gradient
            found[f"{our}.attention.scale"] = state[scale]
        for norm, our_norm in NORMS.items():
            prefix = f"{theirs}.{norm}"
            found |= {
                f"{our}.{our_norm}{key.removeprefix(prefix)}": state[key]
                for key in state
                if key.startswith(prefix + ".")
            }
    return found | _head(state, f"{part}.head", f"{ours}.projection", state[f"{backbone}.W_P.weight"].shape[0])


def _head(state: Mapping[str, Tensor], theirs: str, ours: str, width: int) -> State:
    if f"{theirs}.linear.weight" in state:
        weight = flattened_head(state[f"{theirs}.linear.weight"], width)
        return {f"{ours}.linear.weight": weight, f"{ours}.linear.bias": state[f"{theirs}.linear.bias"]}
    numbers = range(count(state, theirs + ".linears.{}.weight"))
    weights = torch.stack([state[f"{theirs}.linears.{n}.weight"] for n in numbers])
    return {
        f"{ours}.weight": flattened_head(weights, width),
        f"{ours}.bias": torch.stack([state[f"{theirs}.linears.{n}.bias"] for n in numbers]),
    }
