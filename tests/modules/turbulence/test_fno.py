"""The Fourier neural operator: that it is neuraloperator's, on any grid, with real weights and nothing said."""

import builtins
import importlib
import sys
import warnings
from typing import Any

import numpy as np
import pytest
import torch

from data.errors import ConfigError, PenstockError
from data.grid import Grid, between_walls, fourier
from modules.turbulence.fno import FNO, FNOConfig, positions
from tests.modules.turbulence.field_makers import field

PERIODIC = Grid((fourier("x", 12, 2.0), fourier("y", 10, 3.0)))
CHANNEL = Grid((fourier("x", 8, 4.0), between_walls("y", 11), fourier("z", 6, 2.0)))


def small(**changes: Any) -> FNOConfig:
    return FNOConfig(**{"components": 2, "axes": 2, "modes": 6, "width": 8, "layers": 2} | changes)


def test_it_computes_what_neuraloperator_computes() -> None:
    """On a periodic grid, told no positions, its own class with the same weights says the same."""
    network = small(positions=False, history=2).build()
    theirs = importlib.import_module("neuralop.models").FNO(
        n_modes=(6, 6), in_channels=4, out_channels=2, hidden_channels=8, n_layers=2, positional_embedding=None
    )
    state = dict(network.state_dict())
    for layer in range(2):
        name = f"blocks.convs.{layer}.weight"
        state[f"{name}.tensor"] = torch.complex(state.pop(f"{name}.real"), state.pop(f"{name}.imaginary"))
    theirs.load_state_dict({key.replace("blocks.", "fno_blocks.", 1): value for key, value in state.items()})
    past = field(PERIODIC, batch=6, components=2).float().unflatten(0, (3, 2))
    given = past.movedim(1, -1).flatten(-2).movedim(-1, 1)
    # Channels are the components with the frames of each together.
    expected = theirs(given).movedim(1, -1)
    torch.testing.assert_close(network(past, PERIODIC), expected, rtol=0, atol=1e-6)


def test_without_positions_it_commutes_with_shifts() -> None:
    network = small(positions=False).build()
    past = field(PERIODIC, components=2).float()[:, None]
    moved = network(past.roll((3, 5), dims=(2, 3)), PERIODIC)
    torch.testing.assert_close(moved, network(past, PERIODIC).roll((3, 5), dims=(1, 2)), rtol=0, atol=1e-5)
    told = small().build()
    far = told(past.roll((3, 5), dims=(2, 3)), PERIODIC) - told(past, PERIODIC).roll((3, 5), dims=(1, 2))
    assert far.abs().max() > 1e-3


def test_positions_are_the_grids_own() -> None:
    found = positions(CHANNEL, torch.zeros((), dtype=torch.float64))
    assert found.shape == (8, 11, 6, 6)
    x, y, z = (axis.points for axis in CHANNEL.axes)
    np.testing.assert_allclose(found[:, 4, 2, 0], np.cos(2 * np.pi * x / 4), atol=1e-15)
    np.testing.assert_allclose(found[:, 4, 2, 1], np.sin(2 * np.pi * x / 4), atol=1e-15)
    np.testing.assert_allclose(found[3, :, 2, 2], y - 1, atol=1e-15)
    np.testing.assert_allclose(found[3, :, 2, 3], (y - 1) ** 2, atol=1e-15)
    np.testing.assert_allclose(found[3, 4, :, 5], np.sin(np.pi * z), atol=1e-15)


@pytest.mark.parametrize(
    "grid",
    [CHANNEL, Grid((fourier("x", 16, 4.0), between_walls("y", 20), fourier("z", 9, 2.0)))],
    ids=["trained", "other"],
)
def test_walls_are_padded_to_an_even_number_of_points(grid: Grid) -> None:
    network = FNOConfig(modes=4, width=4, layers=1, history=2).build()
    pad = network.padding(grid)
    assert pad[:2] == pad[4:] == [0, 0]
    assert (len(grid.axes[1]) + pad[3]) % 2 == 0
    assert pad[3] >= 0.2 * len(grid.axes[1])
    past = field(grid, batch=4).float().unflatten(0, (2, 2))
    assert network(past, grid).shape == (2, *grid.shape, 3)


def test_refuses_an_odd_periodic_axis_on_which_neuraloperator_shifts_modes() -> None:
    odd = Grid((fourier("x", 9, 1.0), fourier("y", 8, 1.0)))
    with pytest.raises(ConfigError, match="axis x is periodic with 9 points"):
        small().build()(field(odd)[:, None].float(), odd)


def test_the_flaw_that_is_refused_is_there() -> None:
    """With unit weights on all modes, a spectral convolution is the identity; on odd axes it is not."""
    convolution = importlib.import_module("neuralop.layers.spectral_convolution").SpectralConv(
        1, 1, (16, 16), bias=False
    )
    convolution.weight.tensor.data.fill_(1.0)
    for points, same in ((8, True), (9, False)):
        given = torch.randn(1, 1, points, 8)
        assert torch.allclose(convolution(given), given, atol=1e-5) == same


def test_weights_are_real_and_all_of_them_learn() -> None:
    network = small().build()
    network(field(PERIODIC).float()[:, None], PERIODIC).square().sum().backward()
    for name, parameter in network.named_parameters():
        assert parameter.dtype == torch.float32, name
        assert parameter.grad is not None, name
        assert parameter.grad.abs().max() > 0, name
    assert all(isinstance(value, torch.Tensor) for value in network.state_dict().values())


def test_half_precision_leaves_it_alone() -> None:
    network, past = small().build(), field(PERIODIC).float()[:, None]
    with torch.autocast("cpu", torch.bfloat16):
        found = network(past, PERIODIC)
    assert torch.equal(found, network(past, PERIODIC))


def test_nothing_is_said_or_changed_by_it(capfd: pytest.CaptureFixture[str]) -> None:
    before = list(warnings.filters)
    network = small().build()
    network(field(PERIODIC).float()[:, None], PERIODIC)
    assert list(warnings.filters) == before
    assert capfd.readouterr() == ("", "")


def test_names_the_extra_that_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.split(".")[0] == "neuralop"]:
        monkeypatch.delitem(sys.modules, name)
    real = builtins.__import__

    def missing(name: str, *args: Any, **kwargs: Any) -> Any:
        if name.split(".")[0] == "neuralop":
            raise ModuleNotFoundError(f"No module named '{name}'", name=name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", missing)
    monkeypatch.setattr(importlib, "import_module", lambda name: missing(name))
    with pytest.raises(PenstockError, match=r"pip install 'penstock\[turbulence\]'"):
        FNO(small())


def test_refuses_sizes_below_one() -> None:
    with pytest.raises(ConfigError, match="modes"):
        small(modes=0)
    with pytest.raises(ConfigError, match="padding"):
        small(padding=-0.1)
