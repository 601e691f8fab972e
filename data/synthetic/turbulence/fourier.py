"""Periodic boxes: wavenumbers, transforms, dealiasing, change of grid, sharp filters, and a step in time.

Points are real tensors [..., *grid], modes the complex ones of `torch.fft.rfftn` over the trailing axes, divided by the
number of points: a mode does not depend on the grid that holds it. The Nyquist mode of an even number of points is
dropped wherever the number changes.
"""

import math
from collections.abc import Callable, Sequence
from functools import cached_property

import numpy as np
import torch
from jaxtyping import Complex, Float
from torch import Tensor

from data.errors import ConfigError
from data.grid import CLOSE, Grid, fourier
from data.synthetic.turbulence.subgrid import FilterScales


def box(points: int, names: Sequence[str]) -> Grid:
    """The periodic box of side 2π with `points` in every direction."""
    return Grid(tuple(fourier(name, points, 2 * math.pi) for name in names))


class Box:
    """Transforms and wavenumbers of a periodic box, with the 2/3 rule."""

    def __init__(self, grid: Grid, dtype: torch.dtype, device: str | torch.device) -> None:
        self.grid, self.dtype, self.device = grid, dtype, torch.device(device)
        self.axes = tuple(range(-len(grid.axes), 0))
        self.wavenumbers = tuple(w.to(device, dtype) for w in wavenumbers(grid))
        """Of each direction, shaped to broadcast over modes."""
        self.squared = sum((w.square() for w in self.wavenumbers), torch.zeros((), dtype=dtype, device=device))
        """Of the whole wavenumber; Nyquist modes, which are never kept, count as 0 in their direction."""
        self.kept = below(grid, [n / 3 for n in grid.shape]).to(device, dtype)
        """The modes whose products have no aliases among themselves: numbers below a third of the points."""
        self.cutoff = min((math.ceil(len(axis) / 3) - 1) * 2 * math.pi / axis.length for axis in grid.axes)
        """The largest wavenumber kept."""

    def modes(self, points: Float[Tensor, "*lead_and_grid"]) -> Complex[Tensor, "*lead_and_modes"]:
        return torch.fft.rfftn(points, dim=self.axes, norm="forward")

    def points(self, modes: Complex[Tensor, "*lead_and_modes"]) -> Float[Tensor, "*lead_and_grid"]:
        return torch.fft.irfftn(modes, s=self.grid.shape, dim=self.axes, norm="forward")

    def real(self, modes: Complex[Tensor, "*lead_and_modes"]) -> Complex[Tensor, "*lead_and_modes"]:
        """The modes of a real field, without what the redundant ones (wavenumber 0 of the last axis) hold besides.

        Transforms do not see that part, which rounding makes: a force that grows with the modes would feed it for ever.
        """
        axes = self.axes[1:]
        plane = modes[..., 0]
        mirrored = plane.flip(axes).roll((1,) * len(axes), axes).conj()
        found = modes.clone()
        found[..., 0] = (plane + mirrored) / 2
        return found

    @cached_property
    def weights(self) -> Float[Tensor, " mode"]:
        """How often each mode of the last axis counts in a sum over all: those that the transform leaves out are the
        conjugates of others."""
        n = self.grid.shape[-1]
        counts = torch.full((n // 2 + 1,), 2.0, dtype=self.dtype, device=self.device)
        counts[0] = 1
        if n % 2 == 0:
            counts[-1] = 1
        return counts

    def mean_square(self, modes: Complex[Tensor, "*lead_and_modes"]) -> float:
        """Mean over the box of the sum of the squares of the leading components (Parseval)."""
        return float((torch.view_as_real(modes).square().sum(-1) * self.weights).sum(dtype=torch.float64))

    @cached_property
    def scales(self) -> FilterScales:
        """For subgrid models: the grid filter is the 2/3 rule's cut-off, the test filter a sharp one at half of it."""
        half = below(self.grid, [(math.ceil(n / 3) - 1) / 2 + 0.5 for n in self.grid.shape])
        half = half.to(self.device, self.dtype)
        return FilterScales(
            width=torch.tensor(math.pi / self.cutoff, dtype=self.dtype, device=self.device),
            ratio=2.0,
            test_filter=lambda points: self.points(self.modes(points) * half),
            average=lambda points: points.mean(self.axes, keepdim=True),
        )


def wavenumbers(grid: Grid) -> tuple[Float[Tensor, "*modes"], ...]:
    """Wavenumbers 2πm/L of each direction, float64, shaped to broadcast over the modes; 0 for the Nyquist mode, whose
    derivative no real field shows."""
    found = []
    for k, axis in enumerate(grid.axes):
        n = len(axis)
        numbers = np.fft.rfftfreq(n, 1 / n) if k == len(grid.axes) - 1 else np.fft.fftfreq(n, 1 / n)
        numbers = np.where(2 * np.abs(numbers) == n, 0.0, numbers) * (2 * np.pi / axis.length)
        shape = [1] * len(grid.axes)
        shape[k] = len(numbers)
        found.append(torch.from_numpy(numbers).reshape(shape))
    return tuple(found)


def below(grid: Grid, limits: Sequence[float]) -> Float[Tensor, "*modes"]:
    """1 (float64) for modes whose number is below the limit in every direction, 0 for others: a sharp filter."""
    kept = torch.ones((), dtype=torch.float64)
    for k, (axis, limit) in enumerate(zip(grid.axes, limits, strict=True)):
        n = len(axis)
        numbers = np.fft.rfftfreq(n, 1 / n) if k == len(grid.axes) - 1 else np.fft.fftfreq(n, 1 / n)
        shape = [1] * len(grid.axes)
        shape[k] = len(numbers)
        kept = kept * torch.from_numpy((np.abs(numbers) < limit).astype(float)).reshape(shape)
    return kept


def resized(
    modes: Complex[Tensor, "*lead_and_modes"], points: Sequence[int], wanted: Sequence[int]
) -> Complex[Tensor, "*lead_and_modes"]:
    """The modes of a grid of `points` on one of `wanted`: cut off sharply, or filled up with zeros."""
    for k, (n, m) in enumerate(zip(points, wanted, strict=True)):
        if n == m:
            continue
        axis = modes.ndim - len(points) + k
        half = k == len(points) - 1
        common = (min(n, m) - 1) // 2
        shape = list(modes.shape)
        shape[axis] = m // 2 + 1 if half else m
        found = modes.new_zeros(shape)
        found.narrow(axis, 0, common + 1).copy_(modes.narrow(axis, 0, common + 1))
        if not half and common > 0:
            found.narrow(axis, m - common, common).copy_(modes.narrow(axis, n - common, common))
        modes = found
    return modes


def check_same_box(grid: Grid, wanted: Grid) -> None:
    """Raises: ConfigError: not the same periodic box, whatever the numbers of points."""
    described = [[(a.name, a.periodic, a.length) for a in g.axes] for g in (grid, wanted)]
    alike = len(grid.axes) == len(wanted.axes) and all(
        a.name == b.name and a.periodic and b.periodic and abs(a.length - b.length) <= CLOSE * a.length
        for a, b in zip(grid.axes, wanted.axes, strict=True)
    )
    if not alike:
        raise ConfigError(f"expected a grid of the same periodic box {described[0]}, got {described[1]}.")


class IntegratingFactor:
    """Classical Runge-Kutta steps of ∂w/∂t = L (w - s) + N(w), the linear part exactly.

    N is `tendency(w, first)`, `first` at the first of the four stages: what changes slowly may be kept for the others.
    L is diagonal (`rate`, float64), s the state at which it rests (0 unless given): a steady force f is s = -f/L.
    Canuto, Hussaini, Quarteroni and Zang (2006), appendix D.3.
    """

    def __init__(
        self,
        rate: Float[Tensor, "*modes"],
        tendency: Callable[[Complex[Tensor, "*state"], bool], Complex[Tensor, "*state"]],
        dtype: torch.dtype,
        rest: Complex[Tensor, "*state"] | None = None,
    ) -> None:
        self._rate, self._tendency, self._dtype, self._rest = rate, tendency, dtype, rest
        self._length = math.nan

    def step(self, state: Complex[Tensor, "*state"], length: float) -> Complex[Tensor, "*state"]:
        """The state after `length`."""
        if length != self._length:
            self._set_length(length)
        half, full = self._half, self._full
        first = self._tendency(state, True)
        second = self._tendency(self._moved(half * torch.add(state, first, alpha=length / 2), self._rest_half), False)
        decayed = self._moved(half * state, self._rest_half)
        third = self._tendency(torch.add(decayed, second, alpha=length / 2), False)
        decayed = self._moved(full * state, self._rest_full)
        fourth = self._tendency(torch.addcmul(decayed, half, third, value=length), False)
        change = torch.addcmul(fourth, full, first).addcmul_(half, second + third, value=2)
        return decayed.add_(change, alpha=length / 6)

    @staticmethod
    def _moved(state: Tensor, rest: Tensor | None) -> Tensor:
        return state if rest is None else state.add_(rest)

    def _set_length(self, length: float) -> None:
        self._half, self._full = ((self._rate * share).exp().to(self._dtype) for share in (length / 2, length))
        self._rest_half = self._rest_full = None
        if self._rest is not None:
            self._rest_half = (-torch.expm1(self._rate * (length / 2)) * self._rest).to(self._dtype)
            self._rest_full = (-torch.expm1(self._rate * length) * self._rest).to(self._dtype)
        self._length = length
