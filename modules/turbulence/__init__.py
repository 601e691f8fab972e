"""Neural operators that step a turbulent flow, their training, rollouts and errors."""
