"""The backbone network: its laws, and a plain transcription of its description."""

import math
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import modules.protein.chunked as chunked
import modules.protein.network as network_module
from benchmarks.protein_baseline import Baseline
from data.errors import ConfigError
from modules.geometry.quaternion import multiply, normalise, rotate
from modules.protein.attention import coordinate_type
from modules.protein.embedding import distance_bins, index_sinusoid, time_sinusoid
from modules.protein.import_weights import import_reqflow
from modules.protein.network import ProteinNetwork, ProteinNetworkConfig

SMALL = ProteinNetworkConfig(
    node_width=16,
    edge_width=12,
    blocks=3,
    heads=2,
    head_width=6,
    query_points=3,
    value_points=4,
    pair_value_width=5,
    transformer_layers=1,
    transformer_heads=2,
    index_channels=8,
    time_channels=6,
    edge_channels=4,
    distance_bins=7,
)


def made(config: ProteinNetworkConfig = SMALL, *, seed: int = 0) -> ProteinNetwork:
    """A network without a weight at zero."""
    torch.manual_seed(seed)
    network = config.build().eval()
    for parameter in network.parameters():
        nn.init.normal_(parameter, std=0.3)
    return network


def example(batch: int = 2, length: int = 11, *, seed: int = 0) -> dict[str, Any]:
    """Frames with holes, a motif and a gap of the chain, self-conditioned, at times of their own."""
    source = torch.Generator().manual_seed(seed)
    resolved = torch.rand(batch, length, generator=source) < 0.8
    positions = 10 * torch.randn(batch, length, 3, generator=source)
    index = torch.arange(1, length + 1).repeat(batch, 1)
    index[:, length // 2 :] += 7
    return {
        "frames": torch.cat([normalise(torch.randn(batch, length, 4, generator=source)), positions], dim=-1),
        "t_rotation": torch.rand(batch, generator=source),
        "t_translation": torch.rand(batch, generator=source),
        "resolved": resolved,
        "generated": torch.rand(batch, length, generator=source) < 0.7,
        "residue_index": index,
        "self_condition": positions + torch.randn(batch, length, 3, generator=source),
    }


def test_the_defaults_are_the_published_model():
    with torch.device("meta"):
        network = ProteinNetworkConfig().build()
    assert sum(parameter.numel() for parameter in network.parameters()) == 16_779_268


@torch.no_grad()
@pytest.mark.parametrize("conditioned", [False, True])
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"edge_knows_generated": False, "distance_bins": 22, "index_channels": 10},
        {"blocks": 1, "transformer_layers": 3, "heads": 3, "query_points": 5},
    ],
    ids=["small", "unaware", "one block"],
)
def test_equals_the_plain_transcription(changes: dict[str, Any], conditioned: bool):
    config = replace(SMALL, **changes)
    torch.manual_seed(1)
    baseline = Baseline(config).eval()
    for parameter in baseline.parameters():
        nn.init.normal_(parameter, std=0.2)
    hyper = {
        "edge_features": {"num_bins": config.distance_bins, "embed_diffuse_mask": config.edge_knows_generated},
        "node_features": {"c_pos_emb": config.index_channels},
        "ipa": {"seq_tfmr_num_heads": config.transformer_heads},
    }
    imported, state = import_reqflow(baseline.state_dict(), hyper)
    assert imported == config
    network = imported.build()
    network.load_state_dict(state)
    inputs = example() | ({} if conditioned else {"self_condition": None})
    # the transcription, like the original, must be given something of use where nothing is
    identity = torch.tensor([1.0, 0, 0, 0, 0, 0, 0])
    inputs["frames"] = torch.where(inputs["resolved"][..., None], inputs["frames"], identity)
    real = inputs["resolved"]
    torch.testing.assert_close(network(**inputs)[real], baseline(**inputs)[real], rtol=1e-4, atol=1e-3)


@torch.no_grad()
def test_a_new_network_predicts_its_input():
    inputs = example()
    torch.testing.assert_close(SMALL.build()(**inputs), inputs["frames"], rtol=0, atol=1e-5)


@torch.no_grad()
@given(st.integers(0, 2**31), st.floats(0, 200))
@settings(max_examples=20, deadline=None)
def test_turns_and_shifts_with_its_input(seed: int, distance: float):
    source = torch.Generator().manual_seed(seed)
    turn = normalise(torch.randn(4, generator=source))
    shift = distance * nn.functional.normalize(torch.randn(3, generator=source), dim=0)

    def moved(frames: Tensor) -> Tensor:
        return torch.cat([multiply(turn, frames[..., :4]), rotate(turn, frames[..., 4:]) + shift], dim=-1)

    network, inputs = made(), example(seed=seed)
    there = inputs | {
        "frames": moved(inputs["frames"]),
        "self_condition": rotate(turn, inputs["self_condition"]) + shift,
    }
    # A pair next to the edge of a distance bin may change its bin by rounding: none here.
    torch.testing.assert_close(network(**there), moved(network(**inputs)), rtol=0, atol=1e-3)


