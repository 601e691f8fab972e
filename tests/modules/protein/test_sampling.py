"""A backbone is a function of (seed, index) alone, bit for bit; it turns with its noise; constraints hold."""

from dataclasses import dataclass, replace

import pytest
import torch
from torch import Tensor

from data.errors import ConfigError, PenstockError
from modules.geometry import quaternion
from modules.protein.network import ProteinNetwork, ProteinNetworkConfig
from modules.protein.sampling import (
    CHAIN_GAP,
    EDGES_PER_CALL,
    Constraint,
    ProteinSamplingConfig,
    noise_frames,
    pushed_apart,
    sample_backbones,
    samples_per_call,
)
from modules.protein.symmetry import SymmetricSampling, Symmetry, asymmetry

FEW = ProteinSamplingConfig(steps=4)


def network(**changes: int) -> ProteinNetwork:
    """A small network whose predictions are neither its input nor far beyond it."""
    sizes = {"node_width": 16, "edge_width": 8, "blocks": 2, "heads": 2, "head_width": 8, "pair_value_width": 4}
    sizes |= {"query_points": 2, "value_points": 3, "transformer_layers": 1, "transformer_heads": 2}
    sizes |= {"index_channels": 8, "time_channels": 8, "edge_channels": 8}
    built = ProteinNetworkConfig(**(sizes | changes)).build()  # type: ignore[arg-type]
    source = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in built.parameters():
            parameter.add_(0.15 * torch.randn(parameter.shape, generator=source))
    return built.eval()


@pytest.mark.parametrize("rows", [1, 4])
def test_a_sample_has_the_same_bits_in_any_portion(rows: int, monkeypatch: pytest.MonkeyPatch):
    """One by one, three at a time, out of order; two lengths; where 1 or 4 samples share a call."""
    monkeypatch.setitem(EDGES_PER_CALL, "cpu", rows * 8 * 21**2)
    model = network()
    lengths = [21, 21, 17, 21, 21, 17, 21]

    def portion(indices: list[int]) -> list[Tensor]:
        found = sample_backbones(model, FEW, seed=7, indices=indices, lengths=[lengths[k] for k in indices])
        assert [one.index for one in found] == indices
        return [one.frames for one in found]

    together = portion(list(range(7)))
    assert [len(frames) for frames in together] == lengths
    for asked in ([[k] for k in range(7)], [[0, 1, 2], [3, 4, 5], [6]], [[6, 2, 4], [5, 0]]):
        for indices in asked:
            for k, frames in zip(indices, portion(indices), strict=True):
                assert torch.equal(frames, together[k])
    assert not torch.equal(together[0], together[1])


@pytest.mark.parametrize("repulsion", [0.0, 5.0], ids=["free", "repelled"])
@pytest.mark.parametrize("method", ["first", "two-call", "multistep"])
def test_a_sample_turns_and_moves_with_its_noise(method, repulsion: float):
    """To 1e-3 Å in float32, over 20 calls, as far as 40 Å from the origin."""
    config = ProteinSamplingConfig(steps=20, method=method, repulsion=repulsion)
    model = network()
    noise = noise_frames(0, 0, 40)
    turn = quaternion.normalise(torch.tensor([0.2, -1.0, 0.7, 0.4]))
    shift = torch.tensor([20.0, -30.0, 15.0])

    def moved(frames: Tensor) -> Tensor:
        rotations = quaternion.multiply(turn.expand(len(frames), 4), frames[:, :4])
        return torch.cat([rotations, quaternion.rotate(turn.expand(len(frames), 4), frames[:, 4:]) + shift], dim=-1)

    def drawn(start: Tensor) -> Tensor:
        return sample_backbones(model, config, seed=0, indices=[0], lengths=[40], noise=[start])[0].frames

    plain, other = drawn(noise), drawn(moved(noise))
    assert (plain[:, 4:] - noise[:, 4:]).norm(dim=-1).mean() > 0.5  # the network does something
    torch.testing.assert_close(other[:, 4:], moved(plain)[:, 4:], rtol=0, atol=1e-3)
    between = quaternion.multiply(quaternion.conjugate(other[:, :4]), moved(plain)[:, :4])
    assert quaternion.log(between).abs().max() < 1e-3


@pytest.mark.parametrize("method", ["first", "two-call", "multistep"])
@pytest.mark.parametrize("steps", [2, 3, 4, 7, 50])
def test_the_network_is_called_as_often_as_said(steps: int, method):
    model = network()
    calls = []
    model.register_forward_pre_hook(lambda *_: calls.append(1))
    config = ProteinSamplingConfig(steps=steps, method=method)
    found = sample_backbones(model, config, seed=0, indices=[0], lengths=[5], trajectory=True)[0]
    assert steps - 1 <= len(calls) <= max(steps, 3)
    assert len(calls) == steps or method == "two-call"
    assert found.trajectory is not None and found.predictions is not None
    assert len(found.trajectory) == len(found.predictions) == len(calls)
    assert torch.equal(found.trajectory[0], found.source)
    assert torch.equal(found.predictions[-1], found.frames)


def test_times_run_from_start_to_end_and_a_shift_spends_more_near_noise():
    even = ProteinSamplingConfig(steps=11, start=0.0, end=0.9)
    torch.testing.assert_close(torch.tensor(even.times()), torch.linspace(0, 0.9, 11))
    shifted = replace(even, shift=3.0).times()
    assert (shifted[0], shifted[-1]) == (0.0, 0.9)
    # k s / (1 + (k - 1) s) of the noise level s
    assert shifted[5] == pytest.approx(0.9 * (1 - 3 * 0.5 / (1 + 2 * 0.5)))
    assert all(a < b for a, b in zip(shifted, even.times(), strict=True) if 0 < b < 0.9)


