"""Tables of time series: read from CSV and Parquet, stored, and cut into windows by index."""
