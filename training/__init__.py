"""State, step, optimizers, checkpoints, metrics and the report."""
