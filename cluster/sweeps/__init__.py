"""Hyperparameter sweeps (Ray Tune): every trial a run directory."""
