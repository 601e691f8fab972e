"""TimeXer (Wang et al. 2024): patches of the target attend to each other, a global token of each to exogenous series.

Beyond the paper: exogenous series known over the horizon enter with the horizon, what is static as one token more,
windows may have gaps, and steps that fill no patch are the oldest ones.
Suffixes: B windows, N targets, T tokens of a target (its patches and the global one), S exogenous tokens, D width.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from data.batch import WindowBatch
from modules.forecast.encoder import CrossAttention, EncoderConfig, FeedForward, SelfAttention
from modules.forecast.heads import Head
from modules.forecast.interface import Forecaster, WindowShape
from modules.forecast.itransformer import CovariateTokens, history_columns
from modules.forecast.patches import PatchHead, patch_count, patches, sinusoidal_positions
from modules.layers.dropout import add_dropout, dropout


@dataclass(frozen=True, kw_only=True)
class TimeXerConfig(EncoderConfig):
    """TimeXer; the defaults are those of its script for the electricity prices of Nord Pool."""

    patch: int = 24
    """Steps of a patch; patches do not overlap."""
    drop_newest: bool = False
    """Of steps that fill no patch, leave out the newest, as the published code does, instead of the oldest."""
    width: int = 512
    heads: int = 8
    layers: int = 3
    feed_forward: int = 512
    dropout: float = 0.1
    head_dropout: float = 0.1
    """Dropout on the forecast itself; the published one is `dropout`."""
    normalise: bool = True
    """Each window and column in its own units."""
    calendar: bool = True
    """Features of the time stamps as exogenous tokens."""
    exogenous_targets: bool = True
    """Targets are exogenous tokens too, so that they see each other. Without any other token they are in any case."""

    def build(self, shape: WindowShape, head: Head) -> "TimeXer":
        """The network for these windows, freshly initialised."""
        return TimeXer(self, shape, head)


class TimeXerLayer(nn.Module):
    """Self-attention of each target's tokens, cross-attention of the last one of them, feed-forward; post-norm."""

    def __init__(self, config: TimeXerConfig) -> None:
        super().__init__()
        width = config.width
        self.attention = SelfAttention(width, config.heads, dropout=config.dropout)
        self.attention_norm = nn.LayerNorm(width)
        self.cross_attention = CrossAttention(width, config.heads, dropout=config.dropout)
        self.cross_norm = nn.LayerNorm(width)
        self.feed_forward = FeedForward(
            width, config.feed_forward, dropout=config.dropout, activation=config.activation
        )
        self.feed_forward_norm = nn.LayerNorm(width)
        self.dropout = config.dropout

    def forward(
        self, x: Float[Tensor, "series token width"], exogenous: Float[Tensor, "batch context width"]
    ) -> Float[Tensor, "series token width"]:
        """`series` are the targets of all windows, those of a window together."""
        x = self.attention_norm(add_dropout(x, self.attention(x), self.dropout, self.training))
        globals_BND = x[:, -1].unflatten(0, (len(exogenous), -1))
        gathered = self.cross_attention(globals_BND, exogenous)
        globals_BND = self.cross_norm(add_dropout(globals_BND, gathered, self.dropout, self.training))
        x = torch.cat([x[:, :-1], globals_BND.flatten(0, 1)[:, None]], dim=1)
        return self.feed_forward_norm(add_dropout(x, self.feed_forward(x), self.dropout, self.training))


class TimeXer(Forecaster):
    """Patches of the targets, exogenous series as a whole."""

    positions: Tensor

    def __init__(self, config: TimeXerConfig, shape: WindowShape, head: Head) -> None:
        super().__init__(shape, head)
        self.config = config
        self.takes_calendar = config.calendar
        count = patch_count(shape.look_back, config.patch, config.patch)
        self.embedding = nn.Linear(config.patch, config.width, bias=False)
        # Not part of the weights: they are a formula.
        self.register_buffer("positions", sinusoidal_positions(count, config.width), persistent=False)
        self.global_token = nn.Parameter(torch.randn(shape.targets, config.width))
        self.exogenous = nn.Linear(shape.look_back, config.width)
        self.covariates = CovariateTokens(shape, config.width) if shape.known or shape.static else None
        self.layers = nn.ModuleList(TimeXerLayer(config) for _ in range(config.layers))
        self.norm = nn.LayerNorm(config.width)
        self.projection = PatchHead((count + 1) * config.width, shape.horizon * head.outputs)

    def forward(self, window: WindowBatch) -> Float[Tensor, "batch horizon target output"]:
        config, training = self.config, self.training
        columns, statistics = history_columns(window, self.shape, normalise=config.normalise, calendar=config.calendar)
        x_BNTp = patches(columns[0], config.patch, config.patch, drop_newest=config.drop_newest)
        patches_BNTD = self.embedding(x_BNTp) + self.positions
        globals_BN1D = self.global_token[:, None].expand(len(window), -1, -1, -1)
        x_BTD = torch.cat([patches_BNTD, globals_BN1D], dim=2).flatten(0, 1)
        x_BTD = dropout(x_BTD, config.dropout, training)
        exogenous_BSD = self._exogenous(window, columns)
        for layer in self.layers:
            x_BTD = layer(x_BTD, exogenous_BSD)
        x_BNF = self.norm(x_BTD).flatten(1).unflatten(0, (-1, self.shape.targets))
        raw = dropout(self.projection(x_BNF), config.head_dropout, training)
        raw_BPNO = raw.unflatten(-1, (self.shape.horizon, self.head.outputs)).transpose(1, 2)
        return self.head.finish(raw_BPNO, statistics)

    def _exogenous(self, window: WindowBatch, columns: list[Tensor]) -> Tensor:
        """A token for each series that the targets may look at."""
        others = columns[1:]
        if self.config.exogenous_targets or not (others or self.covariates is not None):
            others = columns
        tokens = []
        if others:
            tokens.append(self.exogenous(torch.cat(others, dim=-1).transpose(1, 2)))
        if self.covariates is not None:
            tokens += self.covariates(window)
        return dropout(torch.cat(tokens, dim=1), self.config.dropout, self.training)
