"""PyTorch and transformers, of the `bench` extra, are compared with: `make parity` brings them."""

from importlib.util import find_spec

collect_ignore_glob = [] if all(map(find_spec, ("torch", "transformers"))) else ["test_*.py"]
