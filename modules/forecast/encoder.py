"""The post-norm transformer encoder that iTransformer, PatchTST and TimeXer share (Vaswani et al. 2017, section 3).

Suffixes: B batch, T tokens, S tokens of a context, D width, H heads, d = D / H.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from data.errors import ConfigError
from modules.layers.attention import check_heads
from modules.layers.dropout import add_dropout, dropout
from modules.layers.flow_attention import flow_attention

AttentionKind = Literal["softmax", "flow"]
Activation = Literal["gelu", "relu"]

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {"gelu": F.gelu, "relu": F.relu}


@dataclass(frozen=True, kw_only=True)
class EncoderConfig:
    """The sizes that every transformer here has; each has defaults of its own."""

    width: int = 256
    heads: int = 8
    layers: int = 2
    feed_forward: int = 256
    """Width inside the feed-forward layers."""
    dropout: float = 0.1
    activation: Activation = "gelu"

    def __post_init__(self) -> None:
        check_heads(self.width, self.heads)
        if self.layers < 1 or self.feed_forward < 1:
            raise ConfigError(f"layers and feed_forward must be at least 1, got {self.layers} and {self.feed_forward}.")
        for name in ("dropout", "head_dropout"):
            if not 0 <= (share := getattr(self, name, 0.0)) < 1:
                raise ConfigError(f"{name} is a share in [0, 1), got {share}.")
        if self.activation not in ACTIVATIONS:
            raise ConfigError(f"unknown activation '{self.activation}'; available: {', '.join(ACTIVATIONS)}.")


def attend(
    q_BHTd: Tensor, k_BHSd: Tensor, v_BHSd: Tensor, *, kind: AttentionKind, probability: float
) -> Float[Tensor, "batch token width"]:
    """What each query gathers from the values, heads side by side.

    Softmax: softmax(q kᵀ / √d) v with dropout on the weights, of this probability. Flow: the variant for time series,
    without clamp and dropout (Wu et al. 2022).
    """
    if kind == "flow":
        gathered = flow_attention(q_BHTd, k_BHSd, v_BHSd, clamp=False)
    else:
        gathered = _softmax_attention(q_BHTd, k_BHSd, v_BHSd, probability)
    return gathered.transpose(1, 2).flatten(-2)


def _softmax_attention(q: Tensor, k: Tensor, v: Tensor, probability: float) -> Tensor:
    if probability == 0.0 or q.device.type != "cpu":
        return F.scaled_dot_product_attention(q, k, v, dropout_p=probability)
    # The fused CPU kernel has no dropout; spelled out, the weights get the cheaper random numbers.
    weights = (q * q.shape[-1] ** -0.5 @ k.transpose(-2, -1)).softmax(dim=-1)
    return dropout(weights, probability, True) @ v


class SelfAttention(nn.Module):
    """Attention of tokens to each other; the rows of its one projection are queries, keys, values, each by head."""

    def __init__(self, width: int, heads: int, *, dropout: float, kind: AttentionKind = "softmax") -> None:
        super().__init__()
        self.heads, self.dropout, self.kind = heads, dropout, kind
        self.query_key_value = nn.Linear(width, 3 * width)
        self.output = nn.Linear(width, width)

    def forward(
        self, x: Float[Tensor, "batch token width"], asked: int | None = None
    ) -> Float[Tensor, "batch asked width"]:
        """What the first `asked` tokens gather from all; all tokens where None."""
        probability = self.dropout if self.training else 0.0
        if asked is None or asked == x.shape[1] or self.kind == "flow":  # flow is shared by all who ask
            q, k, v = self.query_key_value(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
            return self.output(attend(q, k, v, kind=self.kind, probability=probability)[:, :asked])
        width = x.shape[-1]
        weight, bias = self.query_key_value.weight, self.query_key_value.bias
        query = F.linear(x[:, :asked], weight[:width], bias[:width])
        key_value = F.linear(x, weight[width:], bias[width:])
        q = query.unflatten(-1, (self.heads, -1)).transpose(1, 2)
        k, v = key_value.unflatten(-1, (2, self.heads, -1)).permute(2, 0, 3, 1, 4)
        return self.output(attend(q, k, v, kind=self.kind, probability=probability))


class CrossAttention(nn.Module):
    """Attention of tokens to a context of the same width."""

    def __init__(self, width: int, heads: int, *, dropout: float) -> None:
        super().__init__()
        self.heads, self.dropout = heads, dropout
        self.query = nn.Linear(width, width)
        self.key_value = nn.Linear(width, 2 * width)
        self.output = nn.Linear(width, width)

    def forward(
        self, x: Float[Tensor, "batch token width"], context: Float[Tensor, "batch context width"]
    ) -> Float[Tensor, "batch token width"]:
        q = self.query(x).unflatten(-1, (self.heads, -1)).transpose(1, 2)
        k, v = self.key_value(context).unflatten(-1, (2, self.heads, -1)).permute(2, 0, 3, 1, 4)
        return self.output(attend(q, k, v, kind="softmax", probability=self.dropout if self.training else 0.0))


class FeedForward(nn.Module):
    """Linear, activation, dropout, linear: each token for itself."""

    def __init__(self, width: int, hidden: int, *, dropout: float, activation: Activation = "gelu") -> None:
        super().__init__()
        self.expand = nn.Linear(width, hidden)
        self.contract = nn.Linear(hidden, width)
        self.activation, self.dropout = ACTIVATIONS[activation], dropout

    def forward(self, x: Float[Tensor, "*token width"]) -> Float[Tensor, "*token width"]:
        hidden = self.activation(self.expand(x))
        return self.contract(dropout(hidden, self.dropout, self.training))


class EncoderLayer(nn.Module):
    """x = norm(x + attention(x)); x = norm(x + feed_forward(x)); dropout on what is added."""

    def __init__(
        self,
        width: int,
        heads: int,
        feed_forward: int,
        *,
        dropout: float,
        activation: Activation = "gelu",
        attention: AttentionKind = "softmax",
    ) -> None:
        super().__init__()
        self.attention = SelfAttention(width, heads, dropout=dropout, kind=attention)
        self.attention_norm = nn.LayerNorm(width)
        self.feed_forward = FeedForward(width, feed_forward, dropout=dropout, activation=activation)
        self.feed_forward_norm = nn.LayerNorm(width)
        self.dropout = dropout

    def forward(
        self, x: Float[Tensor, "batch token width"], asked: int | None = None
    ) -> Float[Tensor, "batch asked width"]:
        """The first `asked` tokens only, which spares the last layer what nobody reads; all where None."""
        gathered = self.attention(x, asked)
        x = self.attention_norm(add_dropout(x[:, :asked], gathered, self.dropout, self.training))
        return self.feed_forward_norm(add_dropout(x, self.feed_forward(x), self.dropout, self.training))


def encoder_layers(config: EncoderConfig, attention: AttentionKind) -> nn.ModuleList:
    """The layers of an encoder, freshly initialised."""
    return nn.ModuleList(
        EncoderLayer(
            config.width,
            config.heads,
            config.feed_forward,
            dropout=config.dropout,
            activation=config.activation,
            attention=attention,
        )
        for _ in range(config.layers)
    )
