"""Meshes, the meaning of logical axes on them, the feeding of batches, and start-up.

Imported lazily by name, so that the environment can be set before JAX starts.
"""

import importlib
from typing import Any

_HOMES = {
    "AXES": "mesh",
    "Rules": "axes",
    "activation_placement": "axes",
    "any_process": "distributed",
    "batch_crc32": "feeding",
    "choose_products": "onednn",
    "everywhere": "feeding",
    "explain_environment": "environment",
    "flat_mesh": "mesh",
    "is_main_process": "distributed",
    "keep_compiled": "environment",
    "local_rows": "feeding",
    "make_mesh": "mesh",
    "named_sharding": "axes",
    "partition_spec": "axes",
    "put_batch": "feeding",
    "replicated": "axes",
    "set_environment": "environment",
    "start": "distributed",
    "wait_for_all": "distributed",
}

__all__ = list(_HOMES)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'parallel' has no attribute {name!r}")
    found = globals()[name] = getattr(importlib.import_module(f"parallel.{_HOMES[name]}"), name)
    return found