@torch.no_grad()
@pytest.mark.parametrize("filling", [0.0, 1e4, math.nan])
def test_what_is_not_resolved_is_seen_by_nobody(filling: float):
    network, inputs = made(), example()
    hidden = ~inputs["resolved"]
    filled = dict(inputs)
    for name in ("frames", "self_condition"):
        filled[name] = inputs[name].masked_fill(hidden[..., None], filling)
    filled["residue_index"] = inputs["residue_index"].masked_fill(hidden, 0)
    predicted = network(**filled)
    torch.testing.assert_close(predicted[~hidden], network(**inputs)[~hidden], rtol=0, atol=0)
    torch.testing.assert_close(predicted[hidden], filled["frames"][hidden], rtol=0, atol=0, equal_nan=True)


@torch.no_grad()
@pytest.mark.parametrize("extra", [1, 30])
def test_padding_changes_nothing(extra: int):
    network, inputs = made(), example()
    padded = {
        name: value if value.ndim == 1 else torch.cat([value] + [torch.zeros_like(value[:, :1])] * extra, dim=1)
        for name, value in inputs.items()
    }
    predicted = network(**padded)[:, : inputs["frames"].shape[1]]
    torch.testing.assert_close(predicted, network(**inputs), rtol=0, atol=1e-4)


@torch.no_grad()
def test_samples_of_a_batch_do_not_see_each_other():
    network, inputs = made(), example(batch=3)
    together = network(**inputs)
    for row in range(3):
        alone = network(**{name: value[row : row + 1] for name, value in inputs.items()})
        torch.testing.assert_close(alone[0], together[row], rtol=0, atol=1e-4)


@torch.no_grad()
def test_a_motif_comes_back_bit_for_bit():
    network, inputs = made(), example()
    predicted, fixed = network(**inputs), ~inputs["generated"]
    assert torch.equal(predicted[fixed], inputs["frames"][fixed])
    free = inputs["generated"] & inputs["resolved"]
    assert (predicted - inputs["frames"])[free].abs().amax(-1).min() > 1e-4


@torch.no_grad()
def test_a_sample_without_residues_passes_through():
    inputs = example() | {"resolved": torch.zeros(2, 11, dtype=torch.bool)}
    assert torch.equal(made()(**inputs), inputs["frames"])


def test_self_conditioning_on_one_point_is_none():
    network, inputs = made(), example()
    same = network(**inputs | {"self_condition": torch.ones(2, 11, 3)})
    torch.testing.assert_close(same, network(**inputs | {"self_condition": None}), rtol=0, atol=1e-5)


def gradients(network: ProteinNetwork, inputs: dict[str, Any]) -> dict[str, Tensor]:
    network.zero_grad()
    (network(**inputs) * torch.arange(1, 8)).square().sum().backward()
    return {name: p.grad.clone() for name, p in network.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("at_once", [1, 400, 10**9])
def test_walking_over_pairs_changes_nothing(at_once: int, monkeypatch: pytest.MonkeyPatch):
    """The prediction without gradients, and all gradients, however many pairs are taken at once."""
    network, inputs = made().double(), example(length=19)
    monkeypatch.setattr(network_module, "usable", lambda edges: False)
    plain, expected = network(**inputs), gradients(network, inputs)
    monkeypatch.undo()
    monkeypatch.setattr(chunked, "NUMBERS_AT_ONCE", at_once)
    monkeypatch.setattr(network_module, "PAIRS_AT_ONCE", at_once)
    torch.testing.assert_close(network(**inputs), plain, rtol=0, atol=1e-9)
    with torch.no_grad():
        torch.testing.assert_close(network(**inputs), plain, rtol=0, atol=1e-9)
    found = gradients(network, inputs)
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-7, atol=1e-7, msg=lambda m, n=name: f"{n}: {m}")


def test_gradients_are_those_of_finite_differences():
    """Of the operation that is differentiated by hand, in every argument."""
    torch.manual_seed(3)
    batch, length, edge, hidden = 2, 3, 4, 5

    def random(*shape: int) -> Tensor:
        return torch.randn(*shape, dtype=torch.float64, requires_grad=True)

    arguments = [
        random(batch, length, length, edge),
        random(batch, length, hidden),
        random(batch, length, hidden),
        random(batch, length, edge),
        random(batch, length, edge),
        random(hidden, edge),
        random(hidden, hidden),
        random(hidden),
        random(edge, hidden),
        random(edge, edge),
        random(edge),
        random(edge),
    ]
    resolved = torch.tensor([[True, False, True], [True, True, True]])
    assert torch.autograd.gradcheck(
        lambda *given: chunked.ChunkedTransition.apply(*given, 1e-5, resolved), arguments, eps=1e-6, atol=1e-6
    )


def test_computing_blocks_again_changes_nothing():
    inputs = example()
    plain, lean = made(), made(replace(SMALL, checkpoint_blocks=True))
    expected, found = gradients(plain, inputs), gradients(lean, inputs)
    assert all(torch.equal(found[name], gradient) for name, gradient in expected.items())


