"""Losses and sampler of backbones against numbers of the published implementation.

Fixtures are found by their files and every size is read from them. Weights come in under the original's key names,
through the importer that `penstock import` uses. Tolerances are those that come with the fixtures.
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from modules.geometry.frames import backbone_from_frames, place_oxygen
from modules.geometry.manifold import FRAMES
from modules.protein.corruption import corrupt
from modules.protein.import_weights import convert_reqflow
from modules.protein.losses import ProteinLossConfig, ProteinLosses, protein_losses
from modules.protein.network import ProteinNetwork
from modules.protein.sampling import ProteinSamplingConfig, Sampled, sample_backbones
from tests.golden.protein_network import Fixture

pytestmark = pytest.mark.golden

STEP = {"trans": 1e-3, "quats": 5e-5}
"""Ångström, and parts of a unit quaternion, for one call of the network from the stored state."""
WHOLE_RUN = {"exp": 2e-2, "linear": 2e-3}
"""Ångström."""
SCALES = {
    "pdb_default": ProteinLossConfig(),
    "scope_default": ProteinLossConfig(auxiliary_from=0.25),
    "bb_only": ProteinLossConfig(auxiliary_from=0.25, pairs=0.0),
    "pair_only": ProteinLossConfig(auxiliary_from=0.25, backbone=0.0),
    "small_scales": ProteinLossConfig(auxiliary_from=0.0, length_scale=0.01),
    "selfcond": ProteinLossConfig(),
}


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """`losses_fixture` comes once per setting, `sampler_fixture` per run, `batch_fixture` per network."""
    folder = Path(metafunc.config.getoption("--golden")) / "protein"
    for argument, kind in (("losses", "losses"), ("batch", "grads"), ("sampler", "sampler")):
        if f"{argument}_fixture" not in metafunc.fixturenames:
            continue
        names = sorted(path.stem.removeprefix(f"{kind}_") for path in folder.glob(f"{kind}_*.safetensors"))
        found = [
            pytest.param(value, id=f"protein-{kind}-{name}{f'-{case}' if case else ''}")
            for name in names
            for case, value in _cases(Fixture(folder, name), argument)
        ]
        skip = pytest.mark.skip(f"no {kind}_* fixtures in {folder}; see --golden DIR")
        metafunc.parametrize(f"{argument}_fixture", found or [pytest.param(None, id=f"protein-no-{kind}", marks=skip)])


def _cases(fixture: Fixture, argument: str) -> list[tuple[str, Any]]:
    if argument == "batch":
        return [("", fixture)]
    cases = SCALES if argument == "losses" else fixture.settings["sampler"]
    return [(case, (fixture, case)) for case in cases]


def frames(io: dict[str, Tensor], when: str) -> Tensor:
    return torch.cat([io[f"in.rotquats_{when}"], io[f"in.trans_{when}"]], dim=-1)


def predicted_by(network: ProteinNetwork, io: dict[str, Tensor], self_condition: Tensor | None) -> Tensor:
    return network(
        frames(io, "t"),
        io["in.so3_t"].flatten(),
        io["in.r3_t"].flatten(),
        resolved=io["in.res_mask"].bool(),
        generated=io["in.diffuse_mask"].bool(),
        residue_index=io["in.res_idx"].long(),
        self_condition=self_condition,
    )


def losses_of(config: ProteinLossConfig, predicted: Tensor, io: dict[str, Tensor]) -> ProteinLosses:
    return protein_losses(
        config,
        predicted,
        frames(io, "1"),
        frames(io, "t"),
        io["in.so3_t"].flatten(),
        io["in.r3_t"].flatten(),
        resolved=io["in.res_mask"].bool(),
        generated=io["in.diffuse_mask"].bool(),
        residue_index=io["in.res_idx"].long(),
    )


@torch.no_grad()
def test_losses_are_the_same(losses_fixture: tuple[Fixture, str]):
    fixture, case = losses_fixture
    io = fixture.tensors("losses")
    seen = io["selfcond.trans_sc"] if case == "selfcond" else None
    found = losses_of(SCALES[case], predicted_by(fixture.network(), io, seen), io)
    for ours, theirs in (
        (found.translation, "trans_loss"),
        (found.rotation, "rots_quats_vf_loss"),
        (found.auxiliary, "auxiliary_loss"),
        (found.total, "se3_vf_loss"),
    ):
        torch.testing.assert_close(ours, io[f"{case}.{theirs}"], rtol=1e-4, atol=1e-5)


def test_interpolants_are_the_same(batch_fixture: Fixture):
    io = batch_fixture.tensors("losses")
    at = corrupt(
        frames(io, "0"),
        frames(io, "1"),
        io["in.r3_t"].flatten(),
        resolved=io["in.res_mask"].bool(),
        generated=io["in.diffuse_mask"].bool(),
        residue_index=io["in.res_idx"].long(),
    )
    real = at.resolved
    assert FRAMES.log(at.noised, frames(io, "t"))[real].abs().max() < 5e-5


def test_gradients_of_the_loss_are_the_same(batch_fixture: Fixture):
    """The gradients of the mean loss with every term at work, through our losses and our network."""
    fixture = batch_fixture
    io, network = fixture.tensors("losses"), fixture.network()
    config = replace(SCALES["small_scales"], auxiliary_from=0.5)
    losses_of(config, predicted_by(network, io, None), io).total.mean().backward()
    expected = convert_reqflow(network.config, fixture.tensors("grads"))
    largest = max(gradient.norm() for gradient in expected.values())
    compared = 0
    for name, parameter in network.named_parameters():
        theirs = expected[name]
        if theirs.norm() < 1e-5 * largest:
            continue  # rounding noise where the true gradient is zero
        assert parameter.grad is not None
        ours = parameter.grad
        assert torch.nn.functional.cosine_similarity(ours.flatten(), theirs.flatten(), dim=0) > 0.9999, name
        torch.testing.assert_close(ours.norm(), theirs.norm(), rtol=1e-3, atol=0)
        compared += 1
    assert compared > 20


@dataclass(frozen=True)
class Held:
    """Residues at given frames."""

    frames: Tensor
    generated: Tensor

    def start(self, noise: Tensor) -> Tensor:
        return self.project(noise, 0.0)

    def project(self, frames: Tensor, t: float) -> Tensor:
        return torch.where(self.generated[:, None], frames, self.frames)

    def guide(self, prediction: Tensor, t: float) -> Tensor:
        return self.project(prediction, t)


def drawn(fixture: Fixture, case: str) -> tuple[dict[str, Tensor], list[Sampled]]:
    """The run `case` repeated with our sampler, from its noise."""
    stored = {k.removeprefix(f"{case}."): v for k, v in fixture.tensors("sampler").items() if k.startswith(f"{case}.")}
    settings = fixture.settings["sampler"][case]
    batch, length = settings["batch"], settings["length"]
    constraint = None
    if settings["motif"]:
        motif = torch.cat([stored["motif_rotquats_1"], stored["motif_trans_1"]], dim=-1)[0]
        constraint = Held(motif, stored["motif_diffuse_mask"][0].bool())
    noise = torch.cat([stored["noise_quats_as_used"], 10.0 * stored["noise_unit_gaussian"]], dim=-1)
    config = ProteinSamplingConfig(
        steps=settings["network_calls"],
        rotation_schedule="exponential" if settings["rot_schedule"] == "exp" else "linear",
        reference=True,
    )
    found = sample_backbones(
        fixture.network(),
        config,
        seed=0,
        indices=range(batch),
        lengths=[length] * batch,
        noise=list(noise),
        constraint=constraint,
        trajectory=True,
    )
    return stored, found


def as_rotations(quaternions: Tensor, like: Tensor) -> Tensor:
    """The same rotations with the signs of `like`."""
    return torch.where((quaternions * like).sum(-1, keepdim=True) < 0, -quaternions, quaternions)


def test_whole_runs_of_the_sampler_are_the_same(sampler_fixture: tuple[Fixture, str]):
    fixture, case = sampler_fixture
    stored, found = drawn(fixture, case)
    atol = WHOLE_RUN[fixture.settings["sampler"][case]["rot_schedule"]]
    states = torch.stack([one.trajectory for one in found], dim=1)
    answers = torch.stack([one.predictions for one in found], dim=1)
    last = torch.stack([one.frames for one in found])
    torch.testing.assert_close(states[..., 4:], stored["state_trans"], rtol=0, atol=atol)
    torch.testing.assert_close(answers[..., 4:], stored["pred_trans"], rtol=0, atol=atol)
    torch.testing.assert_close(last[..., 4:], stored["final_trans"], rtol=0, atol=atol)
    atoms = place_oxygen(backbone_from_frames(last))
    # theirs are N, CA, C, CB, O
    torch.testing.assert_close(atoms[..., :3, :], stored["final_bb_NCACCBO"][..., :3, :], rtol=0, atol=2 * atol)
    torch.testing.assert_close(atoms[..., 3, :], stored["final_bb_NCACCBO"][..., 4, :], rtol=0, atol=2 * atol)


@torch.no_grad()
def test_each_step_of_the_sampler_is_the_same(sampler_fixture: tuple[Fixture, str]):
    """From every stored state: the network's answer, and the state it leads to."""
    fixture, case = sampler_fixture
    stored = {k.removeprefix(f"{case}."): v for k, v in fixture.tensors("sampler").items() if k.startswith(f"{case}.")}
    settings, network = fixture.settings["sampler"][case], fixture.network()
    schedule = ProteinSamplingConfig(
        rotation_schedule="exponential" if settings["rot_schedule"] == "exp" else "linear", reference=True
    ).schedule()
    states = torch.cat([stored["state_quats"], stored["state_trans"]], dim=-1)
    length = states.shape[2]
    generated = torch.ones(length, dtype=torch.bool)
    if settings["motif"]:
        generated = stored["motif_diffuse_mask"][0].bool()
    masks = {
        "resolved": torch.ones(states.shape[1:3], dtype=torch.bool),
        "generated": generated.expand(len(states[0]), -1),
    }
    for call, state in enumerate(states):
        seen = stored["pred_trans"][call - 1] if call else None
        answer = network(
            state,
            stored["so3_t"][call, :, 0],
            stored["r3_t"][call, :, 0],
            residue_index=torch.arange(length).expand(len(state), -1),
            self_condition=seen,
            **masks,
        )
        torch.testing.assert_close(answer[..., 4:], stored["pred_trans"][call], rtol=0, atol=STEP["trans"])
        theirs = stored["pred_quats"][call]
        torch.testing.assert_close(as_rotations(answer[..., :4], theirs), theirs, rtol=0, atol=STEP["quats"])
        if call + 1 < len(states):
            t, t_next = (stored["t"][i, 0, 0].item() for i in (call, call + 1))
            there = torch.cat([theirs, stored["pred_trans"][call]], dim=-1)
            ours = FRAMES.exp(state, schedule.fraction(t, t_next).to(state) * FRAMES.log(state, there))
            ours = torch.where(generated[:, None], ours, state)
            following = states[call + 1]
            torch.testing.assert_close(ours[..., 4:], following[..., 4:], rtol=0, atol=STEP["trans"])
            quats = as_rotations(ours[..., :4], following[..., :4])
            torch.testing.assert_close(quats, following[..., :4], rtol=0, atol=STEP["quats"])
