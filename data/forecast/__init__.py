"""Tables of time series: read from CSV and Parquet, stored, and cut into windows by index."""

from data.forecast.columns import ColumnsConfig, Reading
from data.forecast.preparation import Prepared, preparation_key, prepare

__all__ = ["ColumnsConfig", "Prepared", "Reading", "preparation_key", "prepare"]
