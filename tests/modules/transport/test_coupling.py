"""Optimal-transport coupling against exhaustive search, and what it does to the paths."""

from itertools import permutations

import pytest
import torch

from modules.geometry.manifold import Euclidean
from modules.transport.coupling import couple, optimal_assignment, squared_distances


def test_distances_are_those_of_the_manifold(space):
    x0, x1 = space.points(0), space.points(1)
    cost = squared_distances(space.on, x0, x1)
    for i in range(6):
        for j in range(6):
            expected = space.on.log(x1[i : i + 1], x0[j : j + 1]).square().sum()
            torch.testing.assert_close(cost[i, j], expected)


def test_no_permutation_of_the_noise_is_cheaper(space):
    x0, x1 = space.points(0), space.points(1)
    cost = squared_distances(space.on, x0, x1)
    chosen = cost[torch.arange(6), optimal_assignment(cost)].sum()
    cheapest = min(sum(cost[i, j] for i, j in enumerate(order)) for order in permutations(range(6)))
    torch.testing.assert_close(chosen, cheapest)
    paired = couple("optimal", space.on, x0, x1)
    torch.testing.assert_close(space.on.log(paired, x1).square().sum(), cheapest)


def test_shuffled_data_find_their_noise_again(space):
    x1 = space.points(1)
    order = torch.tensor([3, 0, 5, 1, 4, 2])
    near = space.on.exp(x1, 1e-3 * space.tangents(2))
    assert torch.equal(couple("optimal", space.on, near[order], x1), near)


def test_independent_leaves_the_noise_as_drawn(space):
    x0, x1 = space.points(0), space.points(1)
    assert couple("independent", space.on, x0, x1) is x0


def test_masked_residues_have_no_say(space):
    x0, x1 = space.points(0), space.points(1)
    mask = torch.rand(6, 4, generator=torch.Generator().manual_seed(0)) < 0.6
    cost = squared_distances(space.on, x0, x1, mask=mask)
    elsewhere = torch.where(mask[..., None], x1, torch.nan)
    torch.testing.assert_close(squared_distances(space.on, x0, elsewhere, mask=mask), cost)
    first = squared_distances(space.on, x0[:, mask[0]], x1[:, mask[0]])
    torch.testing.assert_close(cost[0], first[0])


def test_weights_bring_units_together(space):
    x0, x1 = space.points(0), space.points(1)
    width = space.on.log(x0, x1).shape[-1]
    parts = [squared_distances(space.on, x0, x1, weights=row) for row in torch.eye(width, dtype=torch.float64)]
    weights = torch.arange(1.0, width + 1, dtype=torch.float64)
    together = sum(w * part for w, part in zip(weights, parts, strict=True))
    torch.testing.assert_close(squared_distances(space.on, x0, x1, weights=weights), together)


def test_optimal_pairs_cross_less():
    """In one dimension the least cost pairs points in order, so no two paths cross (Pooladian et al. 2023)."""
    generator = torch.Generator().manual_seed(0)
    x0, x1 = torch.randn(2, 64, 1, generator=generator, dtype=torch.float64)
    paired = couple("optimal", Euclidean(), x0, x1)
    assert torch.equal(paired.argsort(0), x1.argsort(0))


def test_mistakes_are_named():
    x = torch.zeros(2, 3)
    with pytest.raises(Exception, match="optimal"):  # the shape checks refuse the word first; both list the choice
        couple("best", Euclidean(), x, x)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="not finite"):
        couple("optimal", Euclidean(), x * torch.nan, x)
