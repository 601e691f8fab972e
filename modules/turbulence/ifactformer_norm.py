"""Instance norm without a pass of its own: its statistics go into the matrix that follows it, or come after it.

Results y [batch, point, channel] arrive one after another, each with its part w [dim, channel] of the output matrix;
what is wanted is the sum of w · norm(y) over all of them. Forward: `take` each result, add up what its matrix makes of
it, `finish`. Backward, in the same order: `restore`, then `pull` each result, which is computed again for it.

With points weighted by p (summing to 1), s = 1/σ and g the gradient of the output, the gradient of
n = (y - mean) s is that of w n without its parts along 1 and n:  s (wᵀg - p Σ wᵀg - p n Σ n wᵀg).
"""

from abc import ABC, abstractmethod

import torch
from torch import Tensor

EPS = 1e-5
"""Added to the variance."""


class FoldedNorm(ABC):
    """The norm of one call."""

    @abstractmethod
    def take(self, y: Tensor, w: Tensor, spare: Tensor) -> Tensor:
        """See one result, which may be shifted in place; returns the matrix for it, [batch, dim, channel]."""

    @abstractmethod
    def finish(self, out: Tensor) -> None:
        """Turn the sum over all results of their matrix times them into the output, in place."""

    @abstractmethod
    def statistics(self) -> tuple[Tensor, ...]:
        """What `restore` needs beside the output; the batch comes first."""

    @abstractmethod
    def restore(self, statistics: tuple[Tensor, ...], out: Tensor, gradient: Tensor) -> Tensor:
        """Begin the backward pass; returns G, the gradient of the output without what the norm takes from it."""

    @abstractmethod
    def pull(self, y: Tensor, product: Tensor, w: Tensor) -> tuple[Tensor, Tensor]:
        """Gradient of w [dim, channel], and the matrix W' for which the gradient of y is G W' + y as left here.

        `product` is G times y over the points, [batch, dim, channel].
        """


def folded_norm(like: Tensor, measure: Tensor | None, to_out: Tensor, planes: int | None) -> FoldedNorm:
    """The norm of each feature over the grid; of all features of a plane, where the first axis has `planes` of them.

    Args:
        like: the field, [batch, point, dim].
        measure: weights of the points of the grid, or of a plane, with the sum 1; None: all equal.
        to_out: the whole output matrix, [dim, feature].
    """
    return _ByChannel(measure) if planes is None else _ByPlane(like, measure, to_out, planes)


class _ByChannel(FoldedNorm):
    """Each feature over the whole grid: the scale goes into the matrix."""

    def __init__(self, measure: Tensor | None) -> None:
        self.measure = None if measure is None else measure.reshape(1, -1, 1)
        self.means: list[Tensor] = []
        self.scales: list[Tensor] = []

    def _mean(self, y: Tensor) -> Tensor:
        return y.mean(1, keepdim=True) if self.measure is None else self.measure.mT @ y

    def take(self, y: Tensor, w: Tensor, spare: Tensor) -> Tensor:
        mean = self._mean(y)
        # The variance about the mean, not the difference of two large numbers.
        y.sub_(mean)
        scale = (self._mean(torch.mul(y, y, out=spare)) + EPS).rsqrt_()
        self.means.append(mean)
        self.scales.append(scale)
        return w * scale

    def finish(self, out: Tensor) -> None:
        """The matrices have done it all."""

    def statistics(self) -> tuple[Tensor, ...]:
        return torch.stack(self.means, 1), torch.stack(self.scales, 1)

    def restore(self, statistics: tuple[Tensor, ...], out: Tensor, gradient: Tensor) -> Tensor:
        means, scales = statistics
        self.means, self.scales = list(means.unbind(1)), list(scales.unbind(1))
        if self.measure is None:
            return gradient - gradient.mean(1, keepdim=True)
        return torch.addcmul(gradient, self.measure, gradient.sum(1, keepdim=True), value=-1)

    def pull(self, y: Tensor, product: Tensor, w: Tensor) -> tuple[Tensor, Tensor]:
        mean, scale = self.means.pop(0), self.scales.pop(0)
        gradient_w = product * scale
        along = (w * gradient_w).sum(1, keepdim=True) * scale.square()
        if self.measure is None:
            along = along / y.shape[1]
        torch.addcmul(along * mean, y, along, value=-1, out=y)
        if self.measure is not None:
            y.mul_(self.measure)
        return gradient_w.sum(0), w * scale


class _ByPlane(FoldedNorm):
    """All features of a plane of the first axis together: one shift and scale a plane, after the sum."""

    def __init__(self, like: Tensor, measure: Tensor | None, to_out: Tensor, planes: int) -> None:
        self.planes = planes
        self.width = like.shape[1] // planes
        self.measure = like.new_full((self.width,), 1 / self.width) if measure is None else measure.reshape(-1)
        self.features = to_out.shape[1]
        self.row_sums = to_out.sum(1)
        self.centre = like.new_zeros(len(like), planes)
        self.scale = like.new_zeros(len(like), planes)

    def _mean(self, y: Tensor) -> Tensor:
        """[batch, point, channel] → [batch, plane]: this result's share of the mean over points and features."""
        return y.sum(2).unflatten(1, (self.planes, -1)) @ self.measure / self.features

    def _spread(self, plane: Tensor) -> Tensor:
        """[batch, plane] → [batch, point, 1]."""
        return plane.repeat_interleave(self.width, dim=1)[..., None]

    def take(self, y: Tensor, w: Tensor, spare: Tensor) -> Tensor:
        self.centre += self._mean(y)
        self.scale += self._mean(torch.mul(y, y, out=spare))
        return w.expand(len(y), -1, -1)

    def finish(self, out: Tensor) -> None:
        self.scale = (self.scale - self.centre.square() + EPS).rsqrt_()
        out.addcmul_(self._spread(self.centre), self.row_sums, value=-1).mul_(self._spread(self.scale))

    def statistics(self) -> tuple[Tensor, ...]:
        return self.centre, self.scale

    def restore(self, statistics: tuple[Tensor, ...], out: Tensor, gradient: Tensor) -> Tensor:
        centre, scale = statistics
        planes = gradient.unflatten(1, (self.planes, self.width))
        through_mean = planes.sum(2) @ self.row_sums
        through_scale = (gradient * out).sum(2).unflatten(1, (self.planes, -1)).sum(2)
        slope = -scale.square() * through_scale
        share = self.measure.tile(self.planes)[:, None] / self.features
        self.slope = self._spread(slope) * share
        self.shift = self._spread(-scale * through_mean - slope * centre) * share
        gradient = gradient * self._spread(scale)
        self.lost = (gradient * self._spread(centre)).sum((0, 1))
        return gradient

    def pull(self, y: Tensor, product: Tensor, w: Tensor) -> tuple[Tensor, Tensor]:
        torch.addcmul(self.shift, y, self.slope, out=y)
        return product.sum(0) - self.lost[:, None], w.expand(len(y), -1, -1)
