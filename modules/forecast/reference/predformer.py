"""Weights of PredFormer as its authors name them."""

import re
from collections.abc import Mapping
from math import isqrt
from typing import Any

import torch
from torch import Tensor

from data.errors import CheckpointError
from modules.forecast.predformer import ORDERS, Order, PredFormerConfig
from modules.forecast.reference.layout import Settings, contiguous, count, shape_of

_LAYER = re.compile(r"^(?P<stack>.+transformer)\.layers\.(?P<number>\d+)\.(?P<module>.+)\.(?P<kind>weight|bias)$")
_BLOCK = re.compile(r"^blocks\.(\d+)\.")
_PARTS = {
    "0.norm": "attention_norm",
    "0.fn.to_qkv": "query_key_value",
    "0.fn.to_out.0": "output",
    "1.norm": "gate_norm",
    "1.fn.fc2": "contract",
}
_ENDS = {"to_patch_embedding.1": "embedding", "mlp_head.0": "norm", "mlp_head.1": "projection"}


def recognises(state: Mapping[str, Tensor]) -> bool:
    """Whether these are PredFormer's keys."""
    return "to_patch_embedding.1.weight" in state and "mlp_head.1.weight" in state and any("fc1_g" in k for k in state)


def rename(state: Mapping[str, Tensor], *, axes: str = "", channels: int | None = None) -> dict[str, Tensor]:
    """From their names (weights or gradients) to ours.

    `axes`, such as TSST, tells which of two stacks along one axis runs first. `channels` of the film tell how pixels
    lie in a patch; without it the smallest number is taken for which patches come out square.
    """
    stacks = _stacks(state, axes)
    renamed = {f"{ours}.norm.{kind}": state[f"{theirs}.norm.{kind}"]
               for theirs, ours in stacks.items() for kind in ("weight", "bias")}  # fmt: skip
    for key, value in state.items():
        found = _LAYER.match(key)
        if found is None:
            continue
        ours, module, kind = f"{stacks[found['stack']]}.layers.{found['number']}", found["module"], found["kind"]
        if module in _PARTS:
            renamed[f"{ours}.{_PARTS[module]}.{kind}"] = value
        elif module == "1.fn.fc1_g":
            renamed[f"{ours}.expand.{kind}"] = torch.cat([value, state[key.replace("fc1_g", "fc1_x")]])
    renamed |= {f"{ours}.{k}": state[f"{theirs}.{k}"] for theirs, ours in _ENDS.items() for k in ("weight", "bias")}
    # Their patches go in with the channels of a pixel side by side, and come out channel by channel, as ours do.
    per_pixel = renamed["embedding.weight"]
    channels = channels or _fewest_channels(per_pixel.shape[1])
    renamed["embedding.weight"] = per_pixel.unflatten(1, (-1, channels)).transpose(1, 2).flatten(1)
    return renamed


def convert(state: Mapping[str, Tensor], settings: Mapping[str, Any]) -> tuple[PredFormerConfig, dict[str, Tensor]]:
    """Our configuration and weights; `settings` are those of their model: height, width, num_channels, heads, …

    A factored network comes as a single block whose stacks hold all layers, which is the same.

    Raises:
        CheckpointError: a setting that the weights do not tell is missing.
    """
    known = Settings(settings)
    order = _order(state, known)
    stacks = _stacks(state, order)
    first = next(theirs for theirs, ours in stacks.items() if ours.startswith("blocks.0."))
    channels, heads = known.integer("num_channels"), known.integer("heads")
    pixels, features = shape_of(state, "mlp_head.1.weight", 2)
    inner = shape_of(state, f"{first}.layers.0.0.fn.to_qkv.weight", 2)[0] // 3
    config = PredFormerConfig(
        channels=channels,
        height=known.integer("height"),
        width=known.integer("width"),
        seen=known.integer("pre_seq"),
        predicted=known.integer("after_seq"),
        patch=known.agreed("patch_size", isqrt(pixels // channels)),
        features=known.agreed("dim", features),
        heads=heads,
        head_features=known.agreed("dim_head", inner // heads),
        expansion=shape_of(state, f"{first}.layers.0.1.fn.fc2.weight", 2)[1] // features,
        order=order,
        blocks=len({ours.split(".")[1] for ours in stacks.values()}),
        layers=count(state, first + ".layers.{}.0.norm.weight"),
        dropout=known.number("dropout", 0.0),
        attention_dropout=known.number("attn_dropout", 0.0),
        drop_path=known.number("drop_path", 0.0),
    )
    return config, contiguous(rename(state, axes=ORDERS[order], channels=channels))


def _stacks(state: Mapping[str, Tensor], axes: str) -> dict[str, str]:
    """Our name of each of their stacks: `blocks.0.T1` of `blocks.0.ts_temporal_transformer`.

    Of two along one axis the one whose prefix has the first letters of `axes` comes first.
    """
    theirs = dict.fromkeys(found["stack"] for key in state if (found := _LAYER.match(key)))
    stacks: dict[str, str] = {}
    for name in sorted(theirs, key=lambda name: not _BLOCK.sub("", name).startswith((axes or "TS")[:2].lower())):
        block = _BLOCK.match(name)
        along = "T" if "temporal" in name else "S" if "spa" in name else "F"
        ours = f"blocks.{block[1] if block else 0}.{along}"
        stacks[name] = f"{ours}{sum(other.startswith(ours) for other in stacks.values()) + 1}"
    return stacks


def _order(state: Mapping[str, Tensor], known: Settings) -> Order:
    """The order of a block's stacks: from those that are there, and the name of the variant, which ends with it."""
    there = sorted(ours.split(".")[2][0] for ours in _stacks(state, "").values() if ours.startswith("blocks.0."))
    variant = known.text("variant", "")
    fitting = [order for order, axes in ORDERS.items() if sorted(axes) == there and not order.startswith("factored")]
    named = [order for order in fitting if variant.upper().replace("_", "").endswith(order)] or fitting
    found = named[0] if len(named) == 1 else None
    if found is None:
        raise CheckpointError(
            f"PredFormer: the weights hold stacks along {''.join(there) or 'nothing'}; expected a setting variant that "
            f"ends with their order, such as PredFormer_Quadruplet_TSST, got {variant!r}."
        )
    return found


def _fewest_channels(pixels: int) -> int:
    return next(n for n in range(1, pixels + 1) if pixels % n == 0 and isqrt(pixels // n) ** 2 == pixels // n)
