"""PatchTST as its authors published it (Nie et al. 2023).

Each variate for itself: overlapping patches as tokens with learned positions, layers with batch norm and attention
whose scores are added from layer to layer, reversible instance normalisation around all of it.
Suffixes: B windows, N variates, T tokens, D width, H heads, P steps ahead, O outputs.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from data.batch import WindowBatch
from modules.forecast.covariates import covariate_path
from modules.forecast.encoder import AttentionKind, EncoderConfig, FeedForward, attend
from modules.forecast.heads import Head
from modules.forecast.interface import Forecaster, WindowShape
from modules.forecast.moving_average import check_kernel, moving_average_matrix
from modules.forecast.normalisation import WindowStatistics, window_statistics
from modules.forecast.patches import PatchHead, TokenBatchNorm, patch_count, patches
from modules.forecast.window_affine import WindowAffine
from modules.layers.dropout import add_dropout, dropout

POSITION_RANGE = 0.02


@dataclass(frozen=True, kw_only=True)
class PatchTSTConfig(EncoderConfig):
    """PatchTST; the defaults are the paper's (section A.1.4), whose runs on ETTh took width 16, heads 4, feed_forward
    128 and dropout 0.3."""

    patch: int = 16
    """Steps of a patch."""
    stride: int = 8
    """Steps from one patch to the next."""
    repeat_newest: bool = True
    """The newest value `stride` times more, which makes one patch more."""
    drop_newest: bool = False
    """Of steps that fill no patch, leave out the newest, as the published code does, instead of the oldest."""
    width: int = 128
    heads: int = 16
    layers: int = 3
    feed_forward: int = 256
    dropout: float = 0.2
    head_dropout: float = 0.0
    """Dropout on the forecast itself."""
    attention: AttentionKind = "softmax"
    """`flow`: linear in the number of patches; without scores, none are added from layer to layer."""
    normalise: bool = True
    """Each window and column in its own units."""
    affine: bool = True
    """Weight and offset of each column after that, undone at the end."""
    centre: Literal["mean", "last"] = "mean"
    """What a window is measured from: its mean or its newest value."""
    individual: bool = False
    """One head for each variate instead of one for all."""
    moving_average: int = 0
    """Steps of a moving average that splits each window in trend and rest, with one network for each; 0: no split."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.moving_average:
            check_kernel(self.moving_average)

    def build(self, shape: WindowShape, head: Head) -> "PatchTST":
        """The network for these windows, freshly initialised."""
        return PatchTST(self, shape, head)


