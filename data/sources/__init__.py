"""Sources of raw examples: each is a file here, and a line of `SOURCES` in `registry.py`."""
