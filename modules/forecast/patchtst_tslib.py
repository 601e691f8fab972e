"""PatchTST as Time-Series-Library builds it (Wang et al. 2024), which is another network than the paper's.

Fixed sinusoidal positions, layer norm in the layers, batch norm once at the end, and dropout on the forecast itself.
Suffixes: B windows, N variates, T tokens, D width, P steps ahead, O outputs.
"""

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor, nn

from data.batch import WindowBatch
from modules.forecast.covariates import covariate_path
from modules.forecast.encoder import AttentionKind, EncoderConfig, encoder_layers
from modules.forecast.heads import Head
from modules.forecast.interface import Forecaster, WindowShape
from modules.forecast.normalisation import window_statistics
from modules.forecast.patches import PatchHead, TokenBatchNorm, patch_count, patches, sinusoidal_positions
from modules.layers.dropout import dropout


@dataclass(frozen=True, kw_only=True)
class TSLibPatchTSTConfig(EncoderConfig):
    """The library's PatchTST; the defaults are those of its script for ETTh1."""

    patch: int = 16
    """Steps of a patch."""
    stride: int = 8
    """Steps from one patch to the next; as often the newest value is repeated."""
    width: int = 512
    heads: int = 2
    layers: int = 1
    feed_forward: int = 2048
    dropout: float = 0.1
    head_dropout: float = 0.1
    """Dropout on the forecast itself; the library's is `dropout`."""
    attention: AttentionKind = "softmax"

    def build(self, shape: WindowShape, head: Head) -> "TSLibPatchTST":
        """The network for these windows, freshly initialised."""
        return TSLibPatchTST(self, shape, head)


class TSLibPatchTST(Forecaster):
    """Each variate for itself: patches as tokens, attention over time."""

    positions: Tensor

    def __init__(self, config: TSLibPatchTSTConfig, shape: WindowShape, head: Head) -> None:
        super().__init__(shape, head)
        self.config = config
        tokens = patch_count(shape.look_back, config.patch, config.stride, repeated=config.stride)
        self.embedding = nn.Linear(config.patch, config.width, bias=False)
        # Not part of the weights: they are a formula.
        self.register_buffer("positions", sinusoidal_positions(tokens, config.width), persistent=False)
        self.layers = encoder_layers(config, config.attention)
        self.norm = TokenBatchNorm(config.width)
        self.projection = PatchHead(tokens * config.width, shape.horizon * head.outputs)
        self.covariates = covariate_path(shape, head)

    def forward(self, window: WindowBatch) -> Float[Tensor, "batch horizon target output"]:
        config, training = self.config, self.training
        statistics = window_statistics(window.past, window.past_mask)
        series = statistics.normalise(window.past, window.past_mask)
        x_BNTp = patches(series, config.patch, config.stride, repeated=config.stride)
        x_BTD = self.embedding(x_BNTp.flatten(0, 1)) + self.positions
        x_BTD = dropout(x_BTD, config.dropout, training)
        for layer in self.layers:
            x_BTD = layer(x_BTD)
        x_BNF = self.norm(x_BTD).flatten(1).unflatten(0, (-1, self.shape.targets))
        raw = dropout(self.projection(x_BNF), config.head_dropout, training)
        raw_BPNO = raw.unflatten(-1, (self.shape.horizon, self.head.outputs)).transpose(1, 2)
        if self.covariates is not None:
            raw_BPNO = raw_BPNO + self.covariates(window, statistics)
        return self.head.finish(raw_BPNO, statistics)
