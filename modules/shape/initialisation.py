"""First weights of the shape VAE under which attention is local before the first step.

With independent random projections every token attends to everything alike, and the field spends most of a training as
the average shape. Here positions keep their meaning along the whole chain at the start:

- the first layers place the sinusoidal features of a position, and the normal, on orthonormal directions of the stream;
- queries and keys of a head are equal maps of the low bands, so that a score is a Von-Mises kernel
  β Σ cos(b (x - y)) of the two positions; the heads take kernels of different width β;
- the latent channels carry the low bands and the normal of their surface point, and the decoder puts them on the
  directions on which query points carry theirs, so that a query attends to the latents near it;
- blocks in between start as the identity.

Nothing is added to the network, and all of this may be unlearned.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from modules.layers.attention import Attention
from modules.shape.vae import ShapeVAE


@dataclass(frozen=True, kw_only=True)
class LocalInitialisation:
    """How sharp attention is at the start."""

    sharpness: float = 8.0
    """β of the middle head of the query block; a kernel falls to 1/e at about √(2 / (5 β)) cube units. Choose it by the
    distance of neighbouring tokens: four times the tokens, four times the β."""
    encoder_sharpness: float = 16.0
    """The same for the attention of tokens to surface points."""
    spread: float = 8.0
    """Ratio of the largest to the smallest β among the heads of a block."""
    logvar: float = -6.0
    """Log-variance of every latent at the start: noise small against what the channels carry."""

    @torch.no_grad()
    def apply(self, vae: ShapeVAE, seed: int = 0) -> None:
        """Sets all weights of the network, the same ones for the same seed."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            for layer in vae.modules():
                if isinstance(layer, nn.Linear | nn.LayerNorm):
                    layer.reset_parameters()
            self._apply(vae)

    def _apply(self, vae: ShapeVAE) -> None:
        config = vae.config
        frequencies, positions = config.frequencies, vae.encoder.embedding.width
        bands = 2 if config.latent_channels >= 15 else 1
        carried = low_band_channels(frequencies, min(bands, frequencies))
        if config.latent_channels < len(carried) + 3:
            carried = carried[: max(config.latent_channels - 3, 0)]
        encoder_directions = orthonormal(config.encoder_width, positions + 3)
        decoder_directions = orthonormal(config.decoder_width, positions)
        vae.encoder.input.weight.copy_(encoder_directions)
        vae.decoder.query_input.weight.copy_(decoder_directions)
        for layer in (vae.encoder.input, vae.decoder.query_input, vae.moments, vae.latent_input):
            layer.bias.zero_()
        # Root-mean-square gains of the layer norms for streams that carry these features and nothing else.
        encoder_gain = math.sqrt(config.encoder_width / (3 * frequencies + 1.5))
        query_gain = math.sqrt(config.decoder_width / (3 * frequencies + 1))
        token_gain = math.sqrt(config.decoder_width / (len(carried) / 2 + 1.2))
        self._carry(vae, encoder_directions, decoder_directions, carried, encoder_gain)
        encoder_low = encoder_directions[:, low_band_channels(frequencies, min(2, frequencies))]
        cross, query = vae.encoder.cross_block.cross_attention, vae.decoder.query_block.cross_attention
        assert cross is not None and query is not None
        self._tie(cross, encoder_low, self.encoder_sharpness / encoder_gain**2)
        self._tie(query, decoder_directions[:, carried], self.sharpness / (query_gain * token_gain))
        cross.output.weight.mul_(0.3)
        for block in [*vae.encoder.blocks, *vae.decoder.blocks]:
            attention = block.self_attention
            nn.init.orthogonal_(attention.query.weight)
            attention.key.weight.copy_(attention.query.weight)
            nn.init.orthogonal_(attention.value.weight)
            nn.init.zeros_(attention.output.weight)
            nn.init.zeros_(attention.output.bias)
        for block in [*vae.encoder.blocks, *vae.decoder.blocks, vae.encoder.cross_block]:
            nn.init.zeros_(block.feed_forward.contract.weight)
            nn.init.zeros_(block.feed_forward.contract.bias)
        # Outside is the rule in the cube: start there, with small variation.
        vae.decoder.output.weight.mul_(0.3)
        vae.decoder.output.bias.fill_(0.3)

    def _carry(
        self, vae: ShapeVAE, encoder_directions: Tensor, decoder_directions: Tensor, carried: list[int], gain: float
    ) -> None:
        """Lets the latents hold the features `carried`, the normal, and random mixtures in the channels left over."""
        channels, width = vae.config.latent_channels, vae.config.encoder_width
        normals = min(3, channels - len(carried))
        used = len(carried) + normals
        first = decoder_directions.shape[1]
        weight = vae.moments.weight
        weight.zero_()
        weight[: len(carried)] = encoder_directions[:, carried].T / gain
        weight[len(carried) : used] = encoder_directions[:, -3:].T[:normals] / gain
        weight[used:channels] = 0.3 * torch.randn(channels - used, width) / math.sqrt(width)
        vae.moments.bias[channels:] = self.logvar
        # The other channels enter on directions that no position uses, as far as the width allows.
        random = torch.randn(vae.config.decoder_width, channels - len(carried))
        completed = torch.linalg.qr(torch.cat([decoder_directions, random], dim=1)).Q[:, first:]
        vae.latent_input.weight[:, : len(carried)] = decoder_directions[:, carried]
        vae.latent_input.weight[:, len(carried) :] = random / math.sqrt(len(random))
        vae.latent_input.weight[:, len(carried) : len(carried) + completed.shape[1]] = completed

    def _tie(self, attention: Attention, directions: Tensor, strength: float) -> None:
        """Queries and keys as one map of `directions` [width, feature], the heads' strengths in geometric order."""
        width, heads = attention.query.weight.shape[0], attention.heads
        head_width = width // heads
        for head in range(heads):
            exponent = head / max(heads - 1, 1) - 0.5
            scale = math.sqrt(strength * self.spread**exponent * math.sqrt(head_width))
            rows = slice(head * head_width, (head + 1) * head_width)
            projection = scale * orthonormal(head_width, directions.shape[1]) @ directions.T
            attention.query.weight[rows] = projection
            attention.key.weight[rows] = projection
        nn.init.orthogonal_(attention.value.weight)
        nn.init.orthogonal_(attention.output.weight)
        nn.init.zeros_(attention.output.bias)


def low_band_channels(frequencies: int, bands: int) -> list[int]:
    """Positions of the sines and cosines of the lowest `bands` bands in a frequency embedding of three axes."""
    return [
        3 + part * 3 * frequencies + axis * frequencies + band
        for part in range(2)
        for axis in range(3)
        for band in range(bands)
    ]


def orthonormal(rows: int, columns: int) -> Tensor:
    """A random matrix with orthonormal columns (rows, where there are fewer of them)."""
    return nn.init.orthogonal_(torch.empty(rows, columns))
