"""Harmonic coordinates of the factorized operator: what is periodic is treated as such."""

import numpy as np
import pytest
import torch

from data.grid import Axis, Grid, fourier
from modules.turbulence.ifactformer import Coordinates, IFactFormer, IFactFormerConfig


def without_position(coordinates: Coordinates) -> IFactFormer:
    """A small operator on the plane whose only sense of place is the distance between two points."""
    torch.manual_seed(0)
    config = IFactFormerConfig(
        components=1, axes=2, dim=8, heads=2, dim_head=4, kernel_multiplier=4, iterations=3, coordinates=coordinates
    )
    network = config.build().double()
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if ".position.linear" in name:
                parameter.zero_()
            elif "to_q" in name or "to_k" in name:
                parameter.mul_(30)  # kernels that matter from the start
    return network


def plane(x: int = 16, y: int = 12) -> Grid:
    return Grid((fourier("x", x, 2 * np.pi), fourier("y", y, 4.0)))


@pytest.mark.parametrize("axis", [0, 1])
def test_shifted_fields_have_shifted_results(axis: int) -> None:
    grid = plane()
    field = torch.randn(2, 1, *grid.shape, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    network = without_position("harmonic")
    found = network(field, grid)
    shifted = network(field.roll(5, 2 + axis), grid)
    torch.testing.assert_close(shifted, found.roll(5, 1 + axis), rtol=0, atol=1e-5)  # frequencies are float32
    # The published coordinates have no period: there the ends of an axis are far from one another.
    published = without_position("published")
    apart = published(field.roll(5, 2 + axis), grid) - published(field, grid).roll(5, 1 + axis)
    assert apart.abs().max() > 1e-2 * found.std()


def test_lengths_count_in_periods() -> None:
    """Frequencies are told in periods, so the unit of length does not matter."""
    network = without_position("harmonic")
    single = plane(x=8)
    torch.nn.init.normal_(network.weight_sets[0].position.linear.weight)
    field = torch.randn(1, 1, *single.shape, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    longer = Grid((Axis("x", single.axes[0].points * 3, single.axes[0].length * 3, True), single.axes[1]))
    torch.testing.assert_close(network(field, longer), network(field, single))
