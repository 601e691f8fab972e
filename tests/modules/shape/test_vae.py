"""Laws of the shape VAE: what a set of latents and a field of independent queries must obey."""

import pytest
import torch
from torch.distributions import Normal, kl_divergence

from data.errors import CheckpointError, ConfigError
from modules.layers.random import randn_per_sample
from modules.shape.initialisation import LocalInitialisation
from modules.shape.vae import Posterior, ShapeVAE, ShapeVAEConfig, choose_queries

CONFIG = ShapeVAEConfig(
    tokens=8,
    latent_channels=16,
    encoder_width=48,
    encoder_layers=1,
    decoder_width=64,
    decoder_layers=1,
    heads=4,
    frequencies=5,
    truncation=0.25,
)


def sphere(batch: int, points: int, seed: int = 0) -> torch.Tensor:
    """Points of a sphere of radius 0.7 with their normals."""
    normals = torch.randn(batch, points, 3, generator=torch.Generator().manual_seed(seed))
    normals = normals / normals.norm(dim=-1, keepdim=True)
    return torch.cat([0.7 * normals, normals], dim=-1)


@pytest.fixture
def vae() -> ShapeVAE:
    """Random weights everywhere: none at the zeros of an initialisation that would hide a mistake."""
    torch.manual_seed(0)
    model = CONFIG.build()
    for p in model.parameters():
        torch.nn.init.normal_(p, std=1.3 / p.shape[-1] ** 0.5 if p.ndim == 2 else 0.4)
    return model


def test_cached_latents_give_the_same_field_in_any_cut_of_the_queries(vae: ShapeVAE) -> None:
    latents, points = torch.randn(2, 8, 16), torch.rand(2, 30, 3) * 2 - 1
    decoded = vae.decode(latents)
    whole = vae.field(decoded, points)
    pieces = torch.cat([vae.field(decoded, part) for part in points.split(7, dim=1)], dim=1)
    torch.testing.assert_close(pieces, whole)
    torch.testing.assert_close(vae.field(vae.decode(latents), points), whole)


def test_field_at_a_point_does_not_depend_on_the_other_points(vae: ShapeVAE) -> None:
    decoded = vae.decode(torch.randn(1, 8, 16))
    points = torch.rand(1, 20, 3) * 2 - 1
    others = points.clone()
    others[:, 1:] = torch.rand(1, 19, 3)
    torch.testing.assert_close(vae.field(decoded, points)[:, 0], vae.field(decoded, others)[:, 0])


def test_both_attention_kernels_give_one_field(vae: ShapeVAE) -> None:
    decoded, points = vae.decode(torch.randn(2, 8, 16)), torch.rand(2, 20, 3)
    torch.testing.assert_close(
        vae.field(decoded, points, differentiable_twice=True), vae.field(decoded, points), rtol=1e-4, atol=1e-5
    )


def test_latents_are_a_set(vae: ShapeVAE) -> None:
    latents, points = torch.randn(2, 8, 16), torch.rand(2, 20, 3)
    shuffled = latents[:, torch.randperm(8)]
    torch.testing.assert_close(
        vae.field(vae.decode(shuffled), points), vae.field(vae.decode(latents), points), rtol=1e-4, atol=1e-5
    )


