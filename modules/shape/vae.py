"""The shape VAE of TripoSG (Li et al. 2025): a surface becomes an unordered set of latents, latents become a field.

Letters: B batch, N surface points, T tokens, C latent channels, Q query points, W width.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from data.errors import CheckpointError, ConfigError
from modules.geometry.sampling import farthest_point_sampling
from modules.layers.attention import LAYER_NORM_EPS, Block, ProjectedContext, check_heads
from modules.layers.embedding import FrequencyEmbedding
from modules.layers.random import generator

LOG_VARIANCE_RANGE = (-30.0, 20.0)
SUBSET_FACTOR = 4
"""Queries are picked from this many times their number of surface points."""


@dataclass(frozen=True)
class Posterior:
    """A diagonal normal distribution over the latents of each shape."""

    mean: Float[Tensor, "batch token channel"]
    logvar: Float[Tensor, "batch token channel"]
    """Natural logarithm of the variance, within [-30, 20]."""

    def sample(self, noise: Float[Tensor, "batch token channel"]) -> Float[Tensor, "batch token channel"]:
        """mean + standard deviation · noise."""
        return self.mean + torch.exp(0.5 * self.logvar) * noise

    def kl(self) -> Float[Tensor, "batch token channel"]:
        """Kullback-Leibler divergence from the standard normal, in nats, element by element."""
        return 0.5 * (self.mean.square() + self.logvar.exp() - 1.0 - self.logvar)


@dataclass(frozen=True)
class DecodedLatents:
    """What the field needs of a set of latents: keys and values of the query block. Computed once per shape."""

    context: ProjectedContext


@dataclass(frozen=True, kw_only=True)
class ShapeVAEConfig:
    """Size of the shape VAE. The defaults are those of the published model."""

    tokens: int = 512
    """Latents per shape in training; encoding takes any number."""
    latent_channels: int = 64
    encoder_width: int = 512
    encoder_layers: int = 8
    """Self-attention blocks after the cross-attention block."""
    decoder_width: int = 1024
    decoder_layers: int = 16
    """Self-attention blocks before the query block."""
    heads: int = 8
    frequencies: int = 8
    include_pi: bool = False
    truncation: float | None = None
    """Cube units per unit of the field: the field was trained on distance / truncation, clipped to ±1. None: not known
    (imported weights), then only the sign of the field has a meaning."""

    def __post_init__(self) -> None:
        check_heads(self.encoder_width, self.heads)
        check_heads(self.decoder_width, self.heads)
        for name in ("tokens", "latent_channels"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} must be at least 1, got {getattr(self, name)}.")
        if self.truncation is not None and self.truncation <= 0:
            raise ConfigError(f"truncation is a length in cube units and must be positive, got {self.truncation}.")

    def build(self) -> "ShapeVAE":
        return ShapeVAE(self)


class ShapeEncoder(nn.Module):
    """Tokens from surface points: chosen points attend to all points, then to each other."""

    def __init__(self, config: ShapeVAEConfig) -> None:
        super().__init__()
        width, heads = config.encoder_width, config.heads
        self.embedding = FrequencyEmbedding(config.frequencies, include_pi=config.include_pi)
        self.input = nn.Linear(self.embedding.width + 3, width)
        self.cross_block = Block(width, heads, self_attention=False, context_width=width, norm_context=True)
        self.blocks = nn.ModuleList(Block(width, heads) for _ in range(config.encoder_layers))
        self.norm = nn.LayerNorm(width, eps=LAYER_NORM_EPS)

    def forward(
        self, surface: Float[Tensor, "batch point 6"], query_indices: Int[Tensor, "batch token"]
    ) -> Float[Tensor, "batch token width"]:
        points, normals = surface.split(3, dim=-1)
        features = self.input(torch.cat([self.embedding(points), normals], dim=-1))
        tokens = features.gather(1, query_indices.unsqueeze(-1).expand(-1, -1, features.shape[-1]))
        tokens = self.cross_block(tokens, features)
        for block in self.blocks:
            tokens = block(tokens)
        return self.norm(tokens)


class ShapeDecoder(nn.Module):
    """The field at query points: self-attention over the latents, then one block in which each point reads them."""

    def __init__(self, config: ShapeVAEConfig) -> None:
        super().__init__()
        width, heads = config.decoder_width, config.heads
        self.embedding = FrequencyEmbedding(config.frequencies, include_pi=config.include_pi)
        self.blocks = nn.ModuleList(Block(width, heads) for _ in range(config.decoder_layers))
        self.query_input = nn.Linear(self.embedding.width, width)
        self.query_block = Block(width, heads, self_attention=False, context_width=width, norm_context=True)
        self.norm = nn.LayerNorm(width, eps=LAYER_NORM_EPS)
        self.output = nn.Linear(width, 1)

    def project(self, tokens: Float[Tensor, "batch token width"]) -> ProjectedContext:
        """Keys and values of the query block, after all self-attention blocks."""
        for block in self.blocks:
            tokens = block(tokens)
        assert self.query_block.cross_attention is not None
        return self.query_block.cross_attention.project_context(tokens)

    def forward(
        self, context: ProjectedContext, points: Float[Tensor, "batch query 3"], *, differentiable_twice: bool = False
    ) -> Float[Tensor, "batch query"]:
        queries = self.query_input(self.embedding(points))
        queries = self.query_block(queries, context, differentiable_twice=differentiable_twice)
        return self.output(self.norm(queries)).squeeze(-1)


class ShapeVAE(nn.Module):
    """Surface points → latents → signed field in the cube [-1, 1]³, positive outside.

    >>> vae = ShapeVAEConfig(tokens=32, encoder_width=64, decoder_width=64, heads=4).build()
    >>> posterior = vae.encode(surface)                       # surface: [B, N, 6], positions and unit outward normals
    >>> field = vae.field(vae.decode(posterior.mean), points)  # points: [B, Q, 3] → [B, Q]
    """

    def __init__(self, config: ShapeVAEConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = ShapeEncoder(config)
        self.moments = nn.Linear(config.encoder_width, 2 * config.latent_channels)
        self.latent_input = nn.Linear(config.latent_channels, config.decoder_width)
        self.decoder = ShapeDecoder(config)

    def encode(
        self,
        surface: Float[Tensor, "batch point 6"],
        *,
        query_indices: Int[Tensor, "batch token"] | None = None,
        seeds: Int[Tensor, " batch"] | None = None,
        tokens: int | None = None,
    ) -> Posterior:
        """Distribution of the latents of each surface.

        Args:
            surface: positions in about [-1, 1] and unit outward normals.
            query_indices: the surface points that become tokens; chosen by `choose_queries` when not given.
            seeds: one integer per shape for that choice; the same choice every time when not given.
            tokens: number of latents, `config.tokens` when not given. Any number works with the same weights.
        """
        if query_indices is None:
            query_indices = choose_queries(surface[..., :3], tokens or self.config.tokens, seeds)
        mean, logvar = self.moments(self.encoder(surface, query_indices)).chunk(2, dim=-1)
        return Posterior(mean, logvar.clamp(*LOG_VARIANCE_RANGE))

    def sample(
        self, posterior: Posterior, noise: Float[Tensor, "batch token channel"]
    ) -> Float[Tensor, "batch token channel"]:
        """Latents drawn from the posterior with the given standard normal noise."""
        return posterior.sample(noise)

    def decode(self, latents: Float[Tensor, "batch token channel"]) -> DecodedLatents:
        """All of the decoder that does not depend on the query points; keep it while asking for more points."""
        return DecodedLatents(self.decoder.project(self.latent_input(latents)))

    def field(
        self,
        decoded: DecodedLatents,
        points: Float[Tensor, "batch query 3"],
        *,
        differentiable_twice: bool = False,
    ) -> Float[Tensor, "batch query"]:
        """The network's field at the points: positive outside, zero on the surface, in units of `config.truncation`.

        `differentiable_twice` is for losses on the gradient of the field with respect to the points.
        """
        return self.decoder(decoded.context, points, differentiable_twice=differentiable_twice)

    def distance(self, decoded: DecodedLatents, points: Float[Tensor, "batch query 3"]) -> Float[Tensor, "batch query"]:
        """Signed distance in cube units, positive outside; trustworthy only where smaller than the truncation.

        Raises CheckpointError where the truncation of the weights is not known.
        """
        if self.config.truncation is None:
            raise CheckpointError(
                "these weights do not say their truncation, so the field has no unit of length: "
                "use `field` (its sign and zero level hold), or set `truncation` in the model's config."
            )
        return self.config.truncation * self.field(decoded, points)


def choose_queries(
    points: Float[Tensor, "batch point 3"], tokens: int, seeds: Int[Tensor, " batch"] | None = None
) -> Int[Tensor, "batch token"]:
    """Indices of the surface points that become tokens: farthest points of a random subset four times their number.

    Where a cloud has fewer points than that, the subset is drawn with replacement. Each shape's choice depends on its
    own seed alone (0 when none is given). On the CPU, so that the choice is the same on every device.
    """
    batch, available, _ = points.shape
    wanted = SUBSET_FACTOR * tokens
    rows = []
    for seed in [0] * batch if seeds is None else seeds.tolist():
        source = generator(seed)
        if wanted <= available:
            rows.append(torch.randperm(available, generator=source)[:wanted])
        else:
            rows.append(torch.randint(available, (wanted,), generator=source))
    subset = torch.stack(rows)
    cloud = points.detach().cpu().gather(1, subset.unsqueeze(-1).expand(-1, -1, 3))
    picks = farthest_point_sampling(cloud, tokens)
    return subset.gather(1, picks).to(points.device)
