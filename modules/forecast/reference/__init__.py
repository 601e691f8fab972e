"""Weights of published forecasters under their own key names, to ours; one file per network."""
