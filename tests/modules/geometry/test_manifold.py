"""The two laws that make a manifold."""

import torch

from modules.geometry.manifold import Euclidean, Manifold


def test_exp_undoes_log_and_log_undoes_exp():
    generator = torch.Generator().manual_seed(0)
    x, y, v = torch.randn(3, 5, 4, 2, generator=generator, dtype=torch.float64)
    on = Euclidean()
    torch.testing.assert_close(on.exp(x, on.log(x, y)), y)
    torch.testing.assert_close(on.log(x, on.exp(x, v)), v)


def test_euclidean_is_a_manifold():
    assert isinstance(Euclidean(), Manifold)
