"""Import against a plain implementation of the published layout, at sizes that the golden files do not have.

The plain implementation follows the written specification only and cuts the heads out of activations, not of weights,
so it shares no step with the importer.
"""

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from data.errors import CheckpointError
from modules.shape.import_weights import (
    component_of,
    export_transformer,
    export_vae,
    import_component,
    import_transformer,
    import_vae,
    interleave_heads,
    join_shards,
    scheduler_config,
    separate_heads,
)
from modules.shape.transformer import ShapeTransformerConfig
from modules.shape.vae import ShapeVAEConfig

State = dict[str, Tensor]

VAE_ARGUMENTS = {
    "in_channels": 3,
    "latent_channels": 5,
    "num_attention_heads": 3,
    "width_encoder": 24,
    "width_decoder": 36,
    "num_layers_encoder": 1,
    "num_layers_decoder": 2,
    "embedding_type": "frequency",
    "embed_frequency": 3,
    "embed_include_pi": True,
}


def transformer_arguments(layers: int, second: int | None) -> dict[str, Any]:
    return {
        "num_attention_heads": 3,
        "width": 24,
        "in_channels": 5,
        "num_layers": layers,
        "cross_attention_dim": 14,
        "use_cross_attention_2": second is not None,
        "cross_attention_2_dim": second,
    }


def randomised(shapes: State) -> State:
    """Weights with nothing at a value (0 or 1) that would hide a mistake."""
    source = torch.Generator().manual_seed(0)

    def draw(key: str, like: Tensor) -> Tensor:
        noise = torch.randn(like.shape, generator=source)
        if like.ndim == 2:
            return 1.3 * noise / math.sqrt(like.shape[1])
        return 0.2 * noise + (1.0 if "norm" in key and key.endswith("weight") else 0.0)

    return {key: draw(key, like) for key, like in shapes.items()}


def vae_weights() -> State:
    config = ShapeVAEConfig(
        latent_channels=5,
        heads=3,
        encoder_width=24,
        decoder_width=36,
        encoder_layers=1,
        decoder_layers=2,
        frequencies=3,
        include_pi=True,
    )
    return randomised(export_vae(config, config.build().state_dict())[1])


def transformer_weights(layers: int = 4, second: int | None = None) -> State:
    config = ShapeTransformerConfig(
        latent_channels=5, width=24, layers=layers, heads=3, condition_width=14, second_condition_width=second
    )
    return randomised(export_transformer(config, config.build().state_dict())[1])


