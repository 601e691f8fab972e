"""The models of a backtest: floors, ridge and trained networks, all answering the same windows."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
from torch import Tensor

from configs.forecast import ForecastConfig
from data.batch import WindowBatch
from data.errors import PenstockError
from flows.models import load_model
from flows.run import Run
from flows.steps.forecast_ridge import ridge_of
from flows.steps.forecast_train import places
from flows.steps.forecast_workbench import Choice, Rows, Workbench
from modules.forecast.backtest import forecast_all
from modules.forecast.floors import LastValue, SeasonalNaive, WindowMean
from modules.forecast.foundation import FoundationConfig, History, load_foundation
from modules.forecast.heads import Head
from modules.forecast.interface import Forecaster, WindowShape

FORECAST_BATCH = 1024
"""Windows that are forecast at once: a linear model costs a third less than with 256."""
FLOORS = {"last_value": LastValue, "seasonal_naive": SeasonalNaive, "window_mean": WindowMean}


@dataclass(frozen=True)
class Candidate:
    """One model of the backtest."""

    name: str
    answer: Callable[[WindowBatch], Tensor]
    """Windows to forecasts [batch, horizon, target, output]."""
    head: Head

    def raw(self, bench: Workbench, rows: Rows) -> np.ndarray:
        """Its whole answers to the windows [row, horizon, target, output], scaled."""
        reads = getattr(self.answer, "takes_calendar", True)
        windows = bench.windows if reads else bench.windows_without_calendar
        seen = partial(windows.cut, future=False)  # what came later is not even read
        return forecast_all(self.answer, seen, rows.items, rows.origins, FORECAST_BATCH)

    def points(self, bench: Workbench, rows: Rows) -> np.ndarray:
        """Its point forecasts [row, horizon, target], scaled."""
        return self.middle(self.raw(bench, rows))

    def own_quantiles(self, raw: np.ndarray, levels: tuple[float, ...]) -> np.ndarray:
        """Quantiles [row, horizon, target, level] within whole answers of a model that forecasts distributions."""
        import torch

        return self.head.quantiles(torch.from_numpy(raw), levels).numpy()

    def middle(self, raw: np.ndarray) -> np.ndarray:
        """The point forecasts within whole answers."""
        if self.head.kind == "point":
            return raw[..., 0]
        import torch

        return self.head.point(torch.from_numpy(raw)).numpy()


def candidates(run: Run, bench: Workbench, fold: int = 0) -> dict[str, Candidate]:
    """All models of a run for one fold of the backtest, floors first."""
    config: ForecastConfig = run.config
    found = {name: _candidate(name, floor(bench.shape, Head())) for name, floor in FLOORS.items()}
    for name in Choice.of_run(run).regressions:
        found[name] = _candidate(name, ridge_of(run, bench, name, fold))
    for name in config.networks:
        for place, _, of_fold in places(config, name):
            if of_fold == (fold if config.evaluate.refit else 0):
                label = name if of_fold else place
                found[label] = _candidate(label, network_of(run, place, bench.shape))
    if config.foundation is not None:
        found[config.foundation.kind] = Candidate(
            config.foundation.kind, foundation_answer(config.foundation, bench.shape), Head()
        )
    return found


def foundation_answer(config: FoundationConfig, shape: WindowShape) -> Callable[[WindowBatch], Tensor]:
    """A pretrained forecaster as one more model: the median of what it says of each target's look-back."""
    import torch

    model = load_foundation(config)

    def measured(values: Tensor | None, mask: Tensor | None, row: int) -> np.ndarray | None:
        if values is None:
            return None
        found = values[row] if mask is None else values[row].masked_fill(~mask[row], torch.nan)
        return found.double().numpy()

    def answer(window: WindowBatch) -> Tensor:
        histories = []
        for row in range(len(window)):
            past = measured(window.past, window.past_mask, row)
            assert past is not None
            observed = measured(window.observed, window.observed_mask, row)
            known = measured(window.known, window.known_mask, row)
            histories += [History(target, observed, known) for target in past.T]
        # Where nothing was measured it says nothing; the other models say 0 then, the mean of the training part.
        medians = torch.from_numpy(model(histories, shape.horizon, (0.5,))[..., 0]).nan_to_num(0.0).float()
        return medians.unflatten(0, (len(window), -1)).mT[..., None]

    return answer


def _candidate(name: str, model: Forecaster) -> Candidate:
    return Candidate(name, model, model.head)


def network_of(run: Run, place: str, shape: WindowShape) -> Forecaster:
    """A trained network of a run, checked to fit its windows.

    Raises:
        PenstockError: it was made for other windows (imported weights above all).
    """
    network = load_model(run.model(place)).network
    assert isinstance(network, Forecaster)
    theirs = network.shape
    for name in ("look_back", "horizon", "targets"):
        if getattr(theirs, name) != getattr(shape, name):
            raise PenstockError(
                f"{place} was made for {name.replace('_', ' ')} {getattr(theirs, name)}, the windows of {run.name} "
                f"have {getattr(shape, name)}. Give data with as many target columns (--target), and the same horizon."
            )
    return network
