"""Says why prepared data differs from the data that a run was trained on."""

from collections.abc import Iterator, Mapping
from typing import Any

CHANGES: Mapping[str, Mapping[int, str]] = {}
"""What the versions of preparations changed, by the name in the cache key and the new version. A
version is listed if it may change records of old data."""

_KEYS = {"source": "its files or their order", "tokenizer": "data.tokenizer"}


def between(old: Mapping[str, Any] | None, new: Mapping[str, Any]) -> str:
    """Return in words what differs between two values of `Dataset.prepared_by`.

    old: that of a checkpoint's data; None for checkpoints that do not have it. Then this lists what
        versions of the preparation may have changed.
    """
    if old is None:
        sentences = [one for name in new for one in CHANGES.get(name, {}).values()]
        return f"its files, or {' and '.join(sentences)}" if sentences else ""
    return ", and ".join(_differences(old, new))


def _differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> Iterator[str]:
    for name in {**old, **new}:
        was, now = old.get(name), new.get(name)
        if was == now:
            continue
        sentences = [
            sentence
            for version, sentence in CHANGES.get(name, {}).items()
            if isinstance(was, int) and isinstance(now, int) and was < version <= now
        ]
        yield from sentences or [_KEYS.get(name, name)]
