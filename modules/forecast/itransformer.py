"""iTransformer (Liu et al. 2024): every variate is one token, attention relates variates to each other.

With flow attention in place of softmax it is iFlowformer. Beyond the paper: covariates known over the horizon become
tokens that hold the horizon too, what is static becomes one token, and windows may have gaps.
Suffixes: B windows, L look-back, P steps ahead, N targets, C covariates, T tokens, D width, O outputs.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from data.batch import WindowBatch
from data.errors import ConfigError
from modules.forecast.encoder import AttentionKind, EncoderConfig, encoder_layers
from modules.forecast.heads import Head
from modules.forecast.interface import Forecaster, WindowShape
from modules.forecast.normalisation import WindowStatistics, window_statistics
from modules.layers.dropout import dropout


@dataclass(frozen=True, kw_only=True)
class ITransformerConfig(EncoderConfig):
    """iTransformer; the defaults are those of its authors' runs on ETTh1."""

    attention: AttentionKind = "softmax"
    normalise: bool = True
    """Each window and column in its own units: less its mean, over its standard deviation."""
    calendar: bool = True
    """Features of the time stamps as tokens of their own."""

    def build(self, shape: WindowShape, head: Head) -> "ITransformer":
        """The network for these windows, freshly initialised."""
        return ITransformer(self, shape, head)


class CovariateTokens(nn.Module):
    """Covariates known over the horizon, and static ones, as tokens: what the paper has none for."""

    def __init__(self, shape: WindowShape, width: int) -> None:
        super().__init__()
        self.shape = shape
        self.known = nn.Linear(shape.look_back + shape.horizon, width) if shape.known else None
        self.static = nn.Linear(shape.static, width) if shape.static else None

    def forward(self, window: WindowBatch) -> list[Float[Tensor, "batch token width"]]:
        """One token per known covariate over look-back and horizon, in its own units, and one of all static ones."""
        tokens = []
        if self.known is not None:
            values = _required("known", window.known, self.shape.known)
            statistics = window_statistics(values, window.known_mask)
            tokens.append(self.known(statistics.normalise(values, window.known_mask).transpose(1, 2)))
        if self.static is not None:
            tokens.append(self.static(_required("static", window.static, self.shape.static))[:, None])
        return tokens


def history_columns(
    window: WindowBatch, shape: WindowShape, *, normalise: bool, calendar: bool
) -> tuple[list[Float[Tensor, "batch look_back column"]], WindowStatistics | None]:
    """Everything of one width, the look-back: targets, observed covariates, calendar features; and targets' statistics.

    Values that were not measured are 0.
    """
    statistics = window_statistics(window.past, window.past_mask) if normalise else None
    columns = [_in_own_units(window.past, window.past_mask, statistics)]
    if shape.observed:
        observed = _required("observed", window.observed, shape.observed)
        own = window_statistics(observed, window.observed_mask) if normalise else None
        columns.append(_in_own_units(observed, window.observed_mask, own))
    if calendar and window.calendar is not None:
        columns.append(window.calendar[:, : shape.look_back])
    return columns, statistics


def _in_own_units(values: Tensor, mask: Tensor | None, statistics: WindowStatistics | None) -> Tensor:
    if statistics is not None:
        return statistics.normalise(values, mask)
    return values if mask is None else values.masked_fill(~mask, 0.0)


def _required(name: str, values: Tensor | None, columns: int) -> Tensor:
    if values is None or values.shape[-1] != columns:
        got = 0 if values is None else values.shape[-1]
        raise ConfigError(
            f"the forecaster was built for {columns} {name} columns, the windows have {got}; "
            f"prepare the data with the columns that it was trained on."
        )
    return values


class ITransformer(Forecaster):
    """Variates as tokens, without positions: their order means nothing."""

    def __init__(self, config: ITransformerConfig, shape: WindowShape, head: Head) -> None:
        super().__init__(shape, head)
        self.config = config
        self.takes_calendar = config.calendar
        self.embedding = nn.Linear(shape.look_back, config.width)
        self.covariates = CovariateTokens(shape, config.width) if shape.known or shape.static else None
        self.layers = encoder_layers(config, config.attention)
        self.norm = nn.LayerNorm(config.width)
        self.projection = nn.Linear(config.width, shape.horizon * head.outputs)

    def forward(self, window: WindowBatch) -> Float[Tensor, "batch horizon target output"]:
        columns, statistics = history_columns(
            window, self.shape, normalise=self.config.normalise, calendar=self.config.calendar
        )
        history = torch.cat(columns, dim=-1) if len(columns) > 1 else columns[0]
        x_BTD = self.embedding(history.transpose(1, 2))
        if self.covariates is not None:
            x_BTD = torch.cat([x_BTD, *self.covariates(window)], dim=1)
        x_BTD = dropout(x_BTD, self.config.dropout, self.training)
        for layer in self.layers[:-1]:
            x_BTD = layer(x_BTD)
        x_BND = self.norm(self.layers[-1](x_BTD, self.shape.targets))
        raw = self.projection(x_BND)
        raw_BPNO = raw.unflatten(-1, (self.shape.horizon, self.head.outputs)).transpose(1, 2)
        return self.head.finish(raw_BPNO, statistics)
