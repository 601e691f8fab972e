"""Weights of the published TripoSG modules, to our layout and back.

Pure functions of a state dict under the original key names and the constructor arguments in its config.json. The
original stores queries, keys and values so that stacking them and cutting the stack into equal groups of rows gives one
head per group; we keep plain matrices, so rows are permuted here, once. All else is a change of names: the original's
field is positive inside only because its code negates what the network says, and ours does not.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from data.errors import CheckpointError
from modules.shape.sampling import LatentSamplingConfig
from modules.shape.transformer import ShapeTransformerConfig
from modules.shape.vae import ShapeVAEConfig

State = dict[str, Tensor]
Matrix = Float[Tensor, "row column"]

VAE_ARGUMENTS = {
    "latent_channels": "latent_channels",
    "num_attention_heads": "heads",
    "width_encoder": "encoder_width",
    "width_decoder": "decoder_width",
    "num_layers_encoder": "encoder_layers",
    "num_layers_decoder": "decoder_layers",
    "embed_frequency": "frequencies",
    "embed_include_pi": "include_pi",
}
VAE_CONSTANTS = {"in_channels": 3, "embedding_type": "frequency"}
TRANSFORMER_ARGUMENTS = {
    "num_attention_heads": "heads",
    "width": "width",
    "in_channels": "latent_channels",
    "num_layers": "layers",
    "cross_attention_dim": "condition_width",
}

BLOCK_PARTS = {
    "norm1": "self_norm",
    "norm2": "cross_norm",
    "norm2_2": "second_cross_norm",
    "norm3": "feed_forward_norm",
    "ff.net.0.proj": "feed_forward.expand",
    "ff.net.2": "feed_forward.contract",
    "skip_linear": "skip_linear",
    "skip_norm": "skip_norm",
}
ATTENTIONS = {"attn1": "self_attention", "attn2": "cross_attention", "attn2_2": "second_cross_attention"}
ATTENTION_PARTS = {
    "to_out.0": "output",
    "norm_q": "query_norm",
    "norm_k": "key_norm",
    "norm_cross": "context_norm",
}


@dataclass(frozen=True)
class Layout:
    """How one published component lies in ours: names of modules, and which of them are blocks."""

    heads: int
    modules: dict[str, str]
    """Original module name → ours."""
    blocks: dict[str, str]

    def plain_names(self) -> dict[str, str]:
        """Original → our name of every module whose tensors are taken as they are, present or not."""
        names = dict(self.modules)
        for theirs, ours in self.blocks.items():
            names |= {f"{theirs}.{a}": f"{ours}.{b}" for a, b in BLOCK_PARTS.items()}
            for attention, our_attention in ATTENTIONS.items():
                names |= {
                    f"{theirs}.{attention}.{a}": f"{ours}.{our_attention}.{b}" for a, b in ATTENTION_PARTS.items()
                }
        return names

    def attention_names(self) -> list[tuple[str, str, bool]]:
        """(original name, our name, is it self-attention) of every attention that may be there."""
        return [
            (f"{theirs}.{a}", f"{ours}.{b}", a == "attn1")
            for theirs, ours in self.blocks.items()
            for a, b in ATTENTIONS.items()
        ]


def vae_layout(config: ShapeVAEConfig) -> Layout:
    """Names of the VAE: original encoder block 0 and last decoder block are the cross-attention blocks."""
    blocks = {"encoder.blocks.0": "encoder.cross_block"}
    blocks |= {f"encoder.blocks.{i + 1}": f"encoder.blocks.{i}" for i in range(config.encoder_layers)}
    blocks |= {f"decoder.blocks.{i}": f"decoder.blocks.{i}" for i in range(config.decoder_layers)}
    blocks[f"decoder.blocks.{config.decoder_layers}"] = "decoder.query_block"
    modules = {
        "encoder.proj_in": "encoder.input",
        "encoder.norm_out": "encoder.norm",
        "quant": "moments",
        "post_quant": "latent_input",
        "decoder.proj_query": "decoder.query_input",
        "decoder.norm_out": "decoder.norm",
        "decoder.proj_out": "decoder.output",
    }
    return Layout(config.heads, modules, blocks)


def transformer_layout(config: ShapeTransformerConfig) -> Layout:
    """Names of the velocity network."""
    modules = {
        "time_proj.linear_1": "time_expand",
        "time_proj.linear_2": "time_contract",
        "proj_in": "input",
        "norm_out": "norm",
        "proj_out": "output",
    }
    return Layout(config.heads, modules, {f"blocks.{i}": f"blocks.{i}" for i in range(config.layers)})


def separate_heads(stored: Sequence[Matrix], heads: int) -> list[Matrix]:
    """Plain matrices from the stored ones: stack, cut into one group of rows per head, gather each kind."""
    kinds, columns = len(stored), stored[0].shape[-1]
    groups = torch.cat(list(stored)).reshape(heads, kinds, -1, columns)
    return [groups[:, kind].reshape(-1, columns).clone() for kind in range(kinds)]


def interleave_heads(plain: Sequence[Matrix], heads: int) -> list[Matrix]:
    """The stored matrices from the plain ones; undoes `separate_heads`."""
    columns = plain[0].shape[-1]
    groups = torch.stack([matrix.reshape(heads, -1, columns) for matrix in plain], dim=1)
    return [matrix.clone() for matrix in groups.reshape(-1, columns).chunk(len(plain))]


def reference_names(layout: Layout, ours: Iterable[str]) -> dict[str, str]:
    """Original → our key, for every key of our state that the original has too."""
    pairs = {our: theirs for theirs, our in layout.plain_names().items()}
    for theirs, our, _ in layout.attention_names():
        pairs |= {f"{our}.{b}": f"{theirs}.{a}" for a, b in (("to_q", "query"), ("to_k", "key"), ("to_v", "value"))}
    names = {}
    for key in ours:
        module, _, tensor = key.rpartition(".")
        if module in pairs:
            names[f"{pairs[module]}.{tensor}"] = key
    return names


def _permute_attentions(state: State, layout: Layout, *, to_plain: bool) -> State:
    """`state` under our names with the rows of all attentions permuted one way or the other."""
    convert = separate_heads if to_plain else interleave_heads
    result = dict(state)
    for _, ours, is_self in layout.attention_names():
        # In cross-attention the queries are stored plainly; keys and values share groups.
        keys = [f"{ours}.{part}.weight" for part in (("query", "key", "value") if is_self else ("key", "value"))]
        if keys[0] in state:
            result |= dict(zip(keys, convert([state[key] for key in keys], layout.heads), strict=True))
    return result


def _import_state(state: Mapping[str, Tensor], layout: Layout, network: nn.Module, what: str) -> State:
    """Our state for `network` (on the meta device) from the original's; CheckpointError names what does not fit."""
    shapes = {key: tensor.shape for key, tensor in network.state_dict().items()}
    names = reference_names(layout, shapes)
    missing, unknown = sorted(names.keys() - state.keys()), sorted(state.keys() - names.keys())
    if missing or unknown:
        raise CheckpointError(
            f"these are not the weights of a {what} of this config: {_listed('missing', missing)}; "
            f"{_listed('unknown', unknown)}. Check that config and weights belong together."
        )
    wrong = [
        f"{theirs} has {tuple(state[theirs].shape)} instead of {tuple(shapes[ours])}"
        for theirs, ours in names.items()
        if state[theirs].shape != shapes[ours]
    ]
    if wrong:
        raise CheckpointError(
            f"the weights of this {what} do not have the sizes of its config: {_listed('shapes', wrong)}. "
            "Check that config and weights belong together."
        )
    renamed = {ours: state[theirs].detach().float() for theirs, ours in names.items()}
    return _permute_attentions(renamed, layout, to_plain=True)


