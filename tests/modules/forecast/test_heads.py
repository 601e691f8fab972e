"""Heads: losses against torch and scipy, minimisers of the losses, quantiles that do not cross."""

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor

from data.errors import ConfigError
from modules.forecast.heads import Head
from modules.forecast.normalisation import WindowStatistics

QUANTILE = Head(kind="quantile", levels=(0.1, 0.5, 0.8))


def numbers(head: Head, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(5, 4, 2, head.outputs, generator=generator)


@pytest.mark.parametrize("kind", ["point", "quantile", "normal", "student"])
def test_outputs_and_finish_without_statistics(kind: str) -> None:
    head = Head(kind=kind)  # type: ignore[arg-type]
    raw = numbers(head)
    forecast = head.finish(raw)
    assert forecast.shape == raw.shape
    assert torch.equal(forecast[..., 0], raw[..., 0])
    if kind in ("normal", "student"):
        assert (forecast[..., 1] > 0).all()
    if kind == "student":
        assert (forecast[..., 2] > 2).all()


@pytest.mark.parametrize("kind", ["point", "quantile", "normal", "student"])
@pytest.mark.parametrize("scaled", [False, True])
def test_statistics_change_the_units_of_the_forecast(kind: str, scaled: bool) -> None:
    """Every quantile goes through the same affine map."""
    head = Head(kind=kind)  # type: ignore[arg-type]
    raw = numbers(head)
    centre = torch.randn(5, 1, 2)
    scale = torch.rand(5, 1, 2) + 0.5 if scaled else None
    plain, moved = head.finish(raw), head.finish(raw, WindowStatistics(centre, scale))
    factor = torch.ones(5, 1, 2) if scale is None else scale
    torch.testing.assert_close(head.point(moved), head.point(plain) * factor + centre)
    if kind != "point":
        levels = (0.1, 0.5, 0.9)
        expected = head.quantiles(plain, levels) * factor[..., None] + centre[..., None]
        torch.testing.assert_close(head.quantiles(moved, levels), expected, rtol=1e-4, atol=1e-4)


def test_losses_of_points() -> None:
    forecast, future = numbers(Head()), torch.randn(5, 4, 2)
    error = forecast[..., 0] - future
    for loss, expected in {
        "mse": error.square().mean(),
        "mae": error.abs().mean(),
        "huber": torch.where(error.abs() < 1, error.square() / 2, error.abs() - 0.5).mean(),
    }.items():
        torch.testing.assert_close(Head(loss=loss).error(forecast, future), expected)  # type: ignore[arg-type]
    steps = np.arange(1, 5)
    weights = torch.from_numpy(-np.arctan(steps) + np.pi / 4 + 1).float()
    expected = (error.abs() * weights[:, None]).mean()
    torch.testing.assert_close(Head(loss="arctan_mae").error(forecast, future), expected)


def test_losses_of_distributions_against_scipy() -> None:
    future = torch.randn(5, 4, 2)
    normal = Head(kind="normal")
    forecast = normal.finish(numbers(normal))
    expected = -stats.norm.logpdf(future, forecast[..., 0], forecast[..., 1]).mean()
    assert normal.error(forecast, future).item() == pytest.approx(expected, rel=1e-5)
    student = Head(kind="student")
    forecast = student.finish(numbers(student))
    expected = -stats.t.logpdf(future, forecast[..., 2], forecast[..., 0], forecast[..., 1]).mean()
    assert student.error(forecast, future).item() == pytest.approx(expected, rel=1e-5)


def test_quantiles_of_distributions_against_scipy() -> None:
    levels = (0.05, 0.3, 0.5, 0.99)
    normal, student = Head(kind="normal"), Head(kind="student")
    forecast = normal.finish(numbers(normal))
    expected = stats.norm.ppf(np.array(levels), forecast[..., :1], forecast[..., 1:2])
    np.testing.assert_allclose(normal.quantiles(forecast, levels), expected, rtol=1e-4, atol=1e-5)
    forecast = student.finish(numbers(student))
    expected = stats.t.ppf(np.array(levels), forecast[..., 2:], forecast[..., :1], forecast[..., 1:2])
    np.testing.assert_allclose(student.quantiles(forecast, levels), expected, rtol=1e-4, atol=1e-5)


def test_the_quantile_loss_is_least_at_the_quantiles() -> None:
    future = torch.from_numpy(np.random.default_rng(0).gamma(2.0, size=(4001, 1, 1))).float()
    best = torch.quantile(future.flatten(), torch.tensor(QUANTILE.levels))

    def error(quantiles: Tensor) -> float:
        return float(QUANTILE.error(quantiles.expand(4001, 1, 1, 3), future))

    for output in range(3):
        for shift in (-0.05, 0.05):
            moved = best.clone()
            moved[output] += shift
            assert error(moved) > error(best)


def test_a_median_s_loss_is_the_absolute_error() -> None:
    head = Head(kind="quantile", levels=(0.5,))
    forecast, future = numbers(head), torch.randn(5, 4, 2)
    torch.testing.assert_close(head.error(forecast, future), (forecast[..., 0] - future).abs().mean())


def test_quantiles_are_ordered_interpolated_and_not_extrapolated() -> None:
    forecast = torch.tensor([4.0, 2.0, 8.0]).expand(1, 1, 1, 3)  # crossing: 2, 4, 8 in order
    found = QUANTILE.quantiles(forecast, (0.01, 0.1, 0.3, 0.5, 0.65, 0.8, 0.99)).flatten()
    torch.testing.assert_close(found, torch.tensor([2.0, 2.0, 3.0, 4.0, 6.0, 8.0, 8.0]))
    assert QUANTILE.point(forecast).item() == 4.0
    one = Head(kind="quantile", levels=(0.4,))
    assert one.quantiles(torch.full((1, 1, 1, 1), 3.0), (0.1, 0.9)).flatten().tolist() == [3.0, 3.0]


@pytest.mark.parametrize("kind", ["point", "quantile", "normal", "student"])
@pytest.mark.parametrize("loss", ["mse", "arctan_mae"])
def test_what_was_not_measured_has_no_loss_and_no_gradient(kind: str, loss: str) -> None:
    head = Head(kind=kind, loss=loss)  # type: ignore[arg-type]
    raw, future = numbers(head).requires_grad_(), torch.randn(5, 4, 2)
    mask = torch.rand(5, 4, 2) > 0.5
    value = head.error(head.finish(raw), future.masked_fill(~mask, 1e4), mask)
    torch.testing.assert_close(value, head.error(head.finish(raw), future.masked_fill(~mask, 0.0), mask))
    value.backward()
    assert raw.grad is not None
    assert raw.grad.isfinite().all()
    assert not raw.grad[~mask].any()
    nothing = head.error(head.finish(raw), future, torch.zeros_like(mask))
    assert nothing.item() == 0.0
    full = head.error(head.finish(raw), future, torch.ones_like(mask))
    torch.testing.assert_close(full, head.error(head.finish(raw), future))


def test_refusals() -> None:
    for levels in ((), (0.5, 0.4), (0.0, 0.5), (0.5, 1.0)):
        with pytest.raises(ConfigError, match="levels"):
            Head(kind="quantile", levels=levels)
    with pytest.raises(ConfigError, match="no quantiles"):
        Head().quantiles(numbers(Head()), (0.5,))
