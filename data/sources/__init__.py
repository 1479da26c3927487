"""Sources of raw examples: each is a file in this folder, and an entry of `SOURCES` in
`registry.py`."""
