"""The slot for pretrained forecasters, filled with stand-ins that have the packages' signatures."""

import sys
from collections.abc import Sequence
from importlib.metadata import EntryPoint
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from data.errors import CheckpointError, ConfigError, PenstockError
from modules.forecast import foundation
from modules.forecast.foundation import FoundationConfig, History, foundation_kinds, load_foundation

LEVELS = (0.1, 0.45, 0.9)


class FakeChronos:
    """Chronos2Pipeline of chronos-forecasting 2.3: its quantiles here are the target's last value plus the level."""

    quantiles = (0.01, 0.1, 0.5, 0.9, 0.99)

    def __init__(self, **given: Any) -> None:
        self.given = given
        self.calls: list[dict[str, Any]] = []

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str, *args: Any, **kwargs: Any) -> "FakeChronos":
        if not (Path(pretrained_model_name_or_path) / "config.json").exists():
            raise OSError("no file named config.json")
        made.append(cls(weights=pretrained_model_name_or_path, **kwargs))
        return made[-1]

    def predict_quantiles(
        self,
        inputs: Sequence[dict[str, Any]],
        prediction_length: int | None = None,
        quantile_levels: Sequence[float] = (),
        **predict_kwargs: Any,
    ) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
        self.calls.append({"inputs": inputs, "length": prediction_length, **predict_kwargs})
        last = [float(one["target"][np.isfinite(one["target"])][-1]) for one in inputs]
        found = [value + torch.tensor(quantile_levels).expand(1, prediction_length, -1) for value in last]
        return found, [quantile[..., 0] for quantile in found]


class FakeTimesFM:
    """TimesFM_2p5_200M_torch of timesfm 3.0: column 0 the mean, then deciles; here target's last value plus level."""

    @classmethod
    def from_pretrained(cls, model_id: str, *, local_files_only: bool, torch_compile: bool) -> "FakeTimesFM":
        made.append(cls())
        return made[-1]

    def compile(self, forecast_config: SimpleNamespace) -> None:
        if forecast_config.max_horizon > 1024:
            raise ValueError("Continuous quantile head is not supported for horizons > 1024.")
        self.horizon = forecast_config.max_horizon

    def forecast(self, horizon: int, inputs: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        assert horizon <= self.horizon
        deciles = np.array([9.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9])
        found = np.stack([np.tile(values[-1] + deciles, (128, 1)) for values in inputs])
        return found[..., 5], found


made: list[Any] = []


@pytest.fixture(autouse=True)
def packages(monkeypatch: pytest.MonkeyPatch) -> None:
    made.clear()
    chronos, timesfm = ModuleType("chronos"), ModuleType("timesfm")
    chronos.Chronos2Pipeline = FakeChronos  # type: ignore[attr-defined]
    timesfm.TimesFM_2p5_200M_torch, timesfm.ForecastConfig = FakeTimesFM, SimpleNamespace  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "chronos", chronos)
    monkeypatch.setitem(sys.modules, "timesfm", timesfm)


@pytest.fixture
def weights(tmp_path: Path) -> str:
    (tmp_path / "config.json").write_text("{}")
    return str(tmp_path)


def histories() -> list[History]:
    target = np.arange(10.0)
    gap = np.where(target == 3, np.nan, 100 + target)
    return [History(target), History(np.full(5, np.nan)), History(gap)]


@pytest.mark.parametrize("kind", ["chronos-2", "timesfm-2.5"])
def test_quantiles_of_every_series(kind: str, weights: str):
    model = load_foundation(FoundationConfig(kind=kind, weights=weights, batch=1))
    answer = model(histories(), 4, LEVELS)
    assert answer.shape == (3, 4, 3)
    assert np.isnan(answer[1]).all()
    np.testing.assert_allclose(answer[0], np.tile(9 + np.array(LEVELS), (4, 1)), rtol=1e-6)
    np.testing.assert_allclose(answer[2], np.tile(109 + np.array(LEVELS), (4, 1)), rtol=1e-6)
    assert model(histories()[:1], 2, (0.5,)).shape == (1, 2, 1)


