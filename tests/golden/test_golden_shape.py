"""The shape modules against numbers of the published implementation.

Fixtures are found by their files and every size is read from them. Weights come in under the original's key names,
through the importer that `penstock import` uses. Tolerances are those that come with the fixtures: rtol 1e-4 and atol
1e-4 times the standard deviation of the expected tensor; 1e-6 for the scheduler.
"""

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from modules.geometry.manifold import Euclidean
from modules.geometry.sampling import farthest_point_sampling
from modules.shape.import_weights import (
    export_transformer,
    export_vae,
    import_component,
    import_transformer,
    import_vae,
    transformer_config,
    vae_config,
)
from modules.shape.sampling import LatentSamplingConfig, guided_velocity, solve
from modules.shape.transformer import ShapeTransformer
from modules.shape.vae import ShapeVAE
from modules.transport.objective import WEIGHTINGS
from modules.transport.path import GeodesicPath
from modules.transport.solver import Euler, shifted_times, trajectory

pytestmark = pytest.mark.golden

WEIGHT_NAMES = {"sigma_sqrt": "inverse-square", "cosmap": "cosine", "logit_normal": "uniform"}


@dataclass(frozen=True)
class Fixture:
    """One set of files that share a name."""

    folder: Path
    name: str

    @property
    def settings(self) -> dict[str, Any]:
        return json.loads((self.folder / f"{self.name}.json").read_text())

    def tensors(self) -> dict[str, Tensor]:
        return load_file(self.folder / f"{self.name}.io.safetensors")

    def weights(self) -> dict[str, Tensor]:
        return load_file(self.folder / f"{self.name}.weights.safetensors")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """One test per fixture whose name begins with the kind in the test's `fixture` argument."""
    kinds = [k for k in ("vae", "dit", "scheduler", "pipeline", "fps") if f"{k}_fixture" in metafunc.fixturenames]
    for kind in kinds:
        folder = Path(metafunc.config.getoption("--golden")) / "shape"
        names = sorted(p.name.removesuffix(".io.safetensors") for p in folder.glob(f"{kind}_*.io.safetensors"))
        found = [pytest.param(Fixture(folder, name), id=f"shape-{name}") for name in names]
        absent = pytest.param(
            None, id=f"shape-no-{kind}", marks=pytest.mark.skip(f"no {kind}_* fixtures in {folder}; see --golden DIR")
        )
        metafunc.parametrize(f"{kind}_fixture", found or [absent])


def assert_agrees(actual: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-4 * expected.std().item())


def vae_of(fixture: Fixture) -> ShapeVAE:
    config, state = import_vae(fixture.weights(), fixture.settings)
    vae = config.build()
    vae.load_state_dict(state)
    return vae.eval()


def transformer_of(fixture: Fixture) -> ShapeTransformer:
    config, state = import_transformer(fixture.weights(), fixture.settings)
    network = config.build()
    network.load_state_dict(state)
    return network.eval()


def scales_of(settings: dict[str, Any]) -> tuple[float, float]:
    arguments = settings.get("attention_kwargs", {})
    return float(arguments.get("cross_attention_scale", 1.0)), float(arguments.get("cross_attention_2_scale", 1.0))


def times_of(fixture: Fixture, io: dict[str, Tensor]) -> Tensor:
    """The original counts timesteps from 1000 = noise down to 0 = data."""
    return 1.0 - io["in.timesteps"].double() / 1000.0


def test_shape_vae_encodes(vae_fixture: Fixture):
    io, vae = vae_fixture.tensors(), vae_of(vae_fixture)
    with torch.no_grad():
        embedding = vae.encoder.embedding(io["in.surface"][..., :3])
        posterior = vae.encode(io["in.surface"], query_indices=io["in.query_indices"])
        latent = vae.sample(posterior, io["in.posterior_noise"])
    assert_agrees(embedding, io["out.surface_embedding"])
    assert_agrees(posterior.mean, io["out.mean"])
    assert_agrees(posterior.logvar, io["out.logvar"])
    assert_agrees(torch.exp(0.5 * posterior.logvar), io["out.std"])
    assert_agrees(latent, io["out.latent"])
    mean, logvar = io["out.moments"].chunk(2, dim=-1)
    assert_agrees(torch.cat([posterior.mean, posterior.logvar], -1), torch.cat([mean, logvar.clamp(-30, 20)], -1))


