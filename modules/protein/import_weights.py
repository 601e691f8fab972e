"""Weights of the published frame flows (FrameFlow, QFlow, ReQFlow: one layout) to ours.

A pure function of a state dict under the original's key names. Most tensors change their name only; the point attention
changes the order of its rows: the original keeps keys and values of a head together, and each axis of all points.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from data.errors import CheckpointError, ConfigError
from modules.protein.network import ProteinNetworkConfig

State = dict[str, Tensor]

PREFIX = "model."
PUBLISHED_BINS = 22
EMBEDDER_MODULES = {
    "node_feature_net.linear": "node_embedding.output",
    "edge_feature_net.linear_s_p": "edge_embedding.residue",
    "edge_feature_net.linear_relpos": "edge_embedding.offset",
    "edge_feature_net.edge_embedder.0": "edge_embedding.first",
    "edge_feature_net.edge_embedder.2": "edge_embedding.second",
    "edge_feature_net.edge_embedder.4": "edge_embedding.third",
    "edge_feature_net.edge_embedder.5": "edge_embedding.norm",
}
BLOCK_MODULES = {
    "ipa_{b}.linear_q": "attention.query",
    "ipa_{b}.linear_b": "attention.edge_bias",
    "ipa_{b}.down_z": "attention.pair_value",
    "ipa_ln_{b}": "attention_norm",
    "post_tfmr_{b}": "sequence_output",
    "node_transition_{b}.linear_1": "transition.first",
    "node_transition_{b}.linear_2": "transition.second",
    "node_transition_{b}.linear_3": "transition.third",
    "node_transition_{b}.ln": "transition.norm",
    "bb_update_{b}.linear": "frame_update",
}
EDGE_MODULES = {
    "edge_transition_{b}.initial_embed": "edge_transition.residue",
    "edge_transition_{b}.trunk.0": "edge_transition.first",
    "edge_transition_{b}.trunk.2": "edge_transition.second",
    "edge_transition_{b}.final_layer": "edge_transition.last",
    "edge_transition_{b}.layer_norm": "edge_transition.norm",
}
LAYER_MODULES = {
    "self_attn.out_proj": "attention_output",
    "norm1": "attention_norm",
    "linear1": "expand",
    "linear2": "contract",
    "norm2": "feed_forward_norm",
}


@dataclass(frozen=True)
class Entry:
    """One of the original's tensors: what of ours it holds, in which order."""

    ours: tuple[str, ...]
    shape: tuple[int, ...]
    convert: Callable[[Tensor], Sequence[Tensor]] = lambda tensor: (tensor,)


def import_reqflow(
    state: Mapping[str, Tensor], hyper: Mapping[str, Any] | None = None
) -> tuple[ProteinNetworkConfig, State]:
    """Our config and weights from the original's.

    Args:
        state: the original's tensors; a prefix `model.` of all keys is taken off.
        hyper: the original's configuration, or the part of it under `model`. Sizes come from the shapes of the tensors;
            from here come those that shapes cannot tell. Without it they are those of the published models.

    Raises:
        CheckpointError: for keys that are missing or unknown, shapes that do not fit, and sizes that contradict.
    """
    bare = {key.removeprefix(PREFIX): tensor for key, tensor in state.items()}
    config = reqflow_config(bare, hyper)
    return config, convert_reqflow(config, bare)


def convert_reqflow(config: ProteinNetworkConfig, state: Mapping[str, Tensor]) -> State:
    """Our tensors (float32) from the original's without prefix: weights, or gradients, which are ordered alike."""
    entries = _entries(config)
    missing, unknown = sorted(entries.keys() - state.keys()), sorted(state.keys() - entries.keys())
    if missing or unknown:
        raise CheckpointError(
            "these are not the weights of a frame flow (FrameFlow, QFlow, ReQFlow) of "
            f"{config.blocks} blocks: {_listed('missing', missing)}; {_listed('unknown', unknown)}. "
            "Check that the file is whole and of this kind."
        )
    converted: State = {}
    for key, entry in entries.items():
        if tuple(state[key].shape) != entry.shape:
            raise CheckpointError(
                f"{key} has the shape {tuple(state[key].shape)} instead of {entry.shape}, which the other tensors and "
                "the file's configuration ask for. Check that they belong together."
            )
        parts = entry.convert(state[key].detach().float())
        converted |= {ours: part.clone().contiguous() for ours, part in zip(entry.ours, parts, strict=True)}
    return converted


