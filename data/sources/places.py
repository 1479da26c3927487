"""Describes the origin of each split, and warns if the share held out is far from the setting."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from configs.schema.source import PreparedSet, UserFiles
from data.dataset import Dataset, Split
from data.sources.source import Source


def describe_splits(dataset: Dataset) -> str:
    """Return a line for the user: how many examples each split was made of, and where they come
    from."""
    parts = (
        f"{name} {_count_text(split)} ({dataset.places[name]})"
        for name, split in dataset.splits.items()
    )
    return f"splits: {', '.join(parts)}"


def layout_warnings(sources: Iterable[Source]) -> Iterator[str]:
    """Yield the warnings about how the user's files were assigned to splits."""
    for source in sources:
        yield from source.layout.warnings if source.layout else ()


def places(sources: Sequence[Source], settings: Any, splits: Mapping[str, Split]) -> dict[str, str]:
    """Describe, for each of `splits`, where its examples come from.

    This is a file, a folder, the files or folders that are named after the split, the name of a
    data set, or a note that they were held out from the training data.

    settings: the configuration's `data`.
    splits: the splits of the prepared data, by name.
    """
    cut = [source.held_out > 0 for source in sources]
    from_training = f"cut from training by data.validation_fraction={settings.validation_fraction}"
    own = [split for split in splits if split != "validation" or not all(cut)]
    found = {split: _place(sources, settings, splits[split]) for split in own}
    if any(cut) and "validation" in found:
        found["validation"] += f", in part {from_training}"
    return {split: found.get(split, from_training) for split in splits}


def uneven_cuts(
    sources: Sequence[Source], settings: Any, splits: Mapping[str, Any]
) -> Iterator[str]:
    """Yield a warning for each source of which too much or too little was held out.

    Too much is more than twice `data.validation_fraction`, too little less than half. The share is
    measured in characters for documents, which are held out whole, else in examples or records.

    splits: the splits of the prepared data, by name.
    """
    for number, source in enumerate(sources):
        asked, of = source.held_out, splits
        if not asked:
            continue
        name = ""
        if settings.source == "mixture":
            name = f" of {settings.parts[number]}"
            of = {split: part for split, one in splits.items() for part in one.parts
                  if part.name == settings.parts[number]}  # fmt: skip
        counts, things = {split: _examples(one) for split, one in of.items()}, "examples"
        why = "a hash chooses them"
        remedy = "give a validation part of your own, or another fraction"
        if source.characters is not None:
            counts, things = dict(source.characters), "text"
            why = "a hash chooses whole files"
            if source.name == "text_files":
                remedy = "give a validation/ folder, or join the files"
        held_out = counts.get("validation", 0)
        share = held_out / (counts["train"] + held_out)
        if not asked / 2 <= share <= 2 * asked:
            yield (
                f"validation has {100 * share:.3g} % of the {things}{name}, not "
                f"{100 * asked:.3g} % as data.validation_fraction={asked} asks for: {why}; "
                f"{remedy}"
            )


def _count_text(split: Split) -> str:
    """Return the number that `_examples` returns, with its noun for documents or conversations."""
    (noun,) = split.packed or ("",)
    count = _examples(split)
    return f"{count:,} {noun.removesuffix('s') if count == 1 else noun}".rstrip()


def _examples(split: Split) -> int:
    """Return the number of records or examples from which a split was prepared."""
    return next(iter(split.packed.values()), split.examples) + (split.left_out or 0)


def _place(sources: Sequence[Source], settings: Any, split: Split) -> str:
    """Return where `split` comes from, for splits that are not held out."""
    named = [source.layout.places if source.layout else {} for source in sources]
    if settings.source == "mixture":
        parts = {one.name for one in split.parts}
        return ", ".join(
            f"{part}/{of[split.name]}" if split.name in of else part
            for part, of in zip(settings.parts, named, strict=True)
            if part in parts
        )
    if isinstance(settings, PreparedSet):
        return f"{settings.name} of TensorFlow Datasets"
    path = settings.path if isinstance(settings, UserFiles) else None
    return named[0].get(split.name, path or f"data.source={settings.source}")
