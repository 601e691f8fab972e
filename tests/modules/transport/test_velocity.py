"""Guidance is linear extrapolation, whichever way it is computed."""

import pytest
import torch

from modules.transport.velocity import BatchedGuidance, Guidance, extrapolate


def field(x: torch.Tensor, t: float, condition: torch.Tensor) -> torch.Tensor:
    return torch.tanh(x + t) * condition.sum(dim=1, keepdim=True) - x


@pytest.mark.parametrize("scale", [0.0, 0.5, 1.0, 7.0])
def test_batched_and_separate_guidance_agree(scale: float):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(4, 6, generator=generator, dtype=torch.float64)
    condition = torch.randn(4, 3, generator=generator, dtype=torch.float64)
    null = torch.zeros_like(condition)
    batched = BatchedGuidance(field, condition, null, scale)(x, 0.3)
    separate = Guidance(lambda x, t: field(x, t, condition), lambda x, t: field(x, t, null), scale)(x, 0.3)
    torch.testing.assert_close(batched, separate)
    by_hand = (1 - scale) * field(x, 0.3, null) + scale * field(x, 0.3, condition)
    torch.testing.assert_close(batched, by_hand)


@pytest.mark.parametrize(("scale", "evaluated"), [(0.0, "unconditional"), (1.0, "conditional")])
def test_guidance_evaluates_only_the_field_that_matters(scale: float, evaluated: str):
    calls = []

    def recorded(name: str):
        def velocity(x: torch.Tensor, t: float) -> torch.Tensor:
            calls.append(name)
            return x

        return velocity

    Guidance(recorded("conditional"), recorded("unconditional"), scale)(torch.zeros(1, 2), 0.5)
    assert calls == [evaluated]


def test_extrapolation_is_the_identity_where_the_condition_says_nothing():
    u = torch.randn(3, 2, generator=torch.Generator().manual_seed(0))
    assert torch.equal(extrapolate(u, u, 7.0), u)