@pytest.mark.parametrize("differentiable_twice", [False, True], ids=["fused", "twice"])
def test_shape_vae_decodes(vae_fixture: Fixture, differentiable_twice: bool):
    """Field and its gradient; the original returns the field positive inside, we positive outside."""
    io, vae = vae_fixture.tensors(), vae_of(vae_fixture)
    points = io["in.decode_queries"].clone().requires_grad_()
    field = vae.field(vae.decode(io["out.latent"]), points, differentiable_twice=differentiable_twice)
    (gradient,) = torch.autograd.grad(field.sum(), points)
    assert_agrees(-field.detach().unsqueeze(-1), io["out.decoded"])
    assert_agrees(-gradient, io["out.decoded_grad"])


def test_shape_vae_decodes_in_chunks(vae_fixture: Fixture):
    """The cached decode answers any portion of the queries; queries never see each other."""
    io, vae = vae_fixture.tensors(), vae_of(vae_fixture)
    with torch.no_grad():
        decoded = vae.decode(io["out.latent"])
        field = torch.cat([vae.field(decoded, part) for part in io["in.decode_queries"].split(7, dim=1)], dim=1)
    assert_agrees(-field.unsqueeze(-1), io["out.decoded"])


def test_shape_vae_whole_chain(vae_fixture: Fixture):
    io, vae = vae_fixture.tensors(), vae_of(vae_fixture)
    with torch.no_grad():
        posterior = vae.encode(io["in.surface"], query_indices=io["in.query_indices"])
        decoded = vae.decode(vae.sample(posterior, io["in.posterior_noise"]))
        field = vae.field(decoded, io["in.decode_queries"])
    assert_agrees(-field.unsqueeze(-1), io["out.decoded"])


def test_shape_vae_chooses_queries(vae_fixture: Fixture):
    """Farthest points of the recorded subset are the recorded picks, and the two compose to the query indices."""
    io = vae_fixture.tensors()
    subset, picks = io["in.subset_indices"], io["in.fps_indices"]
    assert torch.equal(subset[picks], io["in.query_indices"])
    assert torch.equal(farthest_point_sampling(io["in.surface"][:, subset, :3], picks.shape[1]), picks)


def test_shape_vae_export_undoes_import(vae_fixture: Fixture):
    weights = vae_fixture.weights()
    config, state = import_component(weights, vae_fixture.settings)
    arguments, exported = export_vae(config, state)
    assert vae_config(arguments) == config
    assert exported.keys() == weights.keys()
    assert all(torch.equal(exported[key], weights[key]) for key in weights)


def test_shape_transformer_velocity(dit_fixture: Fixture):
    io, settings = dit_fixture.tensors(), dit_fixture.settings
    network, t = transformer_of(dit_fixture), times_of(dit_fixture, io)
    second = io.get("in.cond_2")
    with torch.no_grad():
        conditional = network(io["in.latents"], t, io["in.cond"], second, scales=scales_of(settings))
        nulls = (torch.zeros_like(io["in.cond"]), None if second is None else torch.zeros_like(second))
        spelt_out = network(io["in.latents"], t, *nulls, scales=scales_of(settings))
        shortcut = network(io["in.latents"], t, scales=scales_of(settings))
    assert_agrees(conditional, io["out.cond"])
    assert_agrees(spelt_out, io["out.uncond"])
    assert_agrees(shortcut, io["out.uncond"])


def test_shape_transformer_guided_velocity(dit_fixture: Fixture):
    """Guidance as sampling uses it, sample by sample, since each has a time of its own here."""
    io, settings = dit_fixture.tensors(), dit_fixture.settings
    network, times = transformer_of(dit_fixture), times_of(dit_fixture, io)
    second = io.get("in.cond_2")
    for row, t in enumerate(times.tolist()):
        one = slice(row, row + 1)
        with torch.no_grad():
            condition = network.project_condition(io["in.cond"][one], None if second is None else second[one])
            field = guided_velocity(network, condition, float(settings["guidance_scale"]), scales=scales_of(settings))
            guided = field(io["in.latents"][one], t)
        assert_agrees(guided, io["out.guided"][one])


def test_shape_transformer_export_undoes_import(dit_fixture: Fixture):
    weights = dit_fixture.weights()
    config, state = import_component(weights, dit_fixture.settings)
    arguments, exported = export_transformer(config, state)
    assert transformer_config(arguments) == config
    assert exported.keys() == weights.keys()
    assert all(torch.equal(exported[key], weights[key]) for key in weights)


def schedule_of(run: dict[str, Any]) -> list[float]:
    shift = math.exp(run["mu"]) if run["use_dynamic_shifting"] else run["shift"]
    return shifted_times(run["num_inference_steps"], shift)


