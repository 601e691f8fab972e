"""Weights of the published IFactFormer networks to ours: a change of names, the variant told from the keys.

Pure functions of a state dict under the original key names. All sizes come from the tensors; only the number of
iterations is nowhere in them.
"""

from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor

from data.errors import CheckpointError, ConfigError
from modules.turbulence.ifactformer import IFactFormerConfig, Variant

PARALLEL = "module."
"""What DataParallel puts before every key."""
PUBLISHED_ITERATIONS = 10
AXES = "xyz"
FIRST = "encoder.layers.0.1"
"""The attention block of the first weight set."""
OUTSIDE = {
    "to_in.0.bias": "lift_bias",
    "to_in.0.weight": "lift_weight",
    "to_in.2.weight": "lift.weight",
    "simple_to_out.1.weight": "head_expand.weight",
    "simple_to_out.3.weight": "head.weight",
    "simple_to_out.3.bias": "head.bias",
}
BLOCK = {
    "in_norm.weight": "norm.weight",
    "in_norm.bias": "norm.bias",
    "to_v.weight": "to_v.weight",
    "to_in.weight": "pooled.weight",
}
AXIS = {
    "to_in.weight": "input.weight",
    "out_ffn.norm.weight": "norm.weight",
    "out_ffn.norm.bias": "norm.bias",
    "out_ffn.fn.net.0.weight": "expand.weight",
    "out_ffn.fn.net.0.bias": "expand.bias",
    "out_ffn.fn.net.3.weight": "contract.weight",
    "out_ffn.fn.net.3.bias": "contract.bias",
}
OUTPUT: dict[bool, Sequence[str]] = {
    True: ("to_out.1.weight", "to_out.3.weight", "to_out_1.0.weight", "to_out_1.2.weight"),
    False: ("to_out.2.weight", "to_out.4.weight"),
}
"""Linear maps of the output in order, by whether the variant is legacy."""
ANGLES = "pos_emb.inv_freq"


def published_names(config: IFactFormerConfig) -> dict[str, str]:
    """Published → our key of every tensor. The rotary frequencies, which theirs repeats per axis, stand for one."""
    names = dict(OUTSIDE)
    outputs = OUTPUT[config.variant == "legacy"]
    for d in range(config.depth):
        theirs = f"encoder.layers.{d}"
        names[f"{theirs}.0.0._B"] = f"blocks.{d}.position.frequencies"
        names |= {f"{theirs}.0.1.{part}": f"blocks.{d}.position.linear.{part}" for part in ("weight", "bias")}
        names |= {f"{theirs}.1.{a}": f"blocks.{d}.{b}" for a, b in BLOCK.items()}
        for axis, letter in enumerate(AXES[: config.axes]):
            ours = f"blocks.{d}.kernels.{axis}"
            # The published lists of the later axes begin with a change of layout.
            function, kernel = f"{theirs}.1.to_{letter}.{min(axis, 1)}", f"{theirs}.1.low_rank_kernel_{letter}"
            names |= {f"{function}.{a}": f"{ours}.{b}" for a, b in AXIS.items()}
            names |= {f"{kernel}.{part}.weight": f"{ours}.{part}.weight" for part in ("to_q", "to_k")}
            names[f"{kernel}.{ANGLES}"] = f"blocks.{d}.inverse_frequencies"
        parts = ["to_out", *(f"mix.{i}" for i in range(len(outputs) - 1))]
        names |= {f"{theirs}.1.{a}": f"blocks.{d}.{b}.weight" for a, b in zip(outputs, parts, strict=True)}
    return names


def recognises(state: Mapping[str, Tensor]) -> bool:
    """Whether these are the weights of a published IFactFormer, of any variant."""
    keys = {key.removeprefix(PARALLEL) for key in state}
    return {"to_in.2.weight", "encoder.layers.0.0.0._B", f"{FIRST}.to_v.weight"} <= keys