def _export_state(state: Mapping[str, Tensor], layout: Layout) -> State:
    names = reference_names(layout, state)
    plain = _permute_attentions({ours: state[ours].detach() for ours in names.values()}, layout, to_plain=False)
    return {theirs: plain[ours].contiguous() for theirs, ours in names.items()}


def _listed(label: str, entries: Sequence[str], shown: int = 6) -> str:
    more = f" and {len(entries) - shown} more" if len(entries) > shown else ""
    return f"{label}: {', '.join(entries[:shown]) or 'none'}{more}"


def _arguments(given: Mapping[str, Any], known: Iterable[str], required: Iterable[str], what: str) -> dict[str, Any]:
    """The constructor arguments in `given`, which may be wrapped in "config" and hold private keys (underscore)."""
    inner = given.get("config", given)
    arguments = {key: value for key, value in inner.items() if not key.startswith("_")}
    missing, unknown = sorted(set(required) - arguments.keys()), sorted(arguments.keys() - set(known))
    if missing or unknown:
        raise CheckpointError(
            f"the config of this {what} is not understood: {_listed('missing', missing)}; "
            f"{_listed('unknown', unknown)}. Expected keys: {', '.join(sorted(known))}."
        )
    return arguments


def vae_config(reference: Mapping[str, Any]) -> ShapeVAEConfig:
    """Our config from the constructor arguments of the published VAE; its truncation is not known."""
    arguments = _arguments(reference, {**VAE_ARGUMENTS, **VAE_CONSTANTS}, VAE_ARGUMENTS, "shape VAE")
    for key, expected in VAE_CONSTANTS.items():
        if arguments.get(key, expected) != expected:
            raise CheckpointError(f"a shape VAE with {key}={arguments[key]!r} is not supported; expected {expected!r}.")
    return ShapeVAEConfig(**{ours: arguments[theirs] for theirs, ours in VAE_ARGUMENTS.items()})