class Published:
    """The published modules in plain tensor operations, on their own state dict."""

    def __init__(self, state: State, heads: int) -> None:
        self.state, self.heads = state, heads

    def linear(self, name: str, x: Tensor) -> Tensor:
        return F.linear(x, self.state[f"{name}.weight"], self.state.get(f"{name}.bias"))

    def norm(self, name: str, x: Tensor) -> Tensor:
        mean, variance = x.mean(-1, keepdim=True), x.var(-1, keepdim=True, unbiased=False)
        return (x - mean) / torch.sqrt(variance + 1e-5) * self.state[f"{name}.weight"] + self.state[f"{name}.bias"]

    def rms(self, name: str, x: Tensor) -> Tensor:
        if f"{name}.weight" not in self.state:
            return x
        return x / torch.sqrt(x.square().mean(-1, keepdim=True) + 1e-6) * self.state[f"{name}.weight"]

    def attention(self, name: str, x: Tensor, context: Tensor | None = None) -> Tensor:
        if context is None:
            stacked = torch.cat([self.linear(f"{name}.to_{part}", x) for part in "qkv"], dim=-1)
            q, k, v = stacked.unflatten(-1, (self.heads, -1)).chunk(3, dim=-1)
        else:
            if f"{name}.norm_cross.weight" in self.state:
                context = self.norm(f"{name}.norm_cross", context)
            q = self.linear(f"{name}.to_q", x).unflatten(-1, (self.heads, -1))
            stacked = torch.cat([self.linear(f"{name}.to_{part}", context) for part in "kv"], dim=-1)
            k, v = stacked.unflatten(-1, (self.heads, -1)).chunk(2, dim=-1)
        q, k = self.rms(f"{name}.norm_q", q), self.rms(f"{name}.norm_k", k)
        weights = torch.einsum("bnhd,bshd->bhns", q / math.sqrt(q.shape[-1]), k).softmax(-1)
        return self.linear(f"{name}.to_out.0", torch.einsum("bhns,bshd->bnhd", weights, v).flatten(-2))

    def block(self, name: str, x: Tensor, *contexts: Tensor, skip: Tensor | None = None, scale: float = 1.0) -> Tensor:
        if skip is not None:
            x = self.norm(f"{name}.skip_norm", self.linear(f"{name}.skip_linear", torch.cat([skip, x], -1)))
        if f"{name}.attn1.to_q.weight" in self.state:
            x = x + self.attention(f"{name}.attn1", self.norm(f"{name}.norm1", x))
        if contexts:
            crossed = self.attention(f"{name}.attn2", self.norm(f"{name}.norm2", x), contexts[0])
            if len(contexts) > 1:
                second = self.attention(f"{name}.attn2_2", self.norm(f"{name}.norm2_2", x), contexts[1])
                crossed = crossed + scale * second
            x = x + crossed
        inner = self.linear(f"{name}.ff.net.0.proj", self.norm(f"{name}.norm3", x))
        gelu = 0.5 * inner * (1 + torch.erf(inner / math.sqrt(2)))
        return x + self.linear(f"{name}.ff.net.2", gelu)

    def embed(self, xyz: Tensor, bands: int, factor: float) -> Tensor:
        angles = torch.cat([xyz[..., i : i + 1] * factor * 2.0 ** torch.arange(bands) for i in range(3)], dim=-1)
        return torch.cat([xyz, angles.sin(), angles.cos()], dim=-1)

    def moments(self, surface: Tensor, chosen: Tensor, arguments: dict[str, Any]) -> Tensor:
        embedded = self.embed(surface[..., :3], arguments["embed_frequency"], math.pi)
        features = self.linear("encoder.proj_in", torch.cat([embedded, surface[..., 3:]], -1))
        tokens = torch.stack([row[index] for row, index in zip(features, chosen, strict=True)])
        tokens = self.block("encoder.blocks.0", tokens, features)
        for i in range(arguments["num_layers_encoder"]):
            tokens = self.block(f"encoder.blocks.{i + 1}", tokens)
        return self.linear("quant", self.norm("encoder.norm_out", tokens))

    def inside(self, latents: Tensor, points: Tensor, arguments: dict[str, Any]) -> Tensor:
        """The published field, positive inside."""
        tokens = self.linear("post_quant", latents)
        for i in range(arguments["num_layers_decoder"]):
            tokens = self.block(f"decoder.blocks.{i}", tokens)
        queries = self.linear("decoder.proj_query", self.embed(points, arguments["embed_frequency"], math.pi))
        queries = self.block(f"decoder.blocks.{arguments['num_layers_decoder']}", queries, tokens)
        return -self.linear("decoder.proj_out", self.norm("decoder.norm_out", queries))[..., 0]

    def velocity(self, x: Tensor, timesteps: Tensor, layers: int, *contexts: Tensor, scale: float) -> Tensor:
        width = self.state["proj_in.weight"].shape[0]
        frequencies = 10_000.0 ** (-torch.arange(width // 2) / (width // 2))
        angles = timesteps[:, None] * frequencies
        sinusoid = torch.cat([angles.sin(), angles.cos()], -1)
        time = self.linear("time_proj.linear_2", F.gelu(self.linear("time_proj.linear_1", sinusoid)))
        tokens = torch.cat([time[:, None], self.linear("proj_in", x)], dim=1)
        stack = []
        for i in range(layers):
            skip = stack.pop() if i > layers // 2 else None
            tokens = self.block(f"blocks.{i}", tokens, *contexts, skip=skip, scale=scale)
            if i < layers // 2:
                stack.append(tokens)
        return self.linear("proj_out", self.norm("norm_out", tokens)[:, 1:])


def agree(actual: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-4 * expected.std().item())


@torch.no_grad()
def test_imported_vae_equals_the_published_one():
    weights, source = vae_weights(), torch.Generator().manual_seed(1)
    surface = torch.randn(2, 40, 6, generator=source)
    chosen = torch.randint(40, (2, 7), generator=source)
    latents, points = torch.randn(2, 7, 5, generator=source), torch.rand(2, 9, 3, generator=source) * 2 - 1
    config, state = import_vae(weights, {"config": VAE_ARGUMENTS})
    vae = config.build()
    vae.load_state_dict(state)
    published = Published(weights, heads=3)
    posterior = vae.encode(surface, query_indices=chosen)
    agree(torch.cat([posterior.mean, posterior.logvar], -1), published.moments(surface, chosen, VAE_ARGUMENTS))
    agree(-vae.field(vae.decode(latents), points), published.inside(latents, points, VAE_ARGUMENTS))


@torch.no_grad()
@pytest.mark.parametrize("second", [None, 10], ids=["one", "two"])
@pytest.mark.parametrize("layers", [1, 2, 3, 4, 7, 8])
def test_imported_transformer_equals_the_published_one(layers: int, second: int | None):
    weights, source = transformer_weights(layers, second), torch.Generator().manual_seed(1)
    x, timesteps = torch.randn(3, 6, 5, generator=source), torch.tensor([1000.0, 437.5, 3.0])
    contexts = [torch.randn(3, 4, 14, generator=source)]
    if second is not None:
        contexts.append(torch.randn(3, 2, second, generator=source))
    config, state = import_transformer(weights, transformer_arguments(layers, second))
    network = config.build()
    network.load_state_dict(state)
    velocity = network(x, 1 - timesteps.double() / 1000, *contexts, scales=(1.0, 0.4))
    agree(velocity, Published(weights, heads=3).velocity(x, timesteps, layers, *contexts, scale=0.4))


@pytest.mark.parametrize("heads", [1, 2, 6])
@pytest.mark.parametrize("kinds", [2, 3])
def test_interleaving_undoes_separation(heads: int, kinds: int):
    stored = list(torch.randn(kinds, 12, 5, generator=torch.Generator().manual_seed(0)))
    for before, after in zip(stored, interleave_heads(separate_heads(stored, heads), heads), strict=True):
        assert torch.equal(before, after)


def test_separation_follows_the_written_layout():
    """Stack of 2 x 4 rows, two heads of width two: rows 0, 1 are keys of head 0, 2, 3 its values, then head 1."""
    key, value = separate_heads([torch.arange(4.0)[:, None], torch.arange(4.0, 8.0)[:, None]], heads=2)
    assert key.flatten().tolist() == [0.0, 1.0, 4.0, 5.0]
    assert value.flatten().tolist() == [2.0, 3.0, 6.0, 7.0]


@pytest.mark.parametrize("kind", ["vae", "transformer"])
def test_export_returns_every_bit(kind: str):
    weights = vae_weights() if kind == "vae" else transformer_weights(4, 10)
    arguments = VAE_ARGUMENTS if kind == "vae" else transformer_arguments(4, 10)
    config, state = import_component(weights, arguments)
    assert component_of(weights) == kind
    exported = export_vae(config, state) if isinstance(config, ShapeVAEConfig) else export_transformer(config, state)
    assert exported[0] == arguments
    assert exported[1].keys() == weights.keys()
    assert all(torch.equal(exported[1][key], weights[key]) for key in weights)


def test_half_precision_weights_keep_their_values():
    weights = {key: tensor.half() for key, tensor in transformer_weights().items()}
    config, state = import_transformer(weights, transformer_arguments(4, None))
    exported = export_transformer(config, state)[1]
    assert all(torch.equal(exported[key].half(), weights[key]) for key in weights)


def test_missing_and_unknown_keys_are_named():
    weights = transformer_weights()
    weights["blocks.0.attn9.to_q.weight"] = weights.pop("blocks.2.attn1.to_k.weight")
    with pytest.raises(CheckpointError, match=r"missing: blocks\.2\.attn1\.to_k\.weight; unknown: blocks\.0\.attn9"):
        import_transformer(weights, transformer_arguments(4, None))


def test_wrong_sizes_are_named():
    weights = transformer_weights() | {"proj_in.weight": torch.zeros(24, 6)}
    with pytest.raises(CheckpointError, match=r"proj_in\.weight has \(24, 6\) instead of \(24, 5\)"):
        import_transformer(weights, transformer_arguments(4, None))


def test_weights_of_another_depth_are_refused():
    with pytest.raises(CheckpointError, match="unknown: blocks"):
        import_transformer(transformer_weights(6), transformer_arguments(4, None))


def test_configs_that_are_not_understood_are_refused():
    with pytest.raises(CheckpointError, match="unknown: depth"):
        import_vae(vae_weights(), VAE_ARGUMENTS | {"depth": 3})
    with pytest.raises(CheckpointError, match="missing: width_decoder"):
        import_vae(vae_weights(), {k: v for k, v in VAE_ARGUMENTS.items() if k != "width_decoder"})
    with pytest.raises(CheckpointError, match="embedding_type='nerf'"):
        import_vae(vae_weights(), VAE_ARGUMENTS | {"embedding_type": "nerf"})


def test_private_keys_of_a_config_are_ignored():
    arguments = VAE_ARGUMENTS | {"_class_name": "SomeModel", "_diffusers_version": "0.0"}
    assert import_vae(vae_weights(), arguments)[0].heads == 3


def test_foreign_weights_are_refused():
    with pytest.raises(CheckpointError, match=r"neither the shape VAE.*conv1\.weight"):
        import_component({"conv1.weight": torch.zeros(1)}, {})


def test_what_the_published_layout_cannot_say_is_refused():
    config = ShapeTransformerConfig(latent_channels=2, width=8, layers=1, heads=2, condition_width=None, classes=3)
    network = config.build()
    network.set_latent_statistics(torch.ones(2), torch.ones(2))
    with pytest.raises(CheckpointError, match="class labels, a network without condition, latents normalised"):
        export_transformer(config, network.state_dict())


def test_shards_are_joined_and_overlap_is_refused():
    joined = join_shards([{"a": torch.zeros(1)}, {"b": torch.ones(1)}])
    assert sorted(joined) == ["a", "b"]
    with pytest.raises(CheckpointError, match="twice: a"):
        join_shards([{"a": torch.zeros(1)}, {"a": torch.ones(1)}])


def test_scheduler_settings():
    sampling = scheduler_config({"_class_name": "Scheduler", "num_train_timesteps": 1000, "shift": 3.0})
    assert (sampling.shift, sampling.steps, sampling.guidance) == (3.0, 50, 7.0)
    with pytest.raises(CheckpointError, match=r"exp\(mu\)"):
        scheduler_config({"shift": 1.0, "use_dynamic_shifting": True})
