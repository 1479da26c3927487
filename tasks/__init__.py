"""Tasks: the batch, loss and metrics of each. `registry.py` has them by name."""
