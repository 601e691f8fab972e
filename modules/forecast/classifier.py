"""Classification of labelled sequences: the Flowformer for time series (Wu et al. 2022).

Shape suffixes: B batch, N steps, F features, D width, K classes.
"""

import math
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from data.batch import SequenceBatch
from data.errors import ConfigError
from modules.forecast.encoder import EncoderConfig, FeedForward
from modules.layers.dropout import add_dropout, dropout
from modules.layers.flow_attention import FlowAttention

POSITION_SPREAD = 0.02
"""Learned positions start uniform within plus and minus this."""


@dataclass(frozen=True, kw_only=True)
class ClassifierConfig(EncoderConfig):
    """Sizes of the data and of the network; the latter default to the published ones."""

    features: int = 1
    """Numbers per step."""
    length: int = 1
    """Steps of the longest sequence."""
    classes: int = 2
    width: int = 512
    layers: int = 2
    heads: int = 8
    feed_forward: int = 2048
    dropout: float = 0.1
    positions: Literal["learned", "fixed"] = "learned"
    """`fixed`: sines and cosines."""
    mask_attention: bool = True
    """Whether padding is left out of the attention. The published network leaves it out of the last layer only, so
    that there the answer depends on how far the shorter sequences are padded."""

    def __post_init__(self) -> None:
        for name in ("features", "length"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} must be at least 1, got {getattr(self, name)}.")
        if self.classes < 2:
            raise ConfigError(f"classes must be at least 2, got {self.classes}.")
        if self.width % 2:
            raise ConfigError(f"width must be even, got {self.width}.")
        super().__post_init__()
        if self.positions not in ("learned", "fixed"):
            raise ConfigError(f"unknown positions '{self.positions}'; available: learned, fixed.")

    def build(self) -> "FlowformerClassifier":
        return FlowformerClassifier(self)


class FlowLayer(nn.Module):
    """Flow attention and feed-forward, each with residual and layer norm after it."""

    def __init__(self, config: ClassifierConfig) -> None:
        super().__init__()
        # Without the clamp, as in the authors' networks for time series.
        self.attention = FlowAttention(config.width, config.heads, clamp=False)
        self.attention_norm = nn.LayerNorm(config.width)
        self.feed_forward = FeedForward(
            config.width, config.feed_forward, dropout=config.dropout, activation=config.activation
        )
        self.feed_forward_norm = nn.LayerNorm(config.width)
        self.dropout = config.dropout

    def forward(
        self, x: Float[Tensor, "batch step width"], mask: Bool[Tensor, "batch step"] | None
    ) -> Float[Tensor, "batch step width"]:
        x = self.attention_norm(add_dropout(x, self.attention(x, mask=mask), self.dropout, self.training))
        return self.feed_forward_norm(add_dropout(x, self.feed_forward(x), self.dropout, self.training))


class FlowformerClassifier(nn.Module):
    """Logits of labelled sequences. Every step of every sequence has weights of its own in the last layer."""

    def __init__(self, config: ClassifierConfig) -> None:
        super().__init__()
        self.config = config
        self.embedding = nn.Linear(config.features, config.width)
        if config.positions == "learned":
            self.positions = nn.Parameter(torch.empty(config.length, config.width))
            nn.init.uniform_(self.positions, -POSITION_SPREAD, POSITION_SPREAD)
        else:
            self.register_buffer("positions", waves(config.length, config.width), persistent=False)
        self.blocks = nn.ModuleList(FlowLayer(config) for _ in range(config.layers))
        self.norm = nn.LayerNorm(config.width)
        self.output = nn.Linear(config.width * config.length, config.classes)

    def forward(self, batch: SequenceBatch) -> Float[Tensor, "batch class"]:
        """
        Raises:
            ConfigError: sequences with other features, or longer ones, than the network was built for.
        """
        values_BNF, present_BN = self._padded(batch)
        x_BND = self.embedding(values_BNF) * math.sqrt(self.config.width) + self.positions
        x_BND = self._dropped(x_BND)
        mask = present_BN if self.config.mask_attention else None
        for block in self.blocks:
            x_BND = block(x_BND, mask)
        x_BND = self.norm(x_BND)
        x_BND = F.relu(x_BND) if self.config.activation == "relu" else F.gelu(x_BND)
        x_BND = self._dropped(x_BND) * present_BN[..., None]
        logits_BK: Tensor = self.output(x_BND.flatten(1))
        return logits_BK

    def _dropped(self, x: Tensor) -> Tensor:
        return dropout(x, self.config.dropout, self.training)

    def _padded(self, batch: SequenceBatch) -> tuple[Tensor, Tensor]:
        """Values and mask at the network's own length."""
        config = self.config
        steps, features = batch.values.shape[1:]
        if features != config.features:
            raise ConfigError(f"the network was built for {config.features} features, the sequences have {features}.")
        if steps > config.length:
            raise ConfigError(
                f"the network was built for sequences of at most {config.length} steps, this batch has {steps}: cut "
                "them, or train with a larger length."
            )
        missing = config.length - steps
        return F.pad(batch.values, (0, 0, 0, missing)), F.pad(batch.present, (0, missing))


def waves(length: int, width: int) -> Float[Tensor, "step width"]:
    """Positions as sines (even columns) and cosines (odd ones), wavelengths from 2π to 20000π (Vaswani et al. 2017)."""
    steps = torch.arange(length, dtype=torch.float32)[:, None]
    rates = torch.exp(torch.arange(0, width, 2, dtype=torch.float32) * (-math.log(10000.0) / width))
    return torch.stack([(steps * rates).sin(), (steps * rates).cos()], dim=-1).flatten(1)
