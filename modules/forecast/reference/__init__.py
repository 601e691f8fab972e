"""Published checkpoints under our names: one file per model, each with `recognises`, `rename` and `convert`."""
