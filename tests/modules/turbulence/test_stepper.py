"""The stepper: the published parametrisation and the increment in numbers, statistics as part of the weights."""

import pytest
import torch

from data.errors import ConfigError, PenstockError
from modules.turbulence.fno import FNOConfig
from modules.turbulence.projections import ProjectionConfig, divergence
from modules.turbulence.scales import measured
from modules.turbulence.stepper import Stepper, StepperConfig
from tests.modules.turbulence.field_makers import GRIDS, PointwiseConfig, field

STATISTICS = {"mean": [3.0, -1.0], "std": [2.0, 0.5], "mean_delta": [0.01, 0.02], "std_delta": [0.1, 0.3]}


def stepper(increment: bool, history: int = 2) -> Stepper:
    found = PointwiseConfig(components=2, axes=2, history=history, increment=increment).build()
    found.set_statistics(**STATISTICS)
    return found.double()


@pytest.mark.parametrize("increment", [False, True])
def test_parametrisations(increment: bool) -> None:
    grid = GRIDS["square"]
    model = stepper(increment)
    past = field(grid, batch=6).unflatten(0, (3, 2))
    mean, std, mean_delta, std_delta = (torch.tensor(values, dtype=torch.float64) for values in STATISTICS.values())
    said = model.network((past - mean) / std, grid)
    expected = past[:, 1] + mean_delta + std_delta * said if increment else mean + std * said
    torch.testing.assert_close(model(past, grid), expected, rtol=0, atol=1e-7)  # statistics are kept in float32


def test_statistics_travel_with_the_weights() -> None:
    model = stepper(increment=True)
    model.set_energy_band(0.5, 2.0)
    other = PointwiseConfig(components=2, axes=2, history=2, increment=True).build().double()
    other.load_state_dict(model.state_dict())
    past = field(GRIDS["square"], batch=2)[None]
    assert torch.equal(other(past, GRIDS["square"]), model(past, GRIDS["square"]))
    assert other.energy_band.tolist() == [0.5, 2.0]


def test_scales_set_all_of_them() -> None:
    grid = GRIDS["channel"]
    scales = measured([field(grid, batch=5)], grid)
    model = PointwiseConfig().build()
    model.set_scales(scales)
    torch.testing.assert_close(model.std, torch.tensor(scales.std))
    torch.testing.assert_close(model.mean_delta, torch.tensor(scales.mean_delta))
    torch.testing.assert_close(model.energy_band, torch.tensor(scales.energy_band))


def test_the_prediction_obeys_what_the_config_says() -> None:
    grid = GRIDS["channel"]
    past = field(grid, batch=3)[:, None]
    free = PointwiseConfig(projection=ProjectionConfig(divergence=True)).build().double()
    assert divergence(free(past, grid), grid).abs().max() < 1e-12
    assert divergence(PointwiseConfig().build().double()(past, grid), grid).abs().max() > 0.1


def test_the_config_sizes_the_network() -> None:
    config = StepperConfig(components=1, axes=2, history=3, network=FNOConfig(modes=4, width=4, layers=1))
    model = config.build()
    assert (model.network.config.components, model.network.config.axes, model.network.config.history) == (1, 2, 3)
    past = field(GRIDS["turned"], batch=6, components=1).float().unflatten(0, (2, 3))
    assert model(past, GRIDS["turned"]).shape == (2, 9, 8, 1)


def test_refuses_fields_of_another_shape() -> None:
    model = stepper(increment=False)
    with pytest.raises(PenstockError, match=r"\[·, 2, 12, 9, 2\], got \[3, 1, 12, 9, 2\]"):
        model(field(GRIDS["square"])[:, None], GRIDS["square"])


def test_refuses_statistics_that_cannot_be() -> None:
    model = stepper(increment=False)
    for wrong, message in (
        ({"std": [1.0, 0.0]}, "std must be positive"),
        ({"mean": [1.0]}, "2 finite numbers as mean"),
        ({"mean_delta": [0.0, float("nan")]}, "2 finite numbers as mean_delta"),
    ):
        with pytest.raises(ConfigError, match=message):
            model.set_statistics(**STATISTICS | wrong)
    with pytest.raises(ConfigError, match="least <= greatest"):
        model.set_energy_band(2.0, 1.0)


def test_refuses_configs_that_contradict_themselves() -> None:
    with pytest.raises(ConfigError, match="one velocity per axis, got 1"):
        StepperConfig(components=1, axes=2, projection=ProjectionConfig(divergence=True))
    with pytest.raises(ConfigError, match="2 or 3 axes"):
        StepperConfig(axes=1)
    with pytest.raises(ConfigError, match=r"vorticity of a plane flow .* got 3 component"):
        StepperConfig(velocity=True).build()
