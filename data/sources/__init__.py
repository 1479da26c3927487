"""Sources of raw examples. Each has a module here, and an entry in `SOURCES` (registry.py)."""
