"""The folded attention: its hand-written gradient against differences, and its value against the sum written out."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from modules.turbulence.ifactformer_attention import Layout, attend

PARALLEL = Layout(chains=((0,), (1,), (2,)), by_plane=False)
LAYOUTS = {
    "parallel": PARALLEL,
    "planes": Layout(chains=PARALLEL.chains, by_plane=True),
    "chained": Layout(chains=((0, 1, 2),), by_plane=False),
    "two by two": Layout(chains=((0, 1), (2,)), by_plane=False),
}
GRID, BATCH, HEADS, WIDTH, DIM = (3, 4, 2), 2, 2, 2, 3


def given(layout: Layout) -> list[Tensor]:
    """x, to_v, to_out and three kernels, float64."""
    source = torch.Generator().manual_seed(7)
    features = HEADS * len(layout.chains) * WIDTH
    shapes = [(BATCH, *GRID, DIM), (HEADS * WIDTH, DIM), (DIM, features), *((BATCH, HEADS, n, n) for n in GRID)]
    return [torch.randn(shape, generator=source, dtype=torch.float64).requires_grad_() for shape in shapes]


def weights(which: str) -> list[Tensor | None]:
    if which == "equal":
        return [None, None, None]
    found = [torch.linspace(0.5, 1.5, n, dtype=torch.float64) ** 2 for n in GRID]
    return [found[0], None, found[2]] if which == "some" else list(found)


@pytest.mark.parametrize("name", LAYOUTS)
@pytest.mark.parametrize("which", ["equal", "some", "all"])
def test_the_gradient_is_that_of_the_function(name: str, which: str) -> None:
    layout, parts = LAYOUTS[name], weights(which)

    def function(x: Tensor, to_v: Tensor, to_out: Tensor, *kernels: Tensor) -> Tensor:
        return attend(x, to_v, to_out, kernels, layout, parts)

    assert torch.autograd.gradcheck(function, given(layout), fast_mode=which != "all")


@pytest.mark.parametrize("name", LAYOUTS)
def test_the_value_is_that_of_the_features_side_by_side(name: str) -> None:
    layout = LAYOUTS[name]
    x, to_v, to_out, *kernels = given(layout)
    v = (x @ to_v.T).unflatten(-1, (HEADS, WIDTH)).movedim(-2, 1)
    subscripts = ("bhip,bhpyzc->bhiyzc", "bhip,bhxpzc->bhxizc", "bhip,bhxypc->bhxyic")
    features = []
    for chain in layout.chains:
        y = v
        for axis in chain:
            y = torch.einsum(subscripts[axis], kernels[axis], y)
        features.append(y)
    wide = torch.stack(features, dim=2).permute(0, 3, 4, 5, 1, 2, 6).flatten(-3)
    if layout.by_plane:
        normed = F.layer_norm(wide, wide.shape[2:])
    else:
        normed = F.instance_norm(wide.movedim(-1, 1)).movedim(1, -1)
    found = attend(x, to_v, to_out, kernels, layout, weights("equal"))
    torch.testing.assert_close(found, normed @ to_out.T, rtol=1e-10, atol=1e-10)


def test_a_large_mean_does_not_drown_the_variance() -> None:
    """In float32, features of mean 1e3 and deviation 1: about the mean the variance keeps four digits."""
    x, to_v, to_out, *kernels = (tensor.detach() for tensor in given(PARALLEL))
    x = torch.cat([x[..., :-1], torch.full_like(x[..., -1:], 1000.0)], dim=-1)
    exact = attend(x, to_v, to_out, kernels, PARALLEL, weights("equal"))
    found = attend(x.float(), to_v.float(), to_out.float(), [k.float() for k in kernels], PARALLEL, weights("equal"))
    torch.testing.assert_close(found.double(), exact, rtol=0, atol=2e-2)
