"""From a restored model to an answer: text that goes on, the label of a picture.

Imported lazily by name, so that a verb can read its command line without starting JAX.
"""

import importlib
from typing import Any

_HOMES = {
    "Completion": "requests",
    "Generator": "generation",
    "Request": "requests",
    "Samples": "samples",
    "Sampling": "requests",
    "classify": "classification",
}

__all__ = list(_HOMES)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'inference' has no attribute {name!r}")
    return getattr(importlib.import_module(f"inference.{_HOMES[name]}"), name)