class ResidualAttention(nn.Module):
    """Self-attention that adds the scores of the layer before to its own (He et al. 2021, RealFormer)."""

    scale: Tensor

    def __init__(self, width: int, heads: int, *, kind: AttentionKind) -> None:
        super().__init__()
        self.heads, self.kind = heads, kind
        self.query_key_value = nn.Linear(width, 3 * width)
        self.output = nn.Linear(width, width)
        # Never trained, but part of published weights.
        self.register_buffer("scale", torch.tensor((width // heads) ** -0.5))

    def forward(
        self,
        x: Float[Tensor, "batch token width"],
        before: Float[Tensor, "group token token"] | None,
        *,
        needed: bool = True,
    ) -> tuple[Float[Tensor, "batch token width"], Float[Tensor, "group token token"] | None]:
        """What each token gathers, and the scores before the softmax, heads of all windows in one axis; no scores where
        they are not `needed` and there are none to add."""
        q, k, v = self.query_key_value(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        if self.kind == "flow":
            return self.output(attend(q, k, v, kind="flow", probability=0.0)), None
        q = q * self.scale
        if before is None and not needed:
            gathered = F.scaled_dot_product_attention(q, k, v, scale=1.0)
            return self.output(gathered.transpose(1, 2).flatten(-2)), None
        q, k, v = (part.flatten(0, 1) for part in (q, k, v))
        scores = q @ k.transpose(1, 2) if before is None else torch.baddbmm(before, q, k.transpose(1, 2))
        gathered = (scores.softmax(dim=-1) @ v).unflatten(0, (-1, self.heads))
        return self.output(gathered.transpose(1, 2).flatten(-2)), scores


class PatchTSTLayer(nn.Module):
    """x = norm(x + attention(x)); x = norm(x + feed_forward(x)); batch norms."""

    def __init__(self, config: PatchTSTConfig) -> None:
        super().__init__()
        self.attention = ResidualAttention(config.width, config.heads, kind=config.attention)
        self.attention_norm = TokenBatchNorm(config.width)
        self.feed_forward = FeedForward(
            config.width, config.feed_forward, dropout=config.dropout, activation=config.activation
        )
        self.feed_forward_norm = TokenBatchNorm(config.width)
        self.dropout = config.dropout
        # The published network drops twice in a row here, which is to drop once with the joint probability.
        self.attention_dropout = 1 - (1 - config.dropout) ** 2

    def forward(
        self,
        x: Float[Tensor, "batch token width"],
        before: Float[Tensor, "group token token"] | None,
        *,
        needed: bool = True,
    ) -> tuple[Float[Tensor, "batch token width"], Float[Tensor, "group token token"] | None]:
        """The tokens, and the attention's scores for the next layer where they are `needed`."""
        gathered, scores = self.attention(x, before, needed=needed)
        x = self.attention_norm(add_dropout(x, gathered, self.attention_dropout, self.training))
        x = self.feed_forward_norm(add_dropout(x, self.feed_forward(x), self.dropout, self.training))
        return x, scores


class PatchTransformer(nn.Module):
    """One network from a look-back in its own units to the raw forecast."""

    def __init__(self, config: PatchTSTConfig, shape: WindowShape, head: Head) -> None:
        super().__init__()
        self.config = config
        self.repeated = config.stride if config.repeat_newest else 0
        tokens = patch_count(shape.look_back, config.patch, config.stride, repeated=self.repeated)
        self.affine = WindowAffine(shape.targets) if config.affine and config.normalise else None
        self.embedding = nn.Linear(config.patch, config.width)
        self.positions = nn.Parameter(torch.empty(tokens, config.width).uniform_(-POSITION_RANGE, POSITION_RANGE))
        self.layers = nn.ModuleList(PatchTSTLayer(config) for _ in range(config.layers))
        variates = shape.targets if config.individual else None
        self.projection = PatchHead(tokens * config.width, shape.horizon * head.outputs, variates)
        self.head, self.horizon, self.targets = head, shape.horizon, shape.targets

    def forward(self, series: Float[Tensor, "batch look_back target"]) -> Float[Tensor, "batch horizon target output"]:
        config = self.config
        if self.affine is not None:
            series = self.affine(series)
        x_BNTp = patches(series, config.patch, config.stride, repeated=self.repeated, drop_newest=config.drop_newest)
        x_BTD = self.embedding(x_BNTp.flatten(0, 1)) + self.positions
        x_BTD = dropout(x_BTD, config.dropout, self.training)
        scores = None
        for number, layer in enumerate(self.layers, start=1):
            x_BTD, scores = layer(x_BTD, scores, needed=number < config.layers)
        raw = self.projection(x_BTD.flatten(1).unflatten(0, (-1, self.targets)))
        raw = dropout(raw, config.head_dropout, self.training)
        raw_BPNO = raw.unflatten(-1, (self.horizon, self.head.outputs)).transpose(1, 2)
        return raw_BPNO if self.affine is None else self.affine.undo(raw_BPNO, self.head)


class PatchTST(Forecaster):
    """The published network; with `moving_average` two of them, whose forecasts are added."""

    average: Tensor

    def __init__(self, config: PatchTSTConfig, shape: WindowShape, head: Head) -> None:
        super().__init__(shape, head)
        self.config = config
        parts = 2 if config.moving_average else 1
        self.networks = nn.ModuleList(PatchTransformer(config, shape, head) for _ in range(parts))
        self.covariates = covariate_path(shape, head)
        if config.moving_average:
            # Not part of the weights: it is a formula.
            average = moving_average_matrix(shape.look_back, config.moving_average)
            self.register_buffer("average", average, persistent=False)

    def forward(self, window: WindowBatch) -> Float[Tensor, "batch horizon target output"]:
        statistics = self._statistics(window.past, window.past_mask)
        if self.config.moving_average:
            raw_BPNO = self._of_parts(window.past, window.past_mask, statistics)
        else:
            raw_BPNO = self.networks[0](statistics.normalise(window.past, window.past_mask))
        if self.covariates is not None:
            raw_BPNO = raw_BPNO + self.covariates(window, statistics)
        return self.head.finish(raw_BPNO, statistics)

    def _statistics(self, values: Tensor, mask: Tensor | None) -> WindowStatistics:
        if not self.config.normalise:
            return window_statistics(values, mask, centre="none", scaled=False)
        return window_statistics(values, mask, centre=self.config.centre)

    def _of_parts(self, past: Tensor, mask: Tensor | None, whole: WindowStatistics) -> Tensor:
        """The raw forecasts of rest and trend added, in the units of the whole window; inside, each part has its own.

        What was not measured lies at the window's centre.
        """
        filled = past if mask is None else torch.where(mask, past, whole.centre)
        trend = self.average @ filled
        total = None
        for network, part in zip(self.networks, (filled - trend, trend), strict=True):
            own = self._statistics(part, None)
            raw = _at_locations(network(own.normalise(part)), self.head, partial(_restored, statistics=own))
            total = raw if total is None else total + raw
        assert total is not None
        return _at_locations(total, self.head, partial(_normalised, statistics=whole))


def _at_locations(raw: Tensor, head: Head, change: Callable[[Tensor], Tensor]) -> Tensor:
    """`change` done to those outputs that are places on the axis of values: points, quantiles, a distribution's
    first."""
    if head.kind in ("point", "quantile"):
        return change(raw)
    return torch.cat([change(raw[..., :1]), raw[..., 1:]], dim=-1)


def _restored(raw_BPNO: Tensor, statistics: WindowStatistics) -> Tensor:
    scaled = raw_BPNO if statistics.scale is None else raw_BPNO * statistics.scale[..., None]
    return scaled + statistics.centre[..., None]


def _normalised(raw_BPNO: Tensor, statistics: WindowStatistics) -> Tensor:
    shifted = raw_BPNO - statistics.centre[..., None]
    return shifted if statistics.scale is None else shifted / statistics.scale[..., None]
