"""The generative mathematics: path, time sampling, objective, velocity, solver."""
