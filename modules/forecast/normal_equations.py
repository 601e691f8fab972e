"""Sums over windows from which least squares follow: products of inputs, of inputs and targets; gaps left out.

Suffixes: M maps (1 where the targets share one, else one each), R rows, D inputs (the last one is 1), P steps ahead,
S steps of a window.
"""

from dataclasses import dataclass, field

import torch
from jaxtyping import Bool, Float
from torch import Tensor

MOST_NUMBERS = 2**26
"""Of the products kept where targets have gaps: half a gigabyte."""


@dataclass
class NormalEquations:
    """What least squares need of all windows seen so far, in float64.

    Each step of the horizon has the rows that were measured at it, so where targets have gaps each needs its own
    products of inputs. They are kept as what is missing from those of all rows, so the work follows the number of gaps.
    Where that would take more than `MOST_NUMBERS`, `grouped` neighbouring steps share them: a row then counts by the
    share of them that it has. That is exact where gaps are longer than the group, and unbiased where they are random.
    """

    maps: int
    inputs: int
    """With the constant 1."""
    horizon: int
    products: Float[Tensor, "map input input"] = field(init=False)
    crossed: Float[Tensor, "map input ahead"] = field(init=False)
    squares: Float[Tensor, "map ahead"] = field(init=False)
    counts: Float[Tensor, "map ahead"] = field(init=False)
    missing: Float[Tensor, "map group input input"] | None = field(init=False, default=None)
    """Products of the rows that a group of steps does not have."""

    def __post_init__(self) -> None:
        self.products = _zeros(self.maps, self.inputs, self.inputs)
        self.crossed = _zeros(self.maps, self.inputs, self.horizon)
        self.squares = _zeros(self.maps, self.horizon)
        self.counts = _zeros(self.maps, self.horizon)

    @property
    def grouped(self) -> int:
        """Steps of the horizon that share their products of inputs."""
        return -(-self.horizon * self.maps * self.inputs**2 // MOST_NUMBERS)

    def add(
        self,
        x_MRD: Float[Tensor, "map row input"],
        y_MRP: Float[Tensor, "map row ahead"],
        measured_MRP: Bool[Tensor, "map row ahead"] | None = None,
    ) -> None:
        """Take these rows in; y is 0 where it was not measured."""
        rows = torch.cat([x_MRD, y_MRP], dim=-1).double()
        self.add_products(rows.mT @ rows, rows.shape[1])
        if measured_MRP is None or measured_MRP.all():
            return
        lost = ~measured_MRP
        self.counts -= lost.sum(dim=1)
        groups = lost.split(self.grouped, dim=-1)
        if self.missing is None:
            self.missing = _zeros(self.maps, len(groups), self.inputs, self.inputs)
        for g, group in enumerate(groups):
            share_MR = group.double().mean(dim=-1)
            for m in range(self.maps):
                some = share_MR[m].nonzero()[:, 0]
                if len(some):
                    x = x_MRD[m, some].double()
                    self.missing[m, g] += (x * share_MR[m, some, None]).mT @ x

    def add_products(self, joint: Float[Tensor, "map column column"], rows: int) -> None:
        """Take in the products of `rows` complete rows [inputs, targets] with themselves."""
        self.products += joint[:, : self.inputs, : self.inputs]
        self.crossed += joint[:, : self.inputs, self.inputs :]
        self.squares += joint[:, self.inputs :, self.inputs :].diagonal(dim1=1, dim2=2)
        self.counts += rows

    def solve(self, penalty: float, *, intercept: bool) -> tuple[Tensor, Tensor]:
        """Weight [map, input - 1, ahead] and bias [map, ahead] with the least mean square + penalty · |weight|²."""
        weights, biases = [], []
        for products, steps in self._by_group():
            count = products[:, -1:, -1:].clamp(min=1)
            counts = self.counts[:, None, steps].clamp(min=1)
            mean = products[:, :-1, -1:] / count
            y_mean = self.crossed[:, -1:, steps] / counts
            if not intercept:
                mean, y_mean = torch.zeros_like(mean), torch.zeros_like(y_mean)
            covariance = products[:, :-1, :-1] / count - mean @ mean.mT
            covariance.diagonal(dim1=1, dim2=2).add_(penalty)
            crossed = self.crossed[:, :-1, steps] / counts - mean @ y_mean
            weight = torch.cholesky_solve(crossed, torch.linalg.cholesky(covariance))
            weights.append(weight)
            biases.append((y_mean - mean.mT @ weight)[:, 0])
        return torch.cat(weights, dim=-1), torch.cat(biases, dim=-1)

    def mean_square_error(self, weight: Float[Tensor, "map _ ahead"], bias: Float[Tensor, "map ahead"]) -> float:
        """Of these maps on the rows taken in, over everything measured: none of the rows is looked at again."""
        both = torch.cat([weight, bias[:, None]], dim=1).double()
        total = float((self.squares - 2 * (both * self.crossed).sum(dim=1)).sum())
        for products, steps in self._by_group():
            part = both[..., steps]
            total += float((part * (products @ part)).sum())
        return total / max(float(self.counts.sum()), 1.0)

    def _by_group(self) -> list[tuple[Tensor, slice]]:
        """Products of the inputs for each group of steps."""
        if self.missing is None:
            return [(self.products, slice(0, self.horizon))]
        return [
            (self.products - self.missing[:, g], slice(g * self.grouped, (g + 1) * self.grouped))
            for g in range(self.missing.shape[1])
        ]


def sliding_products(values: Float[Tensor, " time"], steps: int) -> Float[Tensor, "column column"]:
    """Products, summed over all windows of `steps` values in a row and a last column of ones: ZᵀZ without Z.

    Products of the first column come from one correlation; every other one is its neighbour up the diagonal, less what
    left the sum, plus what entered it. Work: steps² + time · log(time) in place of steps² · time.
    """
    values = values.double()
    windows = len(values) - steps + 1
    size = 2 * len(values)
    ahead = torch.fft.rfft(values, size)
    first = torch.fft.irfft(torch.fft.rfft(values[:windows], size).conj() * ahead, size)[:steps]
    left, entered = values[:steps], values[windows - 1 :]
    padding = values.new_zeros(steps)
    left_lags = torch.cat([left, padding]).unfold(0, steps, 1)[:steps]
    entered_lags = torch.cat([entered, padding]).unfold(0, steps, 1)[:steps]
    # [i, k] is what the sum of products at distance k changes by from column i - 1 to i.
    change = entered[:, None] * entered_lags
    change[1:] -= left[:-1, None] * left_lags[:-1]
    change[0] = first
    by_distance = change.cumsum(dim=0)
    column = torch.arange(steps)
    low = torch.minimum(column[:, None], column)
    distance = (column[:, None] - column).abs()
    products = values.new_empty(steps + 1, steps + 1)
    products[:-1, :-1] = by_distance[low, distance]
    sums = values.cumsum(dim=0)
    products[-1, :-1] = products[:-1, -1] = sums[windows - 1 :] - sums[:steps] + values[:steps]
    products[-1, -1] = windows
    return products


def _zeros(*sizes: int) -> Tensor:
    return torch.zeros(sizes, dtype=torch.float64)
