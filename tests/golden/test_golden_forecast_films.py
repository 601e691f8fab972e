"""PredFormer against numbers of its published implementation."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from modules.forecast.predformer import ORDERS, PredFormer
from modules.forecast.reference.predformer import convert, recognises, rename
from tests.golden.forecast_fixture import (
    OUT_RTOL,
    ForecastFixture,
    assert_near,
    assert_same_training,
    forecast_fixtures,
    parametrized,
)

pytestmark = pytest.mark.golden


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    # One file per variant there.
    every = forecast_fixtures(Path(metafunc.config.getoption("--golden")) / "forecast")
    files = {str(one.facts["file"]) for one in every if "PredFormer" in str(one.facts["file"])}
    parametrized(metafunc, *(files or {"PredFormer.py"}))


def network(fixture: ForecastFixture) -> PredFormer:
    assert recognises(fixture.under("state"))
    config, weights = convert(fixture.under("state"), fixture.config)
    found = config.build()
    found.load_state_dict(weights, strict=True)
    return found.eval()


@torch.no_grad()
def test_frames_and_positions(fixture: ForecastFixture):
    predformer = network(fixture)
    assert_near(predformer(fixture.tensors["in/x"]), fixture.tensors["out/y"], OUT_RTOL)
    table = fixture.tensors["extra/pos_embedding"]
    assert_near(predformer.get_buffer("positions").reshape(table.shape), table, OUT_RTOL)


def test_gradients_and_three_steps_of_training(fixture: ForecastFixture):
    predformer = network(fixture)

    def named(gradients: dict[str, Tensor]) -> dict[str, Tensor]:
        return rename(gradients, axes=ORDERS[predformer.config.order], channels=predformer.config.channels)

    assert_same_training(predformer, lambda: predformer(fixture.tensors["in/x"]), fixture, named)
