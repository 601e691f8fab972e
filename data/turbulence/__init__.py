"""Fields of turbulent flows: their files, windows over time, statistics."""
