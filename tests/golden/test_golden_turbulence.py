"""The factorized operator against the published implementations: every variant, every step of the way."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from benchmarks.turbulence_reference import plain
from data.grid import Grid, fourier, stretched
from modules.turbulence.ifactformer import IFactFormer, IFactFormerConfig
from modules.turbulence.ifactformer_coordinates import published_coordinates
from modules.turbulence.import_weights import published_names
from tests.golden.turbulence_fixture import AXES, VARIANTS, TurbulenceFixture, parametrized

pytestmark = pytest.mark.golden
EXACT = {"rtol": 0.0, "atol": 1e-10}
PUBLISHED_PARAMETERS = {"head": 1_163_331, "legacy": 1_181_763}


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    parametrized(metafunc)


def test_the_variant_and_the_sizes_are_told_from_the_weights(fixture: TurbulenceFixture) -> None:
    told, model = fixture.config, fixture.facts["model"]
    assert told.variant == VARIANTS[fixture.facts["variant"]]
    assert (told.components, told.axes, told.history) == (model["in_dim"], 3, model["in_time_window"])
    names = {"dim": "dim", "heads": "heads", "dim_head": "dim_head", "depth": "depth", "iterations": "n_layer"}
    for ours, theirs in names.items():
        assert getattr(told, ours) == model[theirs], ours
    assert told.kernel_multiplier == model["kernel_multiplier"]


def test_parameters_are_as_many(fixture: TurbulenceFixture) -> None:
    parameters = list(fixture.network().parameters())
    assert sum(p.numel() for p in parameters) == fixture.facts["n_params"]
    assert sum(p.numel() for p in parameters if p.requires_grad) == fixture.facts["n_trainable"]


@pytest.mark.parametrize("variant", PUBLISHED_PARAMETERS)
def test_the_published_sizes_have_the_published_number_of_parameters(variant: Any) -> None:
    with torch.device("meta"):
        network = IFactFormerConfig(variant=variant).build()
    assert sum(p.numel() for p in network.parameters()) == PUBLISHED_PARAMETERS[variant]


def test_coordinates_are_those_of_the_published_training(fixture: TurbulenceFixture) -> None:
    if fixture.facts["y_coordinate"] != "uniform":
        pytest.skip("the coordinates of this fixture were given by hand")
    shape, length = fixture.facts["grid"], fixture.facts["length"]
    # The walls' true points do not matter: the network is told of equal spacing.
    walls = stretched("y", [length[1] * math.sin(math.pi / 2 * j / (shape[1] - 1)) ** 2 for j in range(shape[1])])
    grid = Grid((fourier("x", shape[0], length[0]), walls, fourier("z", shape[2], length[2])))
    for ours, theirs in zip(published_coordinates(grid), fixture.coordinates(), strict=True):
        torch.testing.assert_close(ours.float(), theirs, rtol=0, atol=1e-6)


def test_one_step(fixture: TurbulenceFixture) -> None:
    tensors = fixture.tensors
    past = (tensors["input.x"] - tensors["input.mean"]) / tensors["input.std"]
    with torch.no_grad():
        normalised = fixture.network().evolve(past, fixture.coordinates())
        physical = fixture.step(fixture.network(), tensors["input.x"])
        exact = fixture.step(fixture.network(torch.float64), tensors["input.x"].double())
    near = {"rtol": 0.0, "atol": fixture.tolerance()}
    torch.testing.assert_close(normalised, tensors["output.normalized"], **near)
    torch.testing.assert_close(physical, tensors["output.physical"], **near)
    torch.testing.assert_close(exact, tensors["output.physical_f64"], **EXACT)


def test_another_grid(fixture: TurbulenceFixture) -> None:
    with torch.no_grad():
        found = fixture.step(fixture.network(), fixture.tensors["alt.x"], "alt")
    torch.testing.assert_close(found, fixture.tensors["alt.output_physical"], rtol=0, atol=fixture.tolerance())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])
def test_five_steps(fixture: TurbulenceFixture, dtype: torch.dtype) -> None:
    network, past = fixture.network(dtype), fixture.tensors["input.x"].to(dtype)
    theirs = fixture.tensors["output.rollout5" + ("_f64" if dtype == torch.float64 else "")]
    for step in range(theirs.shape[1]):
        with torch.no_grad():
            following = fixture.step(network, past)
        atol = fixture.tolerance(step) if dtype == torch.float32 else EXACT["atol"]
        torch.testing.assert_close(following, theirs[:, step], rtol=0, atol=atol)
        past = torch.cat([past[:, 1:], following[:, None]], dim=1)


def test_every_part_at_its_first_call(fixture: TurbulenceFixture) -> None:
    network, seen, calls = fixture.network(), dict[str, Tensor](), dict[str, int]()

    def watch(name: str, module: nn.Module) -> None:
        def hook(_: nn.Module, __: Any, output: Tensor) -> None:
            seen.setdefault(name, output)
            calls[name] = calls.get(name, 0) + 1

        module.register_forward_hook(hook)

    watch("to_in", network.lift)
    for d, block in enumerate(network.weight_sets):
        theirs = f"encoder.layers.{d}"
        watch(f"{theirs}.0", block.position)
        watch(f"{theirs}.1", block)
        watch(f"{theirs}.1.in_norm", block.norm)
        for axis, kernel in zip(AXES, block.kernels, strict=True):
            watch(f"{theirs}.1.to_{axis}", kernel.contract)
            watch(f"{theirs}.1.low_rank_kernel_{axis}", kernel)
    network.head_expand.register_forward_pre_hook(lambda _, given: seen.update(encoder=given[0]))
    with torch.no_grad():
        fixture.step(network, fixture.tensors["input.x"])
    expected = fixture.under("first_call.")
    assert expected.keys() <= seen.keys()
    for name, theirs_seen in expected.items():
        ours = seen[name]
        if name == "to_in":
            ours = ours.flatten(1, -2).mT[:, :, None]
        elif ours.shape != theirs_seen.shape:
            ours = ours.reshape(theirs_seen.shape)
        atol = fixture.tolerance() * max(1.0, float(theirs_seen.abs().max()))
        torch.testing.assert_close(ours, theirs_seen, rtol=0, atol=atol, msg=lambda m, n=name: f"{n}: {m}")
    counted = {name: n for name, n in fixture.facts["calls_per_forward"].items() if name != "encoder"}
    assert {name: calls[name] for name in counted} == counted


def gradients(network: IFactFormer, config: IFactFormerConfig) -> dict[str, Tensor]:
    """Under the published names; each parameter once."""
    parameters = dict(network.named_parameters())
    names = {theirs: parameters[ours] for theirs, ours in published_names(config).items() if ours in parameters}
    return {theirs: p.grad for theirs, p in names.items() if p.grad is not None}


@pytest.mark.parametrize("recompute", [False, True], ids=["kept", "recomputed"])
def test_losses_gradients_and_a_training_step(fixture: TurbulenceFixture, recompute: bool) -> None:
    facts, network = fixture.facts, fixture.network()
    if recompute:
        object.__setattr__(network.config, "recompute", True)
    optimizer = torch.optim.AdamW(network.parameters(), lr=facts["adamw"]["lr"])
    losses = fixture.losses(fixture.step(network, fixture.tensors["input.x"]))
    torch.testing.assert_close(losses, torch.tensor(facts["loss_per_sample"]), rtol=0, atol=2e-5)
    losses.mean().backward()
    found = gradients(network, fixture.config)
    assert found.keys() == facts["grad_norms"].keys()
    largest = max(facts["grad_norms"].values())
    for name, norm in facts["grad_norms"].items():
        assert float(found[name].norm()) == pytest.approx(norm, rel=1e-4, abs=1e-6 * largest), name
    for name, theirs in fixture.under("grad.").items():
        scale = float(theirs.abs().max())
        torch.testing.assert_close(found[name].reshape(theirs.shape), theirs, rtol=0, atol=1e-4 * scale)
    optimizer.step()
    state = network.state_dict()
    for name, ours in published_names(fixture.config).items():
        if name in facts["param_norms_after_step"]:
            assert float(state[ours].norm()) == pytest.approx(facts["param_norms_after_step"][name], rel=2e-6), name
    with torch.no_grad():
        after = fixture.losses(fixture.step(network, fixture.tensors["input.x"])).mean()
    assert float(after) == pytest.approx(facts["loss_mean_after_one_adamw_step"], abs=2e-5)


def test_the_plain_transcription_is_the_published_network(fixture: TurbulenceFixture) -> None:
    """It is the oracle of other tests and what the benchmarks measure against."""
    sizes = {name: getattr(fixture.config, name) for name in ("components", "axes", "history", "dim", "heads")}
    sizes |= {name: getattr(fixture.config, name) for name in ("dim_head", "depth", "iterations", "variant")}
    sizes["kernel_multiplier"] = fixture.config.kernel_multiplier
    tensors = fixture.tensors
    network = plain(sizes, fixture.under("weights.")).double()
    mean, std = tensors["input.mean"].double(), tensors["input.std"].double()
    coordinates = [c[:, None] for c in fixture.coordinates(dtype=torch.float64)]
    with torch.no_grad():
        found = network((tensors["input.x"].double() - mean) / std, coordinates) * std + mean
    torch.testing.assert_close(found, tensors["output.physical_f64"], **EXACT)
