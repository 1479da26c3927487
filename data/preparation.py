"""Prepares the data that a configuration describes: written once per cache key, then opened."""

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
from data.sources.places import places, uneven_cuts
from data.sources.registry import open_sources
from data.sources.source import RawSplits, Source
from data.text import TextPreparation
from data.text_pairs import PairPreparation

_METADATA = "metadata.json"


class Preparation(Protocol):
    """Turns the raw examples of one modality into records."""

    def cache_key(self) -> Mapping[str, Any]:
        """Return everything besides the raw examples that decides the result, as JSON values."""
        ...

    def write(
        self, sources: Sequence[RawSplits], folder: Path, progress: Progress
    ) -> Mapping[str, Any]:
        """Write the records of each split into `folder`. Return metadata to keep, as JSON
        values."""
        ...

    def open(self, folder: Path, metadata: Mapping[str, Any]) -> Dataset:
        """Open the data that `write` wrote."""
        ...


def prepare(
    settings: Any,
    *,
    progress: Progress = silent,
    warn: Callable[[str], None] = lambda line: None,
    inform: Callable[[str], None] | None = None,
) -> Dataset:
    """Return the data that `settings` (the configuration's `data`) describe; prepare it if needed.

    warn: called with a line for each problem of the data. inform (default: warn): called with a
    line for each effect of preparation that was asked for. Both get the same lines if the data was
    prepared before.

    The folder's name is a hash of `source_key` and `cache_key`, which contain every relevant
    setting and file: a changed file gives a new folder. Raises UsageError if the source, or the
    prepared data, can't be used.
    """
    sources = open_sources(settings)
    preparation = _preparation(sources, settings)
    cache = cache_dir(settings)
    source_key: Any = sources[0].source_key()
    if settings.source == "mixture":
        source_key = [[source.name, source.source_key()] for source in sources]
    key = digest({"source": settings.source, "contents": source_key, **preparation.cache_key()})
    folder = cache / "prepared" / f"{settings.source}-{key[:24]}"

    def build(temporary: Path) -> None:
        examples = [_raw_splits(source, cache, progress) for source in sources]
        metadata = preparation.write(examples, temporary, progress)
        (temporary / _METADATA).write_text(json.dumps(metadata, indent=1))

    build_once(folder, build)
    dataset = preparation.open(folder, json.loads((folder / _METADATA).read_text()))
    dataset = replace(dataset, places=places(sources, settings, dataset.splits))
    cuts = uneven_cuts(sources, settings, dataset.splits)
    for line in (*dataset.warnings, *describe_unknown(dataset), *cuts):
        warn(line)
    for line in describe_preparation(dataset):
        (inform or warn)(line)
    return dataset


def _raw_splits(source: Source, cache: Path, progress: Progress) -> RawSplits:
    """Return the raw examples of `source`, read in place or from a stored copy."""
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
