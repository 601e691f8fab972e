"""The backbone network against numbers of the published implementation.

Fixtures are found by their files and every size is read from them. Weights come in under the original's key names,
through the importer that `penstock import` uses. Tolerances are those that come with the fixtures.
"""

import re
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from modules.protein.import_weights import convert_reqflow
from modules.protein.losses import ProteinLossConfig, protein_losses
from modules.protein.network import ProteinNetwork
from tests.golden.protein_network import Fixture

pytestmark = pytest.mark.golden

ATOL_ANGSTROM, ATOL_QUATERNION = 1e-3, 5e-5


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "fixture" not in metafunc.fixturenames:
        return
    folder = Path(metafunc.config.getoption("--golden")) / "protein"
    names = sorted(path.stem.removeprefix("network_") for path in folder.glob("network_*.json"))
    found = [pytest.param(Fixture(folder, name), id=f"protein-network-{name}") for name in names]
    skip = pytest.mark.skip(f"no network_* fixtures in {folder}; see --golden DIR")
    metafunc.parametrize("fixture", found or [pytest.param(None, id="protein-no-network", marks=skip)])


def answer(network: ProteinNetwork, given: dict[str, Tensor], self_condition: Tensor | None) -> Tensor:
    return network(
        torch.cat([given["in.rotquats_t"], given["in.trans_t"]], dim=-1),
        given["in.so3_t"].flatten(),
        given["in.r3_t"].flatten(),
        resolved=given["in.res_mask"].bool(),
        generated=given["in.diffuse_mask"].bool(),
        residue_index=given["in.res_idx"].long(),
        self_condition=self_condition,
    )


@torch.no_grad()
@pytest.mark.parametrize("conditioned", [False, True], ids=["alone", "self-conditioned"])
def test_network_predicts_the_same_frames(fixture: Fixture, conditioned: bool):
    io = fixture.forward()
    frames = answer(fixture.network(), io, io["in.trans_sc"] if conditioned else None)
    expected, real = ("out_sc" if conditioned else "out_nosc"), io["in.res_mask"].bool()
    torch.testing.assert_close(frames[..., 4:][real], io[f"{expected}.pred_trans"][real], rtol=0, atol=ATOL_ANGSTROM)
    quaternions, theirs = frames[..., :4][real], io[f"{expected}.pred_rotquats"][real]
    sign = (quaternions * theirs).sum(-1, keepdim=True).sign()
    torch.testing.assert_close(quaternions * sign, theirs, rtol=0, atol=ATOL_QUATERNION)


def record(network: ProteinNetwork) -> dict[str, Tensor]:
    """Fills, when the network is called, with what its parts put out, under the original's names for them."""
    seen: dict[str, Tensor] = {}

    def keep(name: str, module: nn.Module) -> None:
        module.register_forward_hook(lambda _, __, output: seen.update({name: output.detach().clone()}))

    def keep_edges(name: str, block: nn.Module) -> None:
        block.register_forward_pre_hook(lambda _, given: seen.update({name: given[1].detach().clone()}))

    keep("node_feature_net", network.node_embedding)
    for b, block in enumerate(network.blocks):
        keep_edges(f"trunk.edge_transition_{b - 1}" if b else "edge_feature_net", block)
        keep(f"trunk.ipa_{b}", block.attention)
        keep(f"trunk.ipa_ln_{b}", block.attention_norm)
        keep(f"trunk.seq_tfmr_{b}", block.sequence[-1])
        keep(f"trunk.post_tfmr_{b}", block.sequence_output)
        keep(f"trunk.node_transition_{b}", block.transition)
        keep(f"trunk.bb_update_{b}", block.frame_update)
    return seen


@pytest.mark.parametrize("gradients", [False, True], ids=["inference", "training"])
def test_every_part_puts_out_the_same(fixture: Fixture, gradients: bool):
    io, network = fixture.forward(), fixture.network()
    seen, real = record(network), io["in.res_mask"].bool()
    with torch.set_grad_enabled(gradients):
        answer(network, io, io["in.trans_sc"])
    expected = {key.removeprefix("act_sc."): tensor for key, tensor in io.items() if key.startswith("act_sc.")}
    assert expected.keys() == seen.keys()
    for name, tensor in expected.items():
        where = real[:, :, None] & real[:, None] if tensor.ndim == 4 else real
        torch.testing.assert_close(
            seen[name][where], tensor[where], rtol=1e-4, atol=5e-5, msg=lambda m, n=name: f"{n}: {m}"
        )


def test_gradients_point_the_same_way(fixture: Fixture):
    """Of the mean loss with small scales, so that its clamps hardly bite; see the README of the fixtures."""
    io, network = fixture.tensors("losses"), fixture.network()
    predicted = answer(network, io, None)
    losses = protein_losses(
        ProteinLossConfig(length_scale=0.01, auxiliary_from=0.5),
        predicted,
        torch.cat([io["in.rotquats_1"], io["in.trans_1"]], dim=-1),
        torch.cat([io["in.rotquats_t"], io["in.trans_t"]], dim=-1),
        io["in.so3_t"].flatten(),
        io["in.r3_t"].flatten(),
        resolved=io["in.res_mask"].bool(),
        generated=io["in.diffuse_mask"].bool(),
        residue_index=io["in.res_idx"].long(),
    )
    loss = losses.total.mean()
    stated = float(re.search(r"value=([\d.]+)", fixture.settings["losses"]["grad_loss"]).group(1))
    torch.testing.assert_close(loss.item(), stated, rtol=1e-4, atol=0)
    loss.backward()
    expected = convert_reqflow(network.config, fixture.tensors("grads"))
    floor = 1e-5 * max(tensor.norm().item() for tensor in expected.values())
    compared = 0
    for name, parameter in network.named_parameters():
        ours, theirs = parameter.grad.flatten(), expected[name].flatten()
        if theirs.norm() < floor:
            continue
        compared += 1
        assert torch.cosine_similarity(ours, theirs, dim=0) > 0.9999, name
        torch.testing.assert_close(ours.norm(), theirs.norm(), rtol=1e-3, atol=0, msg=partial("{}: {}".format, name))
    assert compared > 0.9 * len(expected)
