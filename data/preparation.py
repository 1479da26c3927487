"""Prepares the data that a configuration describes: writes it to the cache once, then opens it."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

from data.cache import build_once, cache_dir, digest
from data.conversations import ConversationPreparation
from data.dataset import Dataset
from data.labelled_text import LabelledTextPreparation
from data.pictures import PicturePreparation
from data.progress import Progress, silent
from data.show import describe_preparation, describe_unknown
from data.sound import SoundPreparation
from data.sources.places import describe_splits, layout_warnings, places, uneven_cuts
from data.sources.registry import open_sources
from data.sources.source import RawSplits, Source
from data.text import TextPreparation
from data.text_pairs import PairPreparation

_METADATA = "metadata.json"


class Preparation(Protocol):
    """Interface of the classes that turn the raw examples of one kind of data into records."""

    def cache_key(self) -> Mapping[str, Any]:
        """Return all that determines the records, except the raw examples, as JSON values."""
        ...

    def write(
        self, sources: Sequence[RawSplits], folder: Path, progress: Progress
    ) -> Mapping[str, Any]:
        """Write the records of each split into `folder`.

        sources: the raw examples by split, for each source; only a mixture has several sources.

        Returns metadata for `open`, as JSON values.
        """
        ...

    def open(self, folder: Path, metadata: Mapping[str, Any]) -> Dataset:
        """Open the data that `write` wrote. metadata: what `write` returned."""
        ...


def prepare(
    settings: Any,
    *,
    progress: Progress = silent,
    warn: Callable[[str], None] = lambda line: None,
    inform: Callable[[str], None] | None = None,
) -> Dataset:
    """Return the data that `settings` (`config.data`) describe; prepare it if it is not cached.

    warn: called with a line of text for each problem in the data.
    inform: called with a line about the splits, and one for each result of cleaning, packing and
        padding. Without it, `warn` gets the latter. Cached data gives the same lines.

    The name of the cache folder contains a hash of the `source_key` of each source and the
    preparation's `cache_key`, which include all relevant settings and file hashes. So a changed
    file or setting gives a new folder. Raises UsageError if the source or the prepared data can't
    be used.
    """
    sources = open_sources(settings)
    preparation = _preparation(sources, settings)
    cache = cache_dir(settings)
    source_key: Any = sources[0].source_key()
    if settings.source == "mixture":
        source_key = [[source.name, source.source_key()] for source in sources]
    cache_key = preparation.cache_key()
    key = digest({"source": settings.source, "contents": source_key, **cache_key})
    folder = cache / "prepared" / f"{settings.source}-{key[:24]}"
    prepared_by = {"source": digest(source_key), **json.loads(json.dumps(cache_key))}

    def build(temporary: Path) -> None:
        examples = [_raw_splits(source, cache, progress) for source in sources]
        metadata = preparation.write(examples, temporary, progress)
        (temporary / _METADATA).write_text(json.dumps(metadata, indent=1))

    build_once(folder, build)
    dataset = preparation.open(folder, json.loads((folder / _METADATA).read_text()))
    told = [line for source in sources for line in getattr(source, "warnings", ())]
    dataset = replace(
        dataset,
        warnings=(*told, *dataset.warnings),
        places=places(sources, settings, dataset.splits),
        prepared_by=prepared_by,
    )
    cuts = uneven_cuts(sources, settings, dataset.splits)
    warnings = (*dataset.warnings, *describe_unknown(dataset), *cuts, *layout_warnings(sources))
    for line in warnings:
        warn(line)
    if inform:
        inform(describe_splits(dataset))
    for line in describe_preparation(dataset):
        (inform or warn)(line)
    return dataset


def _raw_splits(source: Source, cache: Path, progress: Progress) -> RawSplits:
    """Return the raw examples of `source`, from its own files or from a copy in the cache."""
    if hasattr(source, "random_access"):
        return source.random_access()
    from data.sources.builder import open_examples  # slow to import

    return open_examples(source, cache, progress)


def _preparation(sources: Sequence[Source], settings: Any) -> Preparation:
    if settings.source == "conversations":
        return ConversationPreparation(settings)
    if settings.modality == "text":
        return TextPreparation(settings)
    if settings.modality == "labelled_text":
        return LabelledTextPreparation(sources[0], settings)
    if settings.modality == "text_pairs":
        return PairPreparation(sources[0], settings)
    if settings.modality in ("transcribed_sound", "labelled_sound"):
        return SoundPreparation(sources[0], settings)
    return PicturePreparation(sources[0], settings)
