"""Direct numerical simulation of turbulence by spectral methods, and the subgrid models of coarse runs."""