def test_chronos_sees_gaps_and_covariates(weights: str):
    model = load_foundation(FoundationConfig(kind="chronos-2", weights=weights, context=6, device="cpu"))
    known = np.arange(24.0).reshape(12, 2)
    model([History(histories()[2].target, np.arange(10.0)[:, None], known)], 2, LEVELS)
    assert made[0].given == {
        "weights": weights, "device_map": "cpu", "local_files_only": True, "use_safetensors": True
    }  # fmt: skip
    (given,) = made[0].calls[0]["inputs"]
    np.testing.assert_array_equal(given["target"], np.float32([104, 105, 106, 107, 108, 109]))
    np.testing.assert_array_equal(given["past_covariates"]["observed_0"], np.arange(4.0, 10))
    np.testing.assert_array_equal(given["past_covariates"]["known_1"], known[4:10, 1])
    np.testing.assert_array_equal(given["future_covariates"]["known_1"], known[10:, 1])
    assert made[0].calls[0]["length"] == 2 and made[0].calls[0]["context_length"] == 6
    with pytest.raises(ConfigError, match="expected 12 steps"):
        model([History(np.arange(10.0), None, known[:11])], 2, LEVELS)


@pytest.mark.parametrize(
    ("kind", "install"), [("chronos-2", "chronos-forecasting>=2.0"), ("timesfm-2.5", r"timesfm\[torch\]>=2.0")]
)
def test_missing_packages_name_what_to_install(kind: str, install: str, weights: str, monkeypatch: pytest.MonkeyPatch):
    module = kind.split("-")[0]
    monkeypatch.setitem(sys.modules, module, ModuleType(module))
    with pytest.raises(PenstockError, match=install):
        load_foundation(FoundationConfig(kind=kind, weights=weights))
    monkeypatch.setitem(sys.modules, module, None)  # type: ignore[arg-type]  # an import of it now fails
    with pytest.raises(PenstockError, match=f"pip install '{install}"):
        load_foundation(FoundationConfig(kind=kind, weights=weights))


@pytest.mark.parametrize("kind", ["chronos-2", "timesfm-2.5"])
def test_nothing_is_fetched_unless_allowed(kind: str, weights: str):
    with pytest.raises(CheckpointError, match="no local folder"):
        load_foundation(FoundationConfig(kind=kind, weights="amazon/anything"))
    with pytest.raises(CheckpointError, match="expected weights"):
        load_foundation(FoundationConfig(kind=kind))
    assert not made


def test_broken_weights_and_levels_out_of_reach(tmp_path: Path, weights: str):
    (tmp_path / "empty").mkdir()
    with pytest.raises(CheckpointError, match=r"cannot be loaded: no file named config.json"):
        load_foundation(FoundationConfig(weights=str(tmp_path / "empty")))
    model = load_foundation(FoundationConfig(kind="timesfm-2.5", weights=weights))
    with pytest.raises(ConfigError, match=r"levels from 0.1 to 0.9"):
        model(histories(), 4, (0.05, 0.5))
    with pytest.raises(ConfigError, match="horizons > 1024"):
        model(histories(), 2000, LEVELS)
    with pytest.raises(ConfigError, match="rising"):
        model(histories(), 4, (0.5, 0.1))


def crossing(config: FoundationConfig) -> foundation.Foundation:
    """A loader of somebody else's forecaster, found as `module:function`; its quantiles cross."""

    def forecast(given: Sequence[History], horizon: int, levels: tuple[float, ...]) -> np.ndarray:
        steps = horizon if config.weights != "wrong" else horizon + 1
        return np.tile(-np.array(levels), (len(given), steps, 1))

    return forecast


def test_somebody_else_s_forecaster(monkeypatch: pytest.MonkeyPatch):
    model = load_foundation(FoundationConfig(kind=f"{__name__}:crossing"))
    np.testing.assert_allclose(model(histories(), 2, LEVELS)[0, 0], [-0.9, -0.45, -0.1])
    with pytest.raises(PenstockError, match="does not follow"):
        load_foundation(FoundationConfig(kind=f"{__name__}:crossing", weights="wrong"))(histories(), 2, LEVELS)
    with pytest.raises(ConfigError, match="no function nothing"):
        load_foundation(FoundationConfig(kind=f"{__name__}:nothing"))
    with pytest.raises(PenstockError, match="not_there"):
        load_foundation(FoundationConfig(kind="not_there.deeper:loader"))
    point = EntryPoint("theirs", f"{__name__}:crossing", foundation.ENTRY_POINTS)
    monkeypatch.setattr(foundation, "entry_points", lambda group: (point,))
    assert foundation_kinds() == ("chronos-2", "timesfm-2.5", "theirs")
    assert load_foundation(FoundationConfig(kind="theirs"))(histories(), 2, LEVELS).shape == (3, 2, 3)
    with pytest.raises(ConfigError, match="theirs, or module:function"):
        load_foundation(FoundationConfig(kind="prophecy"))