def convert(
    state: Mapping[str, Tensor], *, iterations: int = PUBLISHED_ITERATIONS
) -> tuple[IFactFormerConfig, dict[str, Tensor]]:
    """Our config and state from a published state dict, with or without the prefix of DataParallel.

    Args:
        state: tensors under the original's key names.
        iterations: the original's `n_layer`.

    Raises:
        CheckpointError: keys or shapes that are not those of one of the three variants.
    """
    if state and all(key.startswith(PARALLEL) for key in state):
        state = {key.removeprefix(PARALLEL): tensor for key, tensor in state.items()}
    if not recognises(state):
        raise CheckpointError(
            "these are not the weights of an IFactFormer: expected keys such as 'to_in.2.weight' and "
            f"'{FIRST}.to_v.weight', found {_listed(state)}."
        )
    try:
        config = _config(state, iterations)
    except (ConfigError, KeyError, IndexError, ZeroDivisionError) as error:
        raise CheckpointError(
            f"the weights of this IFactFormer are incomplete or contradict each other: {error}"
        ) from None
    names = published_names(config)
    if state.keys() != names.keys():
        raise CheckpointError(
            f"these are not the weights of an IFactFormer of variant {config.variant}: missing "
            f"{_listed(names.keys() - state.keys())}; unknown {_listed(state.keys() - names.keys())}."
        )
    return config, _renamed(state, names, config)


def _config(state: Mapping[str, Tensor], iterations: int) -> IFactFormerConfig:
    """Sizes and variant, told from keys and shapes."""
    axes = sum(f"{FIRST}.low_rank_kernel_{letter}.to_q.weight" in state for letter in AXES)
    values = len(state[f"{FIRST}.to_v.weight"])
    multiplier = len(state[f"{FIRST}.low_rank_kernel_x.to_q.weight"]) // values
    dim_head = 2 * len(state[f"{FIRST}.low_rank_kernel_x.{ANGLES}"]) // multiplier
    variant: Variant = "legacy" if f"{FIRST}.to_out_1.0.weight" in state else "head"
    if variant == "head" and state[f"{FIRST}.{OUTPUT[False][0]}"].shape[1] == values:
        variant = "chained"
    return IFactFormerConfig(
        components=len(state["simple_to_out.3.bias"]),
        axes=axes,
        history=state["to_in.2.weight"].shape[2],
        dim=len(state["to_in.2.weight"]),
        heads=values // dim_head,
        dim_head=dim_head,
        depth=sum(key.endswith(".0.0._B") for key in state),
        iterations=iterations,
        kernel_multiplier=multiplier,
        variant=variant,
    )


def _renamed(state: Mapping[str, Tensor], names: Mapping[str, str], config: IFactFormerConfig) -> dict[str, Tensor]:
    """The state under our names and in our shapes, which hold the same numbers in the same order but for the lift."""
    with torch.device("meta"):
        shapes = {key: tensor.shape for key, tensor in config.build().state_dict().items()}
    found: dict[str, Tensor] = {}
    for theirs, ours in names.items():
        tensor = state[theirs].detach()
        if ours == "lift.weight":
            # A kernel over time, channels before frames.
            tensor = tensor.transpose(1, 2)
        if tensor.numel() != shapes[ours].numel() or (tensor.dim() == 2 and tensor.shape != shapes[ours]):
            raise CheckpointError(
                f"{theirs} has the shape {tuple(state[theirs].shape)}, which does not fit a network of {config}."
            )
        tensor = tensor.reshape(shapes[ours]).clone()
        if ours in found and not torch.equal(found[ours], tensor):
            raise CheckpointError(f"{theirs}: expected the rotary frequencies of the first axis, got others.")
        found[ours] = tensor
    return found


def _listed(keys: Iterable[str], shown: int = 6) -> str:
    names = sorted(keys)
    more = f" and {len(names) - shown} more" if len(names) > shown else ""
    return (", ".join(names[:shown]) or "none") + more
