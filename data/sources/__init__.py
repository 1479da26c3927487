"""Where examples come from. A source is a file here, and a line of `SOURCES` in `registry.py`."""
