"""TimeMixer and xPatch against numbers of their published implementations."""

from typing import Any

import pytest
import torch
from torch import Tensor

from data.batch import WindowBatch
from modules.forecast.heads import Head
from modules.forecast.interface import Forecaster
from modules.forecast.reference import timemixer, xpatch
from tests.golden.forecast_fixture import OUT_RTOL, ForecastFixture, assert_near, assert_same_training, parametrized

pytestmark = pytest.mark.golden


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    parametrized(metafunc, "TimeMixer.py", "xPatch.py")


def converter(fixture: ForecastFixture) -> Any:
    found = [one for one in (timemixer, xpatch) if one.recognises(fixture.under("state"))]
    assert len(found) == 1
    return found[0]


def window(fixture: ForecastFixture) -> WindowBatch:
    given = fixture.under("in")
    calendar = None
    if "x_mark" in given:  # over the look-back in the fixture; what lies ahead is not looked at
        ahead = torch.zeros(len(given["x_mark"]), fixture.config["pred_len"], given["x_mark"].shape[-1])
        calendar = torch.cat([given["x_mark"], ahead], dim=1)
    return WindowBatch(ids=(), seeds=torch.zeros(len(given["x"])).long(), past=given["x"], calendar=calendar)


def forecaster(fixture: ForecastFixture) -> Forecaster:
    config, shape, weights = converter(fixture).convert(fixture.under("state"), fixture.config)
    assert (shape.look_back, shape.horizon) == (fixture.config["seq_len"], fixture.config["pred_len"])
    network: Forecaster = config.build(shape, Head())
    network.load_state_dict(weights, strict=True)
    for name, p in network.named_parameters():  # they hold a map of time features also where none were given
        p.requires_grad_(not name.startswith("calendar.") or "x_mark" in fixture.under("in"))
    return network.eval()


@torch.no_grad()
def test_forecast(fixture: ForecastFixture):
    assert_near(forecaster(fixture)(window(fixture))[..., 0], fixture.tensors["out/y"], OUT_RTOL)


def test_gradients_and_three_steps_of_training(fixture: ForecastFixture):
    network, given = forecaster(fixture), window(fixture)

    def answer() -> Tensor:
        return network(given)[..., 0]

    batch_norm = converter(fixture) is xpatch
    assert_same_training(network, answer, fixture, converter(fixture).rename, batch_norm=batch_norm)
