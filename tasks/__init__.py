"""Tasks: for each what a batch is, its loss, its metrics. `registry.py` has them by name."""