def reqflow_config(state: Mapping[str, Tensor], hyper: Mapping[str, Any] | None = None) -> ProteinNetworkConfig:
    """Our config from the original's tensors, without prefix, and its configuration."""
    known = _Hyper(hyper)
    node_width, node_features = _shape(state, "node_feature_net.linear.weight", 2)
    edge_width, edge_features = _shape(state, "edge_feature_net.edge_embedder.0.weight", 2)
    edge_channels, _ = _shape(state, "edge_feature_net.linear_s_p.weight", 2)
    (heads,) = _shape(state, "trunk.ipa_0.head_weights", 1)
    query_rows, _ = _shape(state, "trunk.ipa_0.linear_q.weight", 2)
    query_points = _divided("trunk.ipa_0.linear_q_points.weight", _shape, state, 3 * heads)
    key_value_points = _divided("trunk.ipa_0.linear_kv_points.weight", _shape, state, 3 * heads)
    time_channels = known.integer("node_features", "c_timestep_emb", None)
    index_channels = known.integer("node_features", "c_pos_emb", None)
    if time_channels is None:
        time_channels = (
            (node_features - 1) // 3 if index_channels is None else (node_features - 1 - index_channels) // 2
        )
    if index_channels is None:
        index_channels = node_features - 1 - 2 * time_channels
    if index_channels + 1 + 2 * time_channels != node_features:
        raise CheckpointError(
            f"node_feature_net.linear.weight has {node_features} columns, but c_pos_emb={index_channels} and "
            f"c_timestep_emb={time_channels} make {index_channels + 1 + 2 * time_channels}."
        )
    bins, knows_generated = _edge_layout(known, edge_features - 3 * edge_channels)
    try:
        return ProteinNetworkConfig(
            node_width=node_width,
            edge_width=edge_width,
            blocks=_count(state, "trunk.ipa_{}.head_weights"),
            heads=heads,
            head_width=query_rows // heads,
            query_points=query_points,
            value_points=key_value_points - query_points,
            pair_value_width=_shape(state, "trunk.ipa_0.down_z.weight", 2)[0],
            transformer_layers=_count(state, "trunk.seq_tfmr_0.layers.{}.self_attn.in_proj_weight"),
            transformer_heads=known.integer("ipa", "seq_tfmr_num_heads", 4),
            index_channels=index_channels,
            time_channels=time_channels,
            edge_channels=edge_channels,
            distance_bins=bins,
            edge_knows_generated=knows_generated,
        )
    except ConfigError as error:
        raise CheckpointError(f"the sizes of these weights are not those of a frame flow: {error}") from error


def _edge_layout(known: "_Hyper", columns: int) -> tuple[int, bool]:
    """Distance bins, and whether edges are told what is generated, from the columns that these take."""
    flag = known.value("edge_features", "embed_diffuse_mask")
    bins = known.integer("edge_features", "num_bins", None)
    if bins is None:
        told = columns - 2 * PUBLISHED_BINS if flag is None else 2 * bool(flag)
        bins = (columns - (told if told in (0, 2) else 2)) // 2
    knows_generated = columns - 2 * bins == 2 if flag is None else bool(flag)
    if columns != 2 * bins + 2 * knows_generated:
        raise CheckpointError(
            f"edge_feature_net.edge_embedder.0.weight has {columns} columns for distances and masks, but num_bins="
            f"{bins} and embed_diffuse_mask={knows_generated} make {2 * bins + 2 * knows_generated}."
        )
    return bins, knows_generated


def _entries(config: ProteinNetworkConfig) -> dict[str, Entry]:
    """Every tensor of the original of this config."""
    with torch.device("meta"):
        shapes = {key: tuple(tensor.shape) for key, tensor in config.build().state_dict().items()}
    entries: dict[str, Entry] = {}

    def plain(theirs: str, ours: str) -> None:
        for kind in ("weight", "bias"):
            entries[f"{theirs}.{kind}"] = Entry((f"{ours}.{kind}",), shapes[f"{ours}.{kind}"])

    def joined(theirs: str, ours: Sequence[str], convert: Callable[[Tensor], Sequence[Tensor]]) -> None:
        for kind in ("weight", "bias"):
            keys = tuple(f"{name}.{kind}" for name in ours)
            rows = sum(shapes[key][0] for key in keys)
            entries[f"{theirs}.{kind}"] = Entry(keys, (rows, *shapes[keys[0]][1:]), convert)

    for theirs, ours in EMBEDDER_MODULES.items():
        plain(theirs, ours)
    for b in range(config.blocks):
        block, attention, ipa = f"blocks.{b}", f"blocks.{b}.attention", f"trunk.ipa_{b}"
        modules = BLOCK_MODULES | (EDGE_MODULES if b < config.blocks - 1 else {})
        for theirs, ours in modules.items():
            plain(f"trunk.{theirs.format(b=b)}", f"{block}.{ours}")
        joined(f"{ipa}.linear_kv", [f"{attention}.key", f"{attention}.value"], _KeysAndValues(config.heads))
        joined(f"{ipa}.linear_q_points", [f"{attention}.query_points"], _Points(config.heads, (config.query_points,)))
        joined(
            f"{ipa}.linear_kv_points",
            [f"{attention}.key_points", f"{attention}.value_points"],
            _Points(config.heads, (config.query_points, config.value_points)),
        )
        entries[f"{ipa}.head_weights"] = Entry(
            (f"{attention}.distance_weight",), shapes[f"{attention}.distance_weight"]
        )
        out = f"{attention}.output"
        entries[f"{ipa}.linear_out.weight"] = Entry((f"{out}.weight",), shapes[f"{out}.weight"], _Output(config))
        entries[f"{ipa}.linear_out.bias"] = Entry((f"{out}.bias",), shapes[f"{out}.bias"])
        for n in range(config.transformer_layers):
            theirs, ours = f"trunk.seq_tfmr_{b}.layers.{n}", f"{block}.sequence.{n}"
            for kind in ("weight", "bias"):
                key = f"{ours}.query_key_value.{kind}"
                entries[f"{theirs}.self_attn.in_proj_{kind}"] = Entry((key,), shapes[key])
            for their_part, our_part in LAYER_MODULES.items():
                plain(f"{theirs}.{their_part}", f"{ours}.{our_part}")
    return entries


