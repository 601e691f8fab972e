"""Where it runs: the command line, and later Ray Train, Tune and Jobs."""
