"""Says why prepared data differs from the data that a run was trained on."""

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

CHANGES: Mapping[str, Mapping[int, str]] = {
    "source": {
        2: "files and folders named dev, val, training_set and the like are splits now, unless "
        "data.splits is none",
    },
    "conversations": {
        3: "a conversation is encoded as one text, empty answers and those of weight 0 are not "
        "learnt, and roles such as gpt and Assistant are the assistant's",
    },
    "documents": {2: "long documents are encoded as one text, as by transformers"},
    "labelled_text": {
        5: "labels in two Unicode forms, and 1 beside 1.0, are one class, and labels that are "
        "equal as numbers have a fixed order",
    },
    "pictures": {
        4: "grey pictures of more than 8 bits and some transparent ones are read otherwise, and "
        "class names in two Unicode forms are one",
    },
    "sound": {
        3: "recordings are heard to their end whatever their header says, and transcripts are in "
        "one Unicode form (data.cleaning.unicode)",
    },
}
"""What new versions of the preparation changed: by the name in the cache key and the version. A
version is listed if it may change the records of old data."""

_KEYS = {
    "source": "its files, their order or their splits: their hash",
    "tokenizer": "data.tokenizer:",
}


def between(old: Mapping[str, Any] | None, new: Mapping[str, Any]) -> str:
    """Return in words what differs between two values of `Dataset.prepared_by`, with both values.

    old: that of a checkpoint's data; None for checkpoints that do not have it. Then this lists what
        versions of the preparation may have changed.
    """
    if old is None:
        sentences = [one for name in new for one in CHANGES.get(name, {}).values()]
        return f"its files, or {' and '.join(sentences)}" if sentences else ""
    return ", and ".join(_differences(old, new))


def _differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> Iterator[str]:
    for name in {**old, **new}:
        if old.get(name) == new.get(name):
            continue
        was, now = _version(old.get(name)), _version(new.get(name))
        known = [one for v, one in CHANGES.get(name, {}).items() if was < v <= now]
        both = f"{_KEYS.get(name, name)} {_values(old.get(name), new.get(name))}"
        yield from known or [both]


def _values(old: Any, new: Any) -> str:
    """Return both values in words; of two objects, those of the parts that differ."""
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        unlike = [name for name in {**old, **new} if old.get(name) != new.get(name)]
        return ", ".join(f"{name} {_values(old.get(name), new.get(name))}" for name in unlike)
    return f"was {_short(old)}, is {_short(new)}"


def _short(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    if re.fullmatch("[0-9a-f]{64}", text):  # a hash
        return text[:12]
    return text if len(text) <= 60 else f"{text[:57]}..."


def _version(value: Any) -> int:
    """Return the version in a part of a cache key; 0 if it has none."""
    version = value.get("version") if isinstance(value, dict) else value
    return version if isinstance(version, int) else 0