def test_encoding_does_not_depend_on_the_order_of_the_surface_points(vae: ShapeVAE) -> None:
    surface, queries, order = sphere(2, 64), torch.randint(64, (2, 8)), torch.randperm(64)
    expected = vae.encode(surface, query_indices=queries)
    moved = vae.encode(surface[:, order], query_indices=order.argsort()[queries])
    torch.testing.assert_close(moved.mean, expected.mean, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(moved.logvar, expected.logvar, rtol=1e-4, atol=1e-5)


def test_encoding_of_a_shape_does_not_depend_on_its_batch(vae: ShapeVAE) -> None:
    surface, seeds = sphere(3, 64), torch.tensor([5, 6, 7])
    together, alone = vae.encode(surface, seeds=seeds), vae.encode(surface[1:2], seeds=seeds[1:2])
    torch.testing.assert_close(alone.mean[0], together.mean[1], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("tokens", [1, 5, 16])
def test_any_number_of_tokens_works_with_the_same_weights(vae: ShapeVAE, tokens: int) -> None:
    assert vae.encode(sphere(2, 64), tokens=tokens).mean.shape == (2, tokens, 16)


def test_queries_are_spread_and_follow_their_seed() -> None:
    points = sphere(2, 200)[..., :3]
    picks = choose_queries(points, 12, torch.tensor([3, 3]))
    again = choose_queries(points[1:], 12, torch.tensor([3]))
    assert torch.equal(picks[1], again[0])
    chosen = points[1][picks[1]]
    gaps = torch.cdist(chosen, chosen).fill_diagonal_(torch.inf).min()
    random_gaps = [torch.cdist(p, p).fill_diagonal_(torch.inf).min() for p in points[1][torch.randint(200, (20, 12))]]
    assert gaps > max(random_gaps)


def test_queries_of_a_small_cloud_are_drawn_with_replacement() -> None:
    assert choose_queries(sphere(1, 10)[..., :3], 8).max() < 10


def test_kl_is_that_of_normal_distributions() -> None:
    mean, logvar = torch.randn(2, 4, 3), torch.randn(2, 4, 3)
    expected = kl_divergence(Normal(mean, (0.5 * logvar).exp()), Normal(0.0, 1.0))
    torch.testing.assert_close(Posterior(mean, logvar).kl(), expected)


def test_posterior_samples_have_its_moments() -> None:
    posterior = Posterior(torch.full((1, 1, 2), 3.0), torch.tensor([[[0.0, -4.0]]]))
    draws = posterior.sample(torch.randn(40_000, 1, 2, generator=torch.Generator().manual_seed(0)))
    assert draws.mean(0).flatten().tolist() == pytest.approx([3.0, 3.0], abs=0.02)
    assert draws.std(0).flatten().tolist() == pytest.approx([1.0, 0.1353], rel=0.02)


def test_log_variance_is_clamped(vae: ShapeVAE) -> None:
    torch.nn.init.constant_(vae.moments.bias, 1e4)
    assert vae.encode(sphere(1, 64)).logvar.max() == 20


def test_gradient_of_the_field_is_right_and_can_be_differentiated(vae: ShapeVAE) -> None:
    vae = vae.double()
    decoded = vae.decode(torch.randn(1, 8, 16, dtype=torch.float64))
    points = (torch.rand(1, 3, 3, dtype=torch.float64) - 0.5).requires_grad_()

    def field(points: torch.Tensor) -> torch.Tensor:
        return vae.field(decoded, points, differentiable_twice=True)

    # The embedding's highest band turns 16 radians per unit: small steps, loose tolerance.
    assert torch.autograd.gradcheck(field, (points,), eps=1e-6, atol=1e-5)
    assert torch.autograd.gradgradcheck(field, (points,), eps=1e-6, atol=1e-4)


def test_distance_is_the_field_in_cube_units_and_needs_the_truncation(vae: ShapeVAE) -> None:
    decoded, points = vae.decode(torch.randn(1, 8, 16)), torch.rand(1, 5, 3)
    torch.testing.assert_close(vae.distance(decoded, points), 0.25 * vae.field(decoded, points))
    unknown = ShapeVAEConfig(encoder_width=8, decoder_width=8, heads=1, decoder_layers=1, encoder_layers=1).build()
    with pytest.raises(CheckpointError, match="truncation"):
        unknown.distance(unknown.decode(torch.randn(1, 4, 64)), points)


def test_config_mistakes_are_told() -> None:
    with pytest.raises(ConfigError, match="multiple of heads"):
        ShapeVAEConfig(encoder_width=30, heads=4)
    with pytest.raises(ConfigError, match="truncation"):
        ShapeVAEConfig(truncation=-0.1)


@pytest.mark.parametrize(("width", "channels", "frequencies"), [(64, 16, 6), (32, 8, 8), (64, 4, 2), (96, 40, 1)])
def test_local_initialisation_fits_any_size_and_repeats(width: int, channels: int, frequencies: int) -> None:
    config = ShapeVAEConfig(
        tokens=8,
        latent_channels=channels,
        encoder_width=width,
        decoder_width=width,
        encoder_layers=1,
        decoder_layers=1,
        heads=4,
        frequencies=frequencies,
    )
    first, second = config.build(), config.build()
    LocalInitialisation().apply(first, seed=1)
    LocalInitialisation().apply(second, seed=1)
    for a, b in zip(first.parameters(), second.parameters(), strict=True):
        assert torch.isfinite(a).all()
        assert torch.equal(a, b)


def test_local_initialisation_makes_queries_attend_to_latents_near_them() -> None:
    """With torch's own initialisation the mean distance attended to is that of a random token, here about 1."""
    vae = ShapeVAEConfig(
        tokens=32,
        latent_channels=16,
        encoder_width=64,
        encoder_layers=1,
        decoder_width=96,
        decoder_layers=1,
        heads=4,
        frequencies=6,
    ).build()
    LocalInitialisation().apply(vae)
    surface = sphere(2, 256)
    indices = choose_queries(surface[..., :3], 32)
    tokens = surface[..., :3].gather(1, indices.unsqueeze(-1).expand(-1, -1, 3))
    points = sphere(2, 50, seed=1)[..., :3]
    with torch.no_grad():
        context = vae.decode(vae.encode(surface, query_indices=indices).mean).context
        block = vae.decoder.query_block
        assert block.cross_attention is not None and block.cross_norm is not None
        stream = block.cross_norm(vae.decoder.query_input(vae.decoder.embedding(points)))
        queries = block.cross_attention.split_heads(block.cross_attention.query(stream))
        weights = (queries @ context.keys.transpose(-2, -1) / queries.shape[-1] ** 0.5).softmax(-1)
    reach = (weights * torch.cdist(points, tokens).unsqueeze(1)).sum(-1).mean(dim=(0, 2))
    assert (reach < 0.5).all()


def test_noise_of_a_sample_is_its_own() -> None:
    noise = randn_per_sample(torch.tensor([4, 9]), (8, 16), stream=1)
    assert torch.equal(noise[1], randn_per_sample(torch.tensor([9]), (8, 16), stream=1)[0])
