"""PyTorch, from the `bench` extra, is what these compare with: `make parity` brings it."""

from importlib.util import find_spec

collect_ignore_glob = [] if find_spec("torch") else ["test_*.py"]
