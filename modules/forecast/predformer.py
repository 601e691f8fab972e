"""PredFormer: films predicted by attention along time and over space, without recurrence (Tang et al. 2024).

Suffixes: B films, T frames, S patches of a frame, D features, H heads, d = D of one head.
"""

import math
from collections import OrderedDict
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from data.errors import ConfigError
from modules.layers.attention import LAYER_NORM_EPS

Order = Literal["TSST", "STTS", "TST", "STS", "TS", "ST", "factored_TS", "factored_ST", "full"]

ORDERS: dict[Order, str] = {
    "TSST": "TSST",
    "STTS": "STTS",
    "TST": "TST",
    "STS": "STS",
    "TS": "TS",
    "ST": "ST",
    "factored_TS": "TS",
    "factored_ST": "ST",
    "full": "F",
}
"""Attention of one block: T along time, S over space, F over both at once."""


@dataclass(frozen=True, kw_only=True)
class PredFormerConfig:
    """Films, sizes and options; the defaults are those of the published Moving MNIST run."""

    channels: int = 1
    height: int = 64
    width: int = 64
    seen: int = 10
    """Frames that it sees."""
    predicted: int = 10
    """Frames that it predicts. One pass gives as many as are seen: fewer are its first, for more it sees its own."""
    patch: int = 8
    """Side of the square patches that become tokens, in pixels."""
    features: int = 256
    """Width of a token."""
    heads: int = 8
    head_features: int = 32
    expansion: int = 4
    """Hidden features of the gated layers, as a multiple of `features`."""
    order: Order = "TSST"
    """Attention of a block: T along time, S over space. The factored ones do all of one kind, then all of the other;
    `full` attends to all patches of all frames."""
    blocks: int = 6
    layers: int = 1
    """Transformer layers of each letter of a block."""
    dropout: float = 0.0
    attention_dropout: float = 0.0
    drop_path: float = 0.0
    """Share of sequences (a patch through time, a frame) that pass by a layer, drawn at every training step."""

    def __post_init__(self) -> None:
        sizes = ("channels", "height", "width", "seen", "predicted", "patch", "features", "heads", "head_features",
                 "expansion", "blocks", "layers")  # fmt: skip
        for name in sizes:
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} must be at least 1, got {getattr(self, name)}.")
        for name in ("height", "width"):
            if getattr(self, name) % self.patch:
                raise ConfigError(
                    f"{name} must be a multiple of patch, got {getattr(self, name)} and {self.patch}; "
                    f"crop or pad the films, or take another patch."
                )
        if self.features % 2:
            raise ConfigError(f"features must be even, for sines and cosines of positions; got {self.features}.")
        if self.order not in ORDERS:
            raise ConfigError(f"unknown order '{self.order}'; available: {', '.join(ORDERS)}.")
        for name in ("dropout", "attention_dropout", "drop_path"):
            if not 0 <= getattr(self, name) < 1:
                raise ConfigError(f"{name} is a share in [0, 1), got {getattr(self, name)}.")

    @property
    def patches(self) -> int:
        """Of one frame."""
        return (self.height // self.patch) * (self.width // self.patch)

    def build(self) -> "PredFormer":
        return PredFormer(self)


def position_table(count: int, features: int) -> Float[Tensor, "position feature"]:
    """Sines and cosines by turns, of position · 10000^(-2i / features) (Vaswani et al. 2017)."""
    scales = torch.exp(-math.log(10_000.0) / features * torch.arange(0, features, 2, dtype=torch.float64))
    angles = torch.arange(count, dtype=torch.float64)[:, None] * scales
    return torch.stack([angles.sin(), angles.cos()], dim=-1).flatten(1).float()


def stack_names(axes: str) -> list[str]:
    """Names of a block's stacks in the order in which they run: T1, S1, S2, T2 for TSST."""
    return [f"{axis}{axes[: place + 1].count(axis)}" for place, axis in enumerate(axes)]


class GatedAttention(nn.Module):
    """Pre-norm attention without bias in queries, keys and values, and a pre-norm SwiGLU layer (section 3.2)."""

    def __init__(self, config: PredFormerConfig) -> None:
        super().__init__()
        inner, hidden = config.heads * config.head_features, config.expansion * config.features
        self.heads, self.attention_dropout, self.drop_path = config.heads, config.attention_dropout, config.drop_path
        self.attention_norm = nn.LayerNorm(config.features, eps=LAYER_NORM_EPS)
        self.query_key_value = nn.Linear(config.features, 3 * inner, bias=False)
        self.output = nn.Linear(inner, config.features)
        self.gate_norm = nn.LayerNorm(config.features, eps=LAYER_NORM_EPS)
        # Rows of the first half are the gate, of the second what it lets through.
        self.expand = nn.Linear(config.features, 2 * hidden)
        self.contract = nn.Linear(hidden, config.features)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x: Float[Tensor, "row token feature"]) -> Float[Tensor, "row token feature"]:
        x = x + self._kept(self.dropout(self.output(self._attend(self.attention_norm(x)))))
        gate, passed = self.expand(self.gate_norm(x)).chunk(2, dim=-1)
        return x + self._kept(self.dropout(self.contract(self.dropout(F.silu(gate) * passed))))

    def _attend(self, x: Tensor) -> Tensor:
        q, k, v = self.query_key_value(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        dropout = self.attention_dropout if self.training else 0.0
        return F.scaled_dot_product_attention(q, k, v, dropout_p=dropout).transpose(1, 2).flatten(2)

    def _kept(self, branch: Tensor) -> Tensor:
        """The branch, left out of a share of the rows (stochastic depth, Huang et al. 2016) and scaled for it."""
        if not self.training or self.drop_path == 0.0:
            return branch
        kept = torch.rand(len(branch), 1, 1, device=branch.device) >= self.drop_path
        return branch * kept / (1 - self.drop_path)


class Stack(nn.Module):
    """Transformer layers along one axis and a norm after the last."""

    def __init__(self, config: PredFormerConfig, axis: str, layers: int) -> None:
        super().__init__()
        self.axis = axis
        self.layers = nn.ModuleList(GatedAttention(config) for _ in range(layers))
        self.norm = nn.LayerNorm(config.features, eps=LAYER_NORM_EPS)

    def forward(self, x: Float[Tensor, "batch time patch feature"]) -> Float[Tensor, "batch time patch feature"]:
        batch, frames, patches, _ = x.shape
        if self.axis == "T":
            rows = x.transpose(1, 2).flatten(0, 1)
        else:
            rows = x.flatten(0, 1) if self.axis == "S" else x.flatten(1, 2)
        for layer in self.layers:
            rows = layer(rows)
        rows = self.norm(rows)
        if self.axis == "T":
            return rows.unflatten(0, (batch, patches)).transpose(1, 2)
        return rows.reshape(batch, frames, patches, -1)


class PredFormer(nn.Module):
    """Frames in, the frames after them out; all of them at once."""

    def __init__(self, config: PredFormerConfig) -> None:
        super().__init__()
        self.config = config
        pixels = config.channels * config.patch**2
        axes = ORDERS[config.order]
        factored = config.order.startswith("factored")
        depth = config.blocks * config.layers if factored else config.layers
        self.embedding = nn.Linear(pixels, config.features)
        self.blocks = nn.ModuleList(
            nn.Sequential(OrderedDict((name, Stack(config, name[0], depth)) for name in stack_names(axes)))
            for _ in range(1 if factored else config.blocks)
        )
        self.norm = nn.LayerNorm(config.features, eps=LAYER_NORM_EPS)
        self.projection = nn.Linear(config.features, pixels)
        table = position_table(config.seen * config.patches, config.features)
        # Follows from the configuration, so it is no part of the weights.
        self.register_buffer("positions", table.unflatten(0, (config.seen, config.patches)), persistent=False)

    def forward(
        self, past: Float[Tensor, "batch time channel height width"]
    ) -> Float[Tensor, "batch later channel height width"]:
        """The `predicted` frames after the `seen` ones; values in the units of the input.

        Raises:
            ConfigError: films of another size than it was built for.
        """
        c = self.config
        expected = (c.seen, c.channels, c.height, c.width)
        if tuple(past.shape[1:]) != expected:
            raise ConfigError(
                f"films: expected {expected} frames, channels, rows and columns, got {tuple(past.shape[1:])}."
            )
        films = [self._next(past)]
        while sum(film.shape[1] for film in films) < c.predicted:
            films.append(self._next(films[-1]))
        return torch.cat(films, dim=1)[:, : c.predicted]

    def _next(self, past: Tensor) -> Tensor:
        """As many frames as it sees."""
        x_BTSD = self.embedding(self._patches(past)) + self.get_buffer("positions")
        for block in self.blocks:
            x_BTSD = block(x_BTSD)
        return self._frames(self.projection(self.norm(x_BTSD)))

    def _patches(self, film: Tensor) -> Float[Tensor, "batch time patch pixel"]:
        """Patches row by row; pixels of each by channel, row, column."""
        p = self.config.patch
        cut = film.unflatten(4, (-1, p)).unflatten(3, (-1, p))
        return cut.permute(0, 1, 3, 5, 2, 4, 6).flatten(4).flatten(2, 3)

    def _frames(self, patches: Tensor) -> Float[Tensor, "batch time channel height width"]:
        """The inverse of `_patches`."""
        c = self.config
        cut = patches.unflatten(-1, (c.channels, c.patch, c.patch)).unflatten(2, (-1, c.width // c.patch))
        return cut.permute(0, 1, 4, 2, 5, 3, 6).flatten(5).flatten(3, 4)
