"""Tables of time series: read from CSV and Parquet, stored, and cut into windows by index."""

from data.forecast.calendar import Step, calendar_features, calendar_names, local_clock, parse_step, seasons, stamps
from data.forecast.columns import Column, ColumnsConfig, Reading
from data.forecast.preparation import Prepared, preparation_key, prepare

__all__ = [
    "Column",
    "ColumnsConfig",
    "Prepared",
    "Reading",
    "Step",
    "calendar_features",
    "calendar_names",
    "local_clock",
    "parse_step",
    "preparation_key",
    "prepare",
    "seasons",
    "stamps",
]
