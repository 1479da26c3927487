"""From raw data to batches: sources, preparation, order, batches.

    dataset = prepare(config.data)
    batches = Batches(dataset.splits["train"], global_batch_size=32, seed=0, shuffle=True)
    for batch in stream(batches, start=0, stop=1000, workers=0): ...

Nothing is imported before it is used, and JAX only by `stream`, through Grain.
"""

import importlib

_HOMES = {
    "Batches": "data.batches",
    "Dataset": "data.dataset",
    "Examples": "data.show",
    "Split": "data.dataset",
    "cache_dir": "data.cache",
    "check_tokenizer": "data.text",
    "data_table": "data.show",
    "describe_batch": "data.show",
    "evaluation_order": "data.batches",
    "learning_facts": "data.facts",
    "prepare": "data.preparation",
    "shapes_of": "data.batches",
    "split_rows": "data.show",
    "stream": "data.prefetch",
    "training_batches": "data.batches",
}

__all__ = sorted(_HOMES)


def __getattr__(name: str):
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    found = globals()[name] = getattr(importlib.import_module(_HOMES[name]), name)
    return found
