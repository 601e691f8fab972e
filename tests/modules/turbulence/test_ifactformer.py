"""The factorized operator against its plain transcription, and against laws of quadrature and of a change of grid."""

import copy
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from benchmarks.turbulence_reference import PlainIFactFormer
from data.errors import ConfigError
from data.grid import Axis, Grid, between_walls, fourier, stretched
from modules.turbulence import ifactformer_attention
from modules.turbulence.ifactformer import IFactFormer, IFactFormerConfig
from modules.turbulence.import_weights import convert, published_names

VARIANTS = ("head", "legacy", "chained")
SMALL: dict[str, Any] = {"dim": 12, "heads": 2, "dim_head": 4, "iterations": 2}
SHAPE = (4, 5, 3)
EXACT = {"rtol": 1e-9, "atol": 1e-10}


def normal(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def lively(network: torch.nn.Module) -> torch.nn.Module:
    """Kernels that matter: queries and keys begin small, which hides mistakes."""
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if "to_q" in name or "to_k" in name:
                parameter.mul_(20)
            elif parameter.dim() == 1:
                parameter.add_(0.1 * normal(*parameter.shape).to(parameter))
    return network


def pair(**sizes: Any) -> tuple[PlainIFactFormer, IFactFormer]:
    """The transcription and our network with the same weights, float64."""
    plain = lively(PlainIFactFormer(**sizes)).double()
    config, state = convert(plain.state_dict(), iterations=sizes["iterations"])
    assert {name: getattr(config, name) for name in sizes} == sizes
    ours = config.build().double()
    ours.load_state_dict(state)
    assert isinstance(plain, PlainIFactFormer)
    return plain, ours


def points(shape: Sequence[int]) -> list[Tensor]:
    """Coordinates of no regular spacing."""
    return [normal(n, seed=n).abs().cumsum(0) for n in shape]


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("axes", [2, 3])
@pytest.mark.parametrize("recompute", [False, True], ids=["kept", "recomputed"])
def test_values_and_gradients_are_those_of_the_transcription(variant: str, axes: int, recompute: bool) -> None:
    plain, ours = pair(**SMALL, axes=axes, components=2, history=2, depth=2, variant=variant)
    object.__setattr__(ours.config, "recompute", recompute)
    coordinates = points(SHAPE[:axes])
    past, weight = normal(3, 2, *SHAPE[:axes], 2), normal(3, *SHAPE[:axes], 2, seed=2)
    results = []
    for network, given in ((plain, [c[:, None] for c in coordinates]), (ours, coordinates)):
        x = past.clone().requires_grad_()
        out = network(x, given) if network is plain else ours.evolve(x, given)
        (out * weight).sum().backward()
        results.append((out.detach(), x.grad, {n: p.grad for n, p in network.named_parameters() if p.requires_grad}))
    (expected, x_expected, theirs), (found, x_found, mine) = results
    torch.testing.assert_close(found, expected, **EXACT)
    torch.testing.assert_close(x_found, x_expected, **EXACT)
    names = published_names(ours.config)
    assert {names[name] for name in theirs} == mine.keys()
    for name, gradient in theirs.items():
        ours_gradient = mine[names[name]]
        if name == "to_in.2.weight":
            gradient = gradient.transpose(1, 2)
        torch.testing.assert_close(ours_gradient, gradient.reshape(ours_gradient.shape), **EXACT, msg=name)


@pytest.mark.parametrize("variant", VARIANTS)
def test_samples_do_not_know_of_each_other(variant: str, monkeypatch: pytest.MonkeyPatch) -> None:
    _, ours = pair(**SMALL, variant=variant)
    past, coordinates = normal(5, 1, *SHAPE, 3), points(SHAPE)
    with torch.no_grad():
        together = ours.evolve(past, coordinates)
        # Two samples at a time, as in a small cache.
        monkeypatch.setattr(ifactformer_attention, "CACHED", 2 * math.prod(SHAPE) * SMALL["dim_head"])
        in_parts = ours.evolve(past, coordinates)
        alone = torch.cat([ours.evolve(past[i : i + 1], coordinates) for i in range(5)])
    torch.testing.assert_close(in_parts, together, **EXACT)
    torch.testing.assert_close(alone, together, **EXACT)


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_weight_of_two_is_a_point_that_stands_twice(variant: str, axis: int) -> None:
    """Weights 2, 1, 1, 0 at four points, against equal ones with the first point twice and the last one left out."""
    if (variant, axis) == ("legacy", 0):
        pytest.skip("planes of the first axis are normalised one by one, whatever their weight")
    _, ours = pair(**SMALL, variant=variant)
    shape = [4 if a == axis else 3 for a in range(3)]
    past, coordinates = normal(2, 1, *shape, 3), points(shape)
    weights = [torch.ones(n, dtype=torch.float64) for n in shape]
    weights[axis] = torch.tensor([2.0, 1.0, 1.0, 0.0], dtype=torch.float64) * 0.37
    twice = torch.tensor([0, 0, 1, 2])
    repeated = [c[twice] if a == axis else c for a, c in enumerate(coordinates)]
    with torch.no_grad():
        weighted = ours.evolve(past, coordinates, weights)
        expected = ours.evolve(past.index_select(2 + axis, twice), repeated)
    torch.testing.assert_close(weighted.index_select(1 + axis, twice), expected, **EXACT)


@pytest.mark.parametrize("axes", [2, 3])
@pytest.mark.parametrize("variant", VARIANTS)
def test_quadrature_changes_nothing_on_a_uniform_grid(variant: str, axes: int) -> None:
    grid = Grid(tuple(fourier(name, n, 2.0) for name, n in zip("xyz"[:axes], SHAPE, strict=False)))
    built = []
    for quadrature in (False, True):
        torch.manual_seed(3)
        config = IFactFormerConfig(**SMALL, axes=axes, variant=variant, quadrature=quadrature)  # type: ignore[arg-type]
        built.append(lively(config.build()))
    past = normal(2, 1, *grid.shape, 3).float()
    with torch.no_grad():
        torch.testing.assert_close(built[0](past, grid), built[1](past, grid), rtol=0, atol=0)


def smooth_operator(**options: Any) -> IFactFormer:
    """A network whose features of position are resolved by few points on periods of 2π and walls 2 apart."""
    torch.manual_seed(5)
    config = IFactFormerConfig(**{**SMALL, "iterations": 1, "coordinates": "grid", **options})
    network = lively(config.build()).double()
    assert isinstance(network, IFactFormer)
    with torch.no_grad():
        for block in network.weight_sets:
            # Whole waves along the periodic axes.
            block.position.frequencies.copy_(torch.randint(0, 2, block.position.frequencies.shape) / (2 * math.pi))
            pairs = len(block.inverse_frequencies)
            block.inverse_frequencies.copy_(torch.arange(pairs) % 2 / 64)
    return network


def sampled(axes: Sequence[Axis]) -> tuple[Grid, Tensor]:
    """A smooth field [1, 1, *grid, 1] on a grid."""
    grid = Grid(tuple(axes))
    x, y = torch.meshgrid(*(torch.from_numpy(axis.points) for axis in axes), indexing="ij")
    return grid, (0.3 * torch.sin(x) * torch.cos(0.5 * y) + 0.2 * torch.cos(x + y))[None, None, ..., None]


def test_another_grid_gives_the_same_field_where_both_resolve_it() -> None:
    """Means, norms and kernels are integrals: with the grid's own quadrature they do not depend on its points."""
    network = smooth_operator(axes=2, components=1, quadrature=True)
    plain = smooth_operator(axes=2, components=1)

    def change(operator: IFactFormer) -> float:
        coarse, fine = (sampled([fourier("x", n, 2 * math.pi), between_walls("y", n + 1)]) for n in (32, 64))
        with torch.no_grad():
            low, high = (operator(field, grid) for grid, field in (coarse, fine))
        return float((high[:, ::2, ::2] - low).abs().max() / low.abs().max())

    # What is left is the number that the norm adds to the variance of kernels without 1/n.
    assert change(network) < 5e-4
    assert change(plain) > 1e-3


def test_stretching_matters_only_without_quadrature() -> None:
    """The same field on Chebyshev points and on equally spaced ones between the same walls."""
    fields = {}
    for quadrature in (False, True):
        network = smooth_operator(axes=2, components=1, quadrature=quadrature)
        means = []
        for walls in (between_walls("y", 65), stretched("y", np.linspace(0, 2, 257))):
            grid, field = sampled([fourier("x", 32, 2 * math.pi), walls])
            with torch.no_grad():
                # Both have the centre line.
                means.append(network(field, grid)[0, :, len(walls) // 2])
        fields[quadrature] = float((means[0] - means[1]).abs().max() / means[0].abs().max())
    assert fields[True] < 1e-3
    assert fields[False] > 0.02


def test_a_grid_is_computed_once() -> None:
    network = IFactFormerConfig(**SMALL).build()
    axes = (fourier("x", 4, 3.0), between_walls("y", 5), fourier("z", 3, 2.0))
    past = normal(1, 1, *SHAPE, 3).float()
    with torch.inference_mode():
        first = network(past, Grid(axes))
        kept = dict(network._kept)
        torch.testing.assert_close(network(past, Grid(axes)), first, rtol=0, atol=0)
    assert dict(network._kept) == kept
    # What was kept in inference can be trained with.
    network(past, Grid(axes)).sum().backward()
    assert dict(network._kept) == kept
    with torch.no_grad():
        network.weight_sets[0].position.frequencies.mul_(2)
    assert not torch.equal(network(past, Grid(axes)), first)
    for n in range(3, 12):
        network(normal(1, 1, n, 5, 3, 3).float(), Grid((fourier("x", n, 3.0), *axes[1:])))
    assert len(network._kept) <= 4
    twin = copy.deepcopy(network)
    assert not twin._kept
    torch.testing.assert_close(twin(past, Grid(axes)), network(past, Grid(axes)), rtol=0, atol=0)
    doubled = network.double()(past.double(), Grid(axes))
    assert doubled.dtype == torch.float64


def test_coordinates_of_the_grid_follow_its_points() -> None:
    """published is blind to stretching, to the period and to the origin; grid is blind to the origin only."""
    straight = (fourier("x", 4, 3.0), stretched("y", [0.0, 0.5, 1.0, 1.5, 2.0]))
    curved = (fourier("x", 4, 3.0, origin=7.0), between_walls("y", 5, origin=-1.0))
    moved = (fourier("x", 4, 3.0, origin=7.0), stretched("y", [-1.0, -0.5, 0.0, 0.5, 1.0]))
    past = normal(1, 1, 4, 5, 3).float()
    for coordinates, sees in (("published", False), ("grid", True)):
        torch.manual_seed(0)
        network = IFactFormerConfig(**SMALL, axes=2, coordinates=coordinates).build()  # type: ignore[arg-type]
        with torch.no_grad():
            a, b, c = (network(past, Grid(axes)) for axes in (straight, curved, moved))
        torch.testing.assert_close(a, c, rtol=1e-4, atol=1e-5)
        assert (float((a - b).abs().max()) > 1e-3) == sees


def test_autocast_leaves_the_attention_in_full_precision() -> None:
    network = lively(IFactFormerConfig(**SMALL).build())
    grid = Grid((fourier("x", 4, 3.0), between_walls("y", 5), fourier("z", 3, 2.0)))
    past = normal(2, 1, *SHAPE, 3).float()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = network(past, grid)
        found.float().square().sum().backward()
    torch.testing.assert_close(found.float(), network(past, grid), rtol=0.1, atol=0.1)
    assert all(p.grad is not None and p.grad.isfinite().all() for p in network.parameters() if p.requires_grad)


@pytest.mark.parametrize(
    ("wrong", "word"),
    [
        ({"axes": 1}, "2 or 3"),
        ({"dim": 16}, "multiple"),
        ({"heads": 0}, "at least 1"),
        ({"kernel_multiplier": 1, "dim_head": 5}, "even"),
    ],
)
def test_sizes_that_cannot_be_are_refused(wrong: dict[str, int], word: str) -> None:
    with pytest.raises(ConfigError, match=word):
        IFactFormerConfig(**wrong)  # type: ignore[arg-type]


def test_a_field_of_another_kind_is_refused() -> None:
    network = IFactFormerConfig(**SMALL).build()
    grid = Grid((fourier("x", 4, 3.0), between_walls("y", 5), fourier("z", 3, 2.0)))
    with pytest.raises(ConfigError, match="1 frames"):
        network(torch.zeros(1, 2, *SHAPE, 3), grid)
    with pytest.raises(ConfigError, match="3 axes"):
        network(torch.zeros(1, 1, 4, 5, 3), Grid(grid.axes[:2]))
