"""Window statistics against numpy on what was measured; there and back; what gradients see."""

import numpy as np
import pytest
import torch

from modules.forecast.normalisation import EPS, Centre, window_statistics


@pytest.mark.parametrize("unbiased", [False, True])
@pytest.mark.parametrize("masked", [False, True])
def test_against_numpy(unbiased: bool, masked: bool) -> None:
    values = torch.randn(6, 15, 2) * 3 + 1
    mask = torch.rand(6, 15, 2) > 0.4 if masked else torch.ones(6, 15, 2, dtype=torch.bool)
    garbage = values.masked_fill(~mask, 1e5)
    for centre in ("mean", "last", "none"):
        found = window_statistics(garbage, mask if masked else None, centre=centre, unbiased=unbiased)
        assert found.scale is not None
        for k in range(6):
            for n in range(2):
                seen = values[k, mask[k, :, n], n].numpy()
                middle = {"mean": seen.mean(), "last": seen[-1], "none": 0.0}[centre]
                assert found.centre[k, 0, n].item() == pytest.approx(middle, abs=1e-5)
                assert found.scale[k, 0, n].item() == pytest.approx(
                    np.sqrt(seen.var(ddof=int(unbiased)) + EPS), rel=1e-5
                )


@pytest.mark.parametrize("centre", ["mean", "last"])
def test_there_and_back(centre: Centre) -> None:
    values = torch.randn(6, 15, 2) * 3 + 1
    found = window_statistics(values, centre=centre)
    assert found.scale is not None
    torch.testing.assert_close(found.normalise(values) * found.scale + found.centre, values)
    shifted = window_statistics(values, centre=centre, scaled=False)
    assert shifted.scale is None
    torch.testing.assert_close(shifted.normalise(values) + shifted.centre, values)


def test_missing_values_are_zero_after_normalising() -> None:
    values = torch.randn(2, 8, 1)
    mask = torch.arange(8)[None, :, None] % 3 > 0
    mask = mask.expand(2, 8, 1)
    normalised = window_statistics(values, mask).normalise(values.masked_fill(~mask, float("inf")), mask)
    assert not normalised[~mask].any()
    assert normalised[mask].all()
    assert normalised.sum().item() == pytest.approx(0.0, abs=1e-5)


def test_one_measured_value_and_none() -> None:
    values = torch.full((2, 4, 1), 7.0)
    mask = torch.zeros(2, 4, 1, dtype=torch.bool)
    mask[0, 1] = True
    for unbiased in (False, True):
        found = window_statistics(values, mask, unbiased=unbiased)
        assert found.scale is not None
        assert found.centre.flatten().tolist() == [7.0, 0.0]
        assert found.scale.flatten().tolist() == pytest.approx([EPS**0.5, 1.0])


def test_constant_windows_stay_finite() -> None:
    values = torch.full((1, 5, 1), 3.0, requires_grad=True)
    normalised = window_statistics(values).normalise(values)
    assert not normalised.any()
    normalised.sum().backward()
    assert values.grad is not None
    assert values.grad.isfinite().all()


def test_gradients_pass_the_scale_and_not_the_centre() -> None:
    values = torch.randn(1, 5, 1, requires_grad=True)
    found = window_statistics(values)
    assert not found.centre.requires_grad
    assert found.scale is not None
    found.scale.sum().backward()
    expected = (values - values.mean()) / (5 * found.scale)
    assert values.grad is not None
    torch.testing.assert_close(values.grad, expected.detach())
