"""The heavy parts of a run on a Ray cluster."""
