"""Where the examples of each split come from, in words."""

import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from data.sources.files import split_of
from data.sources.source import Source


def places(sources: Sequence[Source], settings: Any, splits: Iterable[str]) -> dict[str, str]:
    """Returns for each of the `splits` its file or folder, its name, or that it is cut from the
    training part. settings: the configuration's `data`."""
    cut = [getattr(source, "held_out", 0.0) > 0 for source in sources]
    from_training = f"cut from training by data.validation_fraction={settings.validation_fraction}"
    own = [split for split in splits if split != "validation" or not all(cut)]
    found = {split: _place(settings, split, alone=own == ["train"]) for split in own}
    if any(cut) and "validation" in found:
        found["validation"] += f", in part {from_training}"
    return {split: found.get(split, from_training) for split in splits}


def _place(settings: Any, split: str, *, alone: bool) -> str:
    """alone: whether no other split is stored beside this one: then it is all that there is."""
    if settings.source == "mixture":
        return ", ".join(settings.parts)
    if hasattr(settings, "name"):
        return f"{settings.name} of TensorFlow Datasets"
    path = getattr(settings, "path", None)
    if path is None:
        return f"data.source={settings.source}"
    if alone or not os.path.isdir(path):
        return path
    names = sorted(name for name in os.listdir(path) if split_of(Path(name)) == split)
    return os.path.join(path, names[0] if len(names) == 1 else f"{split}*")
