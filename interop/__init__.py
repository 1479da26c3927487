"""Weights to and from the layouts of Hugging Face: GPT-2, Llama, BERT, ViT.

    found = describe(folder)                # the settings and sizes that the folder needs
    check(folder, config)                   # one line that says what differs, or nothing
    weights = start(folder, config, sizes, shapes)  # what a run of that recipe begins with
    weights = read(folder, shapes, scanned=False)   # or all of it, as our parameters
    tensors = write(found.family, weights.params, scanned=False)  # and back, by their names

A folder holds `config.json` and `model.safetensors`, whole or in parts, as `save_pretrained` leaves
them. Each family is a table of names, from which both ways are derived. Imported lazily by name, so
that a verb can read its command line without starting JAX.
"""

import importlib
from typing import Any

_HOMES = {
    "Description": "description",
    "check": "checking",
    "describe": "families",
    "read": "converting",
    "special_tokens": "families",
    "start": "starting",
    "write": "converting",
}

__all__ = list(_HOMES)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'interop' has no attribute {name!r}")
    found = globals()[name] = getattr(importlib.import_module(f"interop.{_HOMES[name]}"), name)
    return found
