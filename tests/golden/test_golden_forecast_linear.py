"""Linear forecasters against the published implementations: answers, gradients, three steps of Adam."""

from collections.abc import Callable, Mapping
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor

from data.batch import WindowBatch
from data.errors import CheckpointError
from modules.forecast.heads import Head
from modules.forecast.interface import Forecaster
from modules.forecast.reference import cyclenet, dlinear, nlinear, rlinear, sparsetsf
from tests.golden.forecast_fixture import OUT_RTOL, ForecastFixture, assert_near, assert_same_training, parametrized

pytestmark = pytest.mark.golden

CONVERTERS: dict[str, ModuleType] = {
    "DLinear.py": dlinear,
    "NLinear.py": nlinear,
    "RLinear.py": rlinear,
    "CycleNet.py": cyclenet,
    "SparseTSF.py": sparsetsf,
}


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    parametrized(metafunc, *CONVERTERS)


def converter(fixture: ForecastFixture) -> ModuleType:
    return next(found for name, found in CONVERTERS.items() if fixture.facts["file"].endswith(name))


def imported(fixture: ForecastFixture) -> Forecaster:
    """The reference's weights in our network, by the converter that imports them."""
    config, shape, state = converter(fixture).convert(fixture.under("state"), fixture.config)
    network: Forecaster = config.build(shape, Head())
    network.load_state_dict(state, strict=True)
    return network.eval()


def fixture_window(fixture: ForecastFixture, times: int = 1) -> WindowBatch:
    """The fixture's input, several times over."""
    inputs = fixture.under("in")
    cycle = inputs.get("cycle_index")
    return WindowBatch(
        ids=(),
        seeds=torch.zeros(times * len(inputs["x"]), dtype=torch.int64),
        past=inputs["x"].repeat(times, 1, 1),
        position=None if cycle is None else cycle.repeat(times),
    )


def answer(network: Forecaster, fixture: ForecastFixture) -> Callable[[], Tensor]:
    window = fixture_window(fixture)
    return lambda: network(window)[..., 0]


def test_forward(fixture: ForecastFixture) -> None:
    network = imported(fixture)
    with torch.no_grad():
        ours = answer(network, fixture)()
    assert_near(ours, fixture.tensors["out/y"], OUT_RTOL)


def test_training(fixture: ForecastFixture) -> None:
    network = imported(fixture)
    assert_same_training(network, answer(network, fixture), fixture, converter(fixture).rename)


def test_many_windows_at_once(fixture: ForecastFixture) -> None:
    """DLinear's moving average meets few windows itself, and many by way of the weights."""
    network, y = imported(fixture), fixture.tensors["out/y"]
    with torch.no_grad():
        many = network(fixture_window(fixture, times=50))
    assert_near(many[..., 0], y.repeat(50, 1, 1), OUT_RTOL)


def test_recognised_by_its_own_converter_alone(fixture: ForecastFixture) -> None:
    state = fixture.under("state")
    found = [name for name, one in CONVERTERS.items() if one.recognises(state)]
    if set(state) <= {"Linear.weight", "Linear.bias"} or all(key.startswith("Linear.") for key in state):
        assert found == ["NLinear.py"]  # an RLinear without normalisation cannot be told from it
    else:
        assert [CONVERTERS[name] for name in found] == [converter(fixture)]


def test_settings_against_the_weights(fixture: ForecastFixture) -> None:
    wrong: Mapping[str, Any] = {**fixture.config, "seq_len": fixture.config["seq_len"] + 1}
    with pytest.raises(CheckpointError, match="seq_len"):
        converter(fixture).convert(fixture.under("state"), wrong)