@dataclass(frozen=True)
class _KeysAndValues:
    """Rows of a head: first its keys, then its values."""

    heads: int

    def __call__(self, tensor: Tensor) -> list[Tensor]:
        parts = tensor.unflatten(0, (self.heads, 2, -1)).unbind(1)
        return [part.flatten(0, 1) for part in parts]


@dataclass(frozen=True)
class _Points:
    """Rows are (axis, head, point), where the points of a head are of one kind, then of the next; ours (head, point,
    axis), a kind at a time."""

    heads: int
    kinds: tuple[int, ...]

    def __call__(self, tensor: Tensor) -> list[Tensor]:
        by_axis = tensor.unflatten(0, (3, self.heads, sum(self.kinds))).movedim(0, 2)
        return [part.flatten(0, 2) for part in by_axis.split(self.kinds, dim=1)]


@dataclass(frozen=True)
class _Output:
    """Columns of the points are (axis, head, point); ours (head, point, axis)."""

    config: ProteinNetworkConfig

    def __call__(self, tensor: Tensor) -> list[Tensor]:
        scalars = self.config.heads * self.config.head_width
        points = self.config.heads * self.config.value_points
        before, placed, after = tensor.split([scalars, 3 * points, tensor.shape[1] - scalars - 3 * points], dim=1)
        return [torch.cat([before, placed.unflatten(1, (3, points)).mT.flatten(1), after], dim=1)]


class _Hyper:
    """The original's configuration tree, entered at its root, at `cfg` or at `model`."""

    def __init__(self, tree: Mapping[str, Any] | None) -> None:
        for name in ("cfg", "model"):
            if tree is not None and isinstance(inner := tree.get(name), Mapping):
                tree = inner
        self.tree: Mapping[str, Any] = tree or {}

    def value(self, group: str, name: str) -> Any:
        inner = self.tree.get(group)
        return inner.get(name) if isinstance(inner, Mapping) else None

    def integer(self, group: str, name: str, default: Any) -> Any:
        value = self.value(group, name)
        if value is None:
            return default
        if isinstance(value, bool) or not isinstance(value, int):
            # a reference like ${model.x} that nobody resolved says nothing
            return default
        return value


def _shape(state: Mapping[str, Tensor], key: str, axes: int) -> tuple[int, ...]:
    if key not in state:
        raise CheckpointError(
            f"these are not the weights of a frame flow (FrameFlow, QFlow, ReQFlow): {key} is missing; "
            f"{_listed('found', sorted(state))}."
        )
    if state[key].ndim != axes:
        raise CheckpointError(f"{key} has {state[key].ndim} axes instead of {axes}.")
    return tuple(state[key].shape)


def _divided(key: str, shape: Callable[..., tuple[int, ...]], state: Mapping[str, Tensor], by: int) -> int:
    rows = shape(state, key, 2)[0]
    if rows % by:
        raise CheckpointError(f"{key} has {rows} rows, which is no multiple of {by} (3 axes for every head).")
    return rows // by


def _count(state: Mapping[str, Tensor], pattern: str) -> int:
    count = 0
    while pattern.format(count) in state:
        count += 1
    return count


def _listed(label: str, entries: Sequence[str], shown: int = 6) -> str:
    more = f" and {len(entries) - shown} more" if len(entries) > shown else ""
    return f"{label}: {', '.join(entries[:shown]) or 'none'}{more}"