def test_rotations_never_overshoot_and_the_published_steps_do():
    assert ProteinSamplingConfig(steps=5).schedule().fraction(0.0, 0.25).max() < 1
    assert ProteinSamplingConfig(steps=5, reference=True).schedule().fraction(0.0, 0.25)[0] == 2.5


@dataclass(frozen=True)
class Held:
    """The first residues at given frames."""

    given: Tensor
    length: int

    @property
    def generated(self) -> Tensor:
        return torch.arange(self.length) >= len(self.given)

    def start(self, noise: Tensor) -> Tensor:
        return self.project(noise, 0.0)

    def project(self, frames: Tensor, t: float) -> Tensor:
        return torch.cat([self.given.expand(*frames.shape[:-2], -1, 7), frames[..., len(self.given) :, :]], dim=-2)

    def guide(self, prediction: Tensor, t: float) -> Tensor:
        return prediction


def test_held_residues_stay_to_the_last_bit_and_the_others_see_them():
    model = network()
    given = [noise_frames(3, k, 4) for k in range(2)]
    found = []
    for frames in given:
        held = Held(frames, 20)
        assert isinstance(held, Constraint)
        (one,) = sample_backbones(model, FEW, seed=1, indices=[0], lengths=[20], constraint=held, trajectory=True)
        assert torch.equal(one.frames[:4], frames)
        assert one.trajectory is not None and (one.trajectory[:, :4] == frames).all()
        found.append(one.frames)
    assert not torch.allclose(found[0][4:], found[1][4:], atol=0.1)


def test_tied_noise_gives_a_symmetric_assembly():
    tied = SymmetricSampling(Symmetry("C3"), 12)
    (found,) = sample_backbones(network(), FEW, seed=1, indices=[0], lengths=[tied.residues], constraint=tied)
    assert asymmetry(found.frames, tied.symmetry) < 1e-3
    assert (found.frames[:, 4:] - found.source[:, 4:]).norm(dim=-1).mean() > 0.5


def test_two_chains_are_told_apart():
    """The end of one and the beginning of the next are no neighbours for the network."""
    model, shown = network(), []
    model.register_forward_pre_hook(lambda _, args, kwargs: shown.append(kwargs), with_kwargs=True)
    tied = SymmetricSampling(Symmetry("C2"), 5)
    sample_backbones(model, FEW, seed=1, indices=[0], lengths=[10], constraint=tied)
    places = shown[0]["resolved"][0].nonzero()[:, 0]
    assert places.tolist() == [*range(5), *range(5 + CHAIN_GAP, 10 + CHAIN_GAP)]
    assert shown[0]["residue_index"][0, places].tolist() == tied.residue_index.tolist()


def test_crossing_stretches_are_pushed_apart_and_bonds_stay():
    """Two strands that run through each other at 2 Å, in one chain with a wide loop between."""
    line = 3.8 * (torch.arange(11.0) - 5)
    zero = torch.zeros_like(line)
    strands = torch.cat([torch.stack([line, zero, zero], -1), torch.stack([zero, line, zero + 2.0], -1)])
    frames = torch.cat([torch.tensor([1.0, 0, 0, 0]).expand(22, 4), strands], dim=-1)[None]
    places, free = torch.cat([torch.arange(11), torch.arange(100, 111)]), torch.ones(22, dtype=torch.bool)

    def nearest(x: Tensor) -> float:
        return torch.cdist(x[0, :11, 4:], x[0, 11:, 4:]).min().item()

    def bonds(x: Tensor) -> Tensor:
        return torch.stack([x[0, part, 4:].diff(dim=0).norm(dim=-1) for part in (slice(11), slice(11, 22))])

    moved = pushed_apart(frames, places, free, least=5.0)
    assert nearest(frames) == pytest.approx(2.0) and nearest(moved) > 4.0
    assert (bonds(moved) - 3.8).abs().max() < 0.3
    torch.testing.assert_close(moved[..., 4:].mean(1), frames[..., 4:].mean(1), rtol=0, atol=1e-4)
    assert torch.equal(pushed_apart(moved, places, free, least=1.0), moved)
    held = pushed_apart(frames, places, places < 50, least=5.0)
    assert torch.equal(held[0, 11:], frames[0, 11:]) and nearest(held) > 3.0


def test_rows_per_call_depend_on_sizes_alone():
    cpu = torch.device("cpu")
    assert samples_per_call(16, 32, cpu) == 16
    assert samples_per_call(16, 64, cpu) == 4
    assert samples_per_call(128, 300, cpu) == 1


def test_user_mistakes_are_named():
    model = network()
    with pytest.raises(PenstockError, match="distinct"):
        sample_backbones(model, FEW, seed=0, indices=[1, 1], lengths=[5, 5])
    with pytest.raises(PenstockError, match="lengths"):
        sample_backbones(model, FEW, seed=0, indices=[1], lengths=[])
    with pytest.raises(PenstockError, match="noise"):
        sample_backbones(model, FEW, seed=0, indices=[1], lengths=[5], noise=[noise_frames(0, 0, 6)])
    with pytest.raises(PenstockError, match="constraint"):
        held = Held(noise_frames(0, 0, 2), 6)
        sample_backbones(model, FEW, seed=0, indices=[1], lengths=[5], constraint=held)
    for changes, message in (
        ({"steps": 1}, "steps"),
        ({"start": 0.5, "end": 0.2}, "start"),
        ({"shift": 0.0}, "shift"),
        ({"rotation_rate": -1.0}, "rate"),
        ({"repulsion": -1.0}, "repulsion"),
        ({"reference": True, "shift": 2.0}, "published"),
    ):
        with pytest.raises(ConfigError, match=message):
            ProteinSamplingConfig(**changes)
