"""The steps of the forecast domain: a table → a choice on validation → networks → backtest → forecast.

Labels of sequences and films are tasks of the same domain, with steps of the same names. Lightning is imported by the
trainings only: it would cost every other step seconds.
"""

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

from configs.forecast import NETWORKS, ForecastConfig
from configs.load import to_plain
from data.errors import PenstockError
from flows.domain import TRAIN, Domain, ImportedModel
from flows.run import Run
from flows.steps import (
    forecast_backtest,
    forecast_classify,
    forecast_export,
    forecast_films,
    forecast_future,
    forecast_impute,
    forecast_report,
)
from flows.steps.forecast_choose import choose
from flows.steps.forecast_prepare import prepare_series
from flows.steps.forecast_ridge import REGRESSIONS
from flows.steps.forecast_train import train_network
from modules.forecast.classifier import ClassifierConfig
from modules.forecast.heads import Head
from modules.forecast.network import ForecastNetwork
from modules.forecast.predformer import PredFormerConfig

Step = Callable[[Run], None]

SERIES: Mapping[str, Step] = {
    "prepare": prepare_series,
    "choose": choose,
    **{TRAIN + name: partial(train_network, name=name) for name in NETWORKS},
}
TASKS: Mapping[str, Mapping[str, Step]] = {
    "forecast": {
        **SERIES,
        "evaluate": forecast_backtest.evaluate,
        "sample": forecast_future.sample,
        "export": forecast_export.export,
        "report": forecast_report.report,
    },
    "impute": {
        **SERIES,
        "evaluate": forecast_impute.evaluate,
        "sample": forecast_impute.sample,
        "export": forecast_impute.export,
        "report": forecast_impute.report,
    },
    "classify": {
        "prepare": forecast_classify.prepare,
        TRAIN + forecast_classify.STAGE: forecast_classify.train,
        "evaluate": forecast_classify.evaluate,
        "export": forecast_classify.export,
        "report": forecast_classify.report,
    },
    "films": {
        "prepare": forecast_films.prepare,
        TRAIN + forecast_films.STAGE: forecast_films.train,
        "evaluate": forecast_films.evaluate,
        "export": forecast_films.export,
        "report": forecast_films.report,
    },
}
"""What each step does, by the task of the configuration."""
STEPS = tuple(dict.fromkeys([
    "prepare", "choose", *(TRAIN + name for name in (*NETWORKS, forecast_classify.STAGE, forecast_films.STAGE)),
    "evaluate", "sample", "export", "report",
]))  # fmt: skip


def _step(name: str) -> Step:
    def step(run: Run) -> None:
        TASKS[run.config.task][name](run)

    return step


def left_out(config: ForecastConfig) -> list[str]:
    """The steps that the task has no use for, and the networks that are not asked for."""
    unasked = [TRAIN + name for name in NETWORKS if name not in config.networks]
    return [name for name in STEPS if name not in TASKS[config.task] or name in unasked]


def import_reference(source: Path) -> Mapping[str, ImportedModel]:
    """A published forecaster's weights as the trained network of a run with the same look-back and horizon."""
    from flows.steps.forecast_import import read_reference

    found = read_reference(source)
    config = ForecastNetwork(shape=found.shape, head=Head(), model=found.model_config)
    others = {name: None for name in NETWORKS if name != found.kind}
    settings = {
        **others,
        "horizon": found.shape.horizon,
        "choose.look_back": found.shape.look_back,
        found.kind: {"model": to_plain(found.model_config)},
    }
    if found.kind not in NETWORKS:
        raise PenstockError(f"{source}: {found.kind} weights are no forecaster of this workflow.")
    return {found.kind: ImportedModel(config=config, weights=found.weights, settings=settings)}


DOMAIN = Domain(
    name="forecast",
    config=ForecastConfig,
    steps={name: _step(name) for name in STEPS},
    models={
        **dict.fromkeys(REGRESSIONS, ForecastNetwork),
        **dict.fromkeys(NETWORKS, ForecastNetwork),
        forecast_classify.STAGE: ClassifierConfig,
        forecast_films.STAGE: PredFormerConfig,
    },
    needs={
        **{TRAIN + name: ("choose",) for name in NETWORKS},
        TRAIN + forecast_classify.STAGE: ("prepare",),
        TRAIN + forecast_films.STAGE: ("prepare",),
        "evaluate": tuple(name for name in STEPS if name == "choose" or name.startswith(TRAIN)),
        "sample": ("evaluate",),
        "export": ("evaluate", "sample"),
        "report": ("export",),
    },
    importers={"tslib": import_reference, "forecast-authors": import_reference},
    left_out=left_out,
    shorthands={
        "time": "columns.time",
        "id": "columns.id",
        "target": "columns.target",
        "known-future": "columns.known",
        "static": "columns.static",
    },
)