def import_vae(state: Mapping[str, Tensor], reference: Mapping[str, Any]) -> tuple[ShapeVAEConfig, State]:
    """Our config and state from the published VAE's. Raises CheckpointError naming keys and shapes that do not fit."""
    config = vae_config(reference)
    with torch.device("meta"):
        network = config.build()
    return config, _import_state(state, vae_layout(config), network, "shape VAE")


def export_vae(config: ShapeVAEConfig, state: Mapping[str, Tensor]) -> tuple[dict[str, Any], State]:
    """Constructor arguments and state of the published VAE; every tensor keeps its values bit for bit."""
    arguments = {theirs: getattr(config, ours) for theirs, ours in VAE_ARGUMENTS.items()} | VAE_CONSTANTS
    return arguments, _export_state(state, vae_layout(config))


def transformer_config(reference: Mapping[str, Any]) -> ShapeTransformerConfig:
    """Our config from the constructor arguments of the published velocity network."""
    second = ("use_cross_attention_2", "cross_attention_2_dim")
    arguments = _arguments(
        reference, [*TRANSFORMER_ARGUMENTS, *second], TRANSFORMER_ARGUMENTS, "shape velocity network"
    )
    sizes = {ours: arguments[theirs] for theirs, ours in TRANSFORMER_ARGUMENTS.items()}
    second_width = arguments.get("cross_attention_2_dim") if arguments.get("use_cross_attention_2") else None
    return ShapeTransformerConfig(**sizes, second_condition_width=second_width)


def import_transformer(
    state: Mapping[str, Tensor], reference: Mapping[str, Any]
) -> tuple[ShapeTransformerConfig, State]:
    """Our config and state from the published velocity network's, whose latents are not normalised.

    Raises CheckpointError naming keys and shapes that do not fit.
    """
    config = transformer_config(reference)
    with torch.device("meta"):
        network = config.build()
    imported = _import_state(state, transformer_layout(config), network, "shape velocity network")
    imported["latent_mean"] = torch.zeros(config.latent_channels)
    imported["latent_std"] = torch.ones(config.latent_channels)
    return config, imported


def export_transformer(config: ShapeTransformerConfig, state: Mapping[str, Tensor]) -> tuple[dict[str, Any], State]:
    """Constructor arguments and state of the published velocity network; every tensor keeps its values bit for bit.

    Raises CheckpointError for what the published layout cannot say: classes, no condition, normalised latents.
    """
    reasons = {
        "class labels": config.classes > 0,
        "a network without condition": config.condition_width is None,
        "latents normalised by statistics": bool((state["latent_mean"] != 0).any() or (state["latent_std"] != 1).any()),
    }
    if any(reasons.values()):
        found = ", ".join(reason for reason, applies in reasons.items() if applies)
        raise CheckpointError(
            f"the published layout has no place for {found}; export the model in our own form instead."
        )
    arguments = {theirs: getattr(config, ours) for theirs, ours in TRANSFORMER_ARGUMENTS.items()}
    arguments["use_cross_attention_2"] = config.second_condition_width is not None
    arguments["cross_attention_2_dim"] = config.second_condition_width
    return arguments, _export_state(state, transformer_layout(config))


def scheduler_config(reference: Mapping[str, Any]) -> LatentSamplingConfig:
    """Our sampling settings from the published scheduler's config.json; 50 steps and guidance 7 are its pipeline's.

    Raises CheckpointError where the shift depends on the number of tokens; give the shift exp(mu) by hand then.
    """
    if reference.get("use_dynamic_shifting"):
        raise CheckpointError("this scheduler shifts by a mu given at run time: sample with shift = exp(mu) instead.")
    return LatentSamplingConfig(steps=50, guidance=7.0, shift=float(reference.get("shift", 1.0)))


def component_of(state: Mapping[str, Tensor]) -> Literal["vae", "transformer"]:
    """Which published component these weights are. Raises CheckpointError when they are none."""
    if "post_quant.weight" in state:
        return "vae"
    if "time_proj.linear_1.weight" in state:
        return "transformer"
    raise CheckpointError(
        "these weights are neither the shape VAE (no 'post_quant.weight') nor the velocity network (no "
        f"'time_proj.linear_1.weight') of TripoSG; {_listed('found', sorted(state))}."
    )


def import_component(
    state: Mapping[str, Tensor], reference: Mapping[str, Any]
) -> tuple[ShapeVAEConfig | ShapeTransformerConfig, State]:
    """Our config and state of whichever published component this is."""
    return import_vae(state, reference) if component_of(state) == "vae" else import_transformer(state, reference)


def join_shards(shards: Iterable[Mapping[str, Tensor]]) -> State:
    """One state from the shards of a component. Raises CheckpointError where two shards hold the same key."""
    joined: State = {}
    for shard in shards:
        if twice := sorted(joined.keys() & shard.keys()):
            raise CheckpointError(f"two shards hold the same weights; {_listed('twice', twice)}. Remove one of them.")
        joined |= shard
    return joined
