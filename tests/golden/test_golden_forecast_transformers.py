"""iTransformer, PatchTST (the authors' and the library's) and TimeXer against numbers of the published networks.

Weights come in under the reference's key names, through the importer that `penstock import` uses.
"""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from data.batch import WindowBatch
from modules.forecast.heads import Head
from modules.forecast.import_weights import ImportedForecaster, import_forecaster
from modules.forecast.interface import Forecaster
from modules.forecast.itransformer import ITransformerConfig
from modules.forecast.patchtst import PatchTSTConfig
from modules.forecast.patchtst_tslib import TSLibPatchTSTConfig
from modules.forecast.reference import itransformer, patchtst, patchtst_tslib, timexer
from modules.forecast.timexer import TimeXerConfig
from tests.golden.forecast_fixture import (
    OUT_RTOL,
    ForecastFixture,
    Rename,
    assert_near,
    assert_same_training,
    parametrized,
)

pytestmark = pytest.mark.golden

FILES = ("iTransformer.py", "iFlowformer.py", "PatchTST.py", "TimeXer.py")
RENAMES: dict[type, Rename] = {
    ITransformerConfig: itransformer.rename,
    PatchTSTConfig: patchtst.rename,
    TSLibPatchTSTConfig: patchtst_tslib.rename,
    TimeXerConfig: timexer.rename,
}


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    parametrized(metafunc, *FILES)


def imported(fixture: ForecastFixture) -> ImportedForecaster:
    settings = fixture.config | {"model": Path(fixture.facts["file"]).stem}
    return import_forecaster(fixture.under("state"), settings)


def built(found: ImportedForecaster) -> Forecaster:
    network = found.model_config.build(found.shape, Head())
    network.load_state_dict(found.weights)
    return network.eval()


def answer(fixture: ForecastFixture, found: ImportedForecaster, network: Forecaster) -> Tensor:
    """What the network says to the fixture's input; targets are its last columns."""
    x = fixture.tensors["in/x"]
    observed = x[..., : -found.shape.targets] if found.shape.observed else None
    window = WindowBatch(
        ids=(),
        seeds=torch.zeros(len(x), dtype=torch.int64),
        past=x[..., -found.shape.targets :],
        observed=observed,
        calendar=fixture.tensors.get("in/x_mark"),
    )
    return network(window)[..., 0]


def rename_of(found: ImportedForecaster) -> Rename:
    return RENAMES[type(found.model_config)]


def test_the_forecast_is_the_published_one(fixture: ForecastFixture) -> None:
    found = imported(fixture)
    with torch.no_grad():
        assert_near(answer(fixture, found, built(found)), fixture.tensors["out/y"], OUT_RTOL)


def test_gradients_and_three_steps_of_training_are_the_published_ones(fixture: ForecastFixture) -> None:
    if "train/target" not in fixture.tensors:
        pytest.skip(f"{fixture.name} was not trained")
    found = imported(fixture)
    network = built(found)
    batch_norm = any("running_mean" in key for key in found.weights)
    assert_same_training(
        network, lambda: answer(fixture, found, network), fixture, rename_of(found), batch_norm=batch_norm
    )
