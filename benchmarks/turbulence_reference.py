"""The factorized operator as a plain transcription of the published description, nothing rearranged.

It is what `modules/turbulence/ifactformer.py` is measured against and compared with: every feature at every point
before the means over the axes are taken, the three results side by side in one tensor, copied to channels first for
the instance norm, as the published network does it. Parameters carry the names of the published weights.
"""

import math
from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

AXES = "xyz"
MIN_FREQUENCY, POSITION_SCALE = 1 / 64, 8.0


class GaussianFeatures(nn.Module):
    """Sines and cosines of the coordinates times a fixed matrix of Gaussian numbers."""

    def __init__(self, axes: int, dim: int) -> None:
        super().__init__()
        self._B = nn.Parameter(torch.randn(axes, dim // 2) * POSITION_SCALE, requires_grad=False)

    def forward(self, coordinates: Tensor) -> Tensor:
        angles = 2 * math.pi * (coordinates @ self._B)
        return torch.cat([angles.sin(), angles.cos()], dim=-1)


class Rotary(nn.Module):
    """Rotation by an angle that grows with the coordinate; feature i turns with feature i + d/2."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.register_buffer("inv_freq", 1.0 / 10000 ** (torch.arange(0, dim, 2).float() / dim))

    def forward(self, features: Tensor, coordinates: Tensor) -> Tensor:
        """Features [batch, head, point, channel] at coordinates [point, 1]."""
        angles = coordinates / MIN_FREQUENCY * self.inv_freq
        angles = torch.cat([angles, angles], dim=-1)
        first, second = features.chunk(2, dim=-1)
        return features * angles.cos() + torch.cat([-second, first], dim=-1) * angles.sin()


class Kernel(nn.Module):
    """Queries times keys of one axis."""

    def __init__(self, dim: int, heads: int, width: int) -> None:
        super().__init__()
        self.heads = heads
        self.to_q = nn.Linear(dim, heads * width, bias=False)
        self.to_k = nn.Linear(dim, heads * width, bias=False)
        self.pos_emb = Rotary(width)

    def forward(self, function: Tensor, coordinates: Tensor) -> Tensor:
        q, k = (
            self.pos_emb(linear(function).unflatten(-1, (self.heads, -1)).transpose(1, 2), coordinates)
            for linear in (self.to_q, self.to_k)
        )
        return torch.einsum("bhid,bhjd->bhij", q, k)


class Gated(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        first, second = x.chunk(2, dim=-1)
        return F.gelu(first) * second


class AxisFunction(nn.Module):
    """A linear map at every point, the mean over the other axes, a gated feed-forward layer."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.to_in = nn.Linear(dim, dim, bias=False)
        net = nn.Sequential(nn.Linear(dim, 2 * dim), Gated(), nn.Identity(), nn.Linear(dim, dim))
        self.out_ffn = nn.ModuleDict({"norm": nn.LayerNorm(dim), "fn": nn.ModuleDict({"net": net})})

    def forward(self, x: Tensor) -> Tensor:
        """x [batch, this axis, others..., channel]."""
        mean = self.to_in(x).flatten(2, -2).mean(dim=2)
        found: Tensor = self.out_ffn["fn"]["net"](self.out_ffn["norm"](mean))
        return found


class Block(nn.Module):
    """One factorized attention; `variant` is head, legacy or chained."""

    def __init__(self, axes: int, dim: int, heads: int, dim_head: int, multiplier: int, variant: str) -> None:
        super().__init__()
        self.axes, self.heads, self.variant = axes, heads, variant
        self.in_norm = nn.LayerNorm(dim)
        self.to_v = nn.Linear(dim, heads * dim_head, bias=False)
        self.to_in = nn.Linear(dim, dim, bias=False)
        for a in range(axes):
            # The published lists begin with a change of layout for every axis but the first.
            before = [nn.Identity()] * (a > 0)
            setattr(self, f"to_{AXES[a]}", nn.Sequential(*before, AxisFunction(dim)))
            setattr(self, f"low_rank_kernel_{AXES[a]}", Kernel(dim, heads, multiplier * dim_head))
        features = (1 if variant == "chained" else axes) * heads * dim_head
        output = [nn.Linear(features, dim, bias=False), nn.GELU(), nn.Linear(dim, dim, bias=False)]
        if variant == "legacy":
            self.to_out = nn.Sequential(nn.Identity(), *output)
            self.to_out_1 = nn.Sequential(nn.Linear(dim, dim, bias=False), nn.GELU(), nn.Linear(dim, dim, bias=False))
        else:
            self.to_out = nn.Sequential(nn.Identity(), nn.Identity(), *output)

    def forward(self, u: Tensor, coordinates: Sequence[Tensor]) -> Tensor:
        u = self.in_norm(u)
        # [batch, head, *grid, channel]
        v = self.to_v(u).unflatten(-1, (self.heads, -1)).movedim(-2, 1)
        w = self.to_in(u)
        kernels = []
        for a in range(self.axes):
            function = getattr(self, f"to_{AXES[a]}")(w.movedim(1 + a, 1))
            kernels.append(getattr(self, f"low_rank_kernel_{AXES[a]}")(function, coordinates[a]))
        grid = "xyz"[: self.axes]
        results = []
        for a, kernel in enumerate(kernels):
            source = results[-1] if self.variant == "chained" and results else v
            new = grid.replace(grid[a], "i")
            results.append(torch.einsum(f"bhi{grid[a]},bh{grid}c->bh{new}c", kernel, source))
        features = results[-1] if self.variant == "chained" else torch.cat(results, dim=-1)
        if self.variant == "legacy":
            features = features.movedim(1, -2).flatten(-2)
            # An instance norm that finds x where it expects the channel.
            output: Tensor = self.to_out(F.instance_norm(features.flatten(2, -2)).reshape(features.shape))
            return self.to_out_1(output)
        first = features.movedim(-1, 2).flatten(1, 2)
        return self.to_out(F.instance_norm(first).movedim(1, -1))


class Encoder(nn.Module):
    def __init__(self, depth: int, iterations: int, axes: int, dim: int, **block: object) -> None:
        super().__init__()
        self.iterations = iterations
        self.layers = nn.ModuleList()
        for _ in range(depth):
            position = nn.Sequential(GaussianFeatures(axes, dim), nn.Linear(dim, dim))
            self.layers.append(nn.ModuleList([position, Block(axes, dim, **block)]))  # type: ignore[arg-type]

    def forward(self, u: Tensor, coordinates: Sequence[Tensor]) -> Tensor:
        points = torch.stack(torch.meshgrid([c[:, 0] for c in coordinates], indexing="ij"), dim=-1)
        for position, block in self.layers:
            u = u + position(points)
            for _ in range(self.iterations):
                u = u + block(u, coordinates) / self.iterations
        return u


class PlainIFactFormer(nn.Module):
    """`forward` takes normalised frames [batch, time, *grid, component] and one column of coordinates per axis."""

    def __init__(
        self,
        *,
        components: int = 3,
        axes: int = 3,
        history: int = 1,
        dim: int = 96,
        heads: int = 5,
        dim_head: int = 96,
        depth: int = 1,
        iterations: int = 10,
        kernel_multiplier: int = 3,
        variant: str = "head",
    ) -> None:
        super().__init__()
        self.to_in = nn.Sequential(
            nn.Conv2d(components, dim // 2, 1, groups=components),
            nn.GELU(),
            nn.Conv2d(dim // 2, dim, (history, 1), bias=False),
        )
        self.encoder = Encoder(
            depth,
            iterations,
            axes,
            dim,
            heads=heads,
            dim_head=dim_head,
            multiplier=kernel_multiplier,
            variant=variant,
        )
        self.simple_to_out = nn.Sequential(
            nn.Identity(),
            nn.Conv1d(dim, dim // 2, 1, bias=False),
            nn.GELU(),
            nn.Conv1d(dim // 2, components, 1),
        )

    def forward(self, past: Tensor, coordinates: Sequence[Tensor]) -> Tensor:
        grid = past.shape[2:-1]
        lifted = self.to_in(past.flatten(2, -2).permute(0, 3, 1, 2))
        u = self.encoder(lifted.squeeze(2).transpose(1, 2).unflatten(1, grid), coordinates)
        return self.simple_to_out(u.flatten(1, -2).transpose(1, 2)).transpose(1, 2).unflatten(1, grid)


def plain(sizes: Mapping[str, object], state: Mapping[str, Tensor]) -> PlainIFactFormer:
    """The transcription with published weights, in evaluation mode."""
    network = PlainIFactFormer(**sizes)  # type: ignore[arg-type]
    network.load_state_dict(dict(state), strict=True)
    return network.eval()
