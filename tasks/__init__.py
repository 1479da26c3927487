"""Tasks: each defines its batch, loss and metrics. `registry.py` lists the tasks by name."""
