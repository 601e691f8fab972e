"""The steps of the forecast domain: a table → a choice on validation → networks → backtest → forecast.

Lightning is imported by the trainings only: it would cost every other step seconds.
"""

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

from configs.forecast import NETWORKS, ForecastConfig
from configs.load import to_plain
from data.errors import PenstockError
from data.forecast import preparation_key, prepare
from data.forecast.series_store import SeriesStore
from flows.domain import TRAIN, Domain, ImportedModel
from flows.progress import shown
from flows.run import Run
from flows.steps.forecast_backtest import evaluate
from flows.steps.forecast_choose import choose
from flows.steps.forecast_export import export
from flows.steps.forecast_future import sample
from flows.steps.forecast_report import report
from flows.steps.forecast_ridge import RIDGE
from flows.steps.forecast_train import left_out, train_network
from modules.forecast.heads import Head
from modules.forecast.network import ForecastNetwork

SHOWN_REFUSALS = 20
"""Most refused series that are named on the screen; refused.csv has them all."""


def prepare_series(run: Run) -> None:
    """Read the user's table, or make the synthetic series; reused where another run did it before."""
    config: ForecastConfig = run.config
    source = config.synthetic if config.data is None else Path(config.data)
    with run.prepared(preparation_key(source, config.columns)[:16]) as folder:
        found = prepare(source, config.columns, folder, shown("prepare", "series"))
    for sentence in found.summary():
        print(f"  {sentence}", flush=True)
    for name, reason in list(found.refused.items())[:SHOWN_REFUSALS]:
        print(f"  refused {name}: {reason}", flush=True)
    run.record_data(
        found.path,
        SeriesStore(found.path).fingerprint,
        source="synthetic series" if config.data is None else config.data,
        series=len(found.ids),
        refused=len(found.refused),
    )


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


def _training(name: str) -> Callable[[Run], None]:
    return partial(train_network, name=name)


DOMAIN = Domain(
    name="forecast",
    config=ForecastConfig,
    steps={
        "prepare": prepare_series,
        "choose": choose,
        **{TRAIN + name: _training(name) for name in NETWORKS},
        "evaluate": evaluate,
        "sample": sample,
        "export": export,
        "report": report,
    },
    models={RIDGE: ForecastNetwork, **dict.fromkeys(NETWORKS, ForecastNetwork)},
    needs={
        **{TRAIN + name: ("choose",) for name in NETWORKS},
        "evaluate": ("choose", *(TRAIN + name for name in NETWORKS)),
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