def test_every_weight_learns():
    """After a few steps from the published initialisation, where many layers begin at zero."""
    torch.manual_seed(0)
    network, inputs = replace(SMALL, edge_start="carry").build(), example()
    optimizer = torch.optim.SGD(network.parameters(), lr=1e-4)
    for _ in range(4):
        optimizer.zero_grad()
        (network(**inputs) * torch.arange(1, 8)).square().mean().backward()
        optimizer.step()
    still = [name for name, parameter in network.named_parameters() if not parameter.grad.abs().sum() > 0]
    assert not still


@torch.no_grad()
def test_edges_are_carried_or_forgotten_at_first():
    torch.manual_seed(0)
    nodes, edges, resolved = torch.randn(1, 5, 16), torch.randn(1, 5, 5, 12), torch.ones(1, 5, dtype=torch.bool)
    for start, expected in (("zero", False), ("carry", True)):
        transition = replace(SMALL, edge_start=start).build().blocks[0].edge_transition
        renewed = transition.rows(transition.prepare(nodes), edges, resolved, slice(0, 5))
        assert bool(renewed.abs().max() > 0.1) == expected
        assert bool(torch.corrcoef(torch.stack([renewed.flatten(), edges.flatten()]))[0, 1] > 0.3) == expected


@torch.no_grad()
def test_points_keep_their_digits_where_products_are_rounded():
    """Then they are multiplied in float64, which is the same but for its digits."""
    network, inputs = made(), example()
    exact = network(**inputs)
    torch.set_float32_matmul_precision("high")
    try:
        same = network(**inputs)
        assert coordinate_type(inputs["frames"]) == torch.float64
    finally:
        torch.set_float32_matmul_precision("highest")
    assert coordinate_type(inputs["frames"]) == torch.float32
    torch.testing.assert_close(same, exact, rtol=0, atol=1e-4)


@torch.no_grad()
def test_bfloat16_stays_near():
    network, inputs = made(), example()
    exact = network(**inputs)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rough = network(**inputs)
    assert rough.dtype == torch.float32
    moved = (exact - inputs["frames"]).square().mean().sqrt()
    assert (rough - exact).square().mean().sqrt() < 0.05 * moved


COMPILED = """
import torch
from tests.modules.protein.test_network import example, made
network, inputs = made(), example()
whole = torch.compile(network, fullgraph=True, backend="eager")
for gradients, precision in ((False, "highest"), (True, "highest"), (False, "high")):
    torch.set_float32_matmul_precision(precision)
    torch.compiler.reset()
    with torch.set_grad_enabled(gradients):
        torch.testing.assert_close(whole(**inputs), network(**inputs), rtol=0, atol=1e-4)
"""


@pytest.mark.slow
def test_is_one_graph_to_the_compiler():
    """In a process of its own, since the compiler cannot see through the checks of shapes that tests switch on."""
    root = Path(__file__).resolve().parents[3]
    done = subprocess.run([sys.executable, "-c", COMPILED], cwd=root, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_distance_bins_by_their_definition():
    torch.manual_seed(0)
    positions = torch.cat([12 * torch.randn(1, 30, 3), torch.tensor([[[0.0, 0, 0], [0, 0, 0], [20.0, 0, 0]]])], dim=1)
    distances = (positions[:, :, None] - positions[:, None]).norm(dim=-1)
    lower = torch.linspace(0.001, 20.0, 9)
    upper = torch.cat([lower[1:], torch.tensor([1e8])])
    one_hot = (distances[..., None] > lower) & (distances[..., None] < upper)
    expected = torch.where(one_hot.any(-1), one_hot.int().argmax(-1) + 1, 0)
    found = distance_bins(positions, 9)
    assert torch.equal(found, expected)
    assert (found.diagonal(dim1=1, dim2=2) == 0).all()
    # exactly on the last edge: in no bin
    assert found[0, 30, 32] == 0 and found[0, 30, 31] == 0


@pytest.mark.parametrize(
    ("function", "value", "angle"),
    [
        (index_sinusoid, 17.0, lambda k: 17.0 * math.pi / 2056 ** (2 * k / 10)),
        (time_sinusoid, 0.3, lambda k: 0.3 * 2056 * math.exp(-k * math.log(2056) / 4)),
    ],
)
def test_sinusoids_by_their_formula(function: Callable[..., Tensor], value: float, angle: Callable[[int], float]):
    expected = [math.sin(angle(k)) for k in range(5)] + [math.cos(angle(k)) for k in range(5)]
    found = function(torch.tensor([value], dtype=torch.float64), 10)[0]
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"node_width": 15}, "multiple of heads"),
        ({"blocks": 0}, "blocks must be at least 1, got 0"),
        ({"edge_channels": 5}, "edge_channels must be even, got 5; take 6"),
        ({"distance_bins": 1}, "distance_bins must be at least 2"),
    ],
)
def test_sizes_that_cannot_be_are_refused(changes: dict[str, Any], message: str):
    with pytest.raises(ConfigError, match=message):
        replace(SMALL, **changes)
