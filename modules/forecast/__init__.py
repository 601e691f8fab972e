"""Forecasters of time series, and what is built on them: intervals, backtests, classification, films."""
