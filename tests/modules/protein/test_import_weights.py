"""Import of frame-flow weights: files made as the published ones are, from a plain transcription of the network.

That imported weights predict the same frames is tested in test_network.py, on networks of several sizes.
"""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from benchmarks.protein_baseline import Baseline
from data.errors import CheckpointError
from modules.protein.import_weights import convert_reqflow, import_reqflow, reqflow_config
from modules.protein.network import ProteinNetworkConfig

PUBLISHED_SHAPES = {
    "node_feature_net.linear.weight": (256, 385),
    "edge_feature_net.edge_embedder.0.weight": (128, 238),
    "trunk.ipa_0.linear_q.weight": (1024, 256),
    "trunk.ipa_0.linear_kv.weight": (2048, 256),
    "trunk.ipa_0.linear_q_points.weight": (192, 256),
    "trunk.ipa_0.linear_kv_points.weight": (480, 256),
    "trunk.ipa_0.linear_b.weight": (8, 128),
    "trunk.ipa_0.down_z.weight": (32, 128),
    "trunk.ipa_0.linear_out.weight": (256, 1664),
    "trunk.edge_transition_4.trunk.2.weight": (384, 384),
    "trunk.bb_update_5.linear.weight": (6, 256),
}
"""As listed in the specification of the published weights."""

OTHER = ProteinNetworkConfig(
    node_width=24,
    edge_width=10,
    blocks=3,
    heads=3,
    head_width=4,
    query_points=2,
    value_points=5,
    pair_value_width=2,
    transformer_layers=3,
    transformer_heads=6,
    index_channels=10,
    time_channels=6,
    edge_channels=6,
    distance_bins=15,
    edge_knows_generated=False,
)
OTHER_TREE = {
    "node_features": {"c_s": 24, "c_pos_emb": 10, "c_timestep_emb": 6},
    "edge_features": {"feat_dim": 6, "num_bins": 15, "embed_diffuse_mask": False},
    "ipa": {"no_heads": 3, "seq_tfmr_num_heads": 6},
}


def weights(config: ProteinNetworkConfig = OTHER) -> dict[str, Tensor]:
    torch.manual_seed(0)
    return dict(Baseline(config).state_dict())


def published(device: str = "meta") -> dict[str, Tensor]:
    with torch.device(device):
        return dict(Baseline(ProteinNetworkConfig()).state_dict())


def test_the_transcription_has_the_published_layout():
    state = published()
    assert len(state) == 382
    assert sum(tensor.numel() for tensor in state.values()) == 16_779_268
    assert {key: tuple(state[key].shape) for key in PUBLISHED_SHAPES} == PUBLISHED_SHAPES


def test_sizes_of_the_published_models_need_no_configuration():
    assert reqflow_config(published()) == ProteinNetworkConfig()


@pytest.mark.parametrize("wrap", [lambda t: t, lambda t: {"model": t}, lambda t: {"cfg": {"model": t, "data": {}}}])
@pytest.mark.parametrize("prefix", ["", "model."])
def test_every_size_comes_back(wrap: Any, prefix: str):
    state = {prefix + key: tensor for key, tensor in weights().items()}
    config, ours = import_reqflow(state, wrap(OTHER_TREE))
    assert config == OTHER
    config.build().load_state_dict(ours)


def test_no_number_is_lost_or_made_up():
    """Each tensor holds the same numbers, in our order; none shares memory with the file's."""
    state = weights()
    _, ours = import_reqflow(state, OTHER_TREE)
    before = torch.cat([tensor.flatten() for tensor in state.values()]).sort().values
    after = torch.cat([tensor.flatten() for tensor in ours.values()]).sort().values
    assert torch.equal(before, after)
    assert not {t.data_ptr() for t in state.values()} & {t.data_ptr() for t in ours.values()}
    assert all(tensor.is_contiguous() for tensor in ours.values())


def test_half_precision_becomes_single():
    state = {key: tensor.half() for key, tensor in weights().items()}
    _, ours = import_reqflow(state, OTHER_TREE)
    assert {tensor.dtype for tensor in ours.values()} == {torch.float32}


def test_unresolved_references_of_the_configuration_are_passed_over():
    """The published trees refer from one key to another; what shapes tell is taken from there."""
    tree = {
        "node_features": {"c_pos_emb": "${model.node_embed_size}", "c_timestep_emb": 6},
        "edge_features": {"num_bins": 15, "embed_diffuse_mask": False},
        "ipa": {"seq_tfmr_num_heads": 6},
    }
    assert import_reqflow(weights(), tree)[0] == OTHER


@pytest.mark.parametrize("knows", [True, False])
def test_bins_or_masks_alone_tell_the_other(knows: bool):
    state = weights(replace(OTHER, edge_knows_generated=knows))
    for known in ({"num_bins": 15}, {"embed_diffuse_mask": knows}):
        config = reqflow_config(state, OTHER_TREE | {"edge_features": known})
        assert (config.distance_bins, config.edge_knows_generated) == (15, knows)


def test_missing_and_unknown_keys_are_named():
    state = weights()
    state["trunk.ipa_9.linear_q.weight"] = state.pop("trunk.ipa_1.linear_b.weight")
    with pytest.raises(CheckpointError, match=r"missing: trunk\.ipa_1\.linear_b\.weight; unknown: trunk\.ipa_9"):
        import_reqflow(state, OTHER_TREE)


def test_weights_of_something_else_are_refused():
    with pytest.raises(CheckpointError, match=r"node_feature_net\.linear\.weight is missing; found: conv1\.weight"):
        import_reqflow({"conv1.weight": torch.zeros(1)})


@pytest.mark.parametrize(
    ("key", "tensor", "message"),
    [
        (
            "trunk.bb_update_1.linear.weight",
            torch.zeros(6, 23),
            r"bb_update_1\.linear\.weight has the shape \(6, 23\) inst",
        ),
        ("trunk.ipa_0.linear_q_points.weight", torch.zeros(20, 24), "20 rows, which is no multiple of 9"),
        ("trunk.ipa_0.head_weights", torch.zeros(3, 1), "head_weights has 2 axes instead of 1"),
        (
            "node_feature_net.linear.weight",
            torch.zeros(24, 30),
            "30 columns, but c_pos_emb=10 and c_timestep_emb=6 make 23",
        ),
        ("edge_feature_net.edge_embedder.0.weight", torch.zeros(10, 60), "42 columns for distances and masks"),
    ],
)
def test_shapes_that_do_not_fit_are_named(key: str, tensor: Tensor, message: str):
    with pytest.raises(CheckpointError, match=message):
        import_reqflow(weights() | {key: tensor}, OTHER_TREE)


def test_impossible_sizes_are_a_broken_checkpoint():
    with pytest.raises(CheckpointError, match="multiple of heads"):
        import_reqflow(weights(), OTHER_TREE | {"ipa": {"seq_tfmr_num_heads": 7}})


def test_gradients_are_ordered_like_weights():
    state = {key: torch.full_like(tensor, float(i)) for i, (key, tensor) in enumerate(weights().items())}
    order = {key: float(i) for i, key in enumerate(state)}
    converted = convert_reqflow(OTHER, state)
    assert (converted["blocks.2.attention.value" + ".weight"] == order["trunk.ipa_2.linear_kv.weight"]).all()
    assert (converted["blocks.1.sequence.2.expand.bias"] == order["trunk.seq_tfmr_1.layers.2.linear1.bias"]).all()