def test_shape_scheduler_schedules(scheduler_fixture: Fixture):
    io = scheduler_fixture.tensors()
    for index, run in enumerate(scheduler_fixture.settings["runs"]):
        times = torch.tensor(schedule_of(run), dtype=torch.float64)
        torch.testing.assert_close((1.0 - times).float(), io[f"out.run{index}.sigmas"], rtol=1e-6, atol=1e-6)
        timesteps = (1000.0 * (1.0 - times[:-1])).float()
        torch.testing.assert_close(timesteps, io[f"out.run{index}.timesteps"], rtol=1e-6, atol=1e-6)


def test_shape_scheduler_trajectories(scheduler_fixture: Fixture):
    """The toy velocity of the fixture depends on the timestep of the original, 1000 (1 - t)."""
    io = scheduler_fixture.tensors()

    def velocity(x: Tensor, t: float) -> Tensor:
        timestep = torch.tensor(1000.0 * (1.0 - t), dtype=torch.float64).float()
        return x @ io["in.matrix"] + (timestep / 1000.0) * io["in.bias"]

    for index, run in enumerate(scheduler_fixture.settings["runs"]):
        states = [x for _, x in trajectory(velocity, Euclidean(), io["in.start"], schedule_of(run), Euler())]
        torch.testing.assert_close(torch.stack(states), io[f"out.run{index}.trajectory"], rtol=1e-6, atol=1e-6)


def test_shape_scheduler_noising(scheduler_fixture: Fixture):
    io = scheduler_fixture.tensors()
    t = 1.0 - io["in.noising_timesteps"].double() / 1000.0
    noised = GeodesicPath(Euclidean()).sample(io["in.start"], io["in.clean"], t).x_t
    torch.testing.assert_close(noised, io["out.noised"], rtol=1e-6, atol=1e-6)


def test_shape_scheduler_loss_weights(scheduler_fixture: Fixture):
    io = scheduler_fixture.tensors()
    t = 1.0 - io["in.weight_sigmas"].double()
    for theirs, ours in WEIGHT_NAMES.items():
        weights = WEIGHTINGS[ours](t).float()
        torch.testing.assert_close(weights, io[f"out.weight.{theirs}"], rtol=1e-6, atol=1e-6)


def test_shape_scheduler_training_levels(scheduler_fixture: Fixture):
    """Every hundredth of the training noise levels, for each shift in the file."""
    io, count = scheduler_fixture.tensors(), scheduler_fixture.settings["num_train_timesteps"]
    keys = [key for key in io if key.startswith("out.train_sigmas.shift")]
    assert keys
    for key in keys:
        times = torch.tensor(shifted_times(count, float(key.removeprefix("out.train_sigmas.shift"))))
        levels = (1.0 - times[:-1])[:: count // len(io[key])]
        torch.testing.assert_close(levels.float(), io[key], rtol=1e-6, atol=1e-6)


def test_shape_pipeline_from_noise_to_field(pipeline_fixture: Fixture):
    io, settings = pipeline_fixture.tensors(), pipeline_fixture.settings
    names = [file.removesuffix(".weights.safetensors") for file in settings["uses_weights"]]
    parts = [Fixture(pipeline_fixture.folder, name) for name in names]
    vae = vae_of(next(part for part in parts if part.name.startswith("vae")))
    source = next(part for part in parts if part.name.startswith("dit"))
    network, scales = transformer_of(source), scales_of(source.settings)
    sampling = LatentSamplingConfig(
        steps=settings["num_inference_steps"], shift=settings["shift"], guidance=settings["guidance_scale"]
    )
    with torch.no_grad():
        condition = network.project_condition(io["in.cond"], io.get("in.cond_2"))
        times = shifted_times(sampling.steps, sampling.shift)
        field = guided_velocity(network, condition, sampling.guidance, scales=scales)
        states = [x for _, x in trajectory(field, Euclidean(), io["in.start"], times, Euler())]
        latents = network.denormalise(solve(network, io["in.start"], sampling, condition, scales=scales))
        axis = torch.linspace(*settings["grid"]["bounds"], settings["grid"]["resolution"])
        points = torch.cartesian_prod(axis, axis, axis)[None]
        grid = vae.field(vae.decode(latents), points).reshape(io["out.grid_field"].shape)
    assert_agrees(torch.stack(states), io["out.trajectory"])
    assert_agrees(latents, io["out.latents"])
    assert_agrees(-grid, io["out.grid_field"])


def test_shape_farthest_points(fps_fixture: Fixture):
    io = fps_fixture.tensors()
    count = fps_fixture.settings["count"]
    assert torch.equal(farthest_point_sampling(io["in.points"], count), io["out.indices"])
