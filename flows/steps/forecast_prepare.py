"""Tables of time series read and stored, with an account of how they were read."""

from pathlib import Path

from configs.forecast import ForecastConfig
from data.forecast import preparation_key, prepare
from data.forecast.series_store import SeriesStore
from flows.progress import shown
from flows.run import Run

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
