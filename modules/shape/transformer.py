"""The velocity network of TripoSG (Li et al. 2025): a transformer over an unordered set of shape latents.

Time enters as a token in front of the set, there is no position encoding, and blocks of the second half read the
outputs of the first half through long skips. Letters: B batch, T tokens, W width.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from data.errors import ConfigError, PenstockError
from modules.layers.attention import LAYER_NORM_EPS, Block, CrossAttention, ProjectedContext, check_heads
from modules.layers.embedding import time_sinusoid

NOISE_LEVELS = 1000.0
"""The time token embeds the noise level 1 - t in these units. Published networks of this family do so too, which lets
their weights pass through import and export unchanged, bit for bit."""


@dataclass(frozen=True, kw_only=True)
class ShapeTransformerConfig:
    """Size of the velocity network. The defaults are those of the published 1.5 B model."""

    latent_channels: int = 64
    width: int = 2048
    layers: int = 21
    heads: int = 16
    condition_width: int | None = 1024
    """Channels of each condition token (image features); None for a network without condition."""
    second_condition_width: int | None = None
    """Channels of a second kind of condition token with a cross-attention of its own."""
    classes: int = 0
    """Number of class labels, each with a learned condition token; 0 for none."""

    def __post_init__(self) -> None:
        check_heads(self.width, self.heads)
        if self.width % 2:
            raise ConfigError(f"width must be even for the time sinusoid, got {self.width}; take {self.width + 1}.")
        if self.layers < 1 or self.latent_channels < 1 or self.classes < 0:
            raise ConfigError(
                "layers and latent_channels must be at least 1 and classes at least 0, got "
                f"layers={self.layers}, latent_channels={self.latent_channels}, classes={self.classes}."
            )
        if self.second_condition_width is not None and self.condition_width is None:
            raise ConfigError("second_condition_width needs condition_width; use the first for a single condition.")

    @property
    def context_width(self) -> int | None:
        """Channels of the tokens that the first cross-attention reads; None where there is nothing to read."""
        return self.width if self.condition_width is None and self.classes else self.condition_width

    def build(self) -> "ShapeTransformer":
        return ShapeTransformer(self)


@dataclass(frozen=True)
class ProjectedCondition:
    """Keys and values of the condition(s) for every block: computed once, used at every solver step.

    None stands for a condition of zeros, which costs nothing: see `ShapeTransformer.forward`.
    """

    first: tuple[ProjectedContext | None, ...]
    second: tuple[ProjectedContext | None, ...]


class ShapeTransformer(nn.Module):
    """v(x, t | condition) = E[data - noise | x_t = x], for normalised latents.

    The state holds the mean and standard deviation of the latents it was trained on, one per channel, so an exported
    network alone can turn its samples into latents that the VAE decodes.

    >>> network = ShapeTransformerConfig(latent_channels=16, width=64, layers=5, heads=4, condition_width=None).build()
    >>> velocity = network(x, t)  # x: [B, T, 16], t: [B] with 0 = noise, 1 = data → [B, T, 16]
    """

    latent_mean: Tensor
    latent_std: Tensor

    def __init__(self, config: ShapeTransformerConfig) -> None:
        super().__init__()
        self.config = config
        width, context_width = config.width, config.context_width
        self.time_expand = nn.Linear(width, 4 * width)
        self.time_contract = nn.Linear(4 * width, width)
        self.input = nn.Linear(config.latent_channels, width)
        self.blocks = nn.ModuleList(
            Block(
                width,
                config.heads,
                context_width=context_width,
                second_context_width=config.second_condition_width,
                qk_norm=True,
                skip=index > config.layers // 2,
            )
            for index in range(config.layers)
        )
        self.norm = nn.LayerNorm(width, eps=LAYER_NORM_EPS)
        self.output = nn.Linear(width, config.latent_channels)
        # A new network begins with the velocity zero, the best guess before anything is learned from centred latents.
        nn.init.zeros_(self.output.weight)
        nn.init.zeros_(self.output.bias)
        self.class_tokens = nn.Embedding(config.classes, context_width) if config.classes and context_width else None
        self.register_buffer("latent_mean", torch.zeros(config.latent_channels))
        self.register_buffer("latent_std", torch.ones(config.latent_channels))

    def set_latent_statistics(self, mean: Float[Tensor, " channel"], std: Float[Tensor, " channel"]) -> None:
        """Fixes what `normalise` subtracts and divides by. Raises PenstockError unless every deviation is positive."""
        if not (torch.isfinite(mean).all() and torch.isfinite(std).all() and (std > 0).all()):
            raise PenstockError(
                "latent statistics must be finite with positive deviations; a channel that never varies, or a VAE that "
                f"diverged, cannot be normalised. Got mean={mean.tolist()}, std={std.tolist()}."
            )
        self.latent_mean.copy_(mean)
        self.latent_std.copy_(std)

    def normalise(self, latents: Float[Tensor, "batch token channel"]) -> Float[Tensor, "batch token channel"]:
        """Latents of the VAE with mean 0 and deviation 1 per channel: what the flow carries noise to."""
        return (latents - self.latent_mean) / self.latent_std

    def denormalise(self, normalised: Float[Tensor, "batch token channel"]) -> Float[Tensor, "batch token channel"]:
        """Latents that the VAE decodes, from what the flow arrives at."""
        return self.latent_mean + self.latent_std * normalised

    def condition_tokens(
        self,
        condition: Float[Tensor, "batch condition width"] | None = None,
        labels: Int[Tensor, " batch"] | None = None,
    ) -> Float[Tensor, "batch tokens width"] | None:
        """The tokens that the first cross-attention reads: those given, then the learned token of the class."""
        parts = [] if condition is None else [condition]
        if labels is not None:
            if self.class_tokens is None:
                raise PenstockError("labels were given to a network without classes: set `classes` in its config.")
            if len(labels) and not 0 <= int(labels.min()) <= int(labels.max()) < self.config.classes:
                raise PenstockError(
                    f"labels must lie in 0 … {self.config.classes - 1}, got {int(labels.min())} … {int(labels.max())}: "
                    "set `classes` in the network's config to the number of classes of the data, and put every object "
                    "into the folder of its class (-1 is an object without one)."
                )
            parts.append(self.class_tokens(labels)[:, None])
        return torch.cat(parts, dim=1) if parts else None

    def project_condition(
        self,
        condition: Float[Tensor, "batch condition width"] | None = None,
        second_condition: Float[Tensor, "batch second_condition second_width"] | None = None,
    ) -> ProjectedCondition:
        """Keys and values of the condition(s) in every block, to be passed to `forward` in place of the condition."""
        _check_condition("condition", condition, self.config.context_width)
        _check_condition("second condition", second_condition, self.config.second_condition_width)
        return ProjectedCondition(
            tuple(_project(block.cross_attention, condition) for block in self.blocks),
            tuple(_project(block.second_cross_attention, second_condition) for block in self.blocks),
        )

    def forward(
        self,
        x: Float[Tensor, "batch token channel"],
        t: Float[Tensor, " times"],
        condition: Float[Tensor, "batch condition width"] | ProjectedCondition | None = None,
        second_condition: Float[Tensor, "batch second_condition second_width"] | None = None,
        *,
        scales: tuple[float, float] = (1.0, 1.0),
    ) -> Float[Tensor, "batch token channel"]:
        """The velocity, data - noise, of normalised latents.

        Args:
            x: normalised noisy latents; any number of tokens.
            t: 0 = noise, 1 = data; one time per sample, or a single time for all.
            condition: condition tokens, or what `project_condition` made of both. None is the null condition of
                classifier-free guidance, zeros: attention to zeros returns its output bias, so it is skipped.
            second_condition: tokens of the second cross-attention, likewise.
            scales: factors of the two cross-attentions.
        """
        if not isinstance(condition, ProjectedCondition):
            condition = self.project_condition(condition, second_condition)
        elif second_condition is not None:
            raise PenstockError("a projected condition holds both conditions: pass the second to project_condition.")
        tokens_BTW = torch.cat([self._time_token(t, len(x)), self.input(x)], dim=1)
        outputs: list[Tensor] = []
        half = self.config.layers // 2
        for index, block in enumerate(self.blocks):
            # Last in, first out. With an even number of layers the output of block 0 stays unused.
            skip = outputs.pop() if index > half else None
            tokens_BTW = block(tokens_BTW, condition.first[index], condition.second[index], skip=skip, scales=scales)
            if index < half:
                outputs.append(tokens_BTW)
        return self.output(self.norm(tokens_BTW)[:, 1:])

    def _time_token(self, t: Float[Tensor, " times"], batch: int) -> Float[Tensor, "batch 1 width"]:
        sinusoid = time_sinusoid(NOISE_LEVELS * (1.0 - t.double()), self.config.width)
        token = self.time_contract(F.gelu(self.time_expand(sinusoid.to(self.input.weight.dtype))))
        return token[:, None].expand(batch, 1, self.config.width)


def _project(attention: object, condition: Tensor | None) -> ProjectedContext | None:
    if condition is None or not isinstance(attention, CrossAttention):
        return None
    return attention.project_context(condition)


def _check_condition(name: str, condition: Tensor | None, width: int | None) -> None:
    if condition is None:
        return
    if width is None:
        raise PenstockError(
            f"a {name} was given to a network that has none: leave it out, or set its width in the config."
        )
    if condition.shape[-1] != width:
        raise PenstockError(
            f"the {name} has tokens of {condition.shape[-1]} channels, the network expects {width}: "
            "encode it with the encoder that the network was trained with."
        )
