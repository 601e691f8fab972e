"""Sinusoidal features: order of the channels and precision."""

import math

import pytest
import torch

from modules.layers.embedding import FrequencyEmbedding, time_sinusoid


@pytest.mark.parametrize("include_pi", [False, True])
def test_channels_are_positions_then_sines_then_cosines_axis_by_axis(include_pi: bool) -> None:
    points = torch.rand(4, 3) * 2 - 1
    unit = math.pi if include_pi else 1.0
    row = [*points[2].tolist()]
    for wave in (math.sin, math.cos):
        row += [wave(unit * 2**band * points[2, axis].item()) for axis in range(3) for band in range(5)]
    embedded = FrequencyEmbedding(5, include_pi=include_pi)(points)
    torch.testing.assert_close(embedded[2], torch.tensor(row), rtol=0, atol=5e-6)


def test_published_size_has_51_channels_and_stores_nothing() -> None:
    embedding = FrequencyEmbedding(8)
    assert embedding.width == 51
    assert not embedding.state_dict()


def test_time_sinusoid_keeps_its_precision_at_large_times() -> None:
    times, width = torch.tensor([0.0, 12.5, 999.7], dtype=torch.float64), 16
    for time, row in zip(times.tolist(), time_sinusoid(times, width).tolist(), strict=True):
        angles = [time * 10_000 ** (-i / 8) for i in range(8)]
        exact = [math.sin(a) for a in angles] + [math.cos(a) for a in angles]
        assert row == pytest.approx(exact, abs=1e-7)


def test_time_sinusoid_needs_an_even_width() -> None:
    with pytest.raises(ValueError, match="take 6"):
        time_sinusoid(torch.zeros(1), 5)
