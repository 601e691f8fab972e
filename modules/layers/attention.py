"""Pre-norm attention blocks of the set-latent family (3DShape2VecSet, Zhang et al. 2023; TripoSG, Li et al. 2025).

Shape suffixes: B batch, N tokens of the stream, S tokens of the context, D width, H heads, d = D / H.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from data.errors import ConfigError

LAYER_NORM_EPS = 1e-5
QK_NORM_EPS = 1e-6


class Float32LayerNorm(nn.LayerNorm):
    """Layer norm that computes in float32 and returns the type it was given."""

    def forward(self, input: Tensor) -> Tensor:
        if input.dtype in (torch.float32, torch.float64):
            return super().forward(input)
        weight, bias = self.weight.float(), self.bias.float()
        return F.layer_norm(input.float(), self.normalized_shape, weight, bias, self.eps).to(input.dtype)


@dataclass(frozen=True)
class ProjectedContext:
    """Keys and values of a context, computed once and shared by any number of queries."""

    keys: Float[Tensor, "batch heads context d"]
    values: Float[Tensor, "batch heads context d"]


def scaled_attention(
    q_BHNd: Tensor, k_BHSd: Tensor, v_BHSd: Tensor, *, differentiable_twice: bool = False
) -> Float[Tensor, "batch heads token d"]:
    """softmax(q kᵀ / √d) v for each head.

    With `differentiable_twice` the product is spelled out: the fused CPU and CUDA kernels have no second derivative,
    which a loss on the gradient of the output needs.
    """
    if not differentiable_twice:
        return F.scaled_dot_product_attention(q_BHNd, k_BHSd, v_BHSd)
    scores = q_BHNd @ k_BHSd.transpose(-2, -1) * q_BHNd.shape[-1] ** -0.5
    return scores.softmax(dim=-1) @ v_BHSd


def check_heads(width: int, heads: int) -> None:
    """Raises ConfigError where the width cannot be shared evenly by the heads."""
    if heads < 1 or width % heads:
        below = max(width // max(heads, 1) * max(heads, 1), heads)
        raise ConfigError(
            f"width must be a multiple of heads, got width={width} and heads={heads}; "
            f"the nearest widths that fit are {below} and {below + heads}."
        )


class Attention(nn.Module):
    """Multi-head attention: no bias in the query, key and value projections, a bias in the output projection.

    The projections are plain matrices: rows h·d … (h+1)·d of each belong to head h. `qk_norm` takes the
    root-mean-square norm of each head's queries and keys, with weights shared by the heads.
    """

    def __init__(self, width: int, heads: int, *, context_width: int | None = None, qk_norm: bool = False) -> None:
        super().__init__()
        check_heads(width, heads)
        source_width = width if context_width is None else context_width
        self.heads = heads
        self.query = nn.Linear(width, width, bias=False)
        self.key = nn.Linear(source_width, width, bias=False)
        self.value = nn.Linear(source_width, width, bias=False)
        self.output = nn.Linear(width, width)
        self.query_norm = nn.RMSNorm(width // heads, eps=QK_NORM_EPS) if qk_norm else nn.Identity()
        self.key_norm = nn.RMSNorm(width // heads, eps=QK_NORM_EPS) if qk_norm else nn.Identity()

    def split_heads(self, x_BND: Tensor) -> Float[Tensor, "batch heads token d"]:
        """The stream cut into heads."""
        return x_BND.unflatten(-1, (self.heads, -1)).transpose(1, 2)

    def project(self, context_BSD: Tensor) -> ProjectedContext:
        """Keys and values of the tokens attended to."""
        keys = self.key_norm(self.split_heads(self.key(context_BSD)))
        return ProjectedContext(keys, self.split_heads(self.value(context_BSD)))

    def attend(self, x_BND: Tensor, context: ProjectedContext, *, differentiable_twice: bool = False) -> Tensor:
        """What each token of the stream gathers from the context."""
        queries = self.query_norm(self.split_heads(self.query(x_BND)))
        gathered = scaled_attention(queries, context.keys, context.values, differentiable_twice=differentiable_twice)
        return self.output(gathered.transpose(1, 2).flatten(-2))


class SelfAttention(Attention):
    """Attention of the tokens of one stream to each other."""

    def __init__(self, width: int, heads: int, *, qk_norm: bool = False) -> None:
        super().__init__(width, heads, qk_norm=qk_norm)

    def forward(self, x: Float[Tensor, "batch token width"]) -> Float[Tensor, "batch token width"]:
        return self.attend(x, self.project(x))


class CrossAttention(Attention):
    """Attention of a stream to a context, whose keys and values can be projected once and kept.

    `norm_context` puts a layer norm before the key and value projections (the shape VAE; the flow transformer takes its
    condition raw).
    """

    def __init__(
        self,
        width: int,
        heads: int,
        *,
        context_width: int | None = None,
        qk_norm: bool = False,
        norm_context: bool = False,
    ) -> None:
        super().__init__(width, heads, context_width=context_width, qk_norm=qk_norm)
        source_width = width if context_width is None else context_width
        self.context_norm = nn.LayerNorm(source_width, eps=LAYER_NORM_EPS) if norm_context else nn.Identity()
        self.norm_context = norm_context

    def project_context(self, context: Float[Tensor, "batch context source_width"]) -> ProjectedContext:
        """Keys and values of the context, to be passed in its place any number of times."""
        return self.project(self.context_norm(context))

    def forward(
        self,
        x: Float[Tensor, "batch token width"],
        context: Tensor | ProjectedContext | None,
        *,
        differentiable_twice: bool = False,
    ) -> Float[Tensor, "batch token width"]:
        """What the stream gathers from `context`; None stands for a context of zeros, at no cost.

        Zeros have zero values whatever the weights, so all that is left of the attention is its output bias.
        """
        if context is None:
            if self.norm_context:
                raise ValueError("a normalised context of zeros is not zero: pass the context itself instead of None.")
            return self.output.bias.expand_as(x)
        projected = context if isinstance(context, ProjectedContext) else self.project_context(context)
        return self.attend(x, projected, differentiable_twice=differentiable_twice)


class FeedForward(nn.Module):
    """Linear to four times the width, exact GELU, linear back."""

    def __init__(self, width: int, factor: int = 4) -> None:
        super().__init__()
        self.expand = nn.Linear(width, factor * width)
        self.contract = nn.Linear(factor * width, width)

    def forward(self, x: Float[Tensor, "*batch width"]) -> Float[Tensor, "*batch width"]:
        return self.contract(F.gelu(self.expand(x)))


class Block(nn.Module):
    """Long skip, self-attention, cross-attention(s), feed-forward: each where asked for, pre-norm, with residual.

    - `skip`: the stream becomes LN(Linear([skip, x])), the norm after the linear.
    - `context_width`, `second_context_width`: one or two cross-attentions; the two read the same stream, each through
      its own norm, and their results are scaled and added.

    The norms of the block compute in float32 whatever the type of the activations; the context norm does not.
    """

    def __init__(
        self,
        width: int,
        heads: int,
        *,
        self_attention: bool = True,
        context_width: int | None = None,
        second_context_width: int | None = None,
        qk_norm: bool = False,
        norm_context: bool = False,
        skip: bool = False,
    ) -> None:
        super().__init__()

        def norm() -> Float32LayerNorm:
            return Float32LayerNorm(width, eps=LAYER_NORM_EPS)

        def cross(source_width: int) -> CrossAttention:
            return CrossAttention(width, heads, context_width=source_width, qk_norm=qk_norm, norm_context=norm_context)

        self.skip_linear = nn.Linear(2 * width, width) if skip else None
        self.skip_norm = norm() if skip else None
        self.self_norm = norm() if self_attention else None
        self.self_attention = SelfAttention(width, heads, qk_norm=qk_norm) if self_attention else None
        self.cross_norm = norm() if context_width is not None else None
        self.cross_attention = cross(context_width) if context_width is not None else None
        self.second_cross_norm = norm() if second_context_width is not None else None
        self.second_cross_attention = cross(second_context_width) if second_context_width is not None else None
        self.feed_forward_norm = norm()
        self.feed_forward = FeedForward(width)

    def forward(
        self,
        x: Float[Tensor, "batch token width"],
        context: Tensor | ProjectedContext | None = None,
        second_context: Tensor | ProjectedContext | None = None,
        *,
        skip: Float[Tensor, "batch token width"] | None = None,
        scales: tuple[float, float] = (1.0, 1.0),
        differentiable_twice: bool = False,
    ) -> Float[Tensor, "batch token width"]:
        if self.skip_linear is not None and self.skip_norm is not None:
            if skip is None:
                raise ValueError("this block was built with a long skip: pass skip=, the output of an earlier block.")
            x = self.skip_norm(self.skip_linear(torch.cat([skip, x], dim=-1)))
        if self.self_attention is not None and self.self_norm is not None:
            x = x + self.self_attention(self.self_norm(x))
        gathered = []
        if self.cross_attention is not None and self.cross_norm is not None:
            read = self.cross_norm(x)
            first = self.cross_attention(read, context, differentiable_twice=differentiable_twice)
            gathered.append(scales[0] * first if scales[0] != 1 else first)
        if self.second_cross_attention is not None and self.second_cross_norm is not None:
            read = self.second_cross_norm(x)
            second = self.second_cross_attention(read, second_context, differentiable_twice=differentiable_twice)
            gathered.append(scales[1] * second if scales[1] != 1 else second)
        for branch in gathered:
            x = x + branch
        return x + self.feed_forward(self.feed_forward_norm(x))
